"""Setbacks of the loss: spikes that undo progress are a warning, spikes that cost nothing are none."""

import dataclasses

import numpy as np
import pytest

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.setbacks import loss_regressed
from gradwatch.testing import replaced, steady, stream

from .made import calm, changed, codes, falling, run_of, the, with_weights

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


def test_an_end_above_the_best_is_a_warning_where_half_of_the_progress_is_undone(tmp_path):
    run = run_of(tmp_path, stream(steady(600), losses=falling(300) + falling(300, 0.5, 1.6)))
    found = the(run, "loss-regressed")
    assert found.severity == "warning"
    assert found.evidence["undone"].value == pytest.approx(0.68, abs=0.1)
    assert 200 < found.steps[0] < 400


def test_few_losses_whose_last_ones_all_lie_above_the_best(tmp_path):
    run = run_of(tmp_path, stream(steady(80), losses=falling(40) + falling(40, 0.5, 1.6)))
    assert the(run, "loss-regressed").severity == "warning"


@pytest.mark.parametrize(
    ("last", "told"),
    [
        pytest.param([1.1, 2.4, 2.6, 2.5, 2.6], True, id="far above the noise"),
        pytest.param([1.1, 2.4, 2.6, 2.5, 1.5], False, id="on the way back"),
        pytest.param([1.1, 1.1, 1.2, 1.1, 1.2], False, id="by a tenth"),
    ],
)
def test_a_dozen_losses_of_which_the_last_are_far_above_the_best(tmp_path, last, told):
    losses = [3.0, 2.4, 2.0, 1.6, 1.3, 1.1, 1.0, *last]
    assert ("loss-regressed" in codes(run_of(tmp_path, stream(steady(12), losses=losses)))) == told


@pytest.mark.parametrize(
    ("leap", "last", "severities"),
    [
        pytest.param(48.0, 20.0, ["warning"], id="ends above its start"),
        pytest.param(48.0, 14.0, [], id="ends near its start"),
        pytest.param(20.0, 20.0, ["warning"], id="more than its progress is undone anyway"),
    ],
)
def test_a_leap_of_the_first_losses_is_no_height_from_which_they_fell(tmp_path, leap, last, severities):
    losses = [12.4, 12.4, *falling(30, leap, 11.6, 0.005), *falling(30, 12.0, last, 0.005)]
    found = [f for f in run_of(tmp_path, stream(steady(62), losses=losses)).diagnosis() if f.code == "loss-regressed"]
    assert [f.severity for f in found] == severities
    assert all(("above the 12.4 that it began at" in f.what) == (leap > 2 * 12.4) for f in found)


def test_of_several_optimizers_an_end_above_the_best_is_information(tmp_path):
    """The loss of a discriminator rises as the generator learns."""
    run = run_of(tmp_path, stream(steady(600), losses=falling(300) + falling(300, 0.5, 1.6)))
    facts = read_facts(run)
    one = facts.optimizers[0]
    several = dataclasses.replace(facts, optimizers=(one, dataclasses.replace(one, name="g")))
    told = [loss_regressed(of, one) for of in (facts, several)]
    assert [found.severity for found in told if found] == ["warning", "info"]


def test_an_end_above_the_best_to_which_the_loss_comes_down_again_is_information(tmp_path):
    losses = falling(300) + falling(120, 0.5, 1.6) + falling(180, 1.6, 0.9)
    run = run_of(tmp_path, stream(steady(600), losses=losses))
    assert the(run, "loss-regressed").severity == "info"


STANDS_AT_BEST = falling(400, 19.0, 9.8, 0.02) + falling(100, 9.8, 9.8, 0.02, seed=1)


@pytest.mark.parametrize(
    ("losses", "raised", "severity"),
    [
        pytest.param(falling(300) + falling(300, 0.5, 0.95), 1.0, "warning", id="by nine tenths in the loss alone"),
        pytest.param(falling(300) + falling(300, 0.5, 0.6), 1.0, None, id="by a fifth in the loss alone"),
        pytest.param(STANDS_AT_BEST + falling(100, 10.8, 10.8, 0.02), 4.0, "warning", id="by a tenth"),
        pytest.param(STANDS_AT_BEST + falling(100, 10.8, 10.8, 0.02), 1.0, None, id="in loss alone"),
        pytest.param(STANDS_AT_BEST + falling(100, 10.1, 10.1, 0.02), 4.0, None, id="by a thirtieth"),
        pytest.param(falling(12, 3.0, 1.0, 0.01) + falling(8, 1.1, 2.2, 0.01), 1.0, "warning", id="few losses, far"),
        pytest.param(falling(12, 3.0, 1.0, 0.01) + falling(8, 1.1, 1.4, 0.01), 1.0, None, id="few losses, not far"),
        pytest.param(falling(12, 3.0, 1.0, 0.01) + falling(8, 3.0, 1.8, 0.01), 1.0, None, id="few that fall again"),
    ],
)
def test_an_end_that_is_clearly_above_the_best(tmp_path, losses, raised, severity):
    """By less where the norms rose as well."""
    few = len(losses) // 6
    norms = np.array(steady(len(losses))) * np.r_[np.ones(len(losses) - few), np.full(few, raised)]
    findings = run_of(tmp_path, stream(norms, losses=losses)).diagnosis()
    found = [f.severity for f in findings if f.code == "loss-regressed"]
    assert found == ([] if severity is None else [severity])


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(falling(600), id="falls"),
        pytest.param(falling(300) + falling(300, 0.5, 0.52), id="stays at its best"),
        pytest.param(falling(7) + falling(7, 0.5, 1.6), id="too few losses"),
        pytest.param(falling(40) + falling(40, 0.5, 0.7), id="few losses that end a little above"),
        pytest.param(falling(600, noise=0.8), id="noise"),
        pytest.param([2.0 + 0.05 * z for z in np.random.default_rng(1).standard_normal(600)], id="never moves"),
        pytest.param([0.1 * z for z in np.random.default_rng(2).standard_normal(600)], id="about zero"),
        pytest.param(falling(600, 0.5, 2.0), id="never fell"),
    ],
)
def test_what_is_no_regress(tmp_path, losses):
    assert "loss-regressed" not in codes(run_of(tmp_path, stream(steady(len(losses)), losses=losses)))


def test_growth_of_loss_and_norms_is_a_divergence_and_told_once(tmp_path):
    losses = falling(300) + falling(300, 0.5, 60.0)
    run = run_of(tmp_path, stream(steady(300) + steady(300, level=30.0), losses=losses))
    assert "diverged" in codes(run)
    assert not {"loss-regressed", "repeated-spikes"} & set(codes(run))


def huge(rows, level=4e8, end=None):
    return falling(rows, level, end or level, noise=0.3)


def test_a_level_of_millions_that_does_not_fall(tmp_path):
    found = the(run_of(tmp_path, stream(steady(17, level=1e6), losses=huge(17))), "huge-loss")
    assert (found.severity, found.certainty) == ("warning", "possible")


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param(steady(60, level=1e6), huge(60, 4e8, 2e7), id="falls"),
        pytest.param(steady(60, level=1.0), huge(60), id="small norms: a sum over a large batch"),
        pytest.param(steady(60, level=1e6), huge(60, 100.0), id="a usual level"),
        pytest.param(steady(5, level=1e6), huge(5), id="too few"),
    ],
)
def test_what_is_no_huge_loss(tmp_path, norms, losses):
    assert "huge-loss" not in codes(run_of(tmp_path, stream(norms, losses=losses)))


def test_a_calm_training_has_no_setback(tmp_path):
    assert not {"repeated-spikes", "loss-regressed", "huge-loss"} & set(codes(run_of(tmp_path, calm(600))))


@pytest.mark.parametrize("seed", range(8))
def test_norms_with_a_heavy_tail_beside_a_noisy_loss_are_no_repeated_spikes(tmp_path, seed):
    """Such norms have lone large steps all the time, and some stand before a few high losses by chance."""
    rng = np.random.default_rng(seed)
    norms = np.exp(1.5 * rng.standard_normal(300))
    losses = 0.35 * np.exp(0.35 * rng.standard_normal(300))
    run = run_of(tmp_path, stream([float(n) for n in norms], losses=[float(x) for x in losses]))
    assert "repeated-spikes" not in [f.code for f in run.diagnosis() if f.severity != "info"]


def flat(steps=400, level=2.3, noise=0.01, seed=0):
    return (level * np.exp(noise * np.random.default_rng(seed).standard_normal(steps))).tolist()


def test_a_loss_that_never_falls_is_told_as_information(tmp_path):
    losses = flat()
    found = the(run_of(tmp_path, stream(steady(400), losses=losses)), "no-progress")
    assert (found.severity, found.certainty, found.steps) == ("info", "likely", (0, 399))
    assert found.evidence["loss_first"].value == pytest.approx(np.median(losses[:40]))
    assert found.evidence["loss_last"].value == pytest.approx(np.median(losses[360:]))


@pytest.mark.parametrize(
    "losses",
    [
        falling(400, 2.3, 2.1, 0.01),  # slow, but it falls
        flat(noise=0.5),  # it scatters too much to tell
        flat(steps=99),
        [0.1 * x for x in np.random.default_rng(0).standard_normal(400)],  # of reinforcement learning
        [*falling(40, 2.3, 0.1), *flat(360, 0.1)],  # it was learnt at once
        [10.0, *flat(399)],  # by the first update
        [2.3] * 400,
        [1.0 if step % 50 == 7 else 0.0 for step in range(400)],  # of a margin that nearly every batch keeps
    ],
    ids=["falls", "scatters", "short", "about zero", "at once", "first update", "constant", "zero"],
)
def test_no_progress_is_not_told_of_other_losses(tmp_path, losses):
    assert "no-progress" not in codes(run_of(tmp_path, stream(steady(len(losses)), losses=losses)))


@pytest.mark.parametrize(
    ("losses", "severity"),
    [
        pytest.param(falling(34, 4.69, 4.69, 0.002), "warning", id="stands"),
        pytest.param([18.8, *falling(59, 7.42, 7.41, 0.001)], "warning", id="stands from the second row on"),
        pytest.param([18.8, *falling(59, 1.42, 1.41, 0.001)], None, id="learnt at once"),
        pytest.param(falling(34, 3.69, 3.69, 0.02), None, id="differs from batch to batch"),
        pytest.param(falling(34, 4.7, 4.5, 0.002), None, id="falls slowly"),
        pytest.param(falling(400, 0.6931, 0.6931, 0.05), "warning", id="at the cost of a guess of two, under noise"),
        pytest.param(falling(40, 0.85, 0.7, 0.03) + falling(360, 0.7, 0.7, 0.03), "warning", id="comes down to it"),
        pytest.param(falling(400, 2.3026, 2.3026, 0.05), "warning", id="of a guess of ten"),
        pytest.param(falling(400, 2.2, 2.2, 0.05), None, id="a fine-tuning that stands"),
        pytest.param(falling(400, 0.7, 0.6, 0.05), None, id="falls from the cost of a guess"),
        pytest.param(falling(400, 2.9, 2.3, 0.05), None, id="learns on the way to it"),
        pytest.param(falling(324, 9.75, 9.62, 0.007), "warning", id="higher than what has learnt"),
        pytest.param(falling(324, 9.75, 9.0, 0.007), None, id="falls from there"),
        pytest.param(falling(600, 4.9, 4.9, 0.03), "warning", id="higher than a fine-tuned model, under noise"),
        pytest.param(falling(600, 16.6, 16.6, 0.03), "info", id="higher than any guess, so of another unit"),
        pytest.param(falling(20, 10.9, 7.4) + falling(280, 7.4, 7.35, 0.01), "warning", id="a language model hovers"),
        pytest.param(falling(20, 10.9, 7.4) + falling(280, 7.4, 6.8, 0.01), None, id="a language model learns slowly"),
        pytest.param(falling(11, 3.3, 3.3, 1e-4), "warning", id="few rows that do not move"),
        pytest.param(falling(11, 3.3, 3.3, 3e-2), None, id="few rows that scatter"),
        pytest.param(falling(11, 10.8, 10.8, 1e-4), None, id="a language model before its warm-up"),
        pytest.param(
            falling(60, 1.4, 1.4, 0.05) + falling(30, 1.4, 6.5, 0.05) + falling(60, 6.5, 1.4, 0.05),
            "warning",
            id="leaps and comes back to where it began",
        ),
        pytest.param(
            falling(60, 1.4, 1.4, 0.05) + falling(30, 1.4, 6.5, 0.05) + falling(60, 6.5, 1.0, 0.05),
            None,
            id="leaps and comes back to less",
        ),
    ],
)
def test_an_imported_loss_that_stands_as_if_it_did_not_depend_on_the_inputs(tmp_path, losses, severity):
    run = run_of(tmp_path, stream(steady(len(losses)), losses=losses), meta={"source": "trainer_state.json"})
    found = [f.severity for f in run.diagnosis() if f.code == "no-progress"]
    assert found == ([] if severity is None else [severity])


@pytest.mark.parametrize(("left", "told"), [(0.01, True), (0.2, False)])
def test_norms_that_fade_beside_an_imported_loss_that_stands(tmp_path, left, told):
    norms = np.array(steady(400)) * np.geomspace(1.0, left, 400)
    run = run_of(tmp_path, stream(norms, losses=falling(400, 1.2, 1.2, 0.03)), meta={"source": "a file"})
    assert ("no-progress" in [f.code for f in run.diagnosis() if f.severity == "warning"]) == told


@pytest.mark.parametrize(("level", "left", "told"), [(7.6, 0.01, True), (7.6, 0.5, False), (2.6, 0.01, False)])
def test_a_loss_that_stands_high_at_last_without_norms_that_could_move_it(tmp_path, level, left, told):
    losses = falling(25, 3 * level, level, 0.05) + falling(25, level, level, 0.002)
    norms = np.array(steady(50)) * np.geomspace(1.0, left, 50)
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "a file"})
    assert ("no-progress" in [f.code for f in run.diagnosis() if f.severity == "warning"]) == told


def test_a_learning_rate_of_zero_explains_that_there_is_no_progress(tmp_path):
    records = changed(stream(steady(400), losses=flat()), learning_rates=(0.0,))
    found = codes(run_of(tmp_path, records))
    assert "learning-rate-zero" in found
    assert "no-progress" not in found


@pytest.mark.parametrize(("decay", "last", "shrunken"), [(0.01, 0.01, True), (0.01, 0.9, False), (0.0, 0.01, False)])
def test_weights_that_decay_takes_away_are_the_cause_of_a_loss_that_comes_back(tmp_path, decay, last, shrunken):
    losses = falling(200, 2.3, 0.2) + falling(200, 0.2, 2.3)
    weights = np.r_[np.ones(200), np.geomspace(1, last, 200)]
    records = [
        one
        for i, record in enumerate(stream(steady(400), losses=losses))
        for one in with_weights([record], [weights[i], weights[i]], [0.03, 0.03])
    ]
    run = run_of(tmp_path, records, "AdamW", {"lr": 1e-3, "weight_decay": decay})
    found = the(run, "loss-regressed")
    assert found.cause.startswith("the weight decay") == shrunken
    assert ("learning-rate-too-high" in codes(run)) != shrunken
    assert ("weight_norm_last" in found.evidence) == shrunken


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
