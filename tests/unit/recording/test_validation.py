"""Losses of validations: kept with their steps, bounded, and read back by the diagnosis."""

import json
import math

import pytest
import torch

import gradwatch
from gradwatch.analysis.statistics.validation import validation_losses
from gradwatch.recording.validation import MOST, ValidationLosses


def test_the_entry_has_every_loss_until_there_are_too_many():
    kept = ValidationLosses()
    for step in range(MOST):
        entry = kept.add(step, float(step))
    ((_, text),) = entry.items()
    assert json.loads(text) == [[step, float(step)] for step in range(MOST)]
    for step in range(MOST, 5 * MOST):
        entry = kept.add(step, float(step))
    ((_, text),) = entry.items()
    points = json.loads(text)
    assert MOST // 2 <= len(points) <= MOST
    assert (points[0], points[-1]) == ([0, 0.0], [5 * MOST - 1, 5.0 * MOST - 1])


@pytest.mark.parametrize("recorder", ["thread", "process"])
def test_what_a_script_logs_is_read_back_at_the_step_before(tmp_path, recorder):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path, recorder=recorder) as watch:
        for step in range(4):
            model(torch.ones(1, 2)).square().sum().backward()
            optimizer.step()
            watch.log(validation_loss=torch.tensor(float(step)) if step < 3 else math.nan)
        watch.log(validation_loss="high")  # a warning, and the training goes on
    assert validation_losses(gradwatch.Run(tmp_path).meta()).to_dict() == {0: 0.0, 1: 1.0, 2: 2.0}
