"""A training whose gradients are read while PyTorch clips is recorded, and trained, as one that is read before."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.measure import ahead, fused

pytestmark = pytest.mark.skipif(not fused.is_available(), reason="the compiled part is not built")


def test_gradients_of_a_small_model_are_looked_at_once_a_step(tmp_path, monkeypatch):
    looked, readable = [], ahead.readable
    monkeypatch.setattr(ahead, "readable", lambda gradients: looked.append(1) or readable(gradients))
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=0):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
    assert len(looked) == 5


def recorded(folder, monkeypatch, least):
    monkeypatch.setattr(ahead, "LEAST", least)
    monkeypatch.setattr(ahead, "_processors", lambda: 2)
    taken = []
    of_reading = ahead.FusedReading.table
    monkeypatch.setattr(ahead.FusedReading, "table", lambda self: taken.append(1) or of_reading(self))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with gradwatch.attach(model, optimizer, folder):
        for step in range(12):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 40)).square().mean() * (float("inf") if step == 7 else 1.0)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            if step != 7:
                optimizer.step()
    monkeypatch.undo()
    run = gradwatch.Run(folder)
    frames = [run.steps().drop(columns="wall_time"), *(run.layers(stat) for stat in ("norm", "abs_max", "zeros"))]
    return frames, [p.detach().clone() for p in model.parameters()], len(taken)


def test_records_and_weights_are_the_same(tmp_path, monkeypatch):
    along, weights, taken = recorded(tmp_path / "along", monkeypatch, 1)
    before, weights_before, taken_before = recorded(tmp_path / "before", monkeypatch, 2**60)
    assert (taken, taken_before) == (12, 0)
    assert all(one.equals(other) for one, other in zip(along, before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(weights, weights_before, strict=True))
