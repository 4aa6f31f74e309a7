"""Kill trainings and look at what is left of their runs: `python benchmarks/reliability.py [KILLS]`.

SIGKILL ends a small training at full speed, at a random moment from before its store exists to a few seconds in. Then
the script opens the store. Does it hold a beginning of the steps without a gap? Is every number that of the same
training without gradwatch? How much is missing?
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

import gradwatch
from gradwatch.errors import GradwatchError

MOST, LONGEST = 30_000, 2.5  # steps of a training, seconds until it is killed


@dataclass(frozen=True)
class Killed:
    """The remains of one killed run."""

    made: int  # steps that the training had made
    recorded: int
    missing: float  # seconds of training that are not in the store
    opened: bool
    whole: bool  # a beginning without a gap
    right: bool  # every norm as it was


def training() -> Iterator[float]:
    """Yield the total norm of each step, then update the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    yield model, optimizer  # type: ignore[misc]
    for _ in range(MOST):
        optimizer.zero_grad()
        x = torch.randn(8, 4)
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        yield float(torch.linalg.vector_norm(torch.cat([p.grad.double().flatten() for p in model.parameters()])))  # type: ignore[union-attr]
        optimizer.step()


def watched(run: Path, counter: mmap.mmap) -> None:
    """Train, and write the number of steps and the time of each to shared memory."""
    steps = training()
    model, optimizer = cast("tuple[nn.Module, torch.optim.Optimizer]", next(steps))
    with gradwatch.attach(model, optimizer, run, weights_every=0):
        for made, _ in enumerate(steps):
            struct.pack_into("d", counter, 8 + 8 * made, time.monotonic())
            struct.pack_into("q", counter, 0, made)


def kill_one(expected: np.ndarray, folder: Path, generator: random.Random) -> Killed:
    """Fork, train, kill, look."""
    counter = mmap.mmap(-1, 8 * (MOST + 2))
    struct.pack_into("q", counter, 0, -1)
    run = folder / f"{generator.getrandbits(64):x}"
    child = os.fork()
    if child == 0:
        watched(run, counter)
        os._exit(0)
    # Half of them die in the first moments, while the store is created.
    time.sleep(generator.uniform(0, 0.1 if generator.random() < 0.5 else LONGEST))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    made = struct.unpack_from("q", counter, 0)[0]
    moments = np.frombuffer(counter, dtype=np.float64, count=MOST, offset=8)
    if not (run / "gradwatch.db").exists():
        return Killed(made, 0, 0.0, True, made <= 0, True)
    try:
        steps = gradwatch.Run(run).steps()
    except GradwatchError as error:
        print(error, file=sys.stderr)
        return Killed(made, 0, 0.0, False, False, False)
    recorded = len(steps)
    last = moments[recorded] if 0 <= recorded <= made else moments[max(made, 0)]
    return Killed(
        made,
        recorded,
        float(moments[made] - last) if made >= 0 else 0.0,
        True,
        steps.index.tolist() == list(range(recorded)),
        bool(np.allclose(steps["total_norm"], expected[:recorded], rtol=1e-6, atol=0)),
    )


def kills(count: int, seed: int = 0) -> list[Killed]:
    """Kill this many trainings, each with its own run."""
    torch.set_num_threads(1)
    steps = training()
    next(steps)
    expected = np.array(list(steps))
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        return [kill_one(expected, Path(folder), generator) for _ in range(count)]


def main() -> None:
    found = kills(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    missing = [one.missing for one in found]
    begun = [one for one in found if one.recorded]
    print(f"{len(found)} kills, {len(begun)} of them with steps in the store, {sum(o.recorded for o in found):,} steps")
    print(f"the store opens: {sum(one.opened for one in found)} of {len(found)}")
    print(f"a beginning without a gap: {sum(one.whole for one in found)} of {len(found)}")
    print(f"every number right: {sum(one.right for one in found)} of {len(found)}")
    print(f"missing: {np.median(missing):.2f} s in the median, {max(missing):.2f} s at most")


if __name__ == "__main__":
    main()
