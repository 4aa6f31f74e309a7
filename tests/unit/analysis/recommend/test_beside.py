"""Warm-up, dropout and early stopping are named where they explain what is seen, and not where they don't."""

import dataclasses
import json

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

STEPS = 400
AT = list(range(20, STEPS, 20))
FALLING = np.geomspace(2.0, 0.5, STEPS).tolist()


def reasons(folder, norms=None, optimizer="Adam", rate=lambda step: 0.03, losses=FALLING, meta=None):
    """What `recommend` says of a run, in one text."""
    records = stream(norms or steady(STEPS), losses=losses)
    records = [dataclasses.replace(record, learning_rates=(rate(record.step),)) for record in records]
    write_run(folder, records, optimizer)
    writer = StoreWriter(folder)
    for key, value in (meta or {}).items():
        writer.set_meta(key, value)
    writer.abandon()
    return "\n".join(Run(folder).recommend().reasons)


@pytest.mark.parametrize(
    ("optimizer", "step", "rate", "is_named"),
    [
        pytest.param("Adam", 5, lambda step: 0.03, True, id="Adam at its full rate"),
        pytest.param("Adam", 5, lambda step: 0.03 * min(1, (step + 1) / 50), False, id="with a warm-up"),
        pytest.param("SGD", 5, lambda step: 0.03, False, id="SGD"),
        pytest.param("Adam", 250, lambda step: 0.03, False, id="later"),
    ],
)
def test_a_spike_at_the_beginning_names_a_warm_up_that_is_missing(tmp_path, optimizer, step, rate, is_named):
    said = reasons(tmp_path, replaced(steady(STEPS), {step: 60.0}), optimizer, rate)
    assert ("warm-up: the largest spike" in said) == is_named


def test_dropout_is_named_with_the_scatter_of_the_norms(tmp_path):
    rng = np.random.default_rng(0)
    wild = np.exp(0.3 * rng.standard_normal(STEPS)).tolist()
    assert "dropout" not in reasons(tmp_path / "none", wild)
    said = reasons(tmp_path / "wild", wild, meta={"dropout": "0.5"})
    assert "up to 0.5 of its units" in said
    assert "most of that comes from the batches" in said
    assert float(said.partition("norms scatter by ")[2].partition("%")[0]) == pytest.approx(30, rel=0.15)
    calm = np.exp(0.03 * rng.standard_normal(STEPS)).tolist()
    assert "it may be most of that" in reasons(tmp_path / "calm", calm, meta={"dropout": "0.5"})


def turning(low=8, rise=0.05):
    """Falls until the validation ``low`` and rises from there on."""
    at = np.arange(len(AT))
    return 1.0 + 0.1 * np.maximum(0, low - at) + rise * np.maximum(0, at - low)


def validated(folder, validations, losses=FALLING):
    pairs = list(zip(AT, [float(loss) for loss in validations], strict=False))
    return reasons(folder, losses=losses, meta={"validation_loss.1": json.dumps(pairs)})


def test_a_validation_loss_that_turns_names_early_stopping(tmp_path):
    assert f"keep the checkpoint of step {AT[8]}" in validated(tmp_path, turning())


@pytest.mark.parametrize(
    "validations",
    [
        pytest.param(np.linspace(2, 1, len(AT)), id="falls to the end"),
        pytest.param(turning(rise=0.004), id="rises by 4 %"),
        pytest.param(1.5 + 0.3 * np.random.default_rng(0).standard_normal(len(AT)), id="scatters"),
        pytest.param(turning(low=len(AT) - 2, rise=1.0), id="one validation after the best"),
        pytest.param([*np.linspace(2, 1, len(AT) - 3), 5.0, 1.0, 1.0], id="one bad validation"),
        pytest.param([2.0, 1.0, 2.0, 3.0, 4.0], id="few"),
    ],
)
def test_where_early_stopping_is_not_named(tmp_path, validations):
    assert "early stopping" not in validated(tmp_path, validations)


def test_a_training_loss_that_rises_as_well_is_no_overfitting(tmp_path):
    assert "early stopping" not in validated(tmp_path, turning(), losses=[*FALLING[::2], *FALLING[::-2]])
