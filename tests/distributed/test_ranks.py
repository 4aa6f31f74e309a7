"""Trainings by several processes have the numbers of the same training in one."""

import json
import math

import numpy as np
import pytest
import torch

import gradwatch
from gradwatch.record import STATS, UPDATE_STATS

from ..once import once
from . import launching, training

WORLDS = (2, pytest.param(4, marks=pytest.mark.slow))
AS_ALONE = [
    "ddp",
    "ddp_heard",
    "fsdp2_plain",
    "fsdp2_clipped",
    "fsdp2_drop_in",
    "fsdp2_policy_in_loop",
    "fsdp2_accumulated",
    "hsdp",
    "tp",
    "megatron_like",
    "tp_and_fsdp2",
    "tp_and_fsdp2_policy",
    "fsdp1_full",
    "fsdp1_hybrid",
    "fsdp1_not_sharded",
    "pipeline",
    "accumulated",
    "in_a_group",
]
NOT_CLIPPED = {"ddp", "fsdp2_plain", "tp", "megatron_like", "tp_and_fsdp2", "pipeline", "accumulated", "in_a_group"}


@pytest.fixture(scope="module", params=WORLDS)
def runs(request, tmp_path_factory):
    """All scenarios, one after the other, by so many processes."""

    def make(folder):
        launching.train(folder, request.param, list(training.BY_MESSAGES), 500)

    return once(tmp_path_factory, f"world{request.param}", make)


def run_of(runs, name):
    if name == "fsdp1_hybrid" and runs.name.startswith("world2"):
        pytest.skip("copies of shards that are not cut: FSDP1 then does not reduce at all")
    return gradwatch.Run(runs / name)


@pytest.mark.parametrize("name", AS_ALONE)
def test_norms_are_those_of_one_process(runs, alone, name):
    run, other = run_of(runs, name), alone["plain" if name in NOT_CLIPPED else "clipped"]
    steps, expected = run.steps(), other.steps()
    assert steps.index.tolist() == list(range(training.STEPS))
    np.testing.assert_allclose(steps["total_norm"], expected["total_norm"], rtol=1e-4)
    assert run.parameters() == other.parameters(), "names and shapes are those of the model alone"
    for stat in STATS:
        if name == "accumulated" and stat == "zeros":
            continue
        np.testing.assert_allclose(run.layers(stat), other.layers(stat), rtol=2e-3, atol=1e-7, err_msg=stat)
    # Later steps have the rounding of all earlier ones in them; the first has its own alone.
    np.testing.assert_allclose(run.layers("norm").iloc[0], other.layers("norm").iloc[0], rtol=1e-5)
    assert run.damaged_rows == 0
    assert not [event for event in run.events() if event.severity != "info"]


@pytest.mark.parametrize("name", [name for name in AS_ALONE if name not in NOT_CLIPPED] + ["fsdp2_drop_in_largest"])
def test_clip_calls_are_seen_with_their_threshold(runs, alone, name):
    steps = run_of(runs, name).steps()
    np.testing.assert_allclose(steps["max_norm"], training.CLIP, rtol=1e-6)
    if name == "fsdp2_drop_in_largest":
        assert (steps["norm_type"] == math.inf).all()
        return
    np.testing.assert_allclose(steps["clip_coef"], alone["clipped"].steps()["clip_coef"], rtol=1e-4)


@pytest.mark.parametrize("name", ["fsdp2_plain", "hsdp", "fsdp1_full", "tp", "megatron_like", "pipeline"])
def test_weights_are_sampled_as_a_whole(runs, alone, name):
    run, other = run_of(runs, name), alone["plain" if name in NOT_CLIPPED else "clipped"]
    for stat in ("weight_norm", "update_norm"):
        assert run.layers(stat).index.tolist() == [0, 4, 8]
        np.testing.assert_allclose(run.layers(stat), other.layers(stat), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["ddp", "ddp_heard", "fsdp2_plain", "hsdp", "fsdp1_full", "tp", "pipeline"])
def test_entries_are_counted_by_magnitude_as_in_one_process(runs, alone, name):
    """Copies are counted once, and the counts of shards add up. Rounding may move an entry to the next bin."""
    run, other = run_of(runs, name), alone["plain" if name in NOT_CLIPPED else "clipped"]
    assert run.damaged_rows == 0
    for info in other.parameters():
        found, expected = run.magnitudes(info.name), other.magnitudes(info.name)
        assert found.index.tolist() == expected.index.tolist() == [0, 8]
        assert (found.sum(axis=1) == info.numel).all()
        assert (found - expected).abs().iloc[0].sum() <= 2, info.name


def updates_in_float64(clip, make=training.model):
    """The same training in one process and float64: what each step did to the weights, and RMS_t from its moments."""
    network = make().double()
    optimizer = training.adam(network)
    rows = []
    for step in range(training.STEPS):
        optimizer.zero_grad()
        x, y = training.batch(step)
        training.loss_of(network, x.double(), y.double()).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), training.CLIP)
        before = [p.detach().clone() for p in network.parameters()]
        optimizer.step()
        for p, old in zip(network.parameters(), before, strict=True):
            second = optimizer.state[p]["exp_avg_sq"] / (1 - 0.999 ** (step + 1))
            ratio = (p.grad**2 / second.clamp_min(1e-16)).mean().sqrt()
            rows.append([(p.detach() - old).norm(), old.norm(), ratio, second.sqrt().norm()])
    return torch.tensor(rows).view(training.STEPS, -1, 4).numpy()


@pytest.mark.parametrize("name", ["ddp", "ddp_heard", "fsdp2_plain", "fsdp2_clipped", "hsdp", "tp", "megatron_like"])
def test_updates_are_those_of_one_process_in_float64(runs, name):
    """Copies are counted once, and the squares of shards add up."""
    run, expected = run_of(runs, name), updates_in_float64(name not in NOT_CLIPPED)
    for at, stat in enumerate(UPDATE_STATS):
        found = run.updates(stat)
        assert found.index.tolist() == list(range(training.STEPS))
        np.testing.assert_allclose(found, expected[:, :, at], rtol=5e-3, atol=1e-5, err_msg=stat)
    totals = np.sqrt((expected[:, :, :2] ** 2).sum(axis=1))
    np.testing.assert_allclose(run.steps()[["update_norm", "weight_norm"]], totals, rtol=2e-3)


@pytest.mark.parametrize("name", ["deep_ddp", "deep_ddp_heard", "deep_fsdp2"])
def test_updates_of_the_sentinels_are_those_of_one_process_in_float64(runs, name):
    run, expected = run_of(runs, name), updates_in_float64(False, training.deep)
    names = [info.name for info in run.parameters()]
    matrices = [name for name in names if name.endswith("weight")]
    assert run.updates("update_norm").index.tolist() == list(range(0, training.STEPS, 2))
    for at, stat in enumerate(UPDATE_STATS):
        found = run.sentinels(stat)
        assert found.index.tolist() == list(range(training.STEPS))
        ends = [*matrices[:3], *matrices[-3:]]
        assert found.columns.tolist()[:3] == ends[:3]
        assert set(ends) <= set(found.columns)
        columns = [names.index(name) for name in ends]
        np.testing.assert_allclose(found[ends], expected[:, columns, at], rtol=5e-3, atol=1e-5, err_msg=stat)
    assert run.damaged_rows == 0


@pytest.mark.parametrize("name", list(training.POLICIES))
def test_a_policy_clips_as_in_one_process(runs, name, tmp_path):
    network = training.model()
    optimizer = training.adam(network)
    with gradwatch.attach(network, optimizer, tmp_path / "run", clip=training.POLICIES[name]()):
        training.train(network, lambda step: training.loss_of(network, *training.batch(step)).backward(), optimizer)
    weights = torch.load(runs / f"policy_{name}.pt", weights_only=True)
    for ours, expected in zip(weights, network.parameters(), strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-3, atol=1e-5)
    steps, expected = gradwatch.Run(runs / f"policy_{name}").steps(), gradwatch.Run(tmp_path / "run").steps()
    if name != "value":
        np.testing.assert_allclose(steps["clip_coef"], expected["clip_coef"], rtol=1e-3)
    assert steps["skipped"].tolist() == expected["skipped"].tolist()


@pytest.mark.parametrize("name", ["policy", "policy_in_loop", "drop_in"])
def test_sums_that_are_not_made_yet_are_made_to_clip_by_them(runs, name, tmp_path):
    network = training.normed()
    optimizer = training.adam(network)

    def step_of(step):
        training.loss_of(network, *training.sequences(step)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.CLIP)

    with gradwatch.attach(network, optimizer, tmp_path / "run"):
        training.train(network, step_of, optimizer)
    run, other = gradwatch.Run(runs / f"sequence_parallel_{name}"), gradwatch.Run(tmp_path / "run")
    steps, expected = run.steps(), other.steps()
    assert (expected["clip_coef"] < 1).any()
    np.testing.assert_allclose(steps["total_norm"], expected["total_norm"], rtol=1e-4)
    np.testing.assert_allclose(steps["clip_coef"], expected["clip_coef"], rtol=1e-4)
    np.testing.assert_allclose(run.layers("norm"), other.layers("norm"), rtol=2e-3, atol=1e-7)
    np.testing.assert_allclose(run.layers("norm").iloc[0], other.layers("norm").iloc[0], rtol=1e-5)


def test_sums_that_are_not_made_yet_end_a_recording_that_only_observes_and_not_the_training(runs):
    run = gradwatch.Run(runs / "sequence_parallel_observed")
    assert run.steps().empty
    assert "is a sum over processes that has not been computed yet" in (runs / "stderr").read_text()


def test_to_hear_the_ranks_leaves_the_weights_as_they_are_to_the_bit(runs):
    for rank in range(int(gradwatch.Run(runs / "ddp_heard").meta()["world_size"])):
        heard, unheard = (torch.load(runs / f"{n}.{rank}.pt", weights_only=True) for n in ("ddp_heard", "ddp_unheard"))
        assert all(torch.equal(one, other) for one, other in zip(heard, unheard, strict=True))


def test_each_ranks_norm_before_the_reduction_is_kept(runs):
    run = gradwatch.Run(runs / "ddp_heard")
    world = int(run.meta()["world_size"])
    norms = run.ranks("norm")
    assert norms.shape == (training.STEPS, world)
    assert norms.loc[0].tolist() == pytest.approx(training.norms_of_ranks(world), rel=1e-5)
    assert (run.ranks("nonfinite") == 0).all().all()
    assert (run.ranks("before_reduction") == 1).all().all()


def test_an_event_names_the_rank_that_made_the_first_nan(runs):
    event = next(event for event in gradwatch.Run(runs / "poisoned").events() if event.kind == "nonfinite")
    assert (event.step, event.rank, event.severity) == (5, 1, "critical")
    assert "rank 1" in event.message
    assert event.origin != "backward", "the loss of rank 1 was not finite, though that of rank 0 was"


def test_gradients_that_differ_where_they_must_not_are_an_event(runs):
    run = gradwatch.Run(runs / "parted")
    event = next(event for event in run.events() if event.kind == "desync")
    assert (event.step, event.severity) == (5, "critical")
    assert event.parameter == "1.up.weight"
    assert event.rank == int(run.meta()["world_size"]) - 1


def test_parameters_that_join_are_those_of_every_rank_from_there_on(runs):
    run = gradwatch.Run(runs / "joined")
    norms = run.layers("norm")
    assert len(norms) == training.STEPS
    assert [info.name for info in run.parameters()] == [name for name, _ in training.model().named_parameters()]
    assert norms.iloc[:6].notna().sum(axis=1).tolist() == [4] * 6
    assert norms.iloc[6:].notna().all(axis=None)
    total = np.sqrt((norms.astype(float) ** 2).sum(axis=1))
    np.testing.assert_allclose(run.steps()["total_norm"], total, rtol=1e-6)


def test_ranks_with_different_numbers_of_steps_hold_up_nobody(runs):
    first = gradwatch.Run(runs / "uneven")
    assert first.steps().index.tolist() == list(range(training.STEPS // 2))
    other = gradwatch.Run(runs / "uneven_elsewhere")
    assert other.steps().index.tolist() == list(range(training.STEPS))
    last = int(other.meta()["world_size"]) - 1
    heard = other.ranks("norm")[last].notna()
    assert heard[: training.STEPS // 2].all()
    assert not heard[training.STEPS // 2 :].any()


def test_rank_0_can_record_alone(runs, alone):
    steps = gradwatch.Run(runs / "rank_0_only").steps()
    np.testing.assert_allclose(steps["total_norm"], alone["plain"].steps()["total_norm"], rtol=1e-4)


def test_a_slow_rank_is_waited_for_as_the_training_does(runs):
    run = gradwatch.Run(runs / "slow")
    assert run.steps().index.tolist() == list(range(training.STEPS))
    assert run.ranks("norm").notna().all(axis=None)
    assert run.summary().dropped_steps == 0


def test_processes_can_record_runs_of_their_own(runs, alone):
    for rank in range(int(gradwatch.Run(runs / "ddp_heard").meta()["world_size"])):
        steps = gradwatch.Run(runs / "own" / str(rank)).steps()
        np.testing.assert_allclose(steps["total_norm"], alone["plain"].steps()["total_norm"], rtol=1e-6)


def test_a_rank_that_does_not_attach_ends_in_a_message_and_holds_up_nobody(runs):
    assert "(rank-silent)" in (runs / "stderr").read_text()
    run = gradwatch.Run(runs / "silent_rank")
    assert len(run.steps()) == 0, "a part of the norm would be a wrong norm"
    assert run.attempts()[0].dropped == training.STEPS


def test_frozen_parameters_are_no_fault(runs):
    run = gradwatch.Run(runs / "ddp_frozen")
    frozen = json.loads(run.meta()["frozen_parameters"])
    assert frozen == [name for name, _ in training.model().named_parameters() if name.startswith("0.")] != []
    assert "no-gradient" not in [finding.code for finding in run.diagnosis()]


def test_parts_of_an_unknown_whole_are_said_to_be_parts(runs, alone):
    """Six parameters carry Megatron's mark, and no layer says over which ranks they are cut."""
    assert "6 parameters are marked as parts" in (runs / "stderr").read_text()
    run, other = gradwatch.Run(runs / "megatron_like_untold"), alone["plain"]
    assert (run.steps()["total_norm"] < 0.999 * other.steps()["total_norm"]).all()


def test_parameters_of_one_name_that_are_no_copies_are_named_and_no_others(runs):
    lines = [line for line in (runs / "stderr").read_text().splitlines() if "(not-copies)" in line]
    (line,) = [line for line in lines if "local_experts" in line]
    assert line.startswith("'local_experts.0.weight' is another parameter on rank 1 than on rank 0.")
    assert len(lines) <= 2, "of all other scenarios only untold parts have such parameters"
