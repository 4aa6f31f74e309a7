"""The batched optimizers and clippings of benchmarks/recommendation/modern.py do what PyTorch's own do."""

import math

import pytest
import torch

from ..scripts import load


@pytest.fixture(autouse=True, scope="module")
def _needs_sklearn():
    """Imported by the first test: it takes a second, and every worker collects this module."""
    pytest.importorskip("sklearn")


RATES = (0.01, 0.1, 0.03)
SHAPES = {"tall": (6, 3), "wide": (3, 5), "bias": (4,)}


@pytest.fixture(scope="module")
def modern():
    return load("recommendation/modern")


def stacked(generator, dtype=torch.float32):
    """A tensor of three trainings for each name."""
    return {name: torch.randn(3, *shape, generator=generator).to(dtype).float() for name, shape in SHAPES.items()}


def by_torch(make, weights, gradients):
    """The weights of each training after PyTorch's optimizers took the same gradients."""
    found = {name: [] for name in weights}
    for at, rate in enumerate(RATES):
        own = {name: torch.nn.Parameter(weight[at].clone()) for name, weight in weights.items()}
        optimizers = make(own, rate)
        for step in gradients:
            for name, parameter in own.items():
                parameter.grad = step[name][at].clone().to(parameter.dtype)
            for optimizer in optimizers:
                optimizer.step()
        for name, parameter in own.items():
            found[name].append(parameter.detach().float())
    return {name: torch.stack(values) for name, values in found.items()}


def muon(own, rate):
    matrices = [p for p in own.values() if p.dim() == 2]
    rest = [p for p in own.values() if p.dim() != 2]
    return [torch.optim.Muon(matrices, lr=rate), torch.optim.AdamW(rest, lr=rate / 10)]


MADE = {
    "SGD": lambda own, rate: [torch.optim.SGD(own.values(), lr=rate, momentum=0.9)],
    "Adafactor": lambda own, rate: [torch.optim.Adafactor(own.values(), lr=rate, weight_decay=0.0)],
    "Muon": muon,
}


@pytest.mark.parametrize("name", MADE)
def test_batched_optimizers_equal_those_of_pytorch(modern, name):
    if name == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with PyTorch 2.9")
    generator = torch.Generator().manual_seed(0)
    weights, gradients = stacked(generator), [stacked(generator) for _ in range(7)]
    expected = by_torch(MADE[name], weights, gradients)
    started = {key: value.clone() for key, value in weights.items()}
    rule = modern.OPTIMIZERS[name].make()
    for step in gradients:
        rule(weights, {key: value.clone() for key, value in step.items()}, torch.tensor(RATES))
    for key, value in weights.items():
        moved = (expected[key] - started[key]).norm()
        assert (value - expected[key]).norm() < (0.05 if name == "Muon" else 1e-4) * moved  # Muon iterates in bfloat16


def test_adamw_with_bfloat16_keeps_weights_in_bfloat16_and_follows_pytorch(modern):
    generator = torch.Generator().manual_seed(1)
    weights = stacked(generator, torch.bfloat16)
    gradients = [stacked(generator, torch.bfloat16) for _ in range(5)]
    expected = {name: [] for name in weights}
    for at, rate in enumerate(RATES):
        own = {name: torch.nn.Parameter(weight[at].bfloat16()) for name, weight in weights.items()}
        optimizer = torch.optim.AdamW(own.values(), lr=rate, foreach=False)
        for step in gradients:
            for name, parameter in own.items():
                parameter.grad = step[name][at].bfloat16()
            optimizer.step()
        for name, parameter in own.items():
            expected[name].append(parameter.detach().float())
    rule = modern.OPTIMIZERS["AdamW bfloat16"].make()
    for step in gradients:
        rule(weights, step, torch.tensor(RATES))
    for name, weight in weights.items():
        assert torch.equal(weight, weight.bfloat16().float())
        torch.testing.assert_close(weight, torch.stack(expected[name]), rtol=3e-2, atol=1e-2)


def test_lion_moves_every_entry_by_the_rate(modern):
    weights = {"w": torch.zeros(2, 2)}
    modern.OPTIMIZERS["Lion"].make()(weights, {"w": torch.tensor([[1e-6, -5.0], [2.0, 0.0]])}, torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(weights["w"], torch.tensor([[-0.1, 0.1], [-0.2, 0.0]]))


def test_shampoo_does_not_depend_on_the_scale_of_the_gradient(modern):
    generator = torch.Generator().manual_seed(2)
    gradient = torch.randn(1, 4, 3, generator=generator)
    moved = []
    for scale in (1.0, 1000.0):
        weights = {"w": torch.zeros(1, 4, 3)}
        modern.OPTIMIZERS["Shampoo"].make()(weights, {"w": gradient * scale}, torch.tensor([0.1]))
        moved.append(weights["w"])
    torch.testing.assert_close(moved[0], moved[1], rtol=2e-2, atol=1e-3)
    assert moved[0].norm() > 0


def test_each_training_is_clipped_by_its_own_kind(modern):
    trials = [
        modern.Trial(0, 0.1),
        modern.Trial(0, 0.1, "norm", 1.0),
        modern.Trial(0, 0.1, "value", 0.5),
        modern.Trial(0, 0.1, "parameter", 1.0),
    ]
    gradients = {"a": torch.tensor([[3.0, 0.1]] * 4), "b": torch.tensor([[0.2, -4.0]] * 4)}
    before = {name: value.clone() for name, value in gradients.items()}
    own = torch.stack([value.double().norm(dim=1) for value in gradients.values()], 1)
    modern.Clipper(trials)(gradients, own, own.norm(dim=1))
    total = math.hypot(*before["a"][0].tolist(), *before["b"][0].tolist())
    for name, value in gradients.items():
        torch.testing.assert_close(value[0], before[name][0])
        torch.testing.assert_close(value[1], before[name][1] / total)
        torch.testing.assert_close(value[2], before[name][2].clamp(-0.5, 0.5))
        torch.testing.assert_close(value[3], before[name][3] / before[name][3].norm())
