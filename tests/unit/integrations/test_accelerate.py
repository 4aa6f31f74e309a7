"""Accelerate itself, against the same training written by hand."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradwatch
from gradwatch import Run
from gradwatch.integrations.accelerate import attach


def data():
    torch.manual_seed(1)
    return TensorDataset(torch.randn(64, 4), torch.randn(64, 1))


def make():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    return model, torch.optim.SGD(model.parameters(), 0.1)


def by_hand(accumulate, max_norm):
    model, optimizer = make()
    norms, losses = [], []
    for index, (x, y) in enumerate(DataLoader(data(), batch_size=8)):
        loss = nn.functional.mse_loss(model(x), y) / accumulate
        loss.backward()
        losses.append(loss.item())
        if (index + 1) % accumulate == 0:
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), max_norm).item())
            optimizer.step()
            optimizer.zero_grad()
    return norms, np.reshape(losses, (-1, accumulate)).sum(axis=1), model.state_dict()


def train(accelerator, model, optimizer, loader, max_norm):
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("how", ["the integration", "gradwatch.attach"])
def test_the_numbers_are_those_of_the_training_by_hand(tmp_path, accumulate, how):
    norms, losses, weights = by_hand(accumulate, 0.3)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model, optimizer, loader = accelerator.prepare(*make(), DataLoader(data(), batch_size=8))
    if how == "the integration":
        watch = attach(accelerator, model, optimizer, tmp_path / "run")
    else:
        watch = gradwatch.attach(model, optimizer, tmp_path / "run")
    with watch:
        train(accelerator, model, optimizer, loader, 0.3)
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-5)
    assert (steps["max_norm"] == 0.3).all()
    assert steps["clip_fault"].isna().all()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


SCRIPT = """
    import torch
    from accelerate import Accelerator
    from torch import nn
    from gradwatch.integrations.accelerate import attach
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    torch.manual_seed(accelerator.process_index)
    with attach(accelerator, model, optimizer, "run"):
        for _ in range(5):
            loss = model(torch.randn(8, 4)).square().mean()
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.print("norm", norm.item())
"""


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("norm")]
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.steps()["total_norm"], printed, rtol=1e-5)
    assert run.layers("norm").columns.tolist() == ["weight", "bias"]


@pytest.mark.slow
def test_gradwatch_run_records_a_script_that_uses_accelerate(run_recorded, tmp_path):
    said = run_recorded(SCRIPT.replace('attach(accelerator, model, optimizer, "run")', "open('x', 'w')"))
    printed = [float(line.split()[1]) for line in said.splitlines() if line.startswith("norm")]
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], printed, rtol=1e-5)
