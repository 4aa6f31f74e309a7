"""Loops of one optimizer and of several, and of parameters that join or are shared."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.errors import BadArgument

from .nets import Net, make, train


def test_several_optimizers_are_told_apart(tmp_path):
    model = Net()
    optimizers = {
        "body": torch.optim.SGD(model.rnn.parameters(), 0.1),
        "head": torch.optim.Adam(model.out.parameters()),
    }
    with gradwatch.attach(model, optimizers, tmp_path / "run"):
        for step in range(6):
            model(torch.randn(8, 4, 3)).square().mean().backward()
            optimizers["body"].step()
            if step % 2:
                optimizers["head"].step()
            model.zero_grad()
    run = Run(tmp_path / "run")
    assert run.optimizers == {"body": "SGD", "head": "Adam"}
    assert run.steps("body").index.tolist() == list(range(6))
    assert run.steps("head").index.tolist() == list(range(3))
    assert run.layers("norm", "head").columns.tolist() == ["out.weight", "out.bias"]
    assert run.layers("norm").shape == (6, 6)
    assert run.summary("head").optimizer_class == "Adam"
    with pytest.raises(BadArgument, match="this run has body, head"):
        run.summary("tail")


def test_parameters_that_join_later_are_recorded(tmp_path):
    model = Net()
    optimizer = torch.optim.SGD(model.rnn.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(6):
            if step == 3:
                optimizer.add_param_group({"params": list(model.out.parameters())})
            model.zero_grad()
            model(torch.randn(8, 4, 3)).square().mean().backward()
            optimizer.step()
    frame = Run(tmp_path / "run").layers("norm")
    assert frame.columns.tolist()[-2:] == ["out.weight", "out.bias"]
    assert frame["out.weight"].isna().tolist() == [True] * 3 + [False] * 3


def test_tied_weights_count_once(tmp_path):
    """Trap 12."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        model["b"](model["a"](torch.ones(2, 3))).sum().backward()
        expected = model["a"].weight.grad.norm().item()
        optimizer.step()
    run = Run(tmp_path / "run")
    assert run.layers("norm").columns.tolist() == ["a.weight"]
    assert run.steps()["total_norm"].item() == pytest.approx(expected)


def test_two_runs_at_once(tmp_path):
    first, second = make(), make()
    with gradwatch.attach(*first, tmp_path / "a"), gradwatch.attach(*second, tmp_path / "b"):
        train(*first, 3, "clipped by norm")
        train(*second, 5)
    assert len(Run(tmp_path / "a").steps()) == 3
    assert len(Run(tmp_path / "b").steps()) == 5
    assert Run(tmp_path / "b").steps()["max_norm"].isna().all()
