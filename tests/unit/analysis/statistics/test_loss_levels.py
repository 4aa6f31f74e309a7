"""Levels of the loss, against other ways to compute them."""

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.loss_levels import first_loss, is_about_zero, medians, uncertainty
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.testing import steady, stream, write_run


def test_the_uncertainty_is_three_standard_errors_of_a_median():
    """Against the scatter of medians over many samples."""
    rng = np.random.default_rng(3)
    found = np.std([np.median(rng.standard_normal(200)) for _ in range(2000)])
    assert uncertainty(rng.standard_normal(200_000)) * np.sqrt(200_000 / 200) == pytest.approx(3 * found, rel=0.1)


def test_small_parts():
    assert medians([np.array([3.0]), np.array([1.0, 2.0])]) == [3.0, 1.5]
    assert first_loss(np.array([9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])) == 9.0


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], False),
        ([0.0, 1.0, 2.0], True),
        ([-1.0, 1.0, -2.0, 2.0], True),
        ([5.0, 6.0, 5.5], False),
        ([-3.0, -2.0], False),
    ],
)
def test_losses_about_zero(losses, expected):
    assert is_about_zero(np.array(losses)) == expected


def test_a_history_computes_its_levels_once(tmp_path):
    losses = [3.0, float("nan"), *np.linspace(2.0, 1.0, 40)]
    found = optimizer_history(Run(write_run(tmp_path, stream(steady(42), losses=losses))))
    finite = np.array([3.0, *losses[2:]])
    assert found.losses.tolist() == finite.tolist()
    assert found.loss_steps.tolist() == [0, *range(2, 42)]
    assert found.loss_levels == [float(np.median(part)) for part in np.array_split(finite, 10)]
    assert found.losses is found.losses
    assert found.loss_levels is found.loss_levels
    assert not found.has_surrogate_loss
