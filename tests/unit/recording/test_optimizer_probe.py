"""Optimizers of classes that nobody knows, told by what they do; and nothing of the training is touched."""

import random
import sys

import numpy as np
import pytest
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradwatch.recording.optimizer_probe import is_probing, probed_settings


class Plain(Optimizer):
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def update(self, parameter, group):
        return parameter.grad

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * self.update(parameter, group))


class Sign(Plain):
    def update(self, parameter, group):
        return parameter.grad.sign()


class Layerwise(Plain):
    """As LARS: by the norm of the weights over that of the gradient."""

    def update(self, parameter, group):
        return parameter.grad * parameter.norm() / parameter.grad.norm()


class Root(Plain):
    """Between the two."""

    def update(self, parameter, group):
        return parameter.grad.sign() * parameter.grad.abs().sqrt()


class WithEps(Plain):
    def __init__(self, params, lr=0.1, weight_decay=0.0, eps=1e-8, of_norm=False):
        Optimizer.__init__(self, params, {"lr": lr, "weight_decay": weight_decay, "eps": eps, "of_norm": of_norm})

    def update(self, parameter, group):
        size = parameter.grad.norm() if group["of_norm"] else parameter.grad.abs()
        return parameter.grad / (size + group["eps"])


class LeavesTheFirstOut(Sign):
    def update(self, parameter, group):
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        return super().update(parameter, group) if state["step"] > 1 else torch.zeros_like(parameter)


class Noisy(Plain):
    """Draws numbers, prints, and warns."""

    def update(self, parameter, group):
        print("a step")
        print("a step", file=sys.stderr)
        return parameter.grad + torch.rand(()) * random.random() * np.random.rand() * 0


class Demanding(Plain):
    def __init__(self, params, number_of_batches, lr=0.1):
        super().__init__(params, lr)


class Broken(Plain):
    def update(self, parameter, group):
        raise ZeroDivisionError


def of(kind, *args, **options):
    return kind([torch.nn.Parameter(torch.ones(3, 3))], *args, **options)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        pytest.param(of(Plain), "follows-gradient", id="plain"),
        pytest.param(of(Plain, weight_decay=0.5), "follows-gradient", id="weight decay is left out"),
        pytest.param(of(Plain, lr=0.0), "follows-gradient", id="a learning rate of 0"),
        pytest.param(of(Plain, lr=torch.tensor(0.1)), "follows-gradient", id="a learning rate in a tensor"),
        pytest.param(of(Noisy), "follows-gradient", id="noisy"),
        pytest.param(of(Sign), "normalises", id="by sign"),
        pytest.param(of(Layerwise), "normalises", id="by layer"),
        pytest.param(of(LeavesTheFirstOut), "normalises", id="the first step does nothing"),
        pytest.param(of(Root), None, id="between"),
        pytest.param(of(Demanding, 3), None, id="can't be constructed"),
        pytest.param(of(Broken), None, id="fails"),
        pytest.param(of(type("SGD", (Sign,), {})), "normalises", id="a name that misleads"),
    ],
)
def test_the_rule_is_told_by_what_the_optimizer_does(optimizer, expected):
    assert probed_settings(optimizer).get("update_rule") == expected


class SignOfMomentum(Sign):
    """As Lion."""

    def update(self, parameter, group):
        state = self.state[parameter]
        state["mean"] = 0.9 * state.get("mean", 0.0) + 0.1 * parameter.grad
        return state["mean"].sign()


def renamed(kind, name):
    """A subclass, so that no name of torch.optim is looked up."""
    return type(name, (kind,), {"__module__": "someone"})


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        pytest.param(of(Sign), "fixed", id="by sign"),
        pytest.param(of(SignOfMomentum), "fixed", id="by the sign of the momentum"),
        pytest.param(of(renamed(torch.optim.Muon, "Orthogonal"), lr=0.01), "fixed", id="by singular values"),
        pytest.param(of(Layerwise), "fixed", id="by layer"),
        pytest.param(of(renamed(torch.optim.Adam, "Lion")), "varies", id="Adam by the name of Lion"),
        pytest.param(of(renamed(torch.optim.RMSprop, "Signum")), "varies", id="RMSprop by the name of Signum"),
        pytest.param(of(renamed(torch.optim.Adafactor, "Muon")), "varies", id="Adafactor by the name of Muon"),
        pytest.param(of(Plain), None, id="plain"),
        pytest.param(of(Broken), None, id="fails"),
    ],
)
def test_whether_each_update_has_one_size_is_told_by_what_the_optimizer_does(optimizer, expected):
    assert probed_settings(optimizer).get("update_size") == expected


@pytest.mark.parametrize(("of_norm", "expected"), [(False, "per-entry"), (True, "per-matrix")])
def test_how_eps_is_used(of_norm, expected):
    assert probed_settings(of(WithEps, of_norm=of_norm))["eps_rule"] == expected


def test_nothing_of_the_training_is_touched(capsys):
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    parameter.grad = torch.ones(3, 3)
    optimizer = Noisy([parameter])
    calls = []
    hook = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert probed_settings(optimizer) == {"update_rule": "follows-gradient"}
    hook.remove()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert calls == []
    assert optimizer.state == {}
    assert torch.equal(parameter, torch.ones(3, 3))
    assert capsys.readouterr() == ("", "")
    assert not is_probing()
    assert torch.get_default_dtype() == torch.float32
