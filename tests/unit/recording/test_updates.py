"""Updates by closures, and updates that the loop leaves out."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip

from .nets import backward, make


def test_a_step_refused_by_error_if_nonfinite_is_kept(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(4):
            backward(model, optimizer)
            if step == 2:
                model.out.bias.grad.fill_(math.inf)
            try:
                clip_grad_norm_(model.parameters(), 0.5, error_if_nonfinite=True)
            except RuntimeError:
                continue
            optimizer.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["skipped"].tolist() == [False, False, True, False]
    assert steps["total_norm"].isin([math.inf]).tolist() == [False, False, True, False]


def test_a_loop_that_steps_only_where_the_norm_is_finite_keeps_the_step_it_skipped(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(5):
            backward(model, optimizer)
            if step == 2:
                model.rnn.bias_hh_l0.grad[1] = math.nan
            if torch.isfinite(clip_grad_norm_(model.parameters(), 0.5)):
                optimizer.step()
    run = Run(tmp_path / "run")
    assert run.steps()["skipped"].tolist() == [False, False, True, False, False]
    assert run.steps()["nonfinite"].tolist() == [0, 0, 1, 0, 0]
    (event,) = run.events()
    assert (event.step, event.severity, event.parameter) == (2, "warning", "rnn.bias_hh_l0")


def test_a_closure_is_one_step_with_its_last_gradient(tmp_path):
    """Trap 3: at the start of the step the gradients are those of before, or None."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    x, seen = torch.randn(20, 3), []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        seen.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        return loss

    last = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1):
        for _ in range(3):
            optimizer.step(closure)
            last.append(seen[-1])
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.steps()["total_norm"], last, rtol=1e-6)
    assert (run.layers("update_norm") > 0).all(axis=None)


def test_the_iterations_of_one_step_are_no_explosion(tmp_path):
    """Together they change the weights by many times their norm, and the training is well."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=20)
    x = torch.randn(256, 8)
    y = 10 * torch.sin(x.sum(1, keepdim=True))

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    with gradwatch.attach(model, optimizer, tmp_path, weights_every=1):
        losses = [float(optimizer.step(closure).detach()) for _ in range(10)]
    run = Run(tmp_path)
    assert losses[-1] < losses[0] / 10
    assert run.layers("update_ratio").iloc[0].max() > 5
    assert [event for event in run.events() if event.kind == "explosion"] == []


def test_a_policy_that_can_not_act_on_a_closure_says_so(tmp_path, caplog):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.25)):
        optimizer.step(closure)
        optimizer.step(closure)
    assert caplog.text.count("clip-not-applied") == 1
    assert Run(tmp_path / "run").steps()["max_norm"].isna().all()
