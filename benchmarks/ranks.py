"""Measure what recording costs a training in several processes: `torchrun --nproc-per-node 4 benchmarks/ranks.py`.

Two equal trainings take turns in the same processes; one is recorded. A round compares the time of a step of one with
the time of a step of the other. torch's profiler counts the collectives.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradwatch

ROUNDS, STEPS, BATCH, LENGTH, WIDTH = 60, 4, 4, 32, 128


def model() -> nn.Sequential:
    """A transformer of 64 parameters, 0.9 M entries."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(5)]
    return nn.Sequential(nn.Embedding(256, WIDTH), *layers, nn.Linear(WIDTH, 256))


def sharded() -> nn.Module:
    network = model()
    for part in list(network)[1:-1]:
        fully_shard(part)
    fully_shard(network)
    return network


def trainer(network: nn.Module) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)
    x = torch.randint(256, (BATCH, LENGTH))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x).flatten(0, 1), x.flatten()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return optimizer, step


def collectives(step: Callable[[], None]) -> int:
    """Count the collectives of one step in this process."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    return sum(event.count for event in profile.key_averages() if event.key.startswith("gloo:"))


def timed(step: Callable[[], None]) -> float:
    dist.barrier()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    dist.barrier()
    return (time.perf_counter() - began) / STEPS


def compare(make: Callable[[], nn.Module], folder: Path, **options: Any) -> tuple[float, float, float, int, int]:
    """Return the bare milliseconds per step, the ratio when recorded, half its quartile range, and both collectives."""
    plain, watched = make(), make()
    _, plain_step = trainer(plain)
    optimizer, watched_step = trainer(watched)
    hook = options.pop("hook", None)
    if hook is not None:
        cast(DistributedDataParallel, watched).register_comm_hook(None, hook)
    with contextlib.nullcontext() if hook else gradwatch.attach(watched, optimizer, folder, **options):
        for _ in range(5):
            plain_step(), watched_step()
        ratios, alone = [], []
        for number in range(ROUNDS):
            order = [plain_step, watched_step] if number % 2 else [watched_step, plain_step]
            took = {step: timed(step) for step in order}
            ratios.append(took[watched_step] / took[plain_step])
            alone.append(took[plain_step])
        counts = collectives(plain_step), collectives(watched_step)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return 1000 * statistics.median(alone), middle, (high - low) / 2, *counts


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    ddp = lambda: DistributedDataParallel(model())  # noqa: E731
    cases: list[tuple[str, Callable[[], nn.Module], dict[str, Any]]] = [
        ("DDP, rank 0 records alone", ddp, {}),
        ("DDP, ranks=True", ddp, {"ranks": True}),
        ("DDP, PyTorch's own hook alone", ddp, {"hook": allreduce_hook}),
        ("fully_shard", sharded, {}),
    ]
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes, {ROUNDS} rounds of {STEPS} steps; every step recorded")
        print(f"{'':<30}ms a step  with us, times  +-     collectives a step, without and with us")
    for name, make, options in cases:
        with tempfile.TemporaryDirectory() as folder:
            alone, ratio, spread, before, after = compare(make, Path(folder), **options)
        if dist.get_rank() == 0:
            print(f"{name:<30}{alone:>9.1f}{ratio:>15.3f}{spread:>7.3f}{before:>10} {after:>6}", flush=True)
        dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
