"""The processes of a training, and the noise scale of gradients whose noise is known."""

import math

import numpy as np
import pandas as pd
import pytest

from gradwatch.analysis.statistics.ranks import last_known, noise_scale, rank_summaries

NAN = math.nan


class Ranks:
    """The reader of a training on several ranks, as much as these statistics ask of one."""

    def __init__(self, norm, total, *, nonfinite=0.0, differing=0.0, before_reduction=1.0, first_step=0):
        self._index = pd.RangeIndex(first_step, first_step + len(norm))
        self._tables = {
            "norm": np.array(norm, float),
            "nonfinite": np.broadcast_to(nonfinite, np.shape(norm)),
            "differing": np.broadcast_to(differing, np.shape(norm)),
            "before_reduction": np.broadcast_to(before_reduction, np.shape(norm)),
        }
        self._total = total

    def ranks(self, stat, optimizer=None):
        return pd.DataFrame(self._tables[stat], index=self._index)

    def accumulation(self, stat, optimizer=None):
        return pd.DataFrame()

    def steps(self, optimizer=None):
        return pd.DataFrame({"total_norm": np.broadcast_to(self._total, len(self._index))}, index=self._index)


def test_each_rank_is_summarized():
    reader = Ranks([[1.0, 4.0], [3.0, NAN], [2.0, 8.0]], 1.0, differing=[[0, 0], [0, 0], [0, 1]], first_step=10)
    first, second = rank_summaries(reader, "0")
    assert (first.rank, first.steps, first.median, first.max, first.max_step) == (0, 3, 2.0, 3.0, 11)
    assert (second.steps, second.median, second.max_step) == (2, 6.0, 12)
    assert (first.differing_steps, second.differing_steps) == (0, 1)


def test_a_rank_whose_gradient_is_nan_was_heard():
    reader = Ranks([[1.0, NAN]], 1.0, nonfinite=[[0, 5]])
    _, second = rank_summaries(reader, "0")
    assert (second.steps, second.nonfinite_steps, second.median) == (1, 1, None)


def test_a_run_without_ranks():
    reader = Ranks(np.empty((0, 0)), 1.0)
    assert rank_summaries(reader, "0") == ()
    assert noise_scale(reader).empty


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_noise_scale_of_gaussian_gradients_is_their_variance_over_the_squared_mean(ranks, noise):
    """McCandlish et al. 2018, appendix A.1: the simple noise scale is tr(Sigma) / |G|^2, here of known parts."""
    rng = np.random.default_rng(ranks)
    size, steps = 400, 3000
    mean = rng.standard_normal(size)
    mean *= 3.0 / np.linalg.norm(mean)
    norms, totals = np.empty((steps, ranks)), np.empty(steps)
    for step in range(steps):
        gradients = mean + noise * rng.standard_normal((ranks, size)) / math.sqrt(size)
        norms[step] = np.linalg.norm(gradients, axis=1)
        totals[step] = np.linalg.norm(gradients.mean(axis=0))
    found = noise_scale(Ranks(norms, totals), smoothing=0.999)
    assert found.iloc[-1] == pytest.approx(noise**2 / 9.0, rel=0.1)


def test_ranks_with_one_gradient_have_no_noise():
    assert noise_scale(Ranks([[2.0, 2.0]] * 5, 2.0)).iloc[-1] == 0.0


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(Ranks([[1.0]] * 3, 1.0), id="one rank"),
        pytest.param(Ranks([[1.0, 1.0]] * 3, 1.0, before_reduction=0.0), id="measured after the reduction"),
        pytest.param(Ranks([[1.0, NAN]] * 3, 1.0), id="a rank is not heard"),
        pytest.param(Ranks([[1.0, 1.0]] * 3, 0.0), id="no signal"),
    ],
)
def test_where_it_is_not_known(reader):
    assert noise_scale(reader).dropna().empty
    assert last_known(noise_scale(reader)) is None


def test_the_last_known_value():
    assert last_known(pd.Series([1.0, 2.0, NAN])) == 2.0
    assert last_known(pd.Series([], dtype=float)) is None
