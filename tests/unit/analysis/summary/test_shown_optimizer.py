"""The optimizer that a view shows unless it is told: the one that the verdict is about."""

from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.errors import BadArgument, EmptyRun
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream


def written(folder, faults):
    """A run of optimizers, each well, without gradients, without an update, or without a step."""
    writer = StoreWriter(folder)
    writer.begin_attempt({}, dict.fromkeys(faults, ("SGD", {})))
    for name, fault in faults.items():
        norms = [] if fault == "no step" else [0.0] * 60 if fault == "zero" else steady(60)
        rate = 0.0 if fault == "no rate" else 0.1
        records = stream(norms)
        own = {"optimizer": name, "layers": None, "weights": None, "learning_rates": (rate,)}
        writer.append([replace(record, **own) for record in records], [])
    writer.end_attempt("closed")
    return Run(folder)


@pytest.mark.parametrize(
    ("faults", "shown"),
    [
        pytest.param({"a": "zero"}, "a", id="one optimizer"),
        pytest.param({"a": "", "b": ""}, "a", id="nothing is wrong: the first"),
        pytest.param({"a": "no step", "b": ""}, "b", id="one that never steps is not shown"),
        pytest.param({"a": "", "b": "zero"}, "b", id="the gravest finding"),
        pytest.param({"a": "zero", "b": "no rate"}, "b", id="of two that are critical the graver kind"),
    ],
)
def test_the_optimizer_that_is_shown(tmp_path, faults, shown):
    run = written(tmp_path, faults)
    assert run.summary().optimizer == shown
    for name, fault in faults.items():
        if fault != "no step":
            assert run.summary(name).optimizer == name


def test_an_unknown_optimizer_is_refused(tmp_path):
    with pytest.raises(BadArgument, match="optimizer is 'x'"):
        written(tmp_path, {"a": ""}).summary("x")


def test_a_run_without_a_step_has_none_to_show(tmp_path):
    with pytest.raises(EmptyRun):
        written(tmp_path, {"a": "no step", "b": "no step"}).summary()


def test_a_notebook_shows_the_optimizer_that_the_verdict_is_about(tmp_path):
    run = written(tmp_path, {"generator": "", "critic": "zero"})
    assert "optimizer critic (of 2: generator, critic)" in run._repr_html_()
