"""Calls of backward are heard, with the tensors that they began from."""

import pytest
import torch
from torch import nn

from gradwatch.recording.hooks import listen_to_backward


class Ear:
    def __init__(self, parameter=None):
        self.heard, self.parameter = [], parameter

    def _gradient(self):
        gradient = None if self.parameter is None else self.parameter.grad
        return None if gradient is None else gradient.item()

    def before_backward(self, tensors):
        self.heard.append(("before", len(tensors), self._gradient()))

    def after_backward(self):
        self.heard.append(("after", self._gradient()))


@pytest.fixture
def weight():
    return nn.Parameter(torch.tensor(2.0))


@pytest.fixture
def ear(weight):
    ear = Ear(weight)
    stop = listen_to_backward(ear)
    yield ear
    stop()


@pytest.mark.parametrize("call", [lambda loss: loss.backward(), lambda loss: torch.autograd.backward(loss)])
def test_both_ways_are_heard_before_and_after(ear, weight, call):
    call(3 * weight)
    assert ear.heard == [("before", 1, None), ("after", 3.0)]


def test_several_losses_are_one_backward(ear, weight):
    torch.autograd.backward([3 * weight, 4 * weight])
    assert ear.heard == [("before", 2, None), ("after", 7.0)]


def test_gradients_that_go_to_no_parameter_are_not_heard(ear, weight):
    assert torch.autograd.grad(3 * weight, weight)[0].item() == 3.0
    assert ear.heard == []


def test_a_backward_that_raises_has_ended_too(ear, weight):
    loss = 3 * weight.square()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    assert [one[0] for one in ear.heard] == ["before", "after"] * 2


class Reentrant(torch.autograd.Function):
    """Three times its input, whose backward calls another, as reentrant checkpointing does."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            torch.autograd.backward(3 * x, gradient)
        return x.grad


def test_a_backward_within_another_is_part_of_it(ear, weight):
    Reentrant.apply(weight).backward()
    assert ear.heard == [("before", 1, None), ("after", 3.0)]


def test_the_arguments_reach_torch(ear, weight):
    (weight * torch.ones(2)).backward(torch.tensor([1.0, 10.0]), retain_graph=True)
    assert weight.grad.item() == 11.0
    other = nn.Parameter(torch.tensor(1.0))
    (weight * other).backward(inputs=[other])
    assert (weight.grad.item(), other.grad.item()) == (11.0, 2.0)


def test_torch_s_function_is_put_back():
    before = torch.autograd.backward
    stop = listen_to_backward(Ear())
    assert torch.autograd.backward is not before
    assert torch.autograd.backward.__name__ == "backward"
    stop()
    assert torch.autograd.backward is before
