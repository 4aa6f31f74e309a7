"""The sampled updates over all parameters, from tables whose largest entry is known."""

import math

import numpy as np
import pandas as pd

from gradwatch.analysis.statistics.layers import LayerSummary
from gradwatch.analysis.statistics.weights import weight_summary

NAN, INF = math.nan, math.inf


def layer(name, growth):
    numbers = dict.fromkeys(("median", "p99", "max", "max_step", "last", "zero_fraction", "update_ratio"))
    return LayerSummary(name=name, numel=1, nonfinite_steps=0, absent_steps=0, weight_growth=growth, **numbers)


def ratios(rows, names=("a", "b"), steps=(0, 50, 100)):
    return pd.DataFrame(rows, index=list(steps)[: len(rows)], columns=list(names), dtype=float)


def test_the_largest_update_is_named_with_its_step():
    table = [[1e-3, 2e-3], [4e-3, 0.5], [3e-3, NAN]]
    found = weight_summary(ratios(table), [layer("a", 1.5), layer("b", 1.1)])
    assert (found.samples, found.max_update_ratio, found.max_update_step) == (3, 0.5, 50)
    assert found.max_update_parameter == "b"
    assert found.median_update_ratio == np.nanmedian(table)
    assert (found.max_growth, found.max_growth_parameter) == (1.5, "a")


def test_what_is_not_finite_is_left_out():
    found = weight_summary(ratios([[INF, NAN], [1e-3, -INF]]), [layer("a", INF), layer("b", NAN), layer("c", 0.5)])
    assert (found.max_update_ratio, found.median_update_ratio) == (1e-3, 1e-3)
    assert (found.max_growth, found.max_growth_parameter) == (0.5, "c")


def test_samples_without_a_finite_ratio():
    found = weight_summary(ratios([[NAN, NAN]]), [layer("a", None)])
    assert found.samples == 1
    assert (found.median_update_ratio, found.max_update_ratio, found.max_update_parameter) == (None, None, None)
    assert (found.max_growth, found.max_growth_parameter) == (None, None)


def test_without_samples_there_is_no_summary():
    assert weight_summary(ratios([]), []) is None
