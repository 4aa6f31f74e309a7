"""Libraries that rewrite gradients between backward and the update: what is recorded is what the optimizer got."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import gradwatch

LIMIT, STEPS, ROWS = 0.05, 12, 16


class Private(torch.optim.Optimizer):
    """As Opacus's `DPOptimizer`: an optimizer around another, whose own `__init__` it never calls.

    Its step puts another tensor in the place of each gradient: clipped, with noise, divided by the batch.
    """

    def __init__(self, optimizer):
        self.original_optimizer = optimizer

    param_groups = property(lambda self: self.original_optimizer.param_groups)
    state = property(lambda self: self.original_optimizer.state)
    defaults = property(lambda self: self.original_optimizer.defaults)

    def zero_grad(self, set_to_none=True):
        self.original_optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                summed = p.grad * min(1.0, LIMIT / float(p.grad.norm()))
                p.grad = (summed + 0.01 * torch.randn_like(summed)).view_as(p)
                p.grad /= 2
        return self.original_optimizer.step()


class Flat:
    """As DeepSpeed's ZeRO: the optimizer holds a flat copy of the weights; its gradient is clipped through `.data`."""

    def __init__(self, model):
        self.model = model
        self.flat = nn.Parameter(parameters_to_vector(model.parameters()).detach().clone())
        self.optimizer = torch.optim.SGD([self.flat], lr=0.1, momentum=0.9)

    def zero_grad(self):
        self.model.zero_grad()

    def step(self):
        self.flat.grad = torch.cat([p.grad.reshape(-1) for p in self.model.parameters()])
        norm = float(self.flat.grad.norm())
        self.flat.grad.data.mul_(1 / max(1.0, (norm + 1e-6) / LIMIT))
        self.optimizer.step()
        self.flat.grad = None
        vector_to_parameters(self.flat.detach(), self.model.parameters())


def private(model):
    wrapper = Private(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return model, wrapper, wrapper, wrapper.original_optimizer


def private_inside(model):
    model, wrapper, _, inner = private(model)
    return model, wrapper, inner, inner


def flat(model):
    zero = Flat(model)
    return model, zero, zero.optimizer, zero.optimizer


def opacus(model):
    pytest.importorskip("opacus")
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapper = DPOptimizer(inner, noise_multiplier=0.5, max_grad_norm=LIMIT, expected_batch_size=ROWS)
    return GradSampleModule(model), wrapper, wrapper, inner


def trained(library, folder=None):
    """The weights after training, and the total norm of what each update got."""
    torch.manual_seed(3)
    x = torch.randn(ROWS, 6)
    y = x.sum(dim=1, keepdim=True)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    model, stepped, attached, inner = library(net)
    watch = None if folder is None else gradwatch.attach(model, attached, folder)
    norms = []
    inner.register_step_pre_hook(
        lambda one, *_: norms.append(
            math.hypot(*(float(p.grad.double().norm()) for group in one.param_groups for p in group["params"]))
        )
    )
    for _ in range(STEPS):
        stepped.zero_grad()
        (model(x) - y).square().mean().backward()
        stepped.step()
    if watch is not None:
        watch.close()
    return parameters_to_vector(net.parameters()), norms


@pytest.mark.parametrize("library", [private, private_inside, flat, opacus], ids=lambda one: one.__name__)
def test_what_the_optimizer_got_is_recorded_and_called_so(tmp_path, library):
    bare, _ = trained(library)
    weights, norms = trained(library, tmp_path / "run")
    assert torch.equal(weights, bare)
    run = gradwatch.Run(tmp_path / "run")
    assert run.steps()["total_norm"].tolist() == pytest.approx(norms, rel=1e-6)
    assert run.summary().moment == "as the optimizer got them"
    (finding,) = [one for one in run.diagnosis() if one.code == "clipped-by-script"]
    assert finding.evidence["changed_steps"].value == STEPS
    assert run.recommend().max_norm is None
