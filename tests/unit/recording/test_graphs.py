"""While a CUDA graph is recorded, gradwatch keeps out of it and says so."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip


@pytest.mark.parametrize("clip", [None, NormClip(1e-3)])
def test_nothing_is_measured_or_clipped_within_a_graph(tmp_path, monkeypatch, caplog, clip):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    capturing = False
    monkeypatch.setattr("gradwatch.recording.router.is_capturing_graph", lambda: capturing)
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=clip):
        for step in range(12):
            capturing = 4 <= step < 8
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            before = [p.grad.clone() for p in model.parameters()]
            optimizer.step()
            unchanged = all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))
            assert unchanged is (clip is None or capturing)
    assert len(Run(tmp_path / "run").steps()) == 8
    said = [record.getMessage() for record in caplog.records if "(cuda-graph-not-seen)" in record.getMessage()]
    assert len(said) == 1


def test_no_graph_is_captured_without_cuda():
    assert gradwatch.measure.is_capturing_graph() is False
