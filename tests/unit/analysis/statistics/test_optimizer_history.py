"""Which steps advice may rest on, from runs whose faults are planted."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.optimizer_history import (
    MIN_RMS_OVER_EPS,
    STEPS_AFTER_EVENT,
    STEPS_BEFORE_EVENT,
    optimizer_history,
)
from gradwatch.testing import PARAMETERS, replaced, steady, stream, write_run

NAN, INF = math.nan, math.inf
ENTRIES = sum(info.numel for info in PARAMETERS)


def history(folder, records, optimizer_class="SGD", settings=None):
    return optimizer_history(Run(write_run(folder, records, optimizer_class, settings)))


def test_a_calm_run_counts_after_its_warm_up(tmp_path):
    norms = steady(400)
    found = history(tmp_path, stream(norms))
    assert found.warm_up == 20
    assert np.array_equal(found.norms, norms[20:])
    assert np.array_equal(found.every_norm, norms[20:])
    assert (found.steps, found.nonfinite, found.spikes, found.unstable) == (400, 0, 0, False)
    assert (found.lost_at, found.worst) == (None, max(norms))


def test_norms_given_to_the_optimizer_are_those_after_clipping(tmp_path):
    norms = np.array(steady(200, level=2.0))
    found = history(tmp_path, stream(norms, max_norm=1.0))
    expected = np.minimum(norms, norms / (norms + 1e-6))[found.warm_up :]
    assert np.allclose(found.given, expected)
    assert found.median_clip_coef == pytest.approx(np.median(expected / norms[found.warm_up :]))


def test_skipped_and_zero_and_nonfinite_steps_do_not_count(tmp_path):
    records = stream(replaced(steady(300), {100: 0.0}))
    records[150] = dataclasses.replace(records[150], skipped=True)
    found = history(tmp_path, records)
    assert len(found.norms) == 300 - found.warm_up - 2


def test_the_steps_around_a_nan_do_not_count(tmp_path):
    found = history(tmp_path, stream(replaced(steady(600), {300: NAN})))
    left_out = STEPS_BEFORE_EVENT + STEPS_AFTER_EVENT
    assert found.nonfinite == 1
    assert len(found.norms) <= 600 - found.warm_up - left_out


def test_a_spike_alone_does_not_count(tmp_path):
    norms = replaced(steady(600), {300: 60.0})
    found = history(tmp_path, stream(norms))
    assert found.spikes == 1
    assert found.worst == 60.0
    assert sorted(found.norms) == sorted(norms[30:300] + norms[301:])


def test_a_training_that_was_lost_counts_up_to_there(tmp_path):
    norms = steady(500) + [1.6**i for i in range(120)] + [INF] * 80
    losses = [1.0] * 500 + [1.5**i for i in range(120)] + [INF] * 80
    found = history(tmp_path, stream(norms, losses=losses))
    assert found.unstable
    assert found.lost_at is not None
    assert 490 <= found.lost_at.step <= 640
    assert len(found.norms) <= 500
    assert set(found.norms) <= set(norms[:500])
    assert found.ended_nonfinite


def test_the_last_step_tells_how_it_ended(tmp_path):
    assert not history(tmp_path / "a", stream([1.0] * 50, losses=[1.0] * 50)).ended_nonfinite
    assert history(tmp_path / "b", stream([1.0] * 50, losses=[1.0] * 49 + [NAN])).ended_nonfinite
    assert history(tmp_path / "c", stream([1.0] * 49 + [NAN])).ended_nonfinite
    assert not history(tmp_path / "d", stream([1.0] * 50)).ended_nonfinite, "no loss is no NaN"


def test_losses_are_the_finite_ones_with_their_steps(tmp_path):
    found = history(tmp_path, stream([1.0] * 4, losses=[3.0, NAN, None, 1.0], first_step=7))
    assert found.losses.tolist() == [3.0, 1.0]
    assert found.loss_steps.tolist() == [7, 10]


@pytest.mark.parametrize(
    ("name", "settings", "adaptive", "follows"),
    [
        ("SGD", {"lr": 0.1}, False, True),
        ("Adam", {"lr": 0.1, "betas": [0.9, 0.999], "eps": 1e-8}, True, False),
        ("Homemade", {}, False, False),
    ],
)
def test_how_the_optimizer_uses_its_gradient(tmp_path, name, settings, adaptive, follows):
    found = history(tmp_path, stream([1.0] * 30), name, settings)
    assert (found.is_adaptive, found.follows_gradient) == (adaptive, follows)


@pytest.mark.parametrize(("momentum", "expected"), [(0.9, 0.9), (0, 0.0), (None, 0.0), (1.0, 0.0), ("0.9", 0.0)])
def test_only_a_valid_momentum_counts(tmp_path, momentum, expected):
    assert history(tmp_path, stream([1.0] * 30), "SGD", {"lr": 0.1, "momentum": momentum}).momentum == expected


def test_the_least_norm_keeps_gradients_a_thousandfold_above_eps(tmp_path):
    found = history(tmp_path, stream([1.0] * 30), "Adam", {"lr": 0.1, "eps": 1e-8})
    assert found.least_norm == pytest.approx(MIN_RMS_OVER_EPS * 1e-8 * math.sqrt(ENTRIES))
    assert history(tmp_path / "sgd", stream([1.0] * 30)).least_norm == 0.0


def test_sampled_weights_are_taken_over_all_parameters(tmp_path):
    found = history(tmp_path, stream([1.0] * 101))
    assert found.weights.index.tolist() == [0, 50, 100]
    assert found.weight_norm == pytest.approx(math.sqrt(2))
    assert found.last_weight_norm == pytest.approx(math.sqrt(2))
    assert found.update_ratio == pytest.approx(1e-3)


def test_a_run_without_weights(tmp_path):
    found = history(tmp_path, [dataclasses.replace(r, weights=None) for r in stream([1.0] * 50)])
    assert (found.weight_norm, found.last_weight_norm, found.update_ratio) == (None, None, None)


def test_one_step(tmp_path):
    found = history(tmp_path, stream([1.0]))
    assert (found.steps, len(found.norms), found.median_clip_coef) == (1, 0, 1.0)
