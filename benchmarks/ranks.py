"""Measure what recording costs a training in several processes: `torchrun --nproc-per-node 4 benchmarks/ranks.py`.

Two equal trainings take turns in the same processes; one is recorded. A round compares the time of a step of one with
the time of a step of the other. torch's profiler counts the collectives. With ``--device cuda`` each process trains on
a card of its own over NCCL, and PyTorch's warnings count the synchronisations of the training thread.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import warnings
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

STEPS, BATCH, LENGTH, WIDTH = 4, 4, 32, 128
DEVICE = torch.device("cpu")


def model() -> nn.Sequential:
    """A transformer of 64 parameters, 0.9 M entries."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(5)]
    return nn.Sequential(nn.Embedding(256, WIDTH), *layers, nn.Linear(WIDTH, 256)).to(DEVICE)


def sharded() -> nn.Module:
    network = model()
    for part in list(network)[1:-1]:
        fully_shard(part)
    fully_shard(network)
    return network


def trainer(network: nn.Module) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)
    x = torch.randint(256, (BATCH, LENGTH), device=DEVICE)

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
    kinds = ("gloo:", "nccl:")
    return sum(event.count for event in profile.key_averages() if event.key.startswith(kinds))


def waits(step: Callable[[], None]) -> int | None:
    """Count the synchronisations of one step; None where PyTorch does not warn of them."""
    if DEVICE.type != "cuda":
        return None
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)


def timed(step: Callable[[], None]) -> float:
    dist.barrier()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()
    return (time.perf_counter() - began) / STEPS


def compare(
    make: Callable[[], nn.Module], folder: Path, rounds: int, **options: Any
) -> tuple[float, float, float, str, str]:
    """Return the bare milliseconds per step, the ratio when recorded, half its quartile range, and what each does.

    That is the collectives of a step and, on CUDA, its synchronisations.
    """
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
        for number in range(rounds):
            order = [plain_step, watched_step] if number % 2 else [watched_step, plain_step]
            took = {step: timed(step) for step in order}
            ratios.append(took[watched_step] / took[plain_step])
            alone.append(took[plain_step])
        counts = [
            f"{collectives(step)}" + ("" if (waited := waits(step)) is None else f"/{waited}")
            for step in (plain_step, watched_step)
        ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return 1000 * statistics.median(alone), middle, (high - low) / 2, counts[0], counts[1]


def main() -> None:
    global DEVICE  # noqa: PLW0603
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    if options.device == "cuda":
        DEVICE = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(DEVICE)
    dist.init_process_group("gloo" if options.device == "cpu" else "nccl")
    torch.set_num_threads(1)
    ddp = lambda: DistributedDataParallel(model())  # noqa: E731
    cases: list[tuple[str, Callable[[], nn.Module], dict[str, Any]]] = [
        ("DDP, rank 0 records alone", ddp, {}),
        ("DDP, ranks=True", ddp, {"ranks": True}),
        ("DDP, PyTorch's own hook alone", ddp, {"hook": allreduce_hook}),
        ("fully_shard", sharded, {}),
    ]
    if dist.get_rank() == 0:
        counted = "collectives" if DEVICE.type == "cpu" else "collectives/synchronisations"
        print(f"{dist.get_world_size()} processes, {options.rounds} rounds of {STEPS} steps; every step recorded")
        print(f"{'':<30}ms a step  with us, times  +-     {counted} a step, without and with us")
    for name, make, more in cases:
        with tempfile.TemporaryDirectory() as folder:
            alone, ratio, spread, before, after = compare(make, Path(folder), options.rounds, **more)
        if dist.get_rank() == 0:
            print(f"{name:<30}{alone:>9.1f}{ratio:>15.3f}{spread:>7.3f}{before:>10} {after:>6}", flush=True)
        dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
