"""What is known of an optimizer by its exact class and its settings."""

import inspect

import pytest
import torch

from gradwatch.detect import traits_of
from gradwatch.detect.optimizers import DIVIDING_BY_ENTRY, FOLLOWING, NORMALISING

IN_TORCH = {name for name, kind in vars(torch.optim).items() if inspect.isclass(kind)} - {"Optimizer"}


def test_every_optimizer_of_torch_is_known():
    assert FOLLOWING | NORMALISING >= IN_TORCH


@pytest.mark.parametrize("name", sorted(IN_TORCH - {"LBFGS", "SparseAdam", "Muon"}))
def test_the_table_says_what_the_optimizer_does(name):
    """A thousand times the gradient, from the sixth step on: RAdam makes the first five as SGD does."""
    updates = []
    for factor in (1e-2, 10.0):
        parameter = torch.nn.Parameter(torch.ones(4, 4))
        optimizer = getattr(torch.optim, name)([parameter], lr=1e-2)
        for step in range(8):
            before = parameter.detach().clone()
            parameter.grad = factor * torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        updates.append(float((parameter.detach() - before).norm()))
    ratio = updates[1] / updates[0]
    expected = traits_of(name).update_rule
    assert (ratio > 300) == (expected == "follows-gradient")
    assert (ratio < 3) == (expected == "normalises")


@pytest.mark.parametrize("name", ["Prodigy", "", "MyAdam", "SGDW", "NoOptimizer"])
def test_an_unknown_class_is_not_taken_for_another(name):
    traits = traits_of(name, {"eps": 1e-8})
    assert traits.update_rule is None
    assert traits.eps is None


def test_what_a_trial_has_shown_counts():
    traits = traits_of("MyAdam", {"eps": 1e-8, "update_rule": "normalises", "eps_rule": "per-entry"})
    assert (traits.update_rule, traits.eps, traits.eps_rule) == ("normalises", 1e-8, "per-entry")


@pytest.mark.parametrize(
    ("name", "settings", "eps", "rule"),
    [
        ("Adam", {"eps": 1e-8}, 1e-8, "per-entry"),
        ("Adadelta", {"eps": 1e-6}, pytest.approx(1e-3), "per-entry"),
        ("Muon", {"eps": 1e-7}, pytest.approx(1e-9), "per-matrix"),
        ("Adafactor", {"eps": (None, 1e-3)}, None, None),
        ("Adam", {"eps": 0.0}, None, None),
        ("Adam", {}, None, None),
        ("SGD", {"eps": 1e-8}, None, None),
    ],
)
def test_eps_as_each_optimizer_uses_it(name, settings, eps, rule):
    traits = traits_of(name, settings)
    assert (traits.eps, traits.eps_rule) == (eps, rule)
    assert (rule == "per-entry") == (name in DIVIDING_BY_ENTRY and eps is not None)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with PyTorch 2.9")
def test_muons_updates_shrink_only_far_below_its_eps():
    limit = traits_of("Muon", {"eps": 1e-7}).eps

    def moved(norm):
        weight = torch.nn.Parameter(torch.zeros(32, 32))
        gradient = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
        weight.grad = gradient * (norm / gradient.norm())
        torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, eps=1e-7).step()
        return weight.detach().norm().item()

    assert moved(2 * limit) > 0.8 * moved(1.0)
    assert moved(limit / 10) < 0.2 * moved(1.0)
