"""Clipping functions act alike with and without a recording, which hears of each call before it clips."""

import pytest
import torch

import gradwatch
from gradwatch.clip import NormClip, calls, clip_grad_norm_

CALLS = {
    "function": lambda weight: clip_grad_norm_([weight], 1.0),
    "policy": lambda weight: NormClip(1.0)([weight]),
}


@pytest.mark.parametrize("clip", CALLS.values(), ids=CALLS)
def test_a_call_clips_without_a_recording(clip):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert float(clip(weight)) == 5.0
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("clip", CALLS.values(), ids=CALLS)
def test_a_recording_has_the_norm_before_the_call_and_its_threshold(tmp_path, clip):
    weight = torch.nn.Parameter(torch.zeros(2))
    model = torch.nn.ParameterList([weight])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        (weight * torch.tensor([3.0, 4.0])).sum().backward()
        clip(weight)
        optimizer.step()
    step = gradwatch.Run(tmp_path / "run").steps().iloc[0]
    assert (step["total_norm"], step["max_norm"], step["clipped"]) == (5.0, 1.0, True)
    assert weight.tolist() == pytest.approx([-0.6, -0.8])


def test_what_a_recording_replaces_is_put_back(tmp_path):
    before = calls.by_norm, calls.by_policy
    model = torch.nn.Linear(1, 1)
    with gradwatch.attach(model, torch.optim.SGD(model.parameters()), tmp_path / "run"):
        assert calls.by_norm is not before[0]
        assert calls.by_policy is not before[1]
    assert (calls.by_norm, calls.by_policy) == before
