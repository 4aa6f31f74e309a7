"""Loops that call no optimizer, against norms that torch computes of the same gradients."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run


def norm_of(gradients):
    return float(torch.linalg.vector_norm(torch.cat([one.flatten() for one in gradients]).double()))


def test_a_loop_that_updates_the_weights_itself_steps_at_its_clip_call(tmp_path):
    model, expected = nn.Linear(3, 2), []
    with gradwatch.attach(model, None, tmp_path / "run"):
        for step in range(4):
            model.zero_grad()
            ((step + 1.0) * model(torch.ones(1, 3)).square().sum()).backward()
            expected.append(norm_of([p.grad for p in model.parameters()]))
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(parameter.grad, alpha=0.1)
    steps = Run(tmp_path / "run").steps()
    assert steps["total_norm"].tolist() == pytest.approx(expected, rel=1e-6)
    assert steps["max_norm"].tolist() == [0.5] * 4


def test_optimizers_that_step_within_the_backward_share_a_step(tmp_path):
    model, expected = nn.Linear(3, 2), []
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}
    gone = []

    def step(parameter):
        gone.append(parameter.grad.clone())
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    with gradwatch.attach(model, list(optimizers.values()), tmp_path / "run"):
        for _ in range(3):
            model(torch.ones(1, 3)).square().sum().backward()
            expected.append(norm_of(gone))
            gone.clear()
    assert Run(tmp_path / "run").steps()["total_norm"].tolist() == pytest.approx(expected, rel=1e-6)
