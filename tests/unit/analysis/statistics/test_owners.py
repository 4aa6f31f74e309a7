"""Shares of the squared norm, compared with plain sums."""

import dataclasses
import math
import time

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.owners import dominant, group_of, grouped, norm_owners, shares_of
from gradwatch.errors import BadArgument
from gradwatch.record import LayerStats, ParameterInfo
from gradwatch.testing import stream, write_run
from gradwatch.views.console.report import report_lines
from gradwatch.views.console.screen import Screen
from gradwatch.views.json import report
from gradwatch.views.web.view import RunView


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


def test_many_groups_are_those_of_pandas_and_cost_no_more():
    """Of 10,000 parameters, the shares once took two minutes."""
    random = np.random.default_rng(2)
    table = random.random((20, 8000))
    table[3] = np.nan
    shares = pd.DataFrame(table)
    groups = [f"group {number}" for number in random.integers(0, 6000, 8000)]
    began = time.process_time()
    expected = shares.T.groupby(groups, sort=False).agg(lambda column: column.sum(skipna=False))
    between = time.process_time()
    found = grouped(shares, groups)
    took = time.process_time() - between
    assert found.columns.tolist() == expected.index.tolist()
    np.testing.assert_allclose(found.to_numpy(), expected.T.to_numpy())
    assert took < between - began
    assert grouped(pd.DataFrame(np.empty((4, 0))), []).shape == (4, 0)


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


def owned_run(folder, steps, head=19.0):
    """Four parameters of which the head has most of the norm."""
    infos = tuple(
        ParameterInfo(name=f"{name}.weight", shape=(size,))
        for name, size in [("h.0.fc", 40), ("h.1.fc", 40), ("embedding", 10), ("head", 10)]
    )
    norms = np.array([1.0, 2.0, math.sqrt(14.0), head], np.float32)
    records = stream([float(np.linalg.norm(norms))] * steps)
    layers = LayerStats(parameters=infos, norm=norms, nonfinite=np.zeros(4, np.float32))
    return Run(write_run(folder, [dataclasses.replace(record, layers=layers) for record in records]))


@pytest.mark.parametrize("steps", [1, 40, 700])
def test_the_owner_of_most_of_the_norm_is_named_with_its_share_of_the_entries(tmp_path, steps):
    owners = norm_owners(owned_run(tmp_path, steps), "0")
    assert [(one.by, one.name) for one in owners[:2]] == [
        ("parameter", "head.weight"),
        ("parameter", "embedding.weight"),
    ]
    assert owners[0].share == pytest.approx(361 / 380, rel=1e-5)
    assert owners[0].last == pytest.approx(361 / 380, rel=1e-5)
    assert (owners[0].entries, owners[0].groups) == (pytest.approx(0.1), 4)
    of_kind = {one.name: one for one in owners if one.by == "kind"}
    assert of_kind["fc"].share == pytest.approx(5 / 380, rel=1e-5)
    assert of_kind["fc"].entries == pytest.approx(0.8)
    assert [one.name for one in dominant(owners)] == ["head.weight"]


def test_nobody_owns_most_of_a_norm_that_is_shared(tmp_path):
    assert dominant(norm_owners(owned_run(tmp_path, 10, head=4.0), "0")) == ()


def test_a_run_whose_norms_are_not_finite_has_no_owner(tmp_path):
    assert norm_owners(owned_run(tmp_path, 10, head=math.nan), "0")[0].share <= 1
    assert norm_owners(owned_run(tmp_path / "inf", 10, head=math.inf), "0") == ()


def test_the_report_its_json_and_the_page_tell_who_owns_the_norm(tmp_path):
    summary = owned_run(tmp_path, 40).summary()
    said = "owner  head.weight: 95% of the squared norm, 10% of the entries"
    assert said in [line.plain for line in report_lines(summary, Screen(width=140))]
    assert report(summary)["norm_owners"][0]["name"] == "head.weight"
    (shown,) = RunView(tmp_path).overview()["dominant"]
    assert (shown["by"], shown["name"]) == ("parameter", "head.weight")
