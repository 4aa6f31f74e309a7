"""Calls that set gradients to zero in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradwatch.recording.hooks import listen_to_zeroing


class Listener:
    def __init__(self):
        self.told = []

    def after_zeroing(self, ids):
        self.told.append(ids)


@pytest.fixture
def listener():
    one = Listener()
    stop = listen_to_zeroing(one)
    yield one
    stop()


def make():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("call", [lambda m, o: o.zero_grad(set_to_none=False), lambda m, o: m.zero_grad(False)])
def test_zeroing_in_place_is_told_after_it_happened(listener, call):
    model, optimizer = make()
    call(model, optimizer)
    assert listener.told == [{id(p) for p in model.parameters()}]
    assert all(torch.count_nonzero(p.grad) == 0 for p in model.parameters())


@pytest.mark.parametrize("call", [lambda m, o: o.zero_grad(), lambda m, o: m.zero_grad(set_to_none=True)])
def test_letting_go_shows_by_itself_and_is_not_told(listener, call):
    model, optimizer = make()
    call(model, optimizer)
    assert listener.told == []
    assert all(p.grad is None for p in model.parameters())


def test_an_optimizer_with_a_method_of_its_own_is_heard_where_it_calls_the_one_it_extends(listener):
    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none=False):
            super().zero_grad(set_to_none)

    model, _ = make()
    Own(model.parameters(), lr=0.1).zero_grad()
    assert len(listener.told) == 1


def test_the_methods_are_torchs_again_when_nothing_listens():
    before = Optimizer.zero_grad, nn.Module.zero_grad
    first, second = listen_to_zeroing(Listener()), listen_to_zeroing(Listener())
    assert before != (Optimizer.zero_grad, nn.Module.zero_grad)
    first()
    second()
    assert before == (Optimizer.zero_grad, nn.Module.zero_grad)
