"""Spikes, peaks of the rate and leaps that throw the loss back."""

import numpy as np
import pytest

from gradwatch.testing import replaced, steady, stream

from .made import changed, codes, falling, run_of, the

SPIKES = (100, 150, 250, 330)


def thrown_back(steps=400, spikes=SPIKES, height=1.0, length=20):
    """A loss that falls, and that each spike raises by ``height`` for ``length`` steps."""
    losses = np.array(falling(steps))
    for spike in spikes:
        losses[spike : spike + length] += height * np.linspace(1, 0, length)[: len(losses[spike : spike + length])]
    return losses.tolist()


def spiky(steps=400, spikes=SPIKES, height=40.0):
    return replaced(steady(steps), dict.fromkeys(spikes, height))


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_spikes_that_throw_the_loss_back(tmp_path, optimizer):
    found = the(run_of(tmp_path, stream(spiky(), losses=thrown_back()), optimizer), "repeated-spikes")
    assert found.severity == "warning"
    assert found.steps == (100, 330)
    assert (found.evidence["spikes"].value, found.evidence["setbacks"].value) == (4, 4)
    assert 0.05 < found.evidence["steps_above_level"].value < 0.25
    assert "spike" not in codes(run_of(tmp_path / "again", stream(spiky(), losses=thrown_back()), optimizer))


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param(spiky(), falling(400), id="the loss does not follow"),
        pytest.param(spiky(), replaced(falling(400), dict.fromkeys(SPIKES, 30.0)), id="the loss of the spike alone"),
        pytest.param(spiky(spikes=(150, 250)), thrown_back(spikes=(150, 250)), id="two spikes"),
        pytest.param(spiky(), thrown_back(height=0.05), id="a rise of a few percent of the progress"),
        pytest.param(steady(400), thrown_back(), id="no spike of the norm"),
        pytest.param(spiky(), None, id="no loss"),
        pytest.param(spiky(), [0.1 * z for z in np.random.default_rng(0).standard_normal(400)], id="loss about zero"),
    ],
)
def test_spikes_that_cost_nothing_are_no_repeated_spikes(tmp_path, norms, losses):
    assert "repeated-spikes" not in codes(run_of(tmp_path, stream(norms, losses=losses)))


@pytest.mark.parametrize(
    ("height", "times", "told"),
    [
        pytest.param(100.0, 20, True, id="again and again"),
        pytest.param(6.0, 20, False, id="to a few times the first losses"),
        pytest.param(100.0, 10, False, id="in one of fourteen rows, as bad batches may be"),
    ],
)
def test_a_loss_that_is_thrown_far_above_its_start_again_and_again(tmp_path, height, times, told):
    """As of a recurrence whose poles leave the unit circle: the next clipped step brings it back."""
    rng, losses = np.random.default_rng(0), np.array(falling(140, 1.4, 0.3, 0.3))
    losses[np.linspace(40, 130, times).astype(int)] = height
    norms = np.exp(2 * rng.standard_normal(140)) * losses
    run = run_of(tmp_path, stream(norms.tolist(), losses=losses.tolist(), max_norm=3.0))
    warned = [one for one in run.diagnosis() if (one.code, one.severity) == ("repeated-spikes", "warning")]
    assert bool(warned) == told
    if told:
        assert warned[0].evidence["setbacks"].value == times
        assert "it was not enough" in warned[0].remedy


@pytest.mark.parametrize(
    ("height", "times", "told"),
    [
        pytest.param(2.0, 5, True, id="back to the start"),
        pytest.param(0.4, 5, False, id="less than half of the progress"),
        pytest.param(2.0, 2, False, id="twice"),
    ],
)
def test_a_loss_that_leaps_back_without_a_spike_is_information(tmp_path, height, times, told):
    """As by weights that are pruned: it falls as before after each leap, and the norms are as ever."""
    steps, leaps = np.arange(600), np.linspace(90, 510, times).astype(int)
    losses = 0.2 + 2.0 * np.exp(-steps / 30)
    for leap in leaps:
        losses[leap:] += height * np.exp(-np.arange(600 - leap) / 30)
    losses *= np.exp(0.05 * np.random.default_rng(0).standard_normal(600))
    run = run_of(tmp_path, stream(steady(600), losses=losses.tolist()))
    assert ("repeated-spikes" in codes(run)) == told
    if told:
        found = the(run, "repeated-spikes")
        assert (found.severity, found.steps) == ("info", (leaps[0], leaps[-1]))
        assert "checkpoint" in found.cause


def test_few_steps_above_the_level_are_information(tmp_path):
    steps, spikes = 4000, (500, 1500, 2500, 3500)
    losses = np.array(thrown_back(steps, spikes, height=3.0))
    run = run_of(tmp_path, stream(spiky(steps, spikes), losses=losses.tolist()))
    assert the(run, "repeated-spikes").severity == "info"
    assert run.summary().verdict == "healthy"


@pytest.mark.parametrize(
    ("clipping", "said"),
    [
        ({}, "clip (`gradwatch recommend`"),
        ({"max_norm": 10.0, "clip_coef": lambda i: 0.25 if i in SPIKES else 1.0}, "these steps were clipped"),
        ({"max_norm": 100.0, "clip_coef": 1.0}, "lower the threshold"),
    ],
)
def test_the_remedy_knows_whether_the_spikes_were_clipped(tmp_path, clipping, said):
    run = run_of(tmp_path, changed(stream(spiky(), losses=thrown_back()), **clipping))
    assert said in the(run, "repeated-spikes").remedy


@pytest.mark.parametrize(
    ("optimizer", "spikes", "is_cause"),
    [
        pytest.param("Adam", (40, 150, 230, 330), True, id="the first of them is early"),
        pytest.param("Adam", (130, 180, 230, 330), False, id="none of them is"),
        pytest.param("SGD", (40, 150, 230, 330), False, id="no averages"),
    ],
)
def test_a_missing_warm_up_is_a_cause_of_spikes_from_the_first_steps_on(tmp_path, optimizer, spikes, is_cause):
    records = stream(spiky(spikes=spikes), losses=thrown_back(spikes=spikes))
    found = the(run_of(tmp_path, changed(records, learning_rates=(0.03,)), optimizer), "repeated-spikes")
    assert ("no warm-up" in found.cause) == ("warm the learning rate up" in found.remedy) == is_cause
    assert ("learning_rate_from_the_start" in found.evidence) == is_cause


@pytest.mark.parametrize("seed", range(8))
def test_norms_with_a_heavy_tail_beside_a_noisy_loss_are_no_repeated_spikes(tmp_path, seed):
    """Such norms have lone large steps all the time, and some stand before a few high losses by chance."""
    rng = np.random.default_rng(seed)
    norms = np.exp(1.5 * rng.standard_normal(300))
    losses = 0.35 * np.exp(0.35 * rng.standard_normal(300))
    run = run_of(tmp_path, stream([float(n) for n in norms], losses=[float(x) for x in losses]))
    assert "repeated-spikes" not in [f.code for f in run.diagnosis() if f.severity != "info"]


@pytest.mark.parametrize(
    ("lifted", "cycles", "told"),
    [
        pytest.param(2.5, 6, True, id="each peak undoes the progress"),
        pytest.param(0.4, 6, False, id="restarts that lift the loss by less than half of it"),
        pytest.param(2.5, 2, False, id="two peaks"),
    ],
)
@pytest.mark.parametrize("triangular", [False, True])
def test_peaks_of_a_cyclic_rate_that_throw_the_training_back(tmp_path, lifted, cycles, told, triangular):
    steps, rng = np.arange(60 * (cycles + 1)), np.random.default_rng(0)
    losses = 0.1 + 1.9 * np.exp(-steps / 10)
    rates = np.full(len(steps), 0.01)
    for peak in range(60, len(steps), 60):
        losses[peak:] += lifted * np.exp(-np.arange(len(steps) - peak) / 8)
        around = np.maximum(0, 1 - np.abs(steps - peak) / 20) if triangular else np.isin(steps, [peak, peak + 1])
        rates += 0.5 * around
    losses *= np.exp(0.03 * rng.standard_normal(len(steps)))
    records = changed(stream(steady(len(steps)), losses=list(losses)), learning_rates=lambda i: (float(rates[i]),))
    run = run_of(tmp_path, records)
    assert ("repeated-spikes" in [f.code for f in run.diagnosis() if f.severity != "info"]) == told
    if told:
        found = the(run, "repeated-spikes")
        assert found.steps == (60, 60 * cycles)
        assert found.cause.startswith("the learning rate: its peaks of 0.51")


@pytest.mark.parametrize(("at", "told"), [((150, 151, 152), False), ((150, 154, 158), True)])
def test_large_norms_one_after_the_other_are_one_spike(tmp_path, at, told):
    """Of one batch in a wrong unit: the steps after it come back."""
    losses = falling(300)
    losses[150:170] = falling(20, 3.0, 2.0, seed=1)
    run = run_of(tmp_path, stream(replaced(steady(300), dict.fromkeys(at, 60.0)), losses=losses))
    assert ("repeated-spikes" in codes(run)) == told
    assert ("spike" in codes(run)) != told
