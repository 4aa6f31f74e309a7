"""The advice for optimizers that train against one another, and for those that share one loss."""

import dataclasses

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream

STEPS = 400


def noisy(levels, seed):
    return list(np.array(levels) * np.exp(0.05 * np.random.default_rng(seed).standard_normal(STEPS)))


FALLS = noisy(np.geomspace(1.4, 0.6, STEPS), 0)
RISES_AGAIN = noisy([*np.geomspace(1.4, 0.6, STEPS // 2), *np.geomspace(0.6, 1.3, STEPS // 2)], 1)
STANDS = noisy(np.full(STEPS, 0.7), 2)


def run_of(folder, losses, optimizer="Adam"):
    """A run of one optimizer for each list of losses."""
    writer = StoreWriter(folder)
    writer.begin_attempt({"moment": "before clipping"}, {name: (optimizer, {"lr": 1e-3}) for name in losses})
    for name, own in losses.items():
        records = [dataclasses.replace(one, optimizer=name) for one in stream(steady(STEPS), losses=own)]
        writer.add_parameters(name, records[0].layers.parameters)
        writer.append(records)
    writer.end_attempt("closed")
    return Run(folder)


@pytest.mark.parametrize("generator", [pytest.param(RISES_AGAIN, id="rises"), pytest.param(STANDS, id="stands")])
def test_a_loss_that_rises_as_an_opponent_learns_is_no_reason_to_clip_every_step(tmp_path, generator):
    run = run_of(tmp_path, {"g": generator, "d": FALLS})
    for name in ("g", "d"):
        advice = run.recommend(name)
        assert advice.max_norm == pytest.approx(np.quantile(steady(STEPS)[20:], 0.95), rel=0.1)
        assert advice.clipped_fraction < 0.1
        assert not any("the loss" in reason and "rose" in reason for reason in advice.reasons)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param({"matrices": RISES_AGAIN, "rest": RISES_AGAIN}, id="two optimizers of one model"),
        pytest.param({"rest": RISES_AGAIN, "g": [None] * STEPS}, id="no loss of the other is known"),
        pytest.param({"all": RISES_AGAIN}, id="one optimizer"),
    ],
)
def test_a_loss_that_no_opponent_raises_is_judged(tmp_path, losses):
    advice = run_of(tmp_path, losses).recommend(next(iter(losses)))
    assert advice.clipped_fraction > 0.99
    assert any("the loss rose again" in reason for reason in advice.reasons)
