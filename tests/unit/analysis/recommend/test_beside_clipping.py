"""Early stopping, a warm-up and dropout stand beside the advice where they explain what is seen, and not elsewhere."""

import dataclasses
import json

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

STEPS = 400
FALLING = np.geomspace(2.0, 0.5, STEPS).tolist()
OVERFITTED = json.dumps([(step, 1.0 + abs(step - 160) / 200) for step in range(20, STEPS, 20)])


def run_of(folder, norms=None, meta=None):
    records = stream(norms or steady(STEPS), losses=FALLING)
    write_run(folder, [dataclasses.replace(record, learning_rates=(0.03,)) for record in records], "Adam")
    writer = StoreWriter(folder)
    for key, value in (meta or {}).items():
        writer.set_meta(key, value)
    writer.abandon()
    return Run(folder)


@pytest.mark.parametrize(
    ("code", "norms", "meta"),
    [
        pytest.param("overfitting", None, {"validation_loss.1": OVERFITTED}, id="early stopping"),
        pytest.param("spike", replaced(steady(STEPS), {5: 60.0}), {}, id="warm-up"),
    ],
)
def test_the_advice_repeats_the_finding_word_for_word(tmp_path, code, norms, meta):
    run = run_of(tmp_path, norms, meta)
    (finding,) = [finding for finding in run.diagnosis() if finding.code == code]
    advice = run.recommend()
    assert f"{finding.what}: {finding.remedy}" in advice.reasons
    assert not advice.first


def test_a_spike_that_no_warm_up_would_avoid_is_not_repeated(tmp_path):
    run = run_of(tmp_path, replaced(steady(STEPS), {250: 60.0}))
    (finding,) = run.diagnosis()
    assert not [reason for reason in run.recommend().reasons if finding.remedy in reason]


@pytest.mark.parametrize(
    ("scatter", "dropout", "is_named"),
    [
        pytest.param(0.03, "0.5", True, id="as much as dropout makes"),
        pytest.param(0.3, "0.5", False, id="far more"),
        pytest.param(0.03, "0.1", False, id="little dropout"),
        pytest.param(0.03, None, False, id="no dropout"),
    ],
)
def test_dropout_is_named_where_it_explains_the_scatter(tmp_path, scatter, dropout, is_named):
    norms = np.exp(scatter * np.random.default_rng(0).standard_normal(STEPS)).tolist()
    run = run_of(tmp_path, norms, {} if dropout is None else {"dropout": dropout})
    found = [finding for finding in run.diagnosis() if finding.code == "dropout-noise"]
    assert bool(found) == is_named
    assert [f"{one.what}: {one.remedy}" for one in found] == [r for r in run.recommend().reasons if "dropout" in r]
    for one in found:
        assert one.evidence["scatter"].value == pytest.approx(scatter, rel=0.15)
        assert run.summary().verdict == "healthy"
