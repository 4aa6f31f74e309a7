"""Severity by consequence: growth that stays is critical, a spike that passes is not."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.growth import is_diverging
from gradwatch.testing import replaced, steady, stream
from gradwatch.text import number

from .made import calm, changed, codes, falling, parameters, run_of, the, with_layers, with_weights


def test_growth_from_the_first_step_on(tmp_path):
    """A loss from 1.6 to 1.6e7 with norms that grow along: no level was ever left."""
    steps = 600
    rng = np.random.default_rng(0)
    losses = [1.6 * 1.027**i * float(np.exp(0.1 * rng.standard_normal())) for i in range(steps)]
    found = the(run_of(tmp_path, stream([loss**0.5 for loss in losses], losses=losses), "Adam"), "diverged")
    assert found.severity == "critical"
    assert found.steps[0] < 80
    assert "target network" in found.remedy


def test_a_first_update_that_lifts_the_loss_for_good(tmp_path):
    """As Adam does at a learning rate of 30: the loss falls from then on and never comes near the first one."""
    losses, norms = [16.0, *falling(299, 1e15, 1e5)], [10.0, *falling(299, 1e16, 1e8)]
    found = the(run_of(tmp_path, stream(norms, losses=losses), "Adam"), "diverged")
    assert (found.severity, found.steps[0] < 5) == ("critical", True)
    assert found.evidence["loss_best"].value == 16.0
    assert "learning rate" in found.cause


@pytest.mark.parametrize(("loss", "norm"), [(0.01, 1.0), (0.7, 0.2), (-0.05, 0.2), (0.0, 0.2)])
def test_a_first_loss_below_the_others_is_no_divergence_by_itself(tmp_path, loss, norm):
    """An easy first batch; others come near it, or the norms are as they were."""
    losses = [loss, *falling(299, 1.5, 0.4)]
    assert "diverged" not in codes(run_of(tmp_path / "near", stream([norm, *steady(299)], losses=losses)))
    both = stream([0.2, *steady(299)], losses=[0.01, *losses[1:]])
    assert "diverged" in codes(run_of(tmp_path / "both", both))


def test_a_first_loss_that_never_comes_again_beside_norms_that_grew_tenfold(tmp_path):
    """Window means of a fine-tuning at a far too high rate: the loss goes to that of chance and stays there."""
    rng = np.random.default_rng(0)
    losses = [1.25, *(1.40 + 0.008 * rng.standard_normal(73))]
    norms = [90.0, *np.exp(rng.normal(np.log(2500.0), 0.8, 73))]
    found = the(run_of(tmp_path / "lost", stream(norms, losses=losses)), "diverged")
    assert (found.severity, found.steps[0]) == ("critical", 0)
    calmer = [900.0, *norms[1:]]
    assert "diverged" not in codes(run_of(tmp_path / "norms", stream(calmer, losses=losses)))
    among = [1.25, *losses[1:40], 1.24, *losses[41:]]
    assert "diverged" not in codes(run_of(tmp_path / "loss", stream(norms, losses=among)))


@pytest.mark.parametrize(
    ("first", "leap", "level", "told"),
    [
        pytest.param(2.3, 2e3, 2.4, True, id="it ends above its start"),
        pytest.param(2.3, 2e3, 2.2, True, id="it hardly came below its start"),
        pytest.param(2.3, 2e3, 1.5, False, id="it came below its start"),
        pytest.param(2.3, 3.0, 2.4, False, id="no leap"),
    ],
)
def test_a_loss_that_the_first_updates_threw_off(tmp_path, first, leap, level, told):
    """Adam at a rate of 3: the units die within ten steps, and the loss stands at that of chance."""
    rng = np.random.default_rng(0)
    losses = [first, *np.geomspace(leap, level, 9), *(level + 0.04 * rng.standard_normal(290))]
    norms = [0.3, *[0.1 * loss for loss in losses[1:10]], *steady(290, 0.2)]
    run = run_of(tmp_path, stream(norms, losses=losses), "Adam")
    assert ("diverged" in codes(run)) == told
    if told:
        found = the(run, "diverged")
        assert found.steps[0] == 0
        assert f"leapt from {first} to 2000 and made no progress since" in found.what
        assert "checkpoint" not in found.remedy
        assert found.evidence["loss_first"].value == first
        last = run.summary().loss.last
        assert found.evidence["loss_last"].value == last, "and no other median"
        assert f"({number(last)} at the end)" in found.what


def test_the_loss_of_a_discriminator_rises_again_as_its_generator_learns(tmp_path):
    """From 1.0 to 0.03 and back to 0.95, with norms that fall and rise as much."""
    losses = [*np.geomspace(1.0, 0.03, 60), *np.geomspace(0.03, 0.95, 40), *falling(500, 0.95, 0.9)]
    run = run_of(tmp_path, stream([3.0 * loss for loss in losses], losses=losses), "Adam")
    (alone,) = read_facts(run).optimizers
    assert is_diverging(alone)
    assert not is_diverging(dataclasses.replace(alone, has_rivals=True))


@pytest.mark.parametrize(
    ("level", "losses", "told"),
    [
        pytest.param(4e12, np.linspace(11.7, 11.3, 10), True, id="the loss stands"),
        pytest.param(4e12, np.linspace(11.7, 5.0, 10), False, id="the loss falls"),
        pytest.param(0.1, np.linspace(11.7, 11.3, 10), False, id="adapters that leave 0"),
    ],
)
def test_huge_norms_that_grow_in_each_of_a_few_rows(tmp_path, level, losses, told):
    records = stream([level * 1.5**i for i in range(10)], losses=losses.tolist())
    run = run_of(tmp_path, records, meta={"source": "a file"})
    assert ("diverged" in codes(run)) == told
    if told:
        assert "the norms left their level" in the(run, "diverged").what


def test_a_penalty_that_begins_at_zero_and_grows_is_no_divergence(tmp_path):
    """GRPO logs the divergence from its first model, which is 0 at first and rises as it learns."""
    rng = np.random.default_rng(0)
    losses = [0.0] * 45 + [round(0.0001 * (1 + i // 10 + abs(rng.standard_normal())), 4) for i in range(205)]
    norms = np.exp(rng.normal(np.log(0.4), 0.3, 250)).tolist()
    assert "diverged" not in codes(run_of(tmp_path / "grpo", stream(norms, losses=losses)))
    at_once = [0.0, *(0.0002 * (1 + i) for i in range(10)), *(0.025 + 0.003 * rng.standard_normal(239))]
    assert "diverged" not in codes(run_of(tmp_path / "once", stream([9 * n for n in norms], losses=at_once)))
    shifted = [loss + 0.01 for loss in losses[:45]] + [0.01 + 100 * loss for loss in losses[45:]]
    assert "diverged" in codes(
        run_of(tmp_path / "lost", stream([*norms[:45], *(9 * n for n in norms[45:])], losses=shifted))
    )


def test_norms_that_leave_their_level_for_good_where_no_loss_is_known(tmp_path):
    norms = [*steady(40, level=0.75), *steady(30, level=11.0, seed=1)]
    found = the(run_of(tmp_path / "stay", stream(norms)), "diverged")
    assert (found.severity, found.certainty) == ("warning", "likely")
    assert "the norms left their level" in found.what
    back = [*steady(40, level=0.75), *steady(12, level=11.0, seed=1), *steady(30, level=0.8, seed=2)]
    assert "diverged" not in codes(run_of(tmp_path / "back", stream(back)))


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Prodigy"])
@pytest.mark.parametrize("factor", [20.0, 500.0, 1e5])
def test_a_spike_from_which_the_training_came_back_is_information(tmp_path, optimizer, factor):
    losses = replaced(falling(600), {300: 5 * factor})
    run = run_of(tmp_path, stream(replaced(steady(600), {300: factor}), losses=losses), optimizer)
    found = the(run, "spike")
    assert (found.severity, found.steps) == ("info", (300, 300))
    assert run.summary().verdict == "healthy"


@pytest.mark.parametrize(
    ("optimizer", "step", "rate", "is_cause"),
    [
        pytest.param("Adam", 5, lambda step: 0.03, True, id="Adam at its full rate"),
        pytest.param("AdamW", 40, lambda step: 0.03 * 0.99**step, True, id="at a rate that only falls"),
        pytest.param("Adam", 5, lambda step: 0.03 * min(1, (step + 1) / 50), False, id="with a warm-up"),
        pytest.param("SGD", 5, lambda step: 0.03, False, id="SGD"),
        pytest.param("Lion", 5, lambda step: 0.03, False, id="Lion, which averages no squares"),
        pytest.param("RAdam", 5, lambda step: 0.03, False, id="RAdam, which warms itself up"),
        pytest.param("Adam", 250, lambda step: 0.03, False, id="later"),
        pytest.param("Adam", 5, lambda step: None, False, id="rate not known"),
    ],
)
def test_a_missing_warm_up_is_the_cause_of_a_spike_among_the_first_steps(tmp_path, optimizer, step, rate, is_cause):
    records = stream(replaced(steady(400), {step: 60.0}), losses=falling(400))
    rates = [rate(i) for i in range(400)]
    records = changed(records, learning_rates=lambda i: () if rates[i] is None else (rates[i],))
    run = run_of(tmp_path, records, optimizer)
    found = the(run, "spike")
    assert found.steps == (step, step)
    assert ("no warm-up" in found.cause) == ("warm the learning rate up" in found.remedy) == is_cause
    assert ("learning_rate_from_the_start" in found.evidence) == is_cause
    assert run.summary().verdict == "healthy"


def test_of_a_run_that_was_begun_before_its_record_no_warm_up_is_missing(tmp_path):
    records = stream(replaced(steady(400), {5: 60.0}), losses=falling(400), first_step=1000)
    assert "no warm-up" not in the(run_of(tmp_path, records, "Adam"), "spike").cause


def test_a_loss_that_does_not_come_back_is_lost(tmp_path):
    losses = falling(300, 2.2, 1.4) + [min(6.9, 1.4 + 0.5 * i) for i in range(300)]
    norms = steady(300) + steady(300, level=6.0)
    found = the(run_of(tmp_path, stream(norms, losses=losses), "AdamW"), "diverged")
    assert abs(found.steps[0] - 300) < 20
    assert found.evidence["loss_last"].value == pytest.approx(6.9)


@pytest.mark.parametrize("grown", [pytest.param(40, id="for long"), pytest.param(4, id="in a few steps")])
def test_the_headline_has_the_losses_of_the_report(tmp_path, grown):
    """Growth of a few steps does not show in the report's last loss, a median of 20; then the last three count."""
    losses = falling(2000) + [10.0**i for i in range(1, grown + 1)]
    run = run_of(tmp_path, stream(steady(2000) + [5.0**i for i in range(1, grown + 1)], losses=losses), "SGD")
    found, loss = the(run, "diverged"), run.summary().loss
    last = loss.last if grown == 40 else 10.0 ** (grown - 1)
    assert found.evidence["loss_first"].value == loss.first
    assert found.evidence["loss_last"].value == pytest.approx(last)
    assert f"its loss went from {number(loss.first)} (best level " in found.what
    assert found.what.endswith(f") to {number(last)}")


def test_a_loss_that_grew_for_long_ends_as_in_the_report(tmp_path):
    """Its last tenth has a median of its own, and so have its last three."""
    losses = falling(1000, 2.3, 1.0) + list(np.linspace(1.0, 2.3, 1000)) + [2.31 + 0.02 * (i % 5) for i in range(100)]
    run = run_of(tmp_path, stream(steady(1000) + steady(1100, level=6.0), losses=losses), "AdamW")
    found, last = the(run, "diverged"), run.summary().loss.last
    assert last not in (np.median(losses[-3:]), np.median(np.array_split(losses, 10)[-1]))
    assert found.evidence["loss_last"].value == last
    assert found.what.endswith(f" to {number(last)}")


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(falling(600), id="falls"),
        pytest.param([2.0 + 0.05 * z for z in np.random.default_rng(1).standard_normal(600)], id="never moves"),
        pytest.param([0.1 * z for z in np.random.default_rng(2).standard_normal(600)], id="noise about zero"),
        pytest.param(falling(300, 2.0, 0.5) + falling(300, 0.6, 0.5), id="a warm restart"),
        pytest.param([-0.03] * 350 + [0.012 + 1e-3 * (i % 7) for i in range(250)], id="a surrogate that changes sign"),
        pytest.param(None, id="no loss"),
    ],
)
def test_what_is_no_divergence(tmp_path, losses):
    assert "diverged" not in codes(run_of(tmp_path, stream(steady(600), losses=losses), "AdamW"))


def test_a_slow_rise_of_loss_without_larger_norms_is_no_divergence(tmp_path):
    """As of a curriculum whose tasks become harder."""
    losses = falling(300, 2.0, 0.5) + falling(300, 0.5, 1.5)
    assert "diverged" not in codes(run_of(tmp_path, stream(steady(600), losses=losses)))


def test_the_largest_spike_is_the_largest_of_the_spikes(tmp_path):
    """And not of the first steps, which settle."""
    norms = [15 * np.exp(-i / 8) + 0.3 * n for i, n in enumerate(steady(2000))]
    norms[1300] = 2.6
    found = the(run_of(tmp_path, stream(norms, losses=falling(2000)), "AdamW"), "spike")
    assert found.evidence["largest_norm"].value == pytest.approx(2.6)
    assert found.evidence["spikes"].value == 1
    assert found.what.startswith("step 1300 stands out")


@pytest.mark.parametrize(("spikes", "listed"), [(12, 12), (40, 30)])
def test_a_finding_lists_the_steps_that_stand_out_and_of_too_many_the_largest(tmp_path, spikes, listed):
    at = {50 * (i + 1): 10.0 + 0.5 * i for i in range(spikes)}
    found = the(run_of(tmp_path, stream(replaced(steady(2200), at), losses=falling(2200))), "spike")
    assert found.evidence["spikes"].value == spikes
    more = [] if listed == spikes else ["..."]
    assert found.evidence["steps"].value == ", ".join([*map(str, list(at)[-listed:]), *more])


def test_steps_like_their_neighbours_are_no_spikes(tmp_path):
    assert "spike" not in codes(run_of(tmp_path, calm(600)))


def test_scaling_norms_and_losses_changes_no_finding(tmp_path):
    losses, norms = replaced(falling(600), {300: 50.0}), replaced(steady(600), {300: 40.0})
    one = run_of(tmp_path / "a", stream(norms, losses=losses))
    other = run_of(tmp_path / "b", stream([1e6 * n for n in norms], losses=[1e6 * loss for loss in losses]))
    assert codes(one) == codes(other)


def test_deep_layers_whose_gradient_vanishes(tmp_path):
    names = parameters("0.weight", "1.weight", "2.weight")
    records = with_weights(with_layers(calm(400), [1e-9, 1e-4, 1.0], names), [1, 1, 1], [1e-3, 1e-3, 1e-3])
    found = the(run_of(tmp_path, records), "vanishing")
    assert found.parameters[0] == "0.weight"
    assert found.severity == "warning"
    alike = with_weights(with_layers(calm(400), [0.1, 0.4, 1.0], names), [1, 1, 1], [1e-3, 1e-3, 1e-3])
    assert "vanishing" not in codes(run_of(tmp_path / "near", alike))


@pytest.mark.parametrize(("gradient", "told"), [(1e-14, True), (1e-5, False)])
def test_gradients_that_vanish_in_most_layers_are_told_beside_the_few_that_have_some(tmp_path, gradient, told):
    """Highways whose gates are shut: the median parameter is one of those that vanish.

    The last parameter's weights begin near 0, so that beside it all others look weak to the detector.
    """
    names = parameters("gates.0.weight", "gates.1.weight", "gates.2.weight", "enter.weight", "head.weight")
    records = with_layers(calm(400), [gradient, gradient, gradient, 0.3, 0.5], names)
    run = run_of(tmp_path, with_weights(records, [1, 1, 1, 1, 1e-2], [1e-3] * 5))
    assert any(event.kind == "vanishing" for event in run.summary().events), "the detector sees it in each case"
    assert ("vanishing" in codes(run)) == told


@pytest.mark.parametrize(
    ("low", "share", "told"),
    [
        pytest.param(1e-20, 0.7, True, id="a saturated softmax"),
        pytest.param(1e-20, 0.3, False, id="at few steps"),
        pytest.param(1e-4, 0.7, False, id="small but not vanished"),
        pytest.param(0.0, 0.7, False, id="an expert that is not chosen"),
    ],
)
def test_gradients_that_vanish_at_most_steps_but_not_in_a_row(tmp_path, low, share, told):
    names = parameters("query.weight", "value.weight")
    is_low = np.random.default_rng(0).random(300) < share
    norms = np.column_stack([np.where(is_low, low, 0.4), np.full(300, 0.5)])
    run = run_of(tmp_path, with_layers(calm(300), norms, names))
    assert not [event for event in run.summary().events if event.kind == "vanishing"], "never 100 steps in a row"
    assert ("vanishing" in codes(run)) == told
    if told:
        found = the(run, "vanishing")
        assert found.parameters == ("query.weight",)
        assert found.evidence["vanished_steps"].value == pytest.approx(is_low[150:].mean())


@pytest.mark.parametrize(
    ("norms", "losses", "told"),
    [
        pytest.param(np.geomspace(1.0, 1e-16, 300), 0.02 + np.geomspace(2.0, 1e-30, 300), False, id="converged"),
        pytest.param([1.0] * 100 + [1e-12] * 200, 0.02 + np.geomspace(2.0, 1e-30, 300), True, id="cut off at once"),
        pytest.param(np.geomspace(1.0, 1e-16, 300), 1.5 + np.geomspace(0.5, 1e-30, 300), True, id="fell by little"),
        pytest.param(np.geomspace(1.0, 1e-16, 300), falling(300), True, id="the loss scatters"),
    ],
)
def test_norms_that_fade_because_a_problem_is_solved_to_rounding_do_not_vanish(tmp_path, norms, losses, told):
    run = run_of(tmp_path, stream(norms, losses=losses))
    assert any(event.kind == "vanishing" for event in run.summary().events), "the detector sees it in each case"
    assert ("vanishing" in codes(run)) == told


def ramp_then(steps, warm_up, peak=0.1):
    """A linear warm-up, then a constant learning rate."""
    return [peak * min(1.0, (i + 1) / warm_up) for i in range(steps)]


def grown_from(onset, steps=400):
    """Norms and losses that fall until ``onset`` and grow from there on."""
    norms = [n * 1.05 ** max(0, i - onset) for i, n in enumerate(steady(steps))]
    losses = [x * 1.05 ** max(0, i - onset) for i, x in enumerate(falling(steps, start=5.0, end=0.5, noise=0.01))]
    return norms, losses


@pytest.mark.parametrize(
    ("onset", "warm_up", "says", "never"),
    [
        pytest.param(200, 200, "lengthen the warm-up", "warm it up", id="at the peak"),
        pytest.param(280, 50, "clip", "warm-up", id="long after the warm-up"),
        pytest.param(300, 1, "clip", "lengthen the warm-up", id="no warm-up"),
    ],
)
def test_growth_near_the_end_of_a_warm_up_is_explained_by_it(tmp_path, onset, warm_up, says, never):
    norms, losses = grown_from(onset)
    rates = ramp_then(400, warm_up)
    records = changed(stream(norms, losses=losses), learning_rates=lambda i: (rates[i],))
    found = the(run_of(tmp_path, records), "diverged")
    assert says in found.remedy
    assert never not in found.remedy
    assert ("warm-up" in found.cause) == (says == "lengthen the warm-up")


def test_early_stopping_is_named_only_where_there_was_progress_to_keep(tmp_path):
    norms, losses = grown_from(250)
    kept = the(run_of(tmp_path / "late", stream(norms, losses=losses)), "diverged")
    assert f"before step {kept.steps[0]}, where early stopping" in kept.remedy
    growing = [1.02**i for i in range(400)]
    assert "early stopping" not in the(run_of(tmp_path / "first", stream(growing, losses=growing)), "diverged").remedy


FEW = [15.5, 13.0, 3.8, 2.39, 1.43]


def test_a_few_rows_that_fell_and_rose_again(tmp_path):
    run = run_of(tmp_path, stream([40.0, 14, 24, 7, 7, 16, 15, 70], losses=[*FEW, 5.8, 7.0, 10.0]))
    found = the(run, "diverged")
    assert (found.severity, found.certainty) == ("critical", "likely")
    assert abs(found.steps[0] - 4) <= 1
    assert "its loss went from 15.5 (best level 1.43) to 10" in found.what


def test_a_few_rows_that_rose_by_less_beside_norms_that_rose_tenfold(tmp_path):
    losses = [1.36, 0.48, 0.58, 0.70, 0.66, 1.04, 0.66, 0.68, 0.86, 0.82, 0.89]
    norms = [0.24, 0.27, 1.4, 1.3, 17.0, 7.1, 22.0, 23.0, 3.8, 14.0, 7.4]
    assert the(run_of(tmp_path / "lost", stream(norms, losses=losses)), "diverged").severity == "critical"
    calmer = [0.24, 0.27, *(norm / 10 for norm in norms[2:])]
    assert "diverged" not in codes(run_of(tmp_path / "calmer", stream(calmer, losses=losses)))


def test_of_a_spike_at_the_last_step_no_return_is_told(tmp_path):
    norms = [*steady(100), 50.0]
    assert "no step after the last one" in the(run_of(tmp_path / "last", stream(norms)), "spike").what
    assert "came back" in the(run_of(tmp_path / "before", stream([*norms, *steady(50)])), "spike").what


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param([40.0, 14, 24, 7, 8, 7, 6, 7], [*FEW, 5.8, 7.0, 10.0], id="norms stay"),
        pytest.param([40.0, 14, 24, 7, 8, 16, 15, 70], [*FEW, 5.8, 1.9, 1.5], id="came back"),
        pytest.param([3.0, 2, 2, 3, 2, 7, 6, 7], [8.3, 8.5, 7.9, 6.9, 6.6, 9.0, 8.2, 8.8], id="little progress"),
        pytest.param(
            [1.7, 3.0, 0.71, 1.4, 1.5, 1.4, 2.2, 1.7], [0.44, 0.75, 0.19, 0.41, 0.34, 0.37, 0.54, 0.4], id="noise"
        ),
    ],
)
def test_a_few_rows_that_are_no_divergence(tmp_path, norms, losses):
    assert "diverged" not in codes(run_of(tmp_path, stream(norms, losses=losses)))


def test_a_few_rows_that_left_the_first_one_for_good(tmp_path):
    losses, norms = [3.0, 14.4, 15.3, 12.8, 13.8, 12.8], [44.0, 340.0, 201.0, 201.0, 165.0, 299.0]
    found = the(run_of(tmp_path / "left", stream(norms, losses=losses)), "diverged")
    assert (found.severity, found.certainty) == ("critical", "likely")
    assert "went from 3 " in found.what
    assert "diverged" not in codes(run_of(tmp_path / "norms", stream([150.0, *norms[1:]], losses=losses)))
    assert "diverged" not in codes(run_of(tmp_path / "back", stream(norms, losses=[*losses[:5], 5.0])))
    assert "diverged" not in codes(run_of(tmp_path / "zero", stream(norms, losses=[0.0, *losses[1:]])))


def test_growth_over_many_orders_begins_where_the_loss_has_left_its_level(tmp_path):
    """A tenth of the way from 2 to 1e32 is 4,000: the loss had grown for long by then."""
    losses = np.r_[np.full(60, 2.3), 2.3 * np.exp(np.linspace(0, 73, 240))]
    losses *= np.exp(0.02 * np.random.default_rng(0).standard_normal(300))
    run = run_of(tmp_path, stream(np.array(steady(300)) * losses, losses=list(losses)))
    assert abs(the(run, "diverged").steps[0] - 61) < 10


def wavering(steps, seed=0):
    """The loss of a generator: it wavers slowly, lowest near step 220."""
    rng = np.random.default_rng(seed)
    at = np.arange(steps)
    return 1.0 - 0.15 * np.exp(-(((at - 220) / 25) ** 2)) + 0.01 * rng.standard_normal(steps)


@pytest.mark.parametrize("lift", [1.6, 40.0])
def test_a_divergence_begins_at_the_gradient_that_exploded(tmp_path, lift):
    """One gradient of ten thousandfold at step 300 throws a generator off for good."""
    losses, norms = wavering(600), np.array(steady(600, spread=0.05))
    norms[300] = 1e4
    norms[301:] *= 300.0
    losses[301:] *= lift
    found = the(run_of(tmp_path, stream(list(norms), losses=list(losses)), "Adam"), "diverged")
    assert found.steps[0] == 300
    assert "a step whose update was too large" in found.cause


def test_a_divergence_that_began_before_the_explosion_keeps_its_beginning(tmp_path):
    """The loss and the norms grow from step 220 on; the explosion at step 300 is a consequence."""
    losses, norms = wavering(600), np.array(steady(600, spread=0.05))
    growth = np.concatenate([np.ones(220), np.geomspace(1.0, 40.0, 80), np.full(300, 40.0)])
    losses, norms = losses * growth, norms * growth
    norms[300] = 1e4
    norms[301:] *= 300.0
    losses[301:] += 40.0
    found = the(run_of(tmp_path, stream(list(norms), losses=list(losses)), "Adam"), "diverged")
    assert found.steps[0] < 240


def test_norms_that_outgrow_a_standing_loss_are_said_as_surely_as_they_are_known(tmp_path):
    losses = [*falling(200, 10.0, 6.5, 0.01), *falling(300, 6.5, 6.5, 0.01)]
    norms = [*steady(200), *(n * g for n, g in zip(steady(300), np.geomspace(1.0, 60.0, 300), strict=True))]
    found = the(run_of(tmp_path, stream(norms, losses=losses), "AdamW"), "diverged")
    assert (found.severity, found.certainty) == ("warning", "likely")
    assert found.cause.startswith("norms grew while the loss stood; likely")
    assert "possibly" in found.cause


@pytest.mark.parametrize(
    ("before", "early"), [pytest.param(2.0, True, id="stood"), pytest.param(0.3, False, id="was learnt")]
)
def test_growth_within_the_first_twenty_rows_is_of_the_start_unless_the_loss_was_learnt(tmp_path, before, early):
    losses = falling(14, 2.0, before) + [5.0 * 2.0**i for i in range(26)]
    norms = [1.0] * 14 + [10.0 * 2.0**i for i in range(26)]
    found = the(run_of(tmp_path, stream(norms, losses=losses)), "diverged")
    assert 14 <= found.steps[0] <= 20
    assert ("from the start" in found.cause) == early


@pytest.mark.parametrize(("update", "told"), [(0.001, False), (1.0, True), (math.nan, True)])
def test_a_few_losses_that_leap_under_updates_next_to_nothing_are_noise(tmp_path, update, told):
    """Batches of a row or two scatter so far; what no update moved has not diverged."""
    records = stream([0.5, 1.0, 3.0, 9.0, 30.0], losses=[0.01, 0.1, 0.3, 2.0, 8.0])
    moved = changed(records, update_norm=update, weight_norm=1.0)
    assert ("diverged" in codes(run_of(tmp_path, moved))) == told
