"""The vocabulary against the arithmetic of float32. It needs no torch, as reading a run needs none."""

import math

import numpy as np
import pytest

from gradwatch.record import LayerStats, ParameterInfo, StepRecord, UpdateStats, WeightStats


@pytest.mark.parametrize("coef", [1.0, 0.5, 0.0, math.nan])
def test_clipped_means_that_the_gradient_was_changed(coef):
    changed = bool(np.float32(2.0) * np.float32(coef) != np.float32(2.0))
    assert StepRecord(step=0, clip_coef=coef).clipped is changed


def test_value_clipping_counts_as_clipped_where_entries_were_cut():
    assert StepRecord(step=0, clip_value=1.0, cut_entries=3).clipped
    assert not StepRecord(step=0, clip_value=1.0, cut_entries=0).clipped


@pytest.mark.parametrize(
    ("record", "overflowed"),
    [
        (StepRecord(step=0, total_norm=1e30, max_norm=1.0, clip_coef=0.0), True),
        (StepRecord(step=0, total_norm=math.inf), True),
        (StepRecord(step=0, total_norm=math.inf, nonfinite=1), False),
        (StepRecord(step=0, total_norm=1.0, max_norm=0.0, clip_coef=0.0), False),
        (StepRecord(step=0, total_norm=1.0, max_norm=1.0, clip_coef=1.0), False),
    ],
)
def test_an_overflowed_norm_is_not_an_infinite_entry(record, overflowed):
    assert record.norm_overflowed is overflowed


def test_absent_is_not_nan():
    parameters = tuple(ParameterInfo(name=n, shape=(2, 2)) for n in "abc")
    stats = LayerStats(
        parameters=parameters,
        norm=np.array([1.0, np.nan, np.nan], np.float32),
        nonfinite=np.array([0, 1, np.nan], np.float32),
    )
    assert stats.present.tolist() == [True, True, False]
    assert parameters[0].numel == 4


def test_update_ratio_of_zero_weights_is_not_infinite():
    ratio = WeightStats(weight_norm=np.array([0, 2], np.float32), update_norm=np.array([1, 1], np.float32)).update_ratio
    assert math.isnan(ratio[0])
    assert ratio[1] == 0.5


def test_the_ratio_of_an_update_is_that_of_its_norms_and_unknown_without_weights():
    norms = np.array([2, 0, 3, math.nan], np.float32)
    weights = np.array([4, 5, 0, 1], np.float32)
    ratio = UpdateStats(update_norm=norms, weight_norm=weights).update_ratio
    np.testing.assert_array_equal(ratio, np.array([0.5, 0, math.nan, math.nan], np.float32))
