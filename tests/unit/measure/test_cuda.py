"""On a CUDA device: the same numbers as on the CPU, and a training thread that never waits."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip
from gradwatch.measure import measure

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def net(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1))
    return model.to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_statistics_are_those_of_the_cpu(dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(n).to(dtype) for n in (1, 1000, 70_001)]
    tensors[1][3], tensors[2][5] = math.nan, 0.0
    on_device = measure([t.cuda() for t in tensors]).collect()
    for stat, column in measure(tensors).collect().items():
        np.testing.assert_allclose(on_device[stat], column, rtol=1e-6, err_msg=stat)


@pytest.mark.parametrize("how", ["observing", "clip="])
def test_the_training_thread_never_waits_for_the_device(tmp_path, how):
    model = net("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = [torch.randn(32, 64, device="cuda") for _ in range(20)]
    clip = NormClip(0.1) if how == "clip=" else None
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=clip, weights_every=5) as watch:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for x in data:
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                if clip is None:
                    clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                watch.log(loss=loss)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == 20
    assert steps["loss"].notna().all()
    assert steps["clipped"].any()
