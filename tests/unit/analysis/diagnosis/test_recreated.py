"""Optimizers that take turns over the same weights: real trainings, with an optimizer for each epoch or one for all."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run

from ....prepared import forked
from .made import codes, the

BRIEF = """
import copy, torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(64, 8)
y = x.sum(1, keepdim=True)
def net():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
model, optimizer = net(), None
for turn in range({turns}):
    weights = {weights}
    optimizer = {optimizer}
    for _ in range({steps}):
        loss = (weights(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


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
    assert "meta-learning" in found.confirm
    assert "too-short" not in codes(run)


def test_without_state_it_is_information(tmp_path):
    run = trained(tmp_path / "run", lambda parameters, lr: torch.optim.SGD(parameters, lr=lr))
    assert the(run, "optimizer-recreated").severity == "info"


@pytest.mark.parametrize(
    ("epochs", "anew"), [pytest.param(2, False, id="one change"), pytest.param(5, True, id="a new model each time")]
)
def test_what_is_no_recreation(tmp_path, epochs, anew):
    assert "optimizer-recreated" not in codes(trained(tmp_path / "run", adam, epochs=epochs, anew=anew))


def brief(folder, weights="model", optimizer="torch.optim.NAdam(weights.parameters(), lr=4e-3)", steps=1, turns=60):
    """A script as `gradwatch run` records it that makes an optimizer for every few steps."""
    (folder / "train.py").write_text(BRIEF.format(weights=weights, optimizer=optimizer, steps=steps, turns=turns))
    done = forked().run(["-m", "gradwatch", "run", "--run", str(folder / "run"), str(folder / "train.py")], folder)
    assert done.returncode == 0, done.stderr
    return Run(folder / "run")


@pytest.mark.parametrize("steps", [1, 2])
def test_an_optimizer_for_each_batch(tmp_path, steps):
    run = brief(tmp_path, steps=steps)
    found = the(run, "optimizer-recreated")
    assert found.severity == "warning"
    assert (found.evidence["optimizers"].value, found.evidence["steps_each"].value) == (60, steps)
    assert "batches" in found.cause
    assert "too-short" not in codes(run)


@pytest.mark.parametrize(("weights", "found"), [("model", True), ("net()", False), ("copy.deepcopy(model)", False)])
def test_an_optimizer_whose_rule_is_not_known_for_each_file(tmp_path, weights, found):
    """Of Adamax the weights are known where they are sampled, at the first step of each."""
    adamax = "torch.optim.Adamax(weights.parameters(), lr=5e-3)"
    run = brief(tmp_path, weights=weights, optimizer=adamax, steps=12, turns=14)
    assert ("optimizer-recreated" in codes(run)) == found


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"weights": "net()"}, id="a new model each time"),
        pytest.param({"weights": "copy.deepcopy(model)"}, id="a copy of one model each time"),
        pytest.param({"optimizer": "optimizer or torch.optim.NAdam(weights.parameters(), lr=4e-3)"}, id="one"),
        pytest.param({"turns": 5}, id="few"),
    ],
)
def test_brief_optimizers_that_are_no_recreation(tmp_path, more):
    assert "optimizer-recreated" not in codes(brief(tmp_path, **more))
