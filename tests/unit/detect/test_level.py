"""Streaming levels, compared with numpy on the window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.detect.level import LayerLevels, Level, median
from gradwatch.record import LayerStats, ParameterInfo


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_the_streaming_level_is_the_median_of_the_window(norms):
    """At every prefix, against numpy."""
    level = Level(window=16, least=1)
    for i, norm in enumerate(norms):
        level.add(norm)
        window = sorted(norms[max(0, i - 15) : i + 1])
        assert level.value == pytest.approx(window[len(window) // 2])


@given(st.lists(st.floats(-1e300, 1e300) | st.just(float("nan")) | st.just(float("inf"))))
def test_the_median_of_what_is_not_nan_is_numpys(values):
    found = median(values)
    known = [value for value in values if not np.isnan(value)]
    assert found == (pytest.approx(float(np.median(known))) if known else pytest.approx(np.nan, nan_ok=True))
    assert median(np.array(values)) == pytest.approx(found, nan_ok=True)


def test_a_lagged_level_does_not_see_the_last_steps():
    level = Level(window=100, least=1, lag=60)
    for norm in [1.0] * 40 + [99.0] * 60:
        level.add(norm)
    assert level.value == pytest.approx(1.0)


def test_a_history_without_layers_names_nobody():
    assert LayerLevels().first_to_leave() == (None, None)
    assert LayerLevels().highest() == (None, None)


def test_the_levels_of_parameters_are_those_of_the_logarithms_of_their_norms():
    """At every renewal, against numpy on the rows of the window; parameters join and norms are unknown."""
    rng = np.random.default_rng(0)
    levels, rows = LayerLevels(window=40), []
    for step in range(160):
        norm = np.exp(rng.normal(0, 3, 3 if step < 70 else 5)).astype(np.float32)
        norm[rng.random(len(norm)) < 0.2] = rng.choice([0.0, np.nan, np.inf])
        infos = tuple(ParameterInfo(name=f"p{place}", shape=(1,)) for place in range(len(norm)))
        layers = LayerStats(parameters=infos, norm=norm)
        levels.learn(layers)
        rows.append(np.pad(norm.astype(float), (0, 5 - len(norm)), constant_values=np.nan))
        if step % 32 != 31:
            continue
        known = np.array(rows[-40:])[:, : len(norm)]
        known[~(known > 0) | np.isinf(known)] = np.inf
        ordered = np.sort(np.log(known), axis=0)
        middle, high = ordered[len(ordered) // 2], ordered[int(0.9 * len(ordered))]
        with np.errstate(invalid="ignore"):
            limit = middle + np.maximum(np.log(2.0), 3.0 * (high - middle) / 1.2816)
        limit[np.isinf(high)] = np.nan
        levels.see(layers)
        finite = np.where(norm > 0, norm, 1.0)
        excess = np.log(finite.astype(float)) - limit
        excess[np.isnan(excess)] = -np.inf
        assert levels.excess(finite, 2.0, 3.0) == pytest.approx(excess)
