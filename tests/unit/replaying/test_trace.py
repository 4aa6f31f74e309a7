"""Operators with their module, their line and what made their inputs."""

import pytest
import torch
from planted_steps import capture_step
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradwatch.replaying.passes import prepared
from gradwatch.replaying.trace import node_name


class Inner(nn.Module):
    def forward(self, x):
        root = x.pow(2).sum(1).sqrt()  # the line
        return x / (root[:, None] + 1)


class Net(nn.Module):
    def __init__(self, how="plain"):
        super().__init__()
        self.first, self.inner = nn.Linear(3, 3, bias=False), Inner()
        self.how = how

    def forward(self, x):
        x = self.first(x)
        if self.how == "plain":
            return self.inner(x)
        return checkpoint(self.inner, x, use_reentrant=self.how == "reentrant")


def traced(model, x):
    capture = capture_step(model, [lambda: model(x).sum()])
    with prepared(model, capture) as player:
        return player.trace()


@pytest.mark.parametrize("how", ["plain", "checkpoint", "reentrant"])
def test_a_backward_operator_has_the_module_and_the_line_of_its_forward(how):
    trace = traced(Net(how), torch.randn(4, 3))
    found = [one for one in trace.operations if one.phase == "backward" and one.node == "aten.sqrt"]
    assert found
    assert {one.module for one in found} == {"inner"}
    assert {one.line.code for one in found} == {"root = x.pow(2).sum(1).sqrt()  # the line"}
    assert trace.classes["inner"] == "Inner"


def test_a_forward_operator():
    trace = traced(Net(), torch.randn(4, 3))
    (root,) = [one for one in trace.operations if one.phase == "forward" and one.name == "aten.sqrt"]
    assert (root.module, root.line.file) == ("inner", __file__)
    assert trace.operations[root.parents[0]].name == "aten.sum"


def test_leaves_and_magnitudes():
    model, x = Net(), torch.full((4, 3), 5.0)
    trace = traced(model, x)
    leaves = {(leaf.kind, leaf.name): leaf.magnitude for leaf in trace.leaves.values()}
    assert leaves["input", "x"] == 5.0
    assert leaves["weights", "first.weight"] == pytest.approx(float(model.first.weight.abs().max()))
    assert leaves["loss", "0"] == 1.0


def test_what_was_written_in_parts_has_all_writers():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

        def forward(self, x):
            out = torch.zeros(3, 2)
            for at in range(3):
                out[at] = x[at] * self.w
            return out * 2

    trace = traced(Parts(), torch.randn(3, 2))
    last = [one for one in trace.operations if one.phase == "forward" and one.name == "aten.mul"][-1]
    assert [trace.operations[at].name for at in last.parents].count("aten.copy") == 3


def test_names_of_nodes():
    x = torch.ones(3, requires_grad=True)
    assert node_name(torch.nn.functional.layer_norm(x, (3,)).grad_fn) == "aten.native_layer_norm"

    class Mine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    assert node_name(Mine.apply(x).grad_fn) == "Mine"
