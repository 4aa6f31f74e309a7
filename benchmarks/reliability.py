"""Kill trainings and look at what is left of their runs: `python benchmarks/reliability.py [KILLS OF EACH KIND]`.

SIGKILL ends a small training at full speed, at a random moment from before its store exists to a few seconds in. Then
the script opens the store. Does it hold a beginning of the steps without a gap? Is every number that of the same
training without gradwatch, and does the store name the optimizers in their order? How much is missing? Each kind of
training has a row: plain, clipped, with several optimizers, resumed after earlier attempts, and all of these at once.
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

import numpy as np
import torch
from torch import nn

import gradwatch
from gradwatch.errors import GradwatchError

MOST, LONGEST = 6_000, 1.5  # steps of a training, seconds of the last attempt until it is killed
EARLIER = 100  # steps of each attempt before the one that is killed
MAX_NORM = 0.5
MOST_PATIENCE = 60.0  # seconds until the first step
RTOL = 1e-6  # the compiled pass adds at most 32 squares here in float32, which rounds the norm by 32 * 2**-25 at most


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of training.

    Attributes:
        clipped: by a policy of `attach`, or else not at all.
        optimizers: each of a model of its own, which step in turn.
        attempts: that ended before the one that is killed, each of `EARLIER` steps.
    """

    clipped: bool = False
    optimizers: int = 1
    attempts: int = 0


KINDS = {
    "plain": Kind(),
    "clipped": Kind(clipped=True),
    "three optimizers": Kind(optimizers=3),
    "resumed twice": Kind(attempts=2),
    "all of these": Kind(clipped=True, optimizers=3, attempts=2),
}


@dataclass(frozen=True)
class Killed:
    """The remains of one killed run."""

    made: int  # steps that the training had made
    recorded: int
    missing: float  # seconds of training that are not in the store
    opened: bool
    whole: bool  # a beginning without a gap
    right: bool  # every norm as it was


class Training:
    """A training that is the same whoever watches it, one step of every optimizer at a time."""

    def __init__(self, kind: Kind) -> None:
        torch.manual_seed(0)
        self.kind = kind
        self.models = [nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(kind.optimizers)]
        self.optimizers = {f"{at}": torch.optim.SGD(m.parameters(), lr=0.01) for at, m in enumerate(self.models)}
        self.generator = torch.Generator().manual_seed(1)

    def attach(self, run: Path) -> gradwatch.Watch:
        clip = gradwatch.clip.NormClip(MAX_NORM) if self.kind.clipped else None
        whole = nn.ModuleList(self.models)
        return gradwatch.attach(whole, self.optimizers, run, clip=clip, weights_every=0)

    def step(self) -> None:
        for model, optimizer in zip(self.models, self.optimizers.values(), strict=True):
            optimizer.zero_grad()
            x = torch.randn(8, 4, generator=self.generator)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()

    def norms(self) -> list[float]:
        """Make a step without gradwatch; return the total norm of each optimizer before clipping."""
        found = []
        for model, optimizer in zip(self.models, self.optimizers.values(), strict=True):
            optimizer.zero_grad()
            x = torch.randn(8, 4, generator=self.generator)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            found.append(float(torch.linalg.vector_norm(torch.cat([g.double().flatten() for g in gradients]))))
            if self.kind.clipped:
                # PyTorch's clip_grad_norm_ rounds its norm otherwise, which adds up over thousands of steps. By the
                # same policy, called by hand, both trainings have the same weights, bit by bit.
                gradwatch.clip.NormClip(MAX_NORM)(model.parameters())
            optimizer.step()
        return found


def watched(run: Path, counter: mmap.mmap, kind: Kind) -> None:
    """Train, and write the number of steps and the time of each to shared memory."""
    training, made = Training(kind), -1
    for attempt in range(kind.attempts + 1):
        is_last = attempt == kind.attempts
        with training.attach(run):
            for _ in range(MOST - kind.attempts * EARLIER if is_last else EARLIER):
                training.step()
                made += 1
                struct.pack_into("d", counter, 8 + 8 * made, time.monotonic())
                struct.pack_into("q", counter, 0, made)


def kill_one(expected: np.ndarray, folder: Path, generator: random.Random, kind: Kind, after: int) -> Killed:
    """Fork, train, kill, look."""
    counter = mmap.mmap(-1, 8 * (MOST + 2))
    struct.pack_into("q", counter, 0, -1)
    run = folder / f"{generator.getrandbits(64):x}"
    child = os.fork()
    if child == 0:
        watched(run, counter, kind)
        os._exit(0)
    wait(counter, generator, kind, after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    made = struct.unpack_from("q", counter, 0)[0]
    moments = np.frombuffer(counter, dtype=np.float64, count=MOST, offset=8)
    if not (run / "gradwatch.db").exists():
        return Killed(made, 0, 0.0, True, made <= 0, True)
    try:
        recorded, whole, right = look(run, expected, kind)
    except GradwatchError as error:
        print(error, file=sys.stderr)
        return Killed(made, 0, 0.0, False, False, False)
    last = moments[recorded] if 0 <= recorded <= made else moments[max(made, 0)]
    return Killed(made, recorded, float(moments[made] - last) if made >= 0 else 0.0, True, whole, right)


def wait(counter: mmap.mmap, generator: random.Random, kind: Kind, after: int) -> None:
    """Until it is time to kill: every fourth dies in the first moments, while the store is created."""
    if generator.random() < 1 / 4:
        time.sleep(generator.uniform(0, 0.1))
        return
    first = kind.attempts * EARLIER if generator.random() < 3 / 4 else 0  # of the last attempt, or of any
    first += after
    deadline = time.monotonic() + MOST_PATIENCE
    while struct.unpack_from("q", counter, 0)[0] < first and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, LONGEST))


def look(run: Path, expected: np.ndarray, kind: Kind) -> tuple[int, bool, bool]:
    """The steps that every optimizer has, whether each has a beginning of them, and whether all norms are right."""
    found = gradwatch.Run(run)
    lengths, whole, right = [], found.damaged_rows == 0, True
    right &= [*found.optimizers] == [f"{at}" for at in range(len(found.optimizers))]
    for name in found.optimizers:
        steps = found.steps(optimizer=name)
        lengths.append(len(steps))
        whole &= steps.index.tolist() == list(range(len(steps)))
        norms = expected[: len(steps), int(name)]
        right &= bool(np.allclose(steps["total_norm"], norms, rtol=RTOL, atol=0))
        if kind.clipped:
            coefficients = np.minimum(1.0, MAX_NORM / (norms + 1e-6))
            right &= bool(np.allclose(steps["clip_coef"], coefficients, rtol=RTOL, atol=0))
    return min(lengths, default=0), whole and max(lengths, default=0) - min(lengths, default=0) <= 1, right


def expected_norms(kind: Kind) -> np.ndarray:
    """The norms of the training without gradwatch, (steps, optimizers)."""
    training = Training(kind)
    return np.array([training.norms() for _ in range(MOST // kind.optimizers)])


def kills(count: int, seed: int = 0, kind: Kind = KINDS["plain"], after: int = 0) -> list[Killed]:
    """Kill this many trainings, each with its own run, and three of four no sooner than `after` steps."""
    torch.set_num_threads(1)
    expected = expected_norms(kind)
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        return [kill_one(expected, Path(folder), generator, kind, after) for _ in range(count)]


def lines(name: str, found: list[Killed]) -> Iterator[str]:
    """What is left of the trainings of one kind, in words."""
    missing = [one.missing for one in found]
    begun = [one for one in found if one.recorded]
    yield (
        f"{name}: {len(found)} kills, {len(begun)} of them with steps in the store,"
        f" {sum(o.recorded for o in found):,} steps"
    )
    yield f"  the store opens: {sum(one.opened for one in found)} of {len(found)}"
    yield f"  a beginning without a gap: {sum(one.whole for one in found)} of {len(found)}"
    yield f"  every number right: {sum(one.right for one in found)} of {len(found)}"
    yield f"  missing: {np.median(missing):.2f} s in the median, {max(missing):.2f} s at most"


def main() -> None:
    each = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for name, kind in KINDS.items():
        print("\n".join(lines(name, kills(each, kind=kind))), flush=True)


if __name__ == "__main__":
    main()
