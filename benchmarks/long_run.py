"""A long run and many readers: `python benchmarks/long_run.py [STEPS [MINUTES]]`.

First one process records 1,000,000 steps of 150 parameters. What does a step cost, and how much memory does the
process hold, in the first hundredth and in the last? How large is the file, compared with its schema? What does
`gradwatch report` of it take? Then one process writes at full speed for ten minutes, while eight others read all the
time. Do they ever read anything wrong?
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradwatch

PARAMETERS, ENTRIES, READERS = 150, 16, 8
A_STEP = PARAMETERS * 4 * 4  # bytes: four statistics
TOLERANCE = 1e-5


def training(steps: int) -> Iterator[tuple[nn.Module, torch.optim.Optimizer]]:
    """Train with gradients that need no backward pass, so that a million steps take minutes.

    The gradient of every entry at step s is 1 + s % 1000.
    """
    model = nn.ParameterList([nn.Parameter(torch.zeros(ENTRIES)) for _ in range(PARAMETERS)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, foreach=True)
    gradients = torch.zeros(PARAMETERS, ENTRIES)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    yield model, optimizer
    for step in range(steps):
        gradients.fill_(1 + step % 1000)
        yield model, optimizer


def norms(steps: np.ndarray) -> np.ndarray:
    """Return the total norm at each step."""
    return np.asarray((1 + steps % 1000) * math.sqrt(PARAMETERS * ENTRIES))


def resident() -> float:
    """Return the memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@dataclass(frozen=True)
class Long:
    """The cost of a long recording, in microseconds per step and MB."""

    steps: int
    seconds: float
    dropped: int
    first_cost: float
    last_cost: float
    first_memory: float
    last_memory: float
    size: int
    right: bool


def record(folder: Path, steps: int) -> Long:
    """Record steps; return the median cost of `step()` in the first and last hundredth, without the warm-up."""
    torch.set_num_threads(1)
    costs = np.zeros(steps, np.float32)
    memory = []
    trained = training(steps)
    model, optimizer = next(trained)
    began = time.monotonic()
    with gradwatch.attach(model, optimizer, folder, weights_every=0) as watch:
        for step, _ in enumerate(trained):
            before = time.perf_counter()
            optimizer.step()
            costs[step] = time.perf_counter() - before
            if step % max(1, steps // 100) == 0:
                memory.append(resident())
            if step % 5000 == 0:  # faster than a disk may be, but dropped steps do not matter here
                watch.flush(60)
    seconds = time.monotonic() - began
    run = gradwatch.Run(folder)
    frame = run.steps()
    index = frame.index.to_numpy()
    hundredth = max(1, steps // 100)
    return Long(
        steps=len(frame),
        seconds=seconds,
        dropped=sum(attempt.dropped for attempt in run.attempts()),
        first_cost=float(np.median(costs[100 : 100 + hundredth])) * 1e6,
        last_cost=float(np.median(costs[-hundredth:])) * 1e6,
        first_memory=float(np.median(memory[1:4])),
        last_memory=float(np.median(memory[-3:])),
        size=(folder / "gradwatch.db").stat().st_size,
        right=bool(
            np.array_equal(index, np.arange(steps))
            and np.allclose(frame["total_norm"], norms(index), rtol=TOLERANCE, atol=0)
        ),
    )


def report(folder: Path) -> tuple[float, float]:
    """Return the seconds and MB that the command takes."""
    code = (
        "import resource, sys; sys.argv = ['gradwatch', 'report', sys.argv[1]]\n"
        "from gradwatch.cli import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - began, int(done.stderr.split()[-1]) / 1024


def read(folder: Path, until: float, found: multiprocessing.SimpleQueue[tuple[int, int, int]]) -> None:
    """Read all the time; return how often, how many steps at the end, and how often anything was wrong."""
    reads, wrong, steps = 0, 0, 0
    while time.monotonic() < until:
        try:
            run = gradwatch.Run(folder)
            index = run.steps().index.to_numpy()
            latest = run.standing()[-500:]
            _, table = run.layer_rows("norm", after=int(latest[0, 0]) - 1, up_to=int(latest[-1, 0]))
            expected = np.repeat((1 + latest[: len(table), 1] % 1000)[:, None] * np.sqrt(ENTRIES), PARAMETERS, axis=1)
            right = np.array_equal(index, np.arange(len(index))) and len(index) >= steps and not run.damaged_rows
            wrong += not (right and np.allclose(table, expected, rtol=TOLERANCE, atol=0))
            steps = len(index)
        except gradwatch.GradwatchError as error:
            print(error, file=sys.stderr)
            wrong += 1
        reads += 1
    found.put((reads, steps, wrong))


@dataclass(frozen=True)
class Shared:
    """One writer and its readers."""

    steps: int
    dropped: int
    reads: int
    wrong: int
    whole: bool


def share(folder: Path, seconds: float, pause: float = 2e-3) -> Shared:
    """Write while others read. A ``pause`` between two steps leaves the readers a processor."""
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    trained = training(sys.maxsize)
    model, optimizer = next(trained)
    until = time.monotonic() + seconds
    readers = [context.Process(target=read, args=(folder, until, found)) for _ in range(READERS)]
    made = 0
    with gradwatch.attach(model, optimizer, folder, weights_every=0) as watch:
        while time.monotonic() < until:
            next(trained)
            optimizer.step()
            made += 1
            time.sleep(pause)
            if made == 1000:
                watch.flush()
                for reader in readers:
                    reader.start()
    for reader in readers:
        reader.join()
    told = [found.get() for _ in readers]
    run = gradwatch.Run(folder)
    recorded, dropped = len(run.steps()), sum(attempt.dropped for attempt in run.attempts())
    return Shared(made, dropped, sum(t[0] for t in told), sum(t[2] for t in told), recorded + dropped == made)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    with tempfile.TemporaryDirectory() as folder:
        long = record(Path(folder), steps)
        print(f"{long.steps:,} steps of {PARAMETERS} parameters in {long.seconds:.0f} s, {long.dropped} dropped")
        print(f"every step there and right: {'yes' if long.right else 'NO'}")
        print(f"a step: {long.first_cost:.0f} us in the first hundredth, {long.last_cost:.0f} us in the last")
        print(f"memory: {long.first_memory:.0f} MB in the first hundredth, {long.last_memory:.0f} MB in the last")
        a_step = long.size / max(1, long.steps)
        print(f"file: {long.size / 1e9:.2f} GB, {a_step:.0f} bytes a step, of them {A_STEP} the statistics")
        seconds, memory = report(Path(folder))
        print(f"gradwatch report: {seconds:.1f} s, {memory:.0f} MB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shared = share(Path(folder), 60 * minutes)
        print(f"{READERS} readers for {minutes:g} minutes: {shared.reads:,} reads of up to {shared.steps:,} steps")
        print(f"wrong, refused or out of order: {shared.wrong}")
        print(f"steps dropped: {shared.dropped}; every other step is there: {'yes' if shared.whole else 'NO'}")


if __name__ == "__main__":
    main()
