"""All hooks of a recording are put in and taken out together."""

import logging

import pytest
import torch
from torch import nn

from gradwatch.recording import placed_hooks
from gradwatch.recording.hooks import TapError
from gradwatch.recording.placed_hooks import PlacedHooks


class Listener:
    """Notes the name of every call."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda *_, **__: self.heard.append(name)


def train(model, optimizer, scaler):
    optimizer.zero_grad(set_to_none=False)
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()


@pytest.fixture
def training():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, torch.amp.GradScaler("cpu", init_scale=8.0)


def test_the_listener_hears_a_training_in_its_order(training):
    listener, hooks = Listener(), PlacedHooks()
    hooks.put_in(listener)
    hooks.listen_to(training[1], listener, name="0", kept=None)
    train(*training)
    hooks.take_out()
    assert listener.heard == [
        "after_zeroing",
        "after_scaling",
        "before_backward",
        "after_backward",
        "before_unscale",
        "after_unscale",
        "before_norm",
        "before_clip",
        "after_clip",
        "before_scaled_step",
        "before_step",
        "after_step",
        "after_scaled_step",
    ]


def test_nothing_is_heard_and_nothing_stays_behind_once_they_are_out(training):
    before = torch.autograd.backward, torch.optim.Optimizer.zero_grad, torch.amp.GradScaler.step
    listener, hooks = Listener(), PlacedHooks()
    hooks.put_in(listener)
    hooks.listen_to(training[1], listener, name="0", kept=None)
    hooks.take_out()
    train(*training)
    assert listener.heard == []
    assert before == (torch.autograd.backward, torch.optim.Optimizer.zero_grad, torch.amp.GradScaler.step)
    assert not training[1]._optimizer_step_pre_hooks
    assert not training[1]._optimizer_step_post_hooks


def test_clip_calls_that_can_not_be_seen_leave_the_other_hooks(training, monkeypatch, caplog):
    def refuse(_):
        raise TapError("torch 9 clips in another way")

    monkeypatch.setattr(placed_hooks, "listen_to_clip_calls", refuse)
    listener, hooks = Listener(), PlacedHooks()
    with caplog.at_level(logging.WARNING, "gradwatch"):
        hooks.put_in(listener)
    train(*training)
    hooks.take_out()
    assert listener.heard[0] == "clip_calls_unseen"
    assert {"before_backward", "before_unscale"} <= set(listener.heard)
    assert "before_clip" not in listener.heard
    assert "(clip-calls-unseen)" in caplog.text


def test_hooks_of_an_optimizer_that_is_gone_are_forgotten(training):
    listener, hooks = Listener(), PlacedHooks()
    hooks.listen_to(training[1], listener, name="0", kept=None)
    hooks.let_go("0")
    hooks.let_go("never there")
    hooks.take_out()
    assert training[1]._optimizer_step_pre_hooks, "they go with the optimizer"
