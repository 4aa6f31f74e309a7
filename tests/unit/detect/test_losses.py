"""The recent level of the loss, compared with medians by numpy."""

import math

import numpy as np
import pytest

from gradwatch.detect.losses import LossLevel


def level_of(losses, **options):
    level = LossLevel(**options)
    for loss in losses:
        level.add(loss)
    return level


def test_it_is_ready_once_it_has_seen_enough_finite_losses():
    level = LossLevel(least=3)
    assert not level.ready
    for loss in (1.0, None, math.nan, math.inf, -math.inf, 2.0):
        level.add(loss)
        assert not level.ready
    level.add(0.0)
    assert level.ready


def test_before_it_is_ready_nothing_is_out_and_nothing_is_small():
    level = level_of([2.0] * 31)
    assert not level.is_out(1e9)
    assert not level.is_small(1e-9)


def test_an_unknown_loss_is_neither_out_nor_small():
    level = level_of([2.0] * 40)
    assert not level.is_out(None)
    assert not level.is_small(None)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_out(loss):
    assert level_of([2.0] * 40).is_out(loss)


def test_a_loss_is_out_beyond_the_median_and_a_distance():
    """With the spread that a window of normal losses has, six robust deviations decide."""
    random = np.random.default_rng(0)
    losses = random.normal(100.0, 1.0, 128)
    level = level_of(losses.tolist())
    median = np.median(losses)
    deviation = 1.4826 * np.median(np.abs(losses - median))
    assert not level.is_out(median + 5 * deviation, fraction=0.0)
    assert level.is_out(median + 8 * deviation, fraction=0.0)
    assert not level.is_out(median + 8 * deviation), "less than twice the median"
    assert level.is_out(2.1 * median)


def test_the_window_forgets_what_is_older():
    level = level_of([100.0] * 50 + [1.0] * 128)
    assert level.is_out(50.0)
    assert not level_of([100.0] * 128 + [1.0] * 50).is_out(50.0)


def test_a_lagged_level_does_not_see_the_last_losses():
    losses = [1.0] * 60 + [9.0] * 60
    assert level_of(losses, lag=60).is_out(9.0)
    assert not level_of([*losses, *[9.0] * 70], lag=60).is_out(9.0)


@pytest.mark.parametrize(
    ("first", "now", "loss", "expected"),
    [
        pytest.param(2.0, 0.01, 0.05, True, id="a solved task"),
        pytest.param(2.0, 0.01, 0.1, False, id="a twentieth is not less than a twentieth"),
        pytest.param(2.0, 0.01, 0.0, False, id="zero"),
        pytest.param(2.0, -1.0, 0.05, False, id="losses below zero"),
        pytest.param(-2.0, -3.0, -2.5, False, id="all below zero"),
        pytest.param(10.8, 2.0, 2.0, False, id="a language model"),
    ],
)
def test_when_a_loss_is_small(first, now, loss, expected):
    assert level_of([first] * 32 + [now] * 128).is_small(loss) is expected


def test_a_small_loss_is_never_out():
    level = level_of([2.0] * 32 + [1e-4] * 128)
    assert not level.is_out(0.05)
    assert level.is_out(0.5)


def test_losses_below_zero_have_a_level_too():
    level = level_of([-10.0] * 64)
    assert not level.is_out(-9.0)
    assert level.is_out(0.1)
