"""Series at any zoom: the smallest and the largest of every column."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.record import StepRecord
from gradwatch.store import StoreWriter
from gradwatch.testing import stream, write_run
from gradwatch.views.web.series import at_zoom


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1500), st.integers(1, 200), st.data())
def test_the_series_have_the_least_and_the_largest_of_each_column(length, columns, data):
    rng = np.random.default_rng(length)
    norms = np.exp(rng.normal(size=length))
    norms[rng.integers(0, length, 3)] = [np.nan, np.inf, 1e30]
    first = data.draw(st.integers(0, length - 1))
    last = data.draw(st.integers(first, length - 1))
    shown = at_zoom(series_of(norms), first, last, columns)
    assert len(shown["first"]) <= 2 * columns + 1
    assert shown["first"][0] <= first
    assert shown["last"][-1] >= last
    for i, (begin, end) in enumerate(zip(shown["first"], shown["last"], strict=True)):
        part = norms[begin : end + 1]
        finite = part[np.isfinite(part)]
        assert shown["nonfinite"][i] == (~np.isfinite(part)).sum()
        assert shown["infinite"][i] == np.isinf(part).sum()
        if len(finite):
            assert (shown["total_norm.low"][i], shown["total_norm.high"][i]) == (finite.min(), finite.max())
            assert norms[shown["total_norm.at"][i]] == finite.max()
        else:
            assert np.isnan(shown["total_norm.high"][i])


def series_of(norms):
    from gradwatch.analysis.summary import Series

    length = len(norms)
    none = np.full(length, np.nan)
    return Series(
        step=np.arange(length),
        total_norm=norms,
        max_norm=none,
        clip_coef=np.ones(length),
        by_value=np.zeros(length, bool),
        clipped=np.zeros(length, bool),
        loss=none,
        loss_nonfinite=np.zeros(length, bool),
        learning_rate=none,
        loss_scale=none,
        nonfinite=~np.isfinite(norms),
        update_norm=none,
        update_ratio=none,
        layer_norm=np.empty((length, 0), np.float32),
        layer_nonfinite=np.empty((length, 0), bool),
    )


def test_the_series_of_a_run_tell_clipping_and_the_loss(tmp_path):
    losses = [float("nan") if s == 30 else 1.0 for s in range(100)]
    run = Run(write_run(tmp_path, stream([2.0] * 50 + [0.5] * 50, max_norm=1.0, losses=losses)))
    shown = at_zoom(run.summary().series, 0, 99, 10)
    assert shown["clipped"].tolist() == [1.0] * 6 + [0.25] + [0.0] * 6
    assert shown["left_norm.high"][0] == pytest.approx(1.0)
    assert shown["left_norm.high"][-1] == 0.5
    assert shown["max_norm.low"][0] == 1.0
    assert shown["loss.bad"].sum() == 1


def test_updates_are_told_of_a_run_that_recorded_them(tmp_path):
    records = [StepRecord(step=s, total_norm=1.0, update_norm=float(s), weight_norm=2.0) for s in range(40)]
    shown = at_zoom(Run(write_run(tmp_path / "with", records)).summary().series, 0, 39, 10)
    assert (shown["update_norm.low"][1], shown["update_norm.high"][1]) == (2.0, 3.0)
    assert shown["update_ratio.high"][-1] == 19.5
    without = at_zoom(Run(write_run(tmp_path / "without", stream([1.0] * 40))).summary().series, 0, 39, 10)
    assert "update_norm.low" not in without


def test_the_share_clipped_is_of_a_window_however_near_one_looks(tmp_path):
    run = Run(write_run(tmp_path, stream([2.0, 0.5] * 1000, max_norm=1.0)))
    shown = at_zoom(run.summary().series, 0, 1999, 2000)
    assert len(shown["first"]) == 2000
    assert set(shown["clipped"][100:].tolist()) == {0.5}, "a step alone is clipped or not"


def test_what_is_left_is_not_known_where_entries_were_cut(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([StepRecord(step=0, total_norm=3.0, clip_value=0.1, cut_entries=2)], [])
    writer.end_attempt("closed")
    assert np.isnan(Run(tmp_path).summary().series.left_norm[0])
