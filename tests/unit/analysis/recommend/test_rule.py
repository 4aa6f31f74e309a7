"""The advice against what can be computed by hand, and every refusal."""

import math
from itertools import pairwise

import numpy as np
import pytest

import gradwatch
from gradwatch import Run
from gradwatch.analysis.recommend.rule import choose
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.sources.history import History, Point
from gradwatch.sources.writing import write
from gradwatch.testing import replaced, steady, stream, write_run

from .advised import advise, weighing


def test_a_calm_run_gets_a_guard(tmp_path):
    advice = advise(tmp_path, steady(3000, level=2.0))
    assert advice.max_norm == pytest.approx(np.quantile(steady(3000, level=2.0)[150:], 0.9), rel=0.03)
    assert advice.low <= advice.max_norm <= advice.high
    assert advice.clipped_fraction == pytest.approx(0.1, abs=0.03)
    assert advice.mean_clip_coef > 0.99
    assert advice.confidence == "high"
    assert advice.policy == "norm"
    assert any("the norms stayed calm (the loss is not known)" in reason for reason in advice.reasons)


def test_a_calm_run_with_large_weights_gets_the_bound_on_an_update(tmp_path):
    """At a learning rate of 0.1 an update of norm 10 moves weights of norm 50 by 2%; momentum's echoes of
    independent steps add up to 1 / sqrt(1 - 0.81) of one."""
    records = weighing(stream(steady(3000)), 50.0)
    advice = Run(write_run(tmp_path / "run", records)).recommend()
    assert advice.max_norm == pytest.approx(10.0)
    assert advice.clipped_fraction == 0.0
    with_momentum = write_run(tmp_path / "momentum", records, settings={"lr": 0.1, "momentum": 0.9})
    assert Run(with_momentum).recommend().max_norm == pytest.approx(10 * math.sqrt(1 - 0.81), rel=0.05)


def test_the_guard_of_a_clipped_run_lies_within_what_the_optimizer_was_given(tmp_path):
    """Norms of 5 went by, but the optimizer saw none above 2."""
    norms = [n * (5 if i % 5 == 0 else 1) for i, n in enumerate(steady(2000))]
    free = Run(write_run(tmp_path / "free", stream(norms))).recommend()
    clipped = Run(write_run(tmp_path / "clipped", stream(norms, max_norm=2.0))).recommend()
    assert free.max_norm > 4
    assert clipped.max_norm == pytest.approx(2.0)


def test_a_run_that_exploded_gets_a_bound_near_its_healthy_norms(tmp_path):
    """An update of 2% of the weights would be a norm of 20; no healthy one was half as large."""
    norms = steady(2000, spread=0.5) + [10.0, 100.0, 1e4, 1e8, math.inf, math.nan]
    advice = Run(write_run(tmp_path / "run", weighing(stream(norms), 100.0))).recommend()
    usable = np.array(norms[100:1990])
    assert advice.max_norm == pytest.approx(2 * np.quantile(usable, 0.99), rel=0.05)
    assert advice.high == pytest.approx(20.0)
    assert any("training was lost at step 200" in reason for reason in advice.reasons)
    assert advice.confidence != "high"


def test_the_explosion_itself_does_not_move_the_advice(tmp_path):
    calm = steady(2000, spread=0.5)
    first = advise(tmp_path / "a", [*calm, 1e3, 1e5, math.nan])
    second = advise(tmp_path / "b", [*calm, 1e3, 1e30, math.nan])
    assert first.max_norm == second.max_norm


def test_steps_around_an_event_do_not_count(tmp_path):
    """Of 1,000 steps 50 are warm-up, and the spike itself; of a NaN that passes its neighbours."""
    assert advise(tmp_path / "a", replaced(steady(1000), {600: 40.0})).usable_steps == 949
    nan = advise(tmp_path / "b", replaced(steady(1000), {600: math.nan}))
    assert nan.usable_steps == 890


def test_what_if_is_computed_by_the_formula(tmp_path):
    norms = steady(1000, spread=0.5)
    advice = advise(tmp_path, norms)
    usable = np.array(norms[50:])
    for row in advice.what_if:
        assert row.clipped_fraction == pytest.approx(np.mean(usable + 1e-6 > row.threshold))
        assert row.mean_clip_coef == pytest.approx(np.minimum(1, row.threshold / (usable + 1e-6)).mean())
    thresholds = [row.threshold for row in advice.what_if]
    assert thresholds == sorted(set(thresholds))
    assert {advice.max_norm, 0.25, 1.0, 5.0} <= set(thresholds)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_the_advice_scales_with_the_norms_and_the_weights(tmp_path, scale):
    norms = replaced(steady(1000, spread=0.4), {600: 40.0})
    for weight in (3.0, 30.0):
        one = Run(write_run(tmp_path / f"a{weight}", weighing(stream(norms), weight))).recommend()
        larger = weighing(stream([n * scale for n in norms]), weight * scale)
        other = Run(write_run(tmp_path / f"b{weight}", larger)).recommend()
        assert other.max_norm == pytest.approx(one.max_norm * scale, rel=0.03)
        assert other.clipped_fraction == pytest.approx(one.clipped_fraction, abs=0.02)


def test_under_a_moderate_drift_the_last_third_decides(tmp_path):
    norms = steady(1000) + steady(1000, level=3.0, seed=1) + steady(1000, level=5.0, seed=2)
    advice = advise(tmp_path, norms)
    assert advice.max_norm > 5.0
    assert any("the advice is based on the last third alone" in reason for reason in advice.reasons)
    usable = optimizer_history(Run(tmp_path / "run")).norms
    last = np.array_split(usable, 3)[2]
    assert advice.clipped_fraction == pytest.approx(np.mean(last + 1e-6 > advice.max_norm))
    assert advice.clipped_fraction > 2 * np.mean(usable + 1e-6 > advice.max_norm)


def falling(steps, start=2.0, end=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return [float(x) for x in np.geomspace(start, end, steps) * np.exp(0.05 * rng.standard_normal(steps))]


def heavy(steps, seed=0):
    return [float(x) for x in np.random.default_rng(seed).pareto(1.2, steps) + 1]


def test_where_the_loss_came_back_up_the_update_is_bounded_by_the_weights(tmp_path):
    """The learning rate of these records is 0.1: 0.02 * 8 / 0.1 = 1.6."""
    losses = falling(500, 2.0, 0.5) + falling(500, 0.5, 1.8)
    run = Run(write_run(tmp_path / "run", weighing(stream(steady(1000, level=30.0), losses=losses), 8.0)))
    advice = run.recommend()
    assert advice.max_norm == pytest.approx(1.6)
    assert any("within 2% of the weights' norm of 8" in reason for reason in advice.reasons)
    with_momentum = write_run(
        tmp_path / "momentum",
        weighing(stream(steady(1000, level=30.0), losses=losses), 8.0),
        settings={"lr": 0.1, "momentum": 0.9},
    )
    assert Run(with_momentum).recommend().max_norm == pytest.approx(0.16)


def test_steps_that_change_the_weights_too_much_are_bounded(tmp_path):
    records = weighing(stream(steady(1000, level=30.0), losses=falling(1000)), 8.0, update=0.06)
    advice = Run(write_run(tmp_path / "run", records)).recommend()
    assert advice.max_norm == pytest.approx(1.6)
    assert any("the median update changes the weights by 6%" in reason for reason in advice.reasons)


def test_weights_that_grew_count_as_far_as_the_loss_was_better_for_it(tmp_path):
    """From a norm of 8 to one of 50: sqrt(8 * 50) = 20, and 0.02 * 20 / 0.1 = 4; of the start alone 1.6."""
    norms = steady(1000, level=30.0)

    def grown(losses, to):
        records = weighing(stream(norms, losses=losses), 8.0)[:500] + weighing(stream(norms, losses=losses), to)[500:]
        return Run(write_run(tmp_path / f"{losses[-1]}, {to}", records)).recommend()

    useful = grown(falling(1000), 50.0)
    assert useful.max_norm == pytest.approx(4.0)
    assert any("the weights grew from a norm of 8 to 50" in reason for reason in useful.reasons)
    assert any("between 8 at the start and 50 at the lowest loss" in r for r in useful.reasons)
    assert grown(falling(400, 2.0, 0.5) + falling(600, 0.5, 1.8), 50.0).max_norm == pytest.approx(1.6)
    assert grown(falling(1000, 2.0, 3.0), 50.0).max_norm == pytest.approx(1.6)
    less = grown(falling(1000), 20.0)
    assert less.max_norm == pytest.approx(np.quantile(norms, 0.9), rel=0.03)


def test_where_steps_are_large_ones_for_the_weights_they_are_bounded_though_nothing_went_wrong(tmp_path):
    """Norms of about 1, weights of 2.5: 0.02 * 2.5 / 0.1 = 0.5. Where updates are small they are left alone."""
    calm = weighing(stream(steady(1000), losses=falling(1000)), 2.5, update=0.001)
    assert Run(write_run(tmp_path / "calm", calm)).recommend().clipped_fraction == pytest.approx(0.1, abs=0.06)
    large = Run(write_run(tmp_path / "large", weighing(stream(steady(1000), losses=falling(1000)), 2.5, update=0.02)))
    assert large.recommend().max_norm == pytest.approx(0.5)
    assert any(
        "norms and loss stayed calm, but the median update changes" in reason for reason in large.recommend().reasons
    )
    clipped = stream(steady(1000), losses=falling(1000), max_norm=0.1)
    small = Run(write_run(tmp_path / "clipped", weighing(clipped, 2.5, update=0.002)))
    assert small.recommend().max_norm == pytest.approx(0.5)
    assert any("would change the weights by 2% without clipping" in reason for reason in small.recommend().reasons)


def test_a_heavy_tail_with_progress_gets_the_bound_on_an_update(tmp_path):
    """0.02 * 20 / 0.1 = 4."""
    advice = Run(write_run(tmp_path / "run", weighing(stream(heavy(2000), losses=falling(2000)), 20.0))).recommend()
    assert advice.max_norm == pytest.approx(4.0)
    assert advice.tail_index < 2.5


def test_many_steps_that_stand_out_are_clipped_to_the_size_of_the_others(tmp_path):
    """One in twelve is twenty times as large; no tail index tells that."""
    norms = [n * (20 if i % 12 == 0 else 1) for i, n in enumerate(steady(2000))]
    advice = Run(write_run(tmp_path / "run", weighing(stream(norms, losses=falling(2000)), 30.0))).recommend()
    assert advice.tail_index > 2.5
    assert advice.max_norm == pytest.approx(np.quantile(norms[100:], 0.75), rel=0.05)
    small = Run(write_run(tmp_path / "small", weighing(stream(norms, losses=falling(2000)), 3.0))).recommend()
    assert small.max_norm == pytest.approx(0.02 * 3.0 / 0.1)


def standing_still(steps):
    return falling(100, 9.0, 2.0) + [2.0 + 0.01 * (i % 3) for i in range(steps - 100)]


def test_a_heavy_tail_without_progress_gets_what_lets_the_weights_travel(tmp_path):
    """1.5 * 10 / (0.1 * 2000) = 0.075, and a tenth of the 10th percentile, about 0.11, at least."""
    records = stream(heavy(2000), losses=standing_still(2000))
    advice = Run(write_run(tmp_path / "run", weighing(records, 10.0, update=0.01))).recommend()
    assert advice.max_norm == pytest.approx(0.11, rel=0.1)
    advice = Run(write_run(tmp_path / "far", weighing(records, 100.0, update=0.01))).recommend()
    assert advice.max_norm == pytest.approx(0.75, rel=0.05)


@pytest.mark.parametrize(
    ("update", "losses"),
    [
        pytest.param(0.001, standing_still(2000), id="updates crawl"),
        pytest.param(0.01, falling(2000), id="the loss falls"),
        pytest.param(0.01, falling(100, 9.0, 0.02) + falling(1900, 0.02, 0.0198), id="there is no loss left"),
    ],
)
def test_what_is_not_noise_is_not_averaged_out(tmp_path, update, losses):
    records = weighing(stream(heavy(2000), losses=losses), 10.0, update=update)
    assert Run(write_run(tmp_path / "run", records)).recommend().max_norm == pytest.approx(2.0)


def test_norms_without_learning_rate_and_weights_say_less_and_it_says_so(tmp_path):
    """Of a file of norms and losses."""
    calm = [Point(i, n) for i, n in enumerate(steady(3000))]
    write(History(calm, "a file"), tmp_path / "calm")
    advice = Run(tmp_path / "calm").recommend()
    assert advice.max_norm == pytest.approx(np.quantile(steady(3000)[150:], 0.9), rel=0.05)
    assert any("which this history lacks" in reason for reason in advice.reasons)
    assert advice.confidence == "low"
    write(History([Point(i, n) for i, n in enumerate(heavy(3000))], "a file"), tmp_path / "heavy")
    assert Run(tmp_path / "heavy").recommend().max_norm == pytest.approx(np.quantile(heavy(3000)[150:], 0.75), rel=0.1)


def test_under_adam_uneven_norms_are_normalised_and_even_ones_guarded(tmp_path):
    norms = steady(2000, spread=1.0)
    advice = advise(tmp_path / "a", norms, "AdamW", losses=falling(2000))
    assert advice.clipped_fraction > 0.99
    assert advice.max_norm == pytest.approx(0.1 * np.quantile(norms, 0.1), rel=0.1)
    assert any("leaves the learning rate as it is" in reason for reason in advice.reasons)
    even = advise(tmp_path / "b", steady(2000), "AdamW", losses=falling(2000))
    assert even.max_norm == pytest.approx(np.quantile(steady(2000), 0.95), rel=0.05)
    assert (advice.clip, advice.policy, even.clip, even.policy) == (None, "norm", "ZClip()", "adaptive")
    assert next(iter(even.apply.values())) == "gradwatch.attach(model, optimizer, run, clip=gradwatch.clip.ZClip())"


@pytest.mark.parametrize("most", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_one_spike_more_changes_the_advice_by_less_than_a_factor_of_two(tmp_path, most):
    """And any number of them moves it to where a training that was lost has it."""
    numbers = []
    for spikes in range(most):
        norms = replaced(steady(2000), {500 + 200 * i: 9.0 for i in range(spikes)})
        advice = advise(tmp_path / str(spikes), norms, "AdamW", losses=falling(2000))
        assert advice.refused is None
        assert advice.low <= advice.max_norm <= advice.high
        numbers.append(advice.max_norm)
    assert all(after <= 1.05 * before for before, after in pairwise(numbers))
    assert max(before / after for before, after in pairwise(numbers)) < 2


@pytest.mark.parametrize("clip", ["ZClip()", "AutoClip(10)"])
def test_the_policies_that_are_advised_are_there(clip):
    made = eval(f"gradwatch.clip.{clip}", {"gradwatch": gradwatch})
    assert isinstance(made, gradwatch.clip.ZClip | gradwatch.clip.AutoClip)


def test_under_adam_spikes_from_which_the_loss_came_back_get_a_threshold_between_the_guard_and_every_step(tmp_path):
    at = range(900, 2000, 150)
    norms = replaced(steady(2000), dict.fromkeys(at, 60.0))
    losses = replaced(falling(2000), dict.fromkeys((step + 1 for step in at), 30.0))
    advice = advise(tmp_path, norms, "Adam", losses=losses)
    assert advice.clip == "ZClip()"
    assert 0.1 * np.quantile(steady(2000), 0.1) < advice.max_norm < np.quantile(steady(2000), 0.95)
    assert any("spikes raised an event each" in reason for reason in advice.reasons)


def test_under_adam_a_run_that_went_wrong_gets_a_policy_that_falls_with_the_norms(tmp_path):
    """Its loss rises at step 1,500 and stays there."""
    norms = replaced(steady(2000), {1500: 60.0})
    losses = [*falling(1500), *[falling(2000)[0]] * 500]
    advice = advise(tmp_path, norms, "Adam", losses=losses)
    assert advice.clip == "AutoClip(10)"
    assert advice.max_norm == pytest.approx(0.1 * np.quantile(steady(2000), 0.1), rel=0.05)


@pytest.mark.parametrize(
    ("optimizer", "spread"),
    [
        ("AdamW", 0.9),
        ("SGD", 0.1),
        *(
            pytest.param(optimizer, spread, marks=pytest.mark.slow)
            for optimizer, spread in (("AdamW", 0.1), ("AdamW", 0.8), ("SGD", 0.8), ("SGD", 0.9))
        ),
    ],
)
def test_runs_alike_but_for_one_step_or_one_row_get_thresholds_within_a_factor_of_two(tmp_path, optimizer, spread):
    """For spreads about 0.9 the rule goes over from a guard to clipping every step, a hundredth of it."""
    norms = steady(2000, level=0.3, spread=spread)
    changed = {
        "as it was": norms,
        "a step of nine times the level": replaced(norms, {1300: 2.7}),
        "a step of thirty times the level": replaced(norms, {1300: 9.0}),
        "one row less": norms[:700] + norms[701:],
    }
    numbers = []
    for name, each in changed.items():
        advice = advise(tmp_path / name, each, optimizer, losses=falling(len(each)))
        assert advice.refused is None, name
        assert advice.low <= advice.max_norm <= advice.high
        numbers.append(advice.max_norm)
    assert max(numbers) / min(numbers) < 2


@pytest.mark.slow
def test_one_spike_in_a_long_run_moves_the_threshold_less_than_in_a_short_one(tmp_path):
    moved = []
    for steps in (1000, 8000):
        calm = advise(tmp_path / f"calm{steps}", steady(steps), "AdamW", losses=falling(steps))
        norms = replaced(steady(steps), {steps // 2: 9.0})
        spiked = advise(tmp_path / f"spiked{steps}", norms, "AdamW", losses=falling(steps))
        moved.append(calm.max_norm / spiked.max_norm)
        assert "1 spike raised an event, with a norm of 9" in spiked.reasons
    assert 1 < moved[1] < 1.2 < moved[0] < 2


def test_the_largest_spike_is_one_of_the_spikes(tmp_path):
    """The first norms are larger, and no spike."""
    norms = [n * (0.3 + 15 * math.exp(-i / 8)) for i, n in enumerate(steady(2000))]
    advice = advise(tmp_path, replaced(norms, {1300: 2.6}), "AdamW", losses=falling(2000))
    assert "1 spike raised an event, with a norm of 2.6" in advice.reasons


@pytest.mark.parametrize(
    ("eps", "expected"),
    [
        pytest.param(1e-8, 0.1 * np.quantile(heavy(2000), 0.1), id="far below"),
        pytest.param(1e-4, 1000 * 1e-4 * math.sqrt(12), id="a thousand times eps in each entry"),
        pytest.param(1e-2, np.quantile(heavy(2000), 0.95), id="so large that clipping would starve all"),
    ],
)
def test_adam_is_not_advised_to_clip_gradients_to_the_size_of_its_eps(tmp_path, eps, expected):
    records = stream(heavy(2000), losses=falling(2000))
    run = Run(write_run(tmp_path / "run", records, "Adam", settings={"lr": 0.1, "eps": eps}))
    assert sum(parameter.numel for parameter in run.parameters()) == 12
    advice = run.recommend()
    assert advice.max_norm == pytest.approx(expected, rel=0.1)
    assert any("near eps" in reason for reason in advice.reasons) == (eps == 1e-2)


def test_a_drift_that_one_threshold_can_not_cover_is_no_matter_where_every_step_is_clipped(tmp_path):
    norms = [float(0.99**i) for i in range(2000)]
    assert "the norm drifts" in advise(tmp_path / "a", norms).refused
    assert advise(tmp_path / "b", norms, "Adam").refused is None


@pytest.mark.parametrize(
    ("optimizer", "size", "fixed"),
    [("Lion", None, True), ("Muon", None, True), ("Shampoo", "fixed", True), ("Medallion", "varies", False)]
    + [("Shampoo", None, False), ("Lion", "varies", False), ("AdamW", None, False)],
)
@pytest.mark.parametrize("spikes", [0, 12])
def test_an_optimizer_whose_updates_have_a_fixed_size_gets_a_fixed_threshold(tmp_path, optimizer, size, fixed, spikes):
    """0.3 of the median of the usable norms, and no policy; Adam gets one. A probe counts more than a name."""
    norms = replaced(steady(1000), {100 + 60 * i: 80.0 for i in range(spikes)})
    settings = {"update_rule": "normalises"} | ({} if size is None else {"update_size": size})
    history = optimizer_history(Run(write_run(tmp_path, stream(norms), optimizer, settings)))
    advice = choose(history, 3.0)
    assert (advice.clip is None) == fixed
    assert (advice.number == pytest.approx(0.3 * np.median(history.norms))) == fixed
    assert advice.low <= advice.number <= advice.high
