"""Hill's estimator against distributions whose index is known."""

import numpy as np
import pytest

from gradwatch.analysis.statistics.tail import LONG, detrended, detrended_sample, tail_index
from gradwatch.testing import steady


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


def test_the_interval_narrows_with_the_root_of_the_number_of_norms():
    widths = []
    for steps in (2_000, 200_000):
        index, low, high = tail_index(np.random.default_rng(2).pareto(3.0, steps) + 1, window=1)
        widths.append((high - low) / index)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.05)


def test_a_step_alone_is_above_its_moving_median_by_its_own_factor():
    norms = np.ones(600)
    norms[300] = 20.0
    assert detrended(norms)[300] == pytest.approx(np.log(20.0))
    assert np.abs(np.delete(detrended(norms), 300)).max() == 0


def test_a_sample_of_a_long_run_tells_the_scatter_and_the_tail_of_the_whole():
    rng = np.random.default_rng(2)
    norms = np.exp(np.linspace(0, 3, 2 * LONG)) * (rng.pareto(3.0, 2 * LONG) + 1)
    every, sample = detrended(norms), detrended_sample(norms)
    assert len(sample) < len(every) / 4
    assert np.quantile(sample, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(every, [0.1, 0.5, 0.9]), abs=0.02)
    assert tail_index(norms)[0] == pytest.approx(3.0, rel=0.1)
