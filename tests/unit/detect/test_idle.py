"""A threshold that never acts."""

import math

import pytest

from gradwatch.detect import IdleClipping
from gradwatch.testing import replaced, steady, stream

from .streams import found


@pytest.mark.parametrize(
    ("norms", "max_norm", "steps"),
    [
        pytest.param(steady(3000), 10.0, [999], id="far below"),
        pytest.param(steady(3000), 1.8, [], id="near enough"),
        pytest.param(replaced(steady(3000), {500: 20.0}), 10.0, [1500], id="acted once"),
        pytest.param(replaced(steady(3000), {500: math.nan}), 10.0, [1000], id="a NaN is no norm"),
        pytest.param(steady(900), 10.0, [], id="too short"),
        pytest.param(steady(3000), None, [], id="no clipping"),
        pytest.param(steady(3000), math.inf, [], id="only to log"),
    ],
)
def test_a_threshold_that_never_acts(norms, max_norm, steps):
    records = stream(norms, max_norm=max_norm)
    assert found(IdleClipping(), records) == [(step, "idle-clipping", "info") for step in steps]
    assert found(IdleClipping(), stream([])) == []


def test_another_threshold_starts_the_count_again():
    records = [*stream(steady(800), max_norm=10.0), *stream(steady(1200), max_norm=20.0, first_step=800)]
    assert found(IdleClipping(), records) == [(1799, "idle-clipping", "info")]
