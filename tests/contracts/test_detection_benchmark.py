"""The detection corpus and its tables, on a few short trainings."""

import dataclasses
import math

import pytest

from ..scripts import load


@pytest.fixture(autouse=True, scope="module")
def _needs_sklearn():
    """Imported by the first test: it takes a second, and every worker collects this module."""
    pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def corpus():
    return load("detection/corpus")


@pytest.fixture
def evaluate(corpus, tmp_path, monkeypatch):
    evaluate = load("detection/evaluate")
    monkeypatch.setattr(corpus, "CACHE", tmp_path)
    monkeypatch.setattr(corpus, "HEALTHY_STEPS", 300)
    monkeypatch.setattr(corpus, "FAULTY_STEPS", 500)
    return evaluate


def test_no_task_is_both_tuned_on_and_reported_on(corpus):
    assert not set(corpus.SPLITS["tune"]) & set(corpus.SPLITS["report"])
    assert not set(corpus.NATURAL["tune"]) & set(corpus.NATURAL["report"])
    folders = [job.folder for split in ("tune", "report") for job in corpus.jobs(split)]
    assert len(folders) == len(set(folders))


def test_there_are_as_many_healthy_trainings_as_promised(corpus):
    for split in ("tune", "report"):
        assert sum(job.fault is None for job in corpus.jobs(split)) >= 60


@pytest.mark.slow
def test_trainings_are_recorded_judged_and_counted(corpus, evaluate):
    plain = corpus.Variant()
    jobs = [corpus.Job("tune", "mlp-digits", plain)]
    jobs += [
        corpus.Job("tune", "mlp-digits", plain, fault, dose, seed=2)
        for fault, dose in (("loss-weight", 1.0), ("nan-backward", math.nan), ("rate-step", 100.0), ("layer-zero", 0.0))
    ]
    for job in jobs:
        assert corpus.record(job)
        assert corpus.record(job) == "", "what is in the cache is not trained again"
    judged = [evaluate.judge(job) for job in jobs]
    assert judged[0].outcome["healthy"]
    assert judged[0].serious("non-finite only") == []
    assert evaluate.located(judged, "nan-backward") == (1, 1)
    assert judged[2].first(evaluate.OURS).step == judged[2].start
    assert judged[3].lost_at is not None
    assert evaluate.false_alarms(evaluate.healthy(judged), "ZClip z > 2.5")[0] > 0
    text = "\n".join(evaluate.write(judged, ("1", "2")))
    for heading in ("targets", "False alarms", "one batch", "that stay", "Before the loss", "Where it began"):
        assert heading in text
    assert "| nan-backward | 1.00 (1/1)" in text


@pytest.mark.parametrize(
    ("losses", "start", "expected"),
    [
        pytest.param([1.0, 1.1] * 100 + [1.0] * 50, 200, None, id="as before"),
        pytest.param([1.0, 1.1] * 100 + [5.0] + [1.0] * 50, 200, None, id="a loss that comes back"),
        pytest.param([1.0, 1.1] * 100 + [1.0] * 10 + [5.0] * 40, 200, 210, id="a loss that stays"),
        pytest.param([1.0, 1.1] * 100 + [1.0] * 10 + [math.nan], 200, 210, id="not finite"),
        pytest.param([-1.0, -1.1] * 100 + [0.5] * 40, 200, 200, id="below zero"),
    ],
)
def test_when_a_loss_is_lost(corpus, losses, start, expected):
    assert corpus.lost_at(losses, start) == expected


def test_every_baseline_takes_whatever_comes(corpus, evaluate):
    from baselines import BASELINES

    from gradwatch.testing import steady, stream

    norms = [*steady(200), 500.0, *steady(20), math.nan, math.inf, 0.0]
    losses = [*([1.0] * 200), 50.0, *([1.0] * 20), math.nan, None, -1.0]
    records = stream(norms, losses=losses)
    records[3] = dataclasses.replace(records[3], layers=None)
    for name, make in BASELINES.items():
        alarm = make()
        found = [record.step for record in records if alarm(record)]
        assert found or name in ("AutoTrainer", "DeepDiagnosis"), name
