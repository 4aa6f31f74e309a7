"""The logged losses in numbers, compared with numpy."""

import math

import numpy as np
import pandas as pd
import pytest

from gradwatch.analysis.statistics.losses import MAX_LAST_LOSSES, loss_summary


def frame(losses, logged=True, first_step=0):
    steps = range(first_step, first_step + len(losses))
    return pd.DataFrame({"loss": np.array(losses, float), "loss_logged": logged}, index=steps).astype(
        {"loss_logged": bool}
    )


def test_a_few_losses():
    found = loss_summary(frame([3.0, 1.0, 2.0], first_step=5))
    assert (found.first, found.last, found.min, found.min_step, found.nonfinite_steps) == (3.0, 2.0, 1.0, 6, 0)


@pytest.mark.parametrize(("count", "few"), [(99, 1), (500, 5), (10_000, MAX_LAST_LOSSES)])
def test_the_first_is_one_loss_and_the_last_the_median_of_a_hundredth(count, few):
    losses = np.random.default_rng(0).standard_normal(count)
    found = loss_summary(frame(losses))
    assert found.first == losses[0]
    assert (found.last, found.last_count) == (np.median(losses[-few:]), few)
    assert (found.min, found.min_step) == (losses.min(), losses.argmin())


def test_losses_that_are_not_finite_are_counted_and_left_out():
    found = loss_summary(frame([math.nan, 2.0, math.inf, -math.inf, 1.0]))
    assert (found.first, found.last, found.min, found.nonfinite_steps) == (2.0, 1.0, 1.0, 3)


def test_steps_without_a_logged_loss_do_not_count():
    found = loss_summary(frame([9.0, 2.0, math.nan], logged=[False, True, False]))
    assert (found.first, found.nonfinite_steps) == (2.0, 0)


def test_the_first_of_equal_losses_is_the_least():
    assert loss_summary(frame([2.0, 1.0, 1.0])).min_step == 1


def test_without_a_loss_there_is_no_summary():
    assert loss_summary(frame([])) is None
    assert loss_summary(frame([1.0, math.nan], logged=[False, False])) is None


@pytest.mark.parametrize("losses", [[math.nan], [math.nan, -math.inf]])
def test_without_a_finite_loss_only_the_end_is_known(losses):
    found = loss_summary(frame(losses))
    assert (found.first, found.last, found.min, found.min_step) == (None,) * 4
    assert found.nonfinite_steps == len(losses)
    np.testing.assert_equal(found.end, losses[-1])


@pytest.mark.parametrize(
    ("losses", "logged", "end"),
    [
        ([1.0, math.nan], True, math.nan),
        ([1.0, math.nan, math.inf], True, math.inf),
        ([1.0, math.nan, 2.0], True, 2.0),
        ([1.0, math.nan], [True, False], 1.0),
        ([*[1.0] * 190, *[3.0] * 9, 9.0], True, 6.0),  # 200 losses: the median of the last two
    ],
)
def test_the_end_is_the_last_loss_where_that_is_not_finite(losses, logged, end):
    np.testing.assert_equal(loss_summary(frame(losses, logged)).end, end)
