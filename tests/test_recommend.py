"""The advice against what can be computed by hand, and every refusal."""

import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.recommend import tail_index
from gradwatch.record import StepRecord
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run


def advise(tmp_path, norms, optimizer="SGD", **more):
    return Run(write_run(tmp_path / "run", stream(norms, **more), optimizer)).recommend()


@pytest.mark.parametrize(
    ("norms", "says"),
    [
        pytest.param(steady(200), "180 usable steps, at least 300 are needed", id="too short"),
        pytest.param([], "0 usable steps", id="empty"),
        pytest.param([math.nan] * 500, "500 of 500 steps are not finite", id="all NaN"),
        pytest.param(steady(100) + [math.nan] * 900, "900 of 1000 steps are not finite", id="mostly not finite"),
        pytest.param([min(n, 1.0) for n in steady(1000)], "only norms after clipping", id="norms end at a ceiling"),
        pytest.param(
            [float(1.002**i) for i in range(2000)], "the norm drifts: its median went by a factor of", id="drifting up"
        ),
        pytest.param([float(0.998**i) for i in range(2000)], "the norm drifts", id="drifting down"),
        pytest.param([0.0] * 1000, "0 usable steps", id="zeros"),
    ],
)
def test_refusals(tmp_path, norms, says):
    advice = advise(tmp_path, norms)
    assert says in advice.refused
    assert advice.max_norm is None
    assert advice.policy == "none"
    assert advice.apply == {}


def test_norms_recorded_after_clipping_are_refused_by_their_label(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({"moment": "after clipping"}, {"0": ("SGD", {})})
    writer.append([StepRecord(step=i, total_norm=n) for i, n in enumerate(steady(1000))])
    writer.end_attempt("closed")
    assert "only norms after clipping" in Run(tmp_path).recommend().refused


def test_a_calm_run_gets_a_guard(tmp_path):
    advice = advise(tmp_path, steady(3000, level=2.0))
    assert advice.max_norm == pytest.approx(6.0, rel=0.05)
    assert advice.low <= advice.max_norm <= advice.high
    assert advice.clipped_fraction == 0
    assert advice.mean_clip_coef == 1
    assert advice.confidence == "high"
    assert any("nothing went wrong" in reason for reason in advice.reasons)


def test_a_run_that_exploded_gets_a_threshold_within_its_healthy_norms(tmp_path):
    norms = steady(2000, spread=0.5) + [10.0, 100.0, 1e4, 1e8, math.inf, math.nan]
    advice = advise(tmp_path, norms)
    usable = np.array(norms[100:1990])
    assert advice.max_norm == pytest.approx(np.quantile(usable, 0.75), rel=0.06)
    assert advice.clipped_fraction == pytest.approx(np.mean(usable > advice.max_norm), abs=0.01)
    coefs = np.minimum(1, advice.max_norm / (usable + 1e-6))
    assert advice.mean_clip_coef == pytest.approx(coefs.mean(), abs=0.005)
    assert any("training was lost at step 200" in reason for reason in advice.reasons)
    assert advice.confidence != "high"


def test_the_explosion_itself_does_not_move_the_advice(tmp_path):
    calm = steady(2000, spread=0.5)
    first = advise(tmp_path / "a", [*calm, 1e3, 1e5, math.nan])
    second = advise(tmp_path / "b", [*calm, 1e3, 1e30, math.nan])
    assert first.max_norm == second.max_norm


def test_steps_around_an_event_do_not_count(tmp_path):
    """Of 1,000 steps 50 are warm-up; 10 before the spike and 50 from it on are left out."""
    assert advise(tmp_path, replaced(steady(1000), {600: 40.0})).usable_steps == 890


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
def test_the_advice_scales_with_the_norms(tmp_path, scale):
    one = advise(tmp_path / "a", replaced(steady(1000, spread=0.4), {600: 40.0}))
    other = advise(tmp_path / "b", [n * scale for n in replaced(steady(1000, spread=0.4), {600: 40.0})])
    assert other.max_norm == pytest.approx(one.max_norm * scale, rel=0.02)
    assert other.clipped_fraction == pytest.approx(one.clipped_fraction, abs=0.02)


def test_under_a_moderate_drift_the_last_third_decides(tmp_path):
    norms = steady(1000) + steady(1000, level=3.0, seed=1) + steady(1000, level=5.0, seed=2)
    advice = advise(tmp_path, norms)
    assert advice.max_norm > 5.0
    assert any("the last third alone decides" in reason for reason in advice.reasons)


@pytest.mark.parametrize(
    ("optimizer", "says"), [("AdamW", "is a normalisation"), ("SGD", "no update moves the weights")]
)
def test_the_reason_depends_on_the_optimizer(tmp_path, optimizer, says):
    assert any(says in reason for reason in advise(tmp_path, steady(1000), optimizer).reasons)


def test_an_existing_threshold_is_mentioned(tmp_path):
    assert any("the run was clipped at 1.3" in r for r in advise(tmp_path, steady(1000), max_norm=1.3).reasons)


def test_the_lines_to_paste_hold_the_number(tmp_path):
    advice = advise(tmp_path, steady(1000))
    assert set(advice.apply) == {"torch", "lightning", "transformers"}
    assert all(f"{advice.max_norm:g}" in line for line in advice.apply.values())


@pytest.mark.parametrize("alpha", [1.5, 3.0, 6.0])
def test_the_tail_index_of_a_pareto_sample_is_recovered(alpha):
    sample = np.random.default_rng(1).pareto(alpha, 40000) + 1
    index, low, high = tail_index(sample, window=1)
    assert low < alpha < high
    assert index == pytest.approx(alpha, rel=0.1)


def test_a_drift_does_not_fake_a_heavy_tail():
    norms = np.array(steady(3000)) * np.exp(np.linspace(0, 2, 3000))
    with_drift, _, _ = tail_index(norms)
    without, _, _ = tail_index(np.array(steady(3000)))
    assert with_drift == pytest.approx(without, rel=0.15)
