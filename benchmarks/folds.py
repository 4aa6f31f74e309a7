"""Memory and time over many models that are trained one after the other, as in a search or a cross-validation.

    python benchmarks/folds.py --models 1000

Prints for each tenth of the models, with the recording and without it, what the process holds, the processor time of a
step in the training thread, and that of a whole model in all threads. Other processes do not count in either.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import gradwatch

STEPS = 10
"""Of each model."""


def resident_mb() -> float:
    """The memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def train(watch: gradwatch.Watch | None, name: str, width: int) -> float:
    """Train one model; return the seconds of the training thread for a step, of the faster half."""
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if watch is not None:
        watch.add(name, model, optimizer)
    batch, seconds = torch.randn(4, width), []
    for _ in range(STEPS):
        began = time.thread_time()
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.thread_time() - began)
    return sorted(seconds)[STEPS // 4]


def measure(models: int, width: int, is_recorded: bool) -> list[dict[str, float]]:
    """The memory and the time of each tenth of the models."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        first = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
        watch = gradwatch.attach(first, optimizer, Path(folder) / "run") if is_recorded else None
        for tenth in range(10):
            began = time.process_time()
            steps = [train(watch, f"{tenth}.{at}", width) for at in range(models // 10)]
            took = (time.process_time() - began) / len(steps)
            gc.collect()
            rows.append({"mb": resident_mb(), "step_us": 1e6 * sorted(steps)[len(steps) // 2], "model_ms": 1e3 * took})
        if watch is not None:
            watch.close()
            found = gradwatch.Run(Path(folder) / "run")
            assert watch.steps == STEPS
            assert len(found.steps()) == models // 10 * 10 * STEPS
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--only", choices=["plain", "recorded"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.models, arguments.width, arguments.only == "recorded")))
        return
    both = {}
    for kind in ("plain", "recorded"):  # each in a process of its own
        command = [sys.executable, __file__, "--models", str(arguments.models), "--width", str(arguments.width)]
        done = subprocess.run([*command, "--only", kind], capture_output=True, text=True, check=True)
        both[kind] = json.loads(done.stdout.splitlines()[-1])
    print("models  plain MB  recorded MB  plain us/step  recorded us/step  plain ms/model  recorded ms/model")
    for at, (plain, recorded) in enumerate(zip(both["plain"], both["recorded"], strict=True), 1):
        print(
            f"{at * arguments.models // 10:6d}  {plain['mb']:8.0f}  {recorded['mb']:11.0f}  {plain['step_us']:13.0f}"
            f"  {recorded['step_us']:16.0f}  {plain['model_ms']:14.1f}  {recorded['model_ms']:17.1f}"
        )


if __name__ == "__main__":
    main()
