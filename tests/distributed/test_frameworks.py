"""Lightning's own strategies and Accelerate over two processes, against the same training by hand in one."""

import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch import Run

from .launching import torchrun

STEPS, CLIP = 6, 0.3

LIGHTNING = """
    import sys, torch, lightning.pytorch as pl
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from gradwatch.clip import NormClip
    from gradwatch.integrations.lightning import GradWatchCallback

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))

        def configure_model(self):
            if "sharded" in sys.argv:
                fully_shard(self.layers, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch, index):
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(index))
            return self.layers(x.chunk(2)[self.global_rank]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    clip = {} if "policy" in sys.argv else {"gradient_clip_val": CLIP, "gradient_clip_algorithm": "norm"}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(2, 1) if "sharded" in sys.argv else "ddp",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[GradWatchCallback("run", **({} if clip else {"clip": NormClip(CLIP)}))],
        **clip,
    )
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.zeros(4 * STEPS, 1), 1))
"""

ACCELERATE = """
    import sys, torch
    from accelerate import Accelerator
    from torch import nn
    from gradwatch.clip import NormClip
    from gradwatch.integrations.accelerate import attach

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))

        def forward(self, x):
            return self.layers(x)

    accelerator = Accelerator(cpu=True)
    model = Model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    by_us = {"clip": NormClip(CLIP)} if "policy" in sys.argv else {}
    with attach(accelerator, model, optimizer, "run", **by_us):
        for step in range(STEPS):
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
            accelerator.backward(model(x.chunk(2)[accelerator.process_index]).square().mean())
            if not by_us:
                accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()
"""
SCRIPTS = {
    "Lightning, sharded": (LIGHTNING, "sharded"),
    "Lightning, DDP": (LIGHTNING, "ddp"),
    "Accelerate, DDP": (ACCELERATE, "ddp"),
}


def by_hand():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    norms = []
    for step in range(STEPS):
        optimizer.zero_grad()
        layers(torch.randn(8, 5, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        own = {name: float(p.grad.norm()) for name, p in layers.named_parameters()}
        norms.append(own | {"total": float(nn.utils.clip_grad_norm_(layers.parameters(), CLIP))})
        optimizer.step()
    return norms


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "clipping"),
    [
        ("Lightning, sharded", "call"),
        ("Accelerate, DDP", "policy"),
        pytest.param("Lightning, sharded", "policy", marks=pytest.mark.slow),
        pytest.param("Lightning, DDP", "call", marks=pytest.mark.slow),
        pytest.param("Lightning, DDP", "policy", marks=pytest.mark.slow),
        pytest.param("Accelerate, DDP", "call", marks=pytest.mark.slow),
    ],
)
def test_the_norms_are_those_of_one_process(tmp_path, name, clipping):
    script, strategy = SCRIPTS[name]
    (tmp_path / "train.py").write_text(textwrap.dedent(script).replace("CLIP", str(CLIP)).replace("STEPS", str(STEPS)))
    done = torchrun("train.py", strategy, clipping, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run, expected = Run(tmp_path / "run"), by_hand()
    steps = run.steps()
    np.testing.assert_allclose(steps["total_norm"], [own["total"] for own in expected], rtol=1e-4)
    assert (steps["max_norm"] == CLIP).all()
    assert (steps["clip_coef"] < 1).any()
    np.testing.assert_allclose(steps["clip_coef"], np.minimum(1, CLIP / (steps["total_norm"] + 1e-6)), rtol=1e-4)
    layers = run.layers("norm")
    assert list(layers.columns) == [f"layers.{own}" for own in expected[0] if own != "total"]
    for layer in layers.columns:
        np.testing.assert_allclose(layers[layer], [own[layer.removeprefix("layers.")] for own in expected], rtol=1e-4)
