"""Trainings by 8 and by 16 processes, whose steps reach rank 0 through a tree, have the numbers of one process.

Nodes of two ranks, and groups of two nodes, make a tree of three levels.
"""

import math

import numpy as np
import pytest

import gradwatch
from gradwatch.record import STATS

from ..once import once
from . import launching, training

pytestmark = pytest.mark.slow

RANKS, NODE = 8, 2
PLAIN = ["ddp", "fsdp2_plain", "tp_and_fsdp2", "pipeline", "megatron_like"]
CLIPPED = ["ddp_heard", "fsdp2_clipped", "hsdp", "fsdp1_full"]
SPREAD = {"expert_parallel": training.mixture_alone, "context_parallel": lambda run, _: training.attention_alone(run)}
OTHERS = ["poisoned", "parted", "joined", "leaves_early", "silent_rank"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All scenarios, one after the other, by eight processes."""

    def make(folder):
        launching.train(folder, RANKS, [*PLAIN, *CLIPPED, *SPREAD, *OTHERS], 900, RANKS_OF_A_NODE=str(NODE))

    return once(tmp_path_factory, "world8", make)


def test_sixteen_processes_have_the_numbers_of_one(alone, tmp_path):
    compared = {"ddp_heard": "clipped", "fsdp2_plain": "plain", "hsdp": "clipped", "pipeline": "plain"}
    compared |= {"tp_and_fsdp2": "plain"}
    launching.train(tmp_path, 16, [*compared, *SPREAD, "uneven_inputs"], 600, RANKS_OF_A_NODE="4")
    for name, alone_of in SPREAD.items():
        alone_of(tmp_path / f"{name} alone", 16)
        assert_spread_as_whole(gradwatch.Run(tmp_path / name), gradwatch.Run(tmp_path / f"{name} alone"))
    for name, other in compared.items():
        run = gradwatch.Run(tmp_path / name)
        np.testing.assert_allclose(run.steps()["total_norm"], alone[other].steps()["total_norm"], rtol=1e-4)
        for stat in STATS:
            np.testing.assert_allclose(run.layers(stat), alone[other].layers(stat), rtol=2e-3, atol=1e-7, err_msg=stat)
        assert not [event for event in run.events() if event.severity != "info"]
    training.uneven_inputs_alone(tmp_path / "uneven alone", 16)
    run, other = gradwatch.Run(tmp_path / "uneven_inputs"), gradwatch.Run(tmp_path / "uneven alone")
    np.testing.assert_allclose(run.steps()["total_norm"], other.steps()["total_norm"], rtol=1e-4)
    np.testing.assert_allclose(run.layers("norm"), other.layers("norm"), rtol=2e-3, atol=1e-7)
    assert run.ranks("norm").notna().sum().tolist() == [training.steps_of(rank) for rank in range(16)]
    assert run.attempts()[0].dropped == 0


@pytest.mark.parametrize("name", PLAIN + CLIPPED)
def test_statistics_are_those_of_one_process(runs, alone, name):
    run, other = gradwatch.Run(runs / name), alone["plain" if name in PLAIN else "clipped"]
    assert run.steps().index.tolist() == list(range(training.STEPS))
    np.testing.assert_allclose(run.steps()["total_norm"], other.steps()["total_norm"], rtol=1e-4)
    assert run.parameters() == other.parameters()
    for stat in STATS:
        np.testing.assert_allclose(run.layers(stat), other.layers(stat), rtol=2e-3, atol=1e-7, err_msg=stat)
    np.testing.assert_allclose(run.layers("norm").iloc[0], other.layers("norm").iloc[0], rtol=1e-5)
    assert not [event for event in run.events() if event.severity != "info"]


@pytest.mark.parametrize("name", SPREAD)
def test_experts_and_sequences_that_are_spread_over_ranks_are_those_of_one_process(runs, tmp_path, name):
    SPREAD[name](tmp_path / "alone", RANKS)
    assert_spread_as_whole(gradwatch.Run(runs / name), gradwatch.Run(tmp_path / "alone"))


def assert_spread_as_whole(run, other):
    """Parameters that only some ranks have, or gradients of a part of the sequence, make the numbers of one process."""
    assert run.steps().index.tolist() == list(range(training.STEPS))
    np.testing.assert_allclose(run.steps()["total_norm"], other.steps()["total_norm"], rtol=1e-4)
    assert {*run.parameters()} == {*other.parameters()}
    for stat in (*STATS, "weight_norm", "update_norm"):
        own, whole = run.layers(stat), other.layers(stat)
        np.testing.assert_allclose(own[whole.columns], whole, rtol=2e-3, atol=1e-6, err_msg=stat)
    assert not [event for event in run.events() if event.severity != "info"]


@pytest.mark.parametrize("name", ["fsdp2_plain", "hsdp", "pipeline"])
def test_weights_are_sampled_as_a_whole(runs, alone, name):
    run, other = gradwatch.Run(runs / name), alone["plain" if name in PLAIN else "clipped"]
    for stat in ("weight_norm", "update_norm"):
        assert run.layers(stat).index.tolist() == [0, 4, 8]
        np.testing.assert_allclose(run.layers(stat), other.layers(stat), rtol=1e-3, atol=1e-6)


def test_each_ranks_norm_before_the_reduction_is_kept(runs):
    norms = gradwatch.Run(runs / "ddp_heard").ranks("norm")
    assert norms.shape == (training.STEPS, RANKS)
    network = training.model()
    x, y = training.batch(0)
    for rank in range(RANKS):
        network.zero_grad()
        rows = slice(rank * len(x) // RANKS, (rank + 1) * len(x) // RANKS)
        training.loss_of(network, x[rows], y[rows]).backward()
        norm = math.hypot(*(float(p.grad.norm()) for p in network.parameters()))
        assert norms.loc[0, rank] == pytest.approx(norm, rel=1e-5)


def test_an_event_names_the_rank_that_made_the_first_nan(runs):
    event = next(event for event in gradwatch.Run(runs / "poisoned").events() if event.kind == "nonfinite")
    assert (event.step, event.rank, event.severity) == (5, 1, "critical")


def test_gradients_that_differ_where_they_must_not_are_an_event(runs):
    event = next(event for event in gradwatch.Run(runs / "parted").events() if event.kind == "desync")
    assert (event.step, event.severity, event.parameter, event.rank) == (5, "critical", "1.up.weight", RANKS - 1)


def test_parameters_that_join_are_those_of_every_rank_from_there_on(runs):
    norms = gradwatch.Run(runs / "joined").layers("norm")
    assert norms.iloc[:6].notna().sum(axis=1).tolist() == [4] * 6
    assert norms.iloc[6:].notna().all(axis=None)


def test_ranks_are_heard_on_when_the_one_that_combined_their_steps_is_done(runs):
    run = gradwatch.Run(runs / "leaves_early")
    assert run.steps().index.tolist() == list(range(training.STEPS))
    heard = run.ranks("norm").notna()
    assert heard.drop(columns=RANKS // 2).all(axis=None)
    assert heard[RANKS // 2].sum() == training.STEPS // 2


def test_a_rank_that_does_not_attach_is_named_and_holds_up_nobody(runs):
    assert f"Rank {RANKS - 1} has not been heard" in (runs / "stderr").read_text()
    run = gradwatch.Run(runs / "silent_rank")
    assert len(run.steps()) == 0, "a part of the norm would be a wrong norm"
    assert run.attempts()[0].dropped == training.STEPS
