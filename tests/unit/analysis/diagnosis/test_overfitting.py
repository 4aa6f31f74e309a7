"""Overfitting: the validation loss rises for long from its best while the loss of the training falls on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.setbacks import overfitting
from gradwatch.testing import steady, stream

from .made import calm, codes, falling, run_of, the

STEPS = 400
AT = list(range(20, STEPS, 20))


def turning(low=8, rise=0.05):
    """Falls until the validation ``low`` and rises from there on."""
    at = np.arange(len(AT))
    return 1.0 + 0.1 * np.maximum(0, low - at) + rise * np.maximum(0, at - low)


def validated(folder, validations, records=None, optimizer="AdamW"):
    pairs = list(zip(AT, [float(loss) for loss in validations], strict=False))
    return run_of(folder, records or calm(STEPS), optimizer, meta={"validation_loss.1": json.dumps(pairs)})


def test_a_validation_loss_that_turns(tmp_path):
    run = validated(tmp_path, turning())
    found = the(run, "overfitting")
    assert found.severity == "info"
    assert found.steps == (AT[8], AT[-1])
    assert found.evidence["validation_loss_last"].value == pytest.approx(1.0 + 0.05 * 9)
    assert found.evidence["loss_last"].value == pytest.approx(0.5, rel=0.1)
    assert f"keep the checkpoint of step {AT[8]}" in found.remedy
    summary = run.summary()
    assert summary.verdict == "healthy"
    assert "nothing is wrong with the gradients" in summary.next
    assert found.remedy in summary.next


@pytest.mark.parametrize(
    "validations",
    [
        pytest.param(np.linspace(2, 1, len(AT)), id="falls to the end"),
        pytest.param(turning(rise=0.004), id="rises by 4%"),
        pytest.param(1.5 + 0.3 * np.random.default_rng(0).standard_normal(len(AT)), id="scatters"),
        pytest.param(turning(low=len(AT) - 2, rise=1.0), id="one validation after the best"),
        pytest.param([*np.linspace(2, 1, len(AT) - 3), 5.0, 1.0, 1.0], id="one bad validation"),
        pytest.param([2.0, 1.0, 2.0, 3.0, 4.0], id="few"),
        pytest.param([np.nan] * len(AT), id="not finite"),
    ],
)
def test_validation_losses_that_do_not_turn_for_good(tmp_path, validations):
    assert "overfitting" not in codes(validated(tmp_path, validations))


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([*falling(STEPS)[::2], *falling(STEPS)[::-2]], id="rises"),
        pytest.param([*falling(160), *falling(STEPS - 160, 0.5, 0.495)], id="stands within its noise"),
    ],
)
def test_a_loss_of_the_training_that_does_not_fall_on(tmp_path, losses):
    assert "overfitting" not in codes(validated(tmp_path, turning(), stream(steady(STEPS), losses=losses)))


def test_of_two_optimizers_it_is_told_of_the_one_whose_steps_count_the_validations(tmp_path):
    facts = read_facts(validated(tmp_path, turning()))
    (one,) = facts.optimizers
    generator, critic = replace(one, name="G", frame=one.frame.iloc[:100]), replace(one, name="D")
    both = replace(facts, optimizers=(generator, critic))
    assert overfitting(both, generator) is None
    found = overfitting(both, critic)
    assert found.optimizer == "D"
    assert f"step {AT[8]} of optimizer D" in found.what
