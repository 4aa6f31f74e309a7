"""The training thread never waits for the device: PyTorch raises where it would."""

import warnings

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run

from ..scripts import load

launches = load("launches")
STEPS = 20


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch):
    monkeypatch.setattr(launches, "DEVICE", "cuda")


def train(folder, option, name, **more):
    """Train with an option of the launches' table."""
    loop, options = launches.OPTIONS[option]
    return train_by(folder, loop, launches.OPTIMIZERS[name], options | more)


def train_by(folder, loop, make, options, steps_a_turn=1):
    """Train a few steps first, in which Triton compiles and plans are made."""
    net = launches.model()
    optimizer = make(net)
    with gradwatch.attach(net, optimizer, folder / "run", **options) as watch:
        for step in range(STEPS):
            if step == 3:
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            loop(net, optimizer, watch, step)
        torch.cuda.set_sync_debug_mode("default")
    steps = Run(folder / "run").steps()
    assert len(steps) == STEPS * steps_a_turn
    assert steps["total_norm"].notna().all()
    return steps


@pytest.fixture(autouse=True)
def _default_again():
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("option", launches.OPTIONS)
def test_no_option_waits(tmp_path, option):
    train(tmp_path, option, "AdamW")


@pytest.mark.parametrize("name", launches.OPTIMIZERS)
def test_no_optimizer_waits(tmp_path, name):
    train(tmp_path, "observing", name)


@pytest.mark.parametrize("name", launches.LOOPS)
def test_no_loop_waits(tmp_path, name):
    loop, make = launches.LOOPS[name]
    options = {"weights_every": 1, "updates_every": 1}
    train_by(tmp_path, loop, make, options, steps_a_turn=2 if "two" in name else 1)


def test_capture_waits_once_a_step(tmp_path):
    net = launches.model()
    optimizer = launches.OPTIMIZERS["AdamW"](net)
    with gradwatch.attach(net, optimizer, tmp_path / "run", capture=True), warnings.catch_warnings(record=True) as told:
        for _ in range(3):
            launches.plain(net, optimizer, None, 0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        told.clear()
        warnings.simplefilter("always")
        for _ in range(5):
            launches.plain(net, optimizer, None, 0)
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(warning.message) for warning in told) == 5


def test_reading_updates_at_every_step_does_not_wait(tmp_path):
    train(tmp_path, "observing", "AdamW", updates_every=1, weights_every=1)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}])
def test_reading_the_sentinels_of_a_deep_model_does_not_wait(tmp_path, monkeypatch, options):
    def deep():
        return nn.Sequential(nn.Embedding(64, 16), *(nn.Linear(16, 16) for _ in range(20))).cuda()

    monkeypatch.setattr(launches, "model", deep)
    loop, recorded = launches.OPTIONS["observing"]
    train_by(tmp_path, loop, lambda net: torch.optim.AdamW(net.parameters(), 0.1, **options), recorded)
    run = Run(tmp_path / "run")
    assert run.updates("update_norm").index.tolist() == [step for step in range(STEPS) if step % 3 == 0]
    assert run.sentinels("update_norm").index.tolist() == list(range(STEPS))


def test_a_wait_would_be_found(no_waits):
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device="cuda").item()


def test_a_fused_optimizer_under_a_grad_scaler_does_not_wait(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).cuda()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    data = torch.randn(STEPS, 4, 8, device="cuda")
    with gradwatch.attach(net, optimizer, tmp_path / "run") as watch:
        for step in range(STEPS):
            if step == 3:
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = net(data[step]).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)
        torch.cuda.set_sync_debug_mode("default")
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == STEPS
    assert (steps["total_norm"] < 100).all()  # not multiplied by the scale
