"""Progress of the loss, with losses whose course is known."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.analysis.statistics.progress import drift, is_flat, is_undone
from gradwatch.testing import replaced, steady, stream, write_run


def course(*ends, steps=900, noise=0.05, seed=0):
    """Losses that go from one of these values to the next, with lognormal noise."""
    parts = [np.geomspace(a, b, steps // (len(ends) - 1)) for a, b in pairwise(ends)]
    values = np.concatenate(parts)
    return [float(v) for v in values * np.exp(noise * np.random.default_rng(seed).standard_normal(len(values)))]


def history(tmp_path, losses):
    return optimizer_history(Run(write_run(tmp_path, stream(steady(len(losses)), losses=losses))))


@pytest.mark.parametrize(
    ("ends", "undone", "flat"),
    [
        pytest.param((2.0, 0.5), False, False, id="falls"),
        pytest.param((2.0, 0.5, 1.8), True, False, id="comes back up"),
        pytest.param((2.0, 0.5, 0.5, 0.5), False, True, id="falls and stays"),
        pytest.param((2.0, 2.0), True, True, id="never moves"),
        pytest.param((2.0, 4.0), True, True, id="rises"),
    ],
)
def test_the_course_of_the_loss(tmp_path, ends, undone, flat):
    found = history(tmp_path, course(*ends))
    assert is_undone(found) == undone
    assert is_flat(found) == (flat or ends[-1] > ends[0] or ends == (2.0, 0.5, 1.8))


def test_fewer_than_a_hundred_losses_are_not_judged(tmp_path):
    found = history(tmp_path, course(2.0, 4.0, steps=60))
    assert not is_undone(found)
    assert not is_flat(found)


def test_a_run_that_ends_in_nan_is_undone(tmp_path):
    found = history(tmp_path, replaced(course(2.0, 0.5), {899: float("nan")}))
    assert is_undone(found)


def test_scaling_the_loss_changes_nothing(tmp_path):
    losses = course(2.0, 0.5, 1.0)
    one = history(tmp_path / "a", losses)
    other = history(tmp_path / "b", [1e6 * loss for loss in losses])
    assert (is_undone(one), is_flat(one)) == (is_undone(other), is_flat(other))


def test_the_drift_compares_thirds():
    assert drift(np.array([1.0] * 10 + [2.0] * 10 + [5.0] * 10)) == pytest.approx(5.0)


def test_the_history_of_an_empty_run_has_no_norms(tmp_path):
    found = optimizer_history(Run(write_run(tmp_path, [])))
    assert (len(found.norms), found.steps, found.learning_rate, found.median_clip_coef) == (0, 0, None, 1.0)
    assert not found.ended_nonfinite


def test_the_median_coefficient_is_over_usable_steps(tmp_path):
    found = optimizer_history(Run(write_run(tmp_path, stream(steady(400), max_norm=0.5))))
    assert found.median_clip_coef == pytest.approx(float(np.median(0.5 / found.norms)), rel=1e-4)
    assert dataclasses.replace(found, norms=np.array([])).median_clip_coef == 1.0
