"""Optimizers that take turns over the same weights: real trainings, with an optimizer for each epoch or one for all."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run

from .made import codes, the


def trained(folder, make, epochs=5, steps=12, anew=False, lr=0.05):
    """Record an optimizer per epoch, as `gradwatch run` does; with ``anew`` each has a model of its own."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x.sum(1, keepdim=True)
    models = [nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)) for _ in range(epochs if anew else 1)]
    optimizers = [make((models[i] if anew else models[0]).parameters(), lr) for i in range(epochs)]
    recorded = nn.ModuleList(models) if anew else models[0]
    with gradwatch.attach(recorded, {str(i): o for i, o in enumerate(optimizers)}, folder) as watch:
        for i, optimizer in enumerate(optimizers):
            for _ in range(steps):
                loss = (models[i if anew else 0](x) - y).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                watch.log(loss=loss)
    return Run(folder)


def adam(parameters, lr):
    return torch.optim.Adam(parameters, lr=lr)


def test_an_optimizer_for_each_epoch(tmp_path):
    run = trained(tmp_path / "run", adam)
    found = the(run, "optimizer-recreated")
    assert found.severity == "warning"
    assert (found.evidence["optimizers"].value, found.evidence["steps_each"].value) == (5, 12)
    assert found.evidence["steps"].value == 60
    assert "too-short" not in codes(run)


def test_without_state_it_is_information(tmp_path):
    run = trained(tmp_path / "run", lambda parameters, lr: torch.optim.SGD(parameters, lr=lr))
    assert the(run, "optimizer-recreated").severity == "info"


@pytest.mark.parametrize(
    ("epochs", "anew"), [pytest.param(2, False, id="one change"), pytest.param(5, True, id="a new model each time")]
)
def test_what_is_no_recreation(tmp_path, epochs, anew):
    assert "optimizer-recreated" not in codes(trained(tmp_path / "run", adam, epochs=epochs, anew=anew))
