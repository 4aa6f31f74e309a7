"""The effect of thresholds, compared with PyTorch clipping by them."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.analysis.recommend.rule import decisive
from gradwatch.analysis.recommend.what_if import (
    CURVE_POINTS,
    clipped_fraction,
    curve,
    mean_clip_coef,
    phases,
    table,
    two_digits,
)
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.testing import replaced, steady, stream, write_run


def coefficient_of_torch(norm, threshold):
    """By how much `torch.nn.utils.clip_grad_norm_` scales a gradient of this norm."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.tensor([norm], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([parameter], threshold)
    return parameter.grad.item() / norm


def history(folder, norms, **options):
    return optimizer_history(Run(write_run(folder, stream(norms, **options))))


@pytest.mark.parametrize("threshold", [1e-3, 0.5, 1.0, 2.0, 1e6])
def test_coefficients_are_those_of_torch(threshold):
    norms = np.array(steady(50, spread=1.0))
    coefs = [coefficient_of_torch(norm, threshold) for norm in norms]
    assert mean_clip_coef(norms, threshold) == pytest.approx(np.mean(coefs))
    assert clipped_fraction(norms, threshold) == np.mean(np.array(coefs) < 1)


def test_a_norm_at_the_threshold_is_clipped_by_the_epsilon_of_torch():
    assert coefficient_of_torch(1.0, 1.0) < 1
    assert clipped_fraction(np.array([1.0]), 1.0) == 1.0


@given(st.floats(1e-300, 1e300))
def test_two_digits_are_within_five_percent(value):
    assert two_digits(value) == pytest.approx(value, rel=0.051)
    assert two_digits(two_digits(value)) == two_digits(value)


def test_phases_cover_the_run_without_gaps(tmp_path):
    norms = np.array(steady(1000, spread=0.5))
    found = phases(history(tmp_path, norms), 1.0)
    assert [(p.first_step, p.last_step) for p in found] == [(0, 99), (100, 399), (400, 699), (700, 999)]
    for phase in found:
        own = norms[phase.first_step : phase.last_step + 1]
        assert phase.clipped_fraction == np.mean(own + 1e-6 > 1.0)


def test_phases_of_a_short_run_leave_empty_parts_out(tmp_path):
    found = phases(history(tmp_path, [1.0, 2.0]), 1.0)
    assert sum(p.last_step - p.first_step + 1 for p in found) == 2


def test_phases_leave_out_norms_that_are_not_finite(tmp_path):
    found = phases(history(tmp_path, replaced([2.0] * 100, dict.fromkeys(range(10, 40), math.nan))), 1.0)
    assert [p.clipped_fraction for p in found] == [1.0, 1.0, 1.0], "a part without a finite norm has no row"


def test_the_table_names_each_threshold_once_and_rises():
    norms = np.array(steady(500, spread=0.5))
    rows = table(norms, worst=80.0, number=1.0, low=0.5, high=2.0)
    thresholds = [row.threshold for row in rows]
    assert thresholds == sorted(set(thresholds))
    labels = {row.threshold: row.label for row in rows}
    assert (labels[1.0], labels[0.5], labels[2.0]) == ("recommended", "low end", "high end")
    assert {"p10 of the run", "p90 of the run"} <= set(labels.values())
    fractions = [row.clipped_fraction for row in rows]
    assert fractions == sorted(fractions, reverse=True)
    assert [row.worst_clip_coef for row in rows] == [pytest.approx(min(1.0, t / 80.000001)) for t in thresholds]


def test_the_curve_reaches_from_below_the_least_norm_to_above_the_worst(tmp_path):
    found = history(tmp_path, replaced(steady(600), {300: 60.0}), max_norm=50.0)
    rows = curve(found, 1.25)
    assert len(rows) == CURVE_POINTS + 2
    assert rows[0].clipped_fraction == 1.0
    assert rows[-1].clipped_fraction == 0.0
    assert rows[-1].worst_clip_coef == 1.0
    assert {row.label: row.threshold for row in rows if row.label} == {"recommended": 1.25, "in force": 50.0}


def test_a_point_of_the_curve_has_the_effect_of_its_threshold_on_each_norm(tmp_path):
    """Also where thresholds lie at a norm, or several between two."""
    found = history(tmp_path, [*steady(500, spread=2.0), *[1.25 - 1e-6] * 3, 1e-4, 2e4], max_norm=0.9)
    rows = curve(found, 1.25)
    norms = decisive(found.norms)
    assert [row.clipped_fraction for row in rows] == [clipped_fraction(norms, row.threshold) for row in rows]
    exact = [mean_clip_coef(norms, row.threshold) for row in rows]
    assert [row.mean_clip_coef for row in rows] == pytest.approx(exact, rel=1e-12)
    assert max(row.mean_clip_coef for row in rows) <= 1.0


def test_a_curve_of_no_usable_norm_is_empty(tmp_path):
    assert curve(history(tmp_path, [math.nan] * 30), 1.0) == ()


def test_a_curve_without_a_recommendation_or_a_threshold_has_no_labels(tmp_path):
    found = dataclasses.replace(history(tmp_path, steady(100)))
    assert {row.label for row in curve(found, None)} == {""}
