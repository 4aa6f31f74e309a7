"""The sentences of a recommendation say the numbers that they are about."""

import dataclasses
import re
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.analysis.recommend import wording
from gradwatch.analysis.recommend.rule import Basis, Choice, choose
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.testing import replaced, steady, stream, write_run

MODERATE = (3.0, 2.5, 3.5)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return optimizer_history(Run(write_run(tmp_path_factory.mktemp("calm"), stream(steady(400)))))


def choice(basis="update-bound", **more):
    return Choice(1.0, 0.5, 2.0, basis, **more)


def said(history, tail=MODERATE, number=1.0, **more):
    return wording.reasons(history, choice(**{"basis": "guard-given-p90"} | more), number, tail)


def test_the_first_reason_is_the_healthy_level_and_what_was_left_out(calm):
    first, *_ = said(calm)
    assert f"{np.median(calm.norms):.3g}" in first
    assert f"{len(calm.norms)} usable steps of {calm.steps}" in first
    assert f"the first {calm.warm_up} as warm-up" in first
    assert "events" not in first


def test_what_does_not_hold_is_not_said(calm):
    text = " ".join(said(calm))
    for phrase in (
        "lost at step",
        "spikes raised an event each",
        "only one of",
        "was clipped at",
        "changed by a factor",
    ):
        assert phrase not in text


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"every": 10}, "one of 10 steps"),
        ({"optimizer_class": "Lion", "update_rule": None}, "not known whether the update of Lion"),
        ({"update_rule": "normalises", "optimizer_class": "Adam"}, "Adam divides by the size of its gradients"),
        (
            {"update_rule": "normalises", "optimizer_class": "Lion", "fixed_size": True},
            "Lion makes updates of the same size",
        ),
        ({"learning_rate": None, "update_rule": "follows-gradient"}, "the threshold bounds every update"),
    ],
)
def test_facts_of_the_history_are_said(calm, change, phrase):
    assert phrase in " ".join(said(dataclasses.replace(calm, **change)))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_bound_of_an_update_counts_the_momentum(calm, momentum):
    history = dataclasses.replace(calm, learning_rate=0.25, momentum=momentum, update_rule="follows-gradient")
    assert f"by more than {0.25 * 2.0 / (1 - momentum):.2g}" in " ".join(said(history, number=2.0))


@pytest.mark.parametrize(
    ("tail", "phrase"),
    [((1.5, 1.2, 1.9), "dominate"), ((6.0, 4.5, 9.0), "light tail"), ((3.0, 1.9, 4.1), "moderate tail")],
)
def test_the_tail_is_called_by_its_whole_interval(calm, tail, phrase):
    (sentence,) = [text for text in said(calm, tail) if "tail index" in text]
    assert phrase in sentence
    assert f"{tail[0]:.1f} [{tail[1]:.1f}, {tail[2]:.1f}]" in sentence


def test_spikes_and_the_loss_of_the_training_are_said(tmp_path):
    spiky = optimizer_history(Run(write_run(tmp_path / "a", stream(replaced(steady(600), {300: 60.0})))))
    assert re.search(
        "(1 spike raised an event,|spikes raised an event each, the largest) with a norm of 60", " ".join(said(spiky))
    )
    lost = optimizer_history(
        Run(write_run(tmp_path / "b", stream(steady(500) + [1.6**i for i in range(120)] + [float("inf")] * 80)))
    )
    assert f"lost at step {lost.lost_at.step}" in " ".join(said(lost))


def test_the_threshold_in_force_is_said(tmp_path):
    history = optimizer_history(Run(write_run(tmp_path, stream([1.0, 3.0] * 200, max_norm=2.0))))
    assert "the run was clipped at 2, at 50% of its steps" in said(history)


@pytest.mark.parametrize(("end", "is_said"), [(1.0, False), (4.0, True), (0.25, True)])
def test_a_drift_is_said_in_both_directions(tmp_path, end, is_said):
    norms = np.geomspace(1.0, end, 900) * np.array(steady(900))
    text = " ".join(said(optimizer_history(Run(write_run(tmp_path, stream(norms.tolist()))))))
    assert ("changed by a factor" in text) is is_said
    assert ("last third alone" in text) is (end > 1)


BASES = get_args(Basis)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("cause", ["lost", "heavy-tail", "outliers", "weights-grew", "large-updates"])
def test_every_rule_is_explained(calm, basis, cause):
    cause = "lost" if basis == "norms-alone" and cause not in ("lost", "outliers") else cause
    text = wording.explain(calm, choice(basis, cause=cause, percentile=90))
    assert len(text) > 40
    for rest in ("None", "nan", "{", "}"):
        assert rest not in text


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([2.3] * 200 + [2.29] * 200, "the loss has not fallen"),
        (np.r_[np.linspace(2.3, 0.5, 200), np.linspace(0.5, 2.0, 200)].tolist(), "the loss rose again"),
    ],
    ids=["flat", "rose"],
)
def test_what_became_of_the_loss_is_said_as_the_findings_say_it(tmp_path, losses, says):
    history = optimizer_history(Run(write_run(tmp_path, stream(steady(400), losses=losses))))
    text = wording.explain(history, choice("twice-p99", cause="lost"))
    assert text.startswith(says)


@pytest.mark.parametrize("basis", ["guard-p95", "guard-update-bound", "norms-alone"])
def test_no_lost_training_is_called_calm(calm, basis):
    """A loss that falls without end leaps at no step, and a finding says that the training is lost."""
    assert "stayed calm" in wording.explain(calm, choice(basis, percentile=90))
    assert "calm" not in wording.explain(calm, choice(basis, percentile=90), is_lost=True).partition(", so it is")[0]


def test_the_explanation_is_of_the_rule_that_chose(tmp_path):
    history = optimizer_history(Run(write_run(tmp_path, stream(steady(400)), "Adam", {"lr": 1e-3, "eps": 1e-8})))
    found = choose(history, tail=3.0)
    assert found.basis == "guard-p95"
    assert found.number == pytest.approx(np.quantile(history.norms, 0.95))
    assert "95th percentile" in wording.explain(history, found)


@pytest.mark.parametrize(
    ("lost_at", "record_at", "phrases"),
    [
        (None, None, []),
        (7, None, ["lost at step 7"]),
        (7, 0.5, ["lost at step 7", "clipped at 0.5"]),
    ],
)
def test_too_few_steps_say_how_many_are_needed_and_what_used_them_up(calm, lost_at, record_at, phrases):
    text = wording.too_few(calm, 1000, lost_at, record_at)
    assert f"{len(calm.norms)} usable steps" in text
    assert "1000" in text
    assert all(phrase in text for phrase in phrases)


def test_other_refusals_say_their_numbers(calm):
    history = dataclasses.replace(calm, nonfinite=37, frame=pd.DataFrame(index=range(400)))
    assert "37 of 400 steps" in wording.not_finite(history)
    assert "factor of 12" in wording.drifting(12.0)


@pytest.mark.parametrize("losses", [steady(400), None])
def test_a_loss_that_is_not_known_is_not_called_calm(tmp_path, losses):
    history = optimizer_history(Run(write_run(tmp_path, stream(steady(400), losses=losses))))
    text = wording.explain(history, choice("norms-alone", percentile=90))
    assert ("norms and loss stayed calm" in text) == (losses is not None)
    assert ("the norms stayed calm (the loss is not known)" in text) == (losses is None)
