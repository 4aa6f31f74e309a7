"""Measure what recording the updates costs, how exact it is, and what it takes on the disk.

    python benchmarks/updates.py [--models many,gpt,lstm] [--rounds 21] [--steps 200]

The models and the interleaved rounds are those of overhead.py. Every variant observes the same training; they differ in
`updates_every` only. Without it, the updates of all parameters are read at every so many steps, and those of the
sentinels at every step. "one read" is the least time of a call of `measure_updates` beside the least time of a step,
which a busy machine does not blur. The errors are those of a sampled update_norm against the whole parameter. The bytes
are those of the store after `--steps` steps, whose gradients are set by hand; a busy machine does not change them.
updates.txt is the printed table.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from overhead import LEARNING_RATE, MODELS, Between, Model, Times, Training, Variant, bare, ratios, training

import gradwatch
from gradwatch.measure import fused, measure_updates
from gradwatch.measure import updates as module


def observing(updates_every: int | None) -> Variant:
    def variant(t: Training) -> tuple[Between, Callable[[], object]]:
        watch = t.stack.enter_context(gradwatch.attach(t.model, t.optimizer, t.folder, updates_every=updates_every))
        return lambda: None, watch.flush

    return variant


VARIANTS = {
    "torch alone": bare,
    "observing, updates_every=0": observing(0),
    "observing": observing(None),
    "observing, updates_every=10": observing(10),
    "observing, updates_every=1": observing(1),
}


def rounds_of(model: Model, rounds: int) -> Times:
    """The seconds of each round of each variant."""
    times: Times = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for number, (name, variant) in enumerate(VARIANTS.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            runs[name] = training(model, variant, place, 1.0, compiled=True)
            next(runs[name])
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(next(run))
        for run in runs.values():
            run.close()
    return times


def bytes_a_step(model: Model, steps: int) -> dict[str, float]:
    """The bytes that a run of so many steps takes on the disk for each."""
    sizes = {}
    for name, variant in list(VARIANTS.items())[1:]:
        torch.manual_seed(0)
        net = model.make()
        optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.ExitStack() as stack:
                variant(Training(net, optimizer, Path(folder), 1.0, stack))
                for parameter in net.parameters():
                    parameter.grad = torch.randn_like(parameter)
                for _ in range(steps):
                    optimizer.step()
            sizes[name] = sum(path.stat().st_size for path in Path(folder).rglob("*")) / steps
    return sizes


def one_read(model: Model, *, compiled: bool) -> tuple[float, float, list[float]]:
    """Seconds of a read and of a step, and the relative error of each parameter's update_norm."""
    torch.manual_seed(0)
    net = model.make()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    parameters = list(net.parameters())
    reads, steps = [], []
    with mock.patch.object(module, "reads_updates", fused.reads_updates if compiled else lambda: False):
        for _ in range(12):
            began = time.perf_counter()
            optimizer.zero_grad()
            net(model.data()).backward()
            optimizer.step()
            steps.append(time.perf_counter() - began)
            began = time.perf_counter()
            found = measure_updates(optimizer, parameters)
            reads.append(time.perf_counter() - began)
        assert found is not None
        sampled = found.collect()["update_norm"]
        whole = measure_updates(optimizer, parameters, most=2**62)
    assert whole is not None
    exact = whole.collect()["update_norm"]
    known = exact > 0
    return min(reads), min(steps), np.abs(sampled[known] / exact[known] - 1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=200, help="of a run whose bytes are counted; 0: none")
    parser.add_argument("--models", default="many,gpt,lstm")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, {os.cpu_count()} processors")
    print(f"medians of {options.rounds} interleaved rounds, with the quarters")
    for name in options.models.split(","):
        model = MODELS[name]
        torch.set_num_threads(model.threads)
        print(f"\n{model.about}")
        for compiled in (True, False):
            read, step, errors = one_read(model, compiled=compiled)
            route = "compiled" if compiled else "PyTorch's operators"
            print(
                f"  one read, {route}: {1e3 * read:.2f} ms beside {1e3 * step:.1f} ms a step, {read / step:.1%};"
                f" error of update_norm: median {np.median(errors):.1%}, largest {max(errors):.1%}",
                flush=True,
            )
        if options.rounds:
            times = rounds_of(model, options.rounds)
            print(f"  {'':<32}{'to the bare step':>26}{'to updates_every=0':>26}")
            for variant in list(VARIANTS)[1:]:
                cells = [ratios(times[variant], times[base]) for base in list(VARIANTS)[:2]]
                print(f"  {variant:<32}{cells[0]:>26}{cells[1]:>26}", flush=True)
        for variant, size in bytes_a_step(model, options.steps).items() if options.steps else ():
            print(f"  {variant:<32}{size:>10.0f} bytes a step", flush=True)


if __name__ == "__main__":
    main()
