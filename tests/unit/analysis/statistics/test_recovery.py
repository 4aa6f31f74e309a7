"""Whether a training came back, from series whose course is known."""

import math

import numpy as np
import pytest
from scipy import stats

from gradwatch.analysis.statistics.recovery import came_back, robust_deviation
from gradwatch.record import Event
from gradwatch.testing import steady

EVENT = 300


def explosion(until=None):
    return Event(step=EVENT, kind="explosion", severity="critical", message="", until=until)


def judge(norm_after, loss_after, *, loss_before=1.0, until=None, count_after=300):
    norms = np.array(steady(EVENT) + [1e6] + steady(count_after, level=norm_after, seed=1))
    rng = np.random.default_rng(2)
    losses = np.concatenate([np.full(EVENT, loss_before), [math.nan], np.full(count_after, loss_after)])
    losses *= np.exp(0.01 * rng.standard_normal(len(losses)))
    return came_back(np.arange(len(norms)), norms, losses, explosion(until))


@pytest.mark.parametrize(
    ("norm_after", "loss_after", "expected"),
    [
        pytest.param(1.0, 1.0, True, id="as before"),
        pytest.param(20.0, 1.0, True, id="larger norms and the same loss"),
        pytest.param(1000.0, 1.0, False, id="norms that stay a thousand times larger"),
        pytest.param(1.0, 0.5, True, id="a better loss"),
        pytest.param(1.0, 3.0, False, id="a loss that stays lost"),
        pytest.param(1.0, math.nan, False, id="no finite loss any more"),
    ],
)
def test_norms_and_loss_have_to_be_back(norm_after, loss_after, expected):
    assert judge(norm_after, loss_after) is expected


def test_without_losses_the_norms_decide():
    assert judge(1.0, math.nan, loss_before=math.nan)
    assert judge(4.0, math.nan, loss_before=math.nan)
    assert not judge(6.0, math.nan, loss_before=math.nan), "where a loss is known this is no sign"


def test_a_loss_that_begins_at_zero_can_only_rise():
    """As a penalty on the distance from the first model does, which is all that GRPO logs."""
    norms = np.array(steady(600))
    losses = np.concatenate([np.zeros(50), np.linspace(0.0001, 0.003, 550)])
    assert came_back(np.arange(600), norms, losses, explosion())
    assert not came_back(np.arange(600), norms, losses + 0.01 * (np.arange(600) > 300) + 1e-5, explosion())


def test_what_begins_at_the_end_can_not_be_seen_to_recover():
    assert not judge(1.0, 1.0, count_after=5)
    assert judge(1.0, 1.0, count_after=25)


def test_only_steps_after_the_end_of_the_event_count():
    """While it lasts the norms are not those of a training that came back."""
    steps = np.arange(400)
    norms = np.where((steps >= 300) & (steps < 340), 1e6, 1.0)
    losses = np.full(400, 1.0)
    assert came_back(steps, norms, losses, explosion(until=339))
    norms[340:] = math.inf
    assert not came_back(steps, norms, losses, explosion(until=339)), "no finite norm came after it"


def test_an_event_at_the_first_step_has_nothing_to_be_compared_with():
    steps = np.arange(100)
    event = Event(step=0, kind="explosion", severity="critical", message="")
    assert came_back(steps, np.full(100, 1e5), np.full(100, math.nan), event)


def test_the_robust_deviation_is_that_of_scipy():
    values = np.random.default_rng(0).standard_normal(999)
    assert robust_deviation(values) == pytest.approx(stats.median_abs_deviation(values, scale="normal"), rel=1e-4)
    assert robust_deviation(np.ones(5)) == 0.0
