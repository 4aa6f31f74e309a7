"""The numbers of every step, compared with the records that were written."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis import history
from gradwatch.analysis.statistics.series import step_series
from gradwatch.record import LayerStats
from gradwatch.testing import PARAMETERS, replaced, steady, stream, write_run

NAN, INF = math.nan, math.inf


def series_of(folder, records, *, layers=True):
    run = Run(write_run(folder, records))
    return step_series(run, "0", run.steps("0"), layers=layers)


def with_layers(record, norm, nonfinite):
    stats = LayerStats(
        parameters=PARAMETERS, norm=np.array(norm, np.float32), nonfinite=np.array(nonfinite, np.float32)
    )
    return dataclasses.replace(record, layers=stats)


def test_every_step_has_its_numbers(tmp_path):
    norms = steady(120)
    records = stream(norms, losses=[2.0] * 119 + [NAN], max_norm=1.0)
    found = series_of(tmp_path, records)
    coefs = np.minimum(1.0, 1.0 / (np.array(norms) + 1e-6))
    assert found.step.tolist() == list(range(120))
    assert np.array_equal(found.total_norm, norms)
    assert np.allclose(found.clip_coef, coefs)
    assert np.allclose(found.left_norm, np.array(norms) * coefs)
    assert np.array_equal(found.clipped, coefs < 1)
    assert found.loss_nonfinite.tolist() == [False] * 119 + [True]
    assert np.allclose(found.layer_norm, np.outer(norms, (0.8, 0.6)), rtol=1e-6)
    assert not found.nonfinite.any()


def test_a_step_that_is_not_finite_says_in_which_parameter(tmp_path):
    records = stream([1.0, 1.0, 1.0])
    records[1] = dataclasses.replace(with_layers(records[1], [NAN, 0.6], [2.0, 0.0]), total_norm=NAN, nonfinite=2)
    found = series_of(tmp_path, records)
    assert found.nonfinite.tolist() == [False, True, False]
    assert found.layer_nonfinite.tolist() == [[False, False], [True, False], [False, False]]


def test_a_parameter_without_gradient_is_nan_and_not_said_to_be_nonfinite(tmp_path):
    records = stream([1.0, 1.0])
    records[1] = with_layers(records[1], [1.0, NAN], [0.0, NAN])
    found = series_of(tmp_path, records)
    assert np.isnan(found.layer_norm[1, 1])
    assert not found.layer_nonfinite.any()


def test_an_infinite_total_is_nonfinite_whatever_the_entries_are(tmp_path):
    records = [dataclasses.replace(r, nonfinite=0) for r in stream(replaced([1.0] * 3, {2: INF}))]
    assert series_of(tmp_path, records).nonfinite.tolist() == [False, False, True]


def test_after_clipping_by_value_the_norm_is_not_known(tmp_path):
    records = [dataclasses.replace(r, clip_value=0.5, cut_entries=1) for r in stream([4.0])]
    assert np.isnan(series_of(tmp_path, records).left_norm).all()


def test_of_a_repeated_step_the_later_attempt_stands(tmp_path):
    records = stream([1.0] * 5) + stream([9.0] * 3, attempt=1, first_step=3)
    found = series_of(tmp_path, records)
    assert found.total_norm.tolist() == [1.0, 1.0, 1.0, 9.0, 9.0, 9.0]
    assert np.allclose(found.layer_norm[:, 0], 0.8 * found.total_norm)


@pytest.mark.parametrize("most", [1, 64 * len(PARAMETERS), 10**6])
def test_the_store_may_be_read_in_parts(tmp_path, monkeypatch, most):
    norms = steady(300, spread=1.0)
    monkeypatch.setattr(history, "ENTRIES_PER_READ", most)
    found = series_of(tmp_path, stream(norms))
    assert np.allclose(found.layer_norm, np.outer(norms, (0.8, 0.6)), rtol=1e-6)


def test_layers_may_be_left_out(tmp_path):
    found = series_of(tmp_path, stream([1.0, 2.0]), layers=False)
    assert found.layer_norm.shape == found.layer_nonfinite.shape == (2, 0)


def test_a_run_without_layers(tmp_path):
    records = [dataclasses.replace(r, layers=None, weights=None) for r in stream([1.0, 2.0])]
    assert series_of(tmp_path, records).layer_norm.shape == (2, 0)
