"""Shares of the squared norm, compared with plain sums."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.owners import group_of, grouped, shares_of
from gradwatch.errors import BadArgument
from gradwatch.record import LayerStats, ParameterInfo
from gradwatch.testing import stream, write_run


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_shares_are_those_of_the_squares_whatever_the_scale(scale):
    norms = np.array([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])
    shares = shares_of(pd.DataFrame(scale * norms)).to_numpy()
    np.testing.assert_allclose(shares, norms**2 / (norms**2).sum(axis=1, keepdims=True))


def test_a_parameter_without_a_gradient_has_no_share_and_an_unknown_norm_no_shares():
    shares = shares_of(pd.DataFrame([[3.0, math.nan], [math.inf, 1.0], [0.0, 0.0], [math.nan, math.nan]])).to_numpy()
    np.testing.assert_array_equal(shares, [[1, 0], [math.nan] * 2, [math.nan] * 2, [math.nan] * 2])


def test_no_steps_have_no_shares():
    assert shares_of(pd.DataFrame(np.empty((0, 2)))).shape == (0, 2)


@pytest.mark.parametrize(
    ("name", "kind", "depth"),
    [
        ("layers.0.self_attn.q_proj.weight", "self_attn.q_proj", "layers.0"),
        ("layers.11.self_attn.q_proj.bias", "self_attn.q_proj", "layers.11"),
        ("embed_tokens.weight", "embed_tokens", "embed_tokens"),
        ("net.0.weight", "net", "net.0"),
        ("0.weight", "(top)", "0"),
        ("blocks.2.experts.5.w1.weight", "experts.w1", "blocks.2"),
        ("scale", "scale", "scale"),
    ],
)
def test_names_say_kind_and_depth(name, kind, depth):
    info = ParameterInfo(name=name, shape=(1,))
    assert (group_of(info, "kind"), group_of(info, "depth"), group_of(info, "parameter")) == (kind, depth, name)


def test_groups_add_up_in_the_order_in_which_they_come():
    shares = pd.DataFrame([[0.5, 0.2, 0.3]], columns=list("abc"))
    frame = grouped(shares, ["x", "y", "x"])
    assert frame.columns.tolist() == ["x", "y"]
    assert frame.iloc[0].tolist() == pytest.approx([0.8, 0.2])


def run_of(folder):
    infos = tuple(ParameterInfo(name=f"h.{i}.{part}.weight", shape=(2, 2)) for i in (0, 1) for part in ("attn", "mlp"))
    norm = np.array([1.0, 2.0, 2.0, 4.0], np.float32)
    layers = LayerStats(parameters=infos, norm=norm, nonfinite=np.zeros(4, np.float32))
    return Run(write_run(folder, [dataclasses.replace(record, layers=layers) for record in stream([5.0] * 3)]))


def test_a_run_tells_who_owns_the_norm(tmp_path):
    run = run_of(tmp_path)
    assert run.norm_shares().shape == (3, 4)
    at_a_step = run.norm_shares(step=1)
    assert at_a_step.index.tolist() == [1]
    assert at_a_step.iloc[0].tolist() == pytest.approx([1 / 25, 4 / 25, 4 / 25, 16 / 25])
    assert run.norm_shares(by="depth").iloc[0].to_dict() == pytest.approx({"h.0": 5 / 25, "h.1": 20 / 25})
    assert run.norm_shares(by="kind").iloc[0].to_dict() == pytest.approx({"attn": 5 / 25, "mlp": 20 / 25})


@pytest.mark.parametrize("options", [{"by": "colour"}, {"step": 99}])
def test_a_group_or_a_step_that_is_none_is_refused(tmp_path, options):
    with pytest.raises(BadArgument):
        run_of(tmp_path).norm_shares(**options)
