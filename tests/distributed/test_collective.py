"""`ranks="collective"`: the ranks add up their numbers by all-reduces, and have the numbers of one process."""

import re

import numpy as np
import pytest

import gradwatch
from gradwatch.record import STATS

from ..once import once
from . import launching, training

QUICK = ["ddp_heard", "fsdp2_clipped", "uneven_elsewhere", "stalled"]
AS_ALONE = {
    "ddp_heard": "clipped",
    "fsdp2_clipped": "clipped",
    "hsdp": "clipped",
    "tp_and_fsdp2": "plain",
    "pipeline": "plain",
}
OTHERS = ["poisoned", "parted", "joined", "uneven_elsewhere", "absent", "stalled", "gone"]


WORLDS = (
    pytest.param((2, QUICK), id="2"),
    pytest.param((4, [*AS_ALONE, *OTHERS]), id="4", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", params=WORLDS)
def runs(request, tmp_path_factory):
    """The scenarios, one after the other, by so many processes."""
    ranks, names = request.param

    def make(folder):
        launching.train(folder, ranks, [f"collective_{name}" for name in names], 500)

    return once(tmp_path_factory, f"collective{ranks}", make)


def run_of(runs, name):
    if not (runs / f"collective_{name}").exists():
        pytest.skip("by four processes only")
    return gradwatch.Run(runs / f"collective_{name}")


def carried(runs, name):
    return int((runs / f"collective_{name}.carried").read_text())


@pytest.mark.parametrize("name", AS_ALONE)
def test_numbers_are_those_of_one_process(runs, alone, name):
    run, other = run_of(runs, name), alone[AS_ALONE[name]]
    assert carried(runs, name) > 0
    steps, expected = run.steps(), other.steps()
    assert steps.index.tolist() == list(range(training.STEPS))
    np.testing.assert_allclose(steps["total_norm"], expected["total_norm"], rtol=1e-4)
    assert run.parameters() == other.parameters()
    for stat in (*STATS, "weight_norm", "update_norm"):
        np.testing.assert_allclose(run.layers(stat), other.layers(stat), rtol=2e-3, atol=1e-6, err_msg=stat)
    np.testing.assert_allclose(run.layers("norm").iloc[0], other.layers("norm").iloc[0], rtol=1e-5)
    for info in other.parameters()[:3]:
        found, counts = run.magnitudes(info.name), other.magnitudes(info.name)
        assert found.index.tolist() == counts.index.tolist() == [0, 8]
        assert (found - counts).abs().iloc[0].sum() <= 2, info.name
    assert run.summary().dropped_steps == 0
    assert not [event for event in run.events() if event.severity != "info"]


def test_each_ranks_norm_before_the_reduction_is_kept(runs):
    run = run_of(runs, "ddp_heard")
    world = int(run.meta()["world_size"])
    assert run.ranks("norm").loc[0].tolist() == pytest.approx(training.norms_of_ranks(world), rel=1e-5)
    assert (run.ranks("before_reduction") == 1).all().all()


def test_an_event_names_the_rank_that_made_the_first_nan(runs):
    event = next(event for event in run_of(runs, "poisoned").events() if event.kind == "nonfinite")
    assert (event.step, event.rank, event.severity) == (5, 1, "critical")


def test_gradients_that_differ_where_they_must_not_are_an_event(runs):
    run = run_of(runs, "parted")
    last = int(run.meta()["world_size"]) - 1
    event = next(event for event in run.events() if event.kind == "desync")
    assert (event.step, event.severity, event.parameter, event.rank) == (5, "critical", "1.up.weight", last)


def test_parameters_that_join_end_the_collective_and_not_the_record(runs):
    run = run_of(runs, "joined")
    norms = run.layers("norm")
    assert norms.iloc[:6].notna().sum(axis=1).tolist() == [4] * 6
    assert norms.iloc[6:].notna().all(axis=None)
    assert len(norms) == training.STEPS
    assert carried(runs, "joined") <= 6
    assert "a rank trains other parameters now" in (runs / "stderr").read_text()


def test_a_rank_with_fewer_steps_holds_up_nobody(runs):
    run = run_of(runs, "uneven_elsewhere")
    assert run.steps().index.tolist() == list(range(training.STEPS))
    last = int(run.meta()["world_size"]) - 1
    assert run.ranks("norm")[last].notna().sum() == training.STEPS // 2
    assert run.ranks("norm").drop(columns=last).notna().all(axis=None)


def test_a_rank_that_does_not_attach_leaves_the_others_without_a_collective(runs):
    run = run_of(runs, "absent")
    assert "not every rank is attached with it" in (runs / "stderr").read_text()
    assert run.steps().index.tolist() == list(range(training.STEPS))


def test_after_a_rank_that_takes_no_part_the_rest_goes_by_messages(runs, alone):
    said = (runs / "stderr").read_text()
    assert re.search(r"by a collective.*: a rank has (not taken part for 1 s|ended it)\..*\(collective-ended\)", said)
    steps = run_of(runs, "stalled").steps()
    np.testing.assert_allclose(steps["total_norm"], alone["plain"].steps()["total_norm"], rtol=1e-4)
    assert run_of(runs, "stalled").summary().dropped_steps == 0


def test_a_rank_that_is_gone_leaves_the_others_their_record(runs):
    run = run_of(runs, "gone")
    assert run.steps().index.tolist() == list(range(training.STEPS))
    norms = run.ranks("norm")
    last = norms.columns[-1]
    assert norms[last].notna().sum() <= training.STEPS // 2
    assert norms.drop(columns=last).loc[: training.STEPS // 2].notna().all(axis=None)
