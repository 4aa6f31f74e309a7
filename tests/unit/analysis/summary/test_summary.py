"""Numbers against numpy and pandas."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run


def write(folder):
    norms = replaced(steady(1000), {400: 60.0, 700: math.nan, 701: math.inf})
    losses = [None if i % 10 else 2.0 / (1 + i) for i in range(1000)]
    losses[990] = math.nan
    write_run(folder, stream(norms, losses=losses, max_norm=1.2))


@pytest.fixture
def run(tmp_path, made_once):
    return Run(made_once(write, tmp_path / "first"))


def test_total_norm_is_of_the_finite_norms(run):
    norms = run.steps()["total_norm"]
    finite = norms[np.isfinite(norms)]
    found = run.summary().total_norm
    assert found.median == pytest.approx(np.median(finite))
    assert found.p99 == pytest.approx(np.quantile(finite, 0.99))
    assert (found.max, found.max_step) == (60.0, 400)
    assert found.last == norms.iloc[-1]


def test_layers_are_as_their_columns(run):
    frame = run.layers("norm")
    for layer in run.summary().layers:
        column = frame[layer.name].to_numpy(float)
        finite = column[np.isfinite(column)]
        assert layer.median == pytest.approx(np.median(finite))
        assert layer.p99 == pytest.approx(np.quantile(finite, 0.99))
        assert layer.max == pytest.approx(finite.max())
        assert layer.max_step == 400
        assert layer.nonfinite_steps == 2
        assert layer.absent_steps == 0
        assert layer.zero_fraction == 0
        assert layer.update_ratio == pytest.approx(1e-3)
        assert layer.weight_growth == 1.0


def test_clipping(run):
    steps, clipping = run.steps(), run.summary().clipping
    assert clipping.kind == "norm"
    assert clipping.threshold == clipping.threshold_min == clipping.threshold_max == 1.2
    assert clipping.clipped_fraction == pytest.approx(steps["clipped"].mean())
    coefs = steps["clip_coef"]
    assert clipping.mean_clip_coef == pytest.approx(coefs[np.isfinite(coefs)].mean())


def test_weights_are_of_the_samples(run):
    ratios = run.layers("update_ratio")
    weights = run.summary().weights
    assert weights.samples == len(ratios) == 20
    assert weights.median_update_ratio == pytest.approx(np.median(ratios))
    assert weights.max_update_ratio == pytest.approx(ratios.max(axis=None))
    assert weights.max_update_parameter in ratios.columns
    assert weights.max_growth == 1.0


def test_the_loss_is_of_the_steps_that_logged_one(run):
    loss = run.summary().loss
    assert loss.first == 2.0
    assert loss.nonfinite_steps == 1
    assert (loss.min, loss.min_step) == (pytest.approx(2.0 / 981), 980)


def test_the_time_left_is_that_of_the_latest_steps_of_the_last_attempt(tmp_path):
    records = stream([1.0] * 50) + stream([1.0] * 30, attempt=1, first_step=50)
    late = [replace(r, wall_time=r.wall_time + 9999.0 * r.attempt) for r in records]
    write_run(tmp_path, late)
    assert Run(tmp_path).summary().seconds_left is None
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    writer.set_meta("total_steps", "100")
    writer.end_attempt("closed")
    summary = Run(tmp_path).summary()
    assert summary.total_steps == 100
    assert summary.seconds_left == pytest.approx(20 * 0.1)


def test_counts(run):
    summary = run.summary()
    assert (summary.steps, summary.first_step, summary.last_step) == (1000, 0, 999)
    assert summary.nonfinite_steps == 2
    assert summary.seconds == pytest.approx(99.9)
    assert summary.verdict == "critical"
    assert summary.reason == summary.findings[0].what
    assert "NaN or infinite" in summary.reason
    assert not summary.running


def test_a_run_that_is_all_nan_has_no_median(tmp_path):
    summary = Run(write_run(tmp_path, stream([math.nan] * 40))).summary()
    assert summary.total_norm.median is None
    assert math.isnan(summary.total_norm.last)
    assert summary.layers[0].median is None
    assert summary.nonfinite_steps == 40


def test_the_most_relevant_layers_come_first(run):
    summary = run.summary()
    assert summary.layers[summary.most_relevant[0]].name == "out.weight"
    assert sorted(summary.most_relevant) == [0, 1]
    assert summary.telling == summary.most_relevant  # the older name


def test_a_clock_that_was_set_back_takes_no_time_away(tmp_path):
    records = [
        replace(record, wall_time=1000.0 + i - (86400 if i >= 5 else 0)) for i, record in enumerate(stream([1.0] * 10))
    ]
    assert Run(write_run(tmp_path, records)).summary().seconds == 8.0  # of 9 steps, but for the one at which it was set
