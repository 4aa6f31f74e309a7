"""The recorder's thread and its process: what each takes of the training, and what a kill leaves.

`python benchmarks/process_recorder.py [KILLS]`. The first table is the processor time that a step takes of the
training process after its measurement: to hand it over, and in the recorder's thread if there is one. They take turns.
Then small trainings with ``recorder="process"`` are killed by SIGKILL at random moments. Every
step whose `optimizer.step` had returned has to be in the store, with the right number.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import sqlite3
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from reliability import KINDS, Kind, Training, expected_norms, look
from torch import nn

import gradwatch
from gradwatch.recording.process.sink import ProcessSink
from gradwatch.recording.recorder import Recorder

PARAMETERS, STEPS, ROUNDS = 1_000, 300, 7
GOAL = 0.15  # milliseconds a step beyond the measurement
MOST, LONGEST = 6_000, 0.6  # steps of a training, seconds until it is killed
PATIENCE = 60.0  # seconds for the recorder's process to end


class Clock:
    """Adds up the processor time that methods take, of whichever thread calls them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, method: Any) -> Any:
        def inner(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return inner


@contextlib.contextmanager
def clocked() -> Iterator[Clock]:
    """Time everything that a step costs after its measurement: handing it over, and what the recorder's thread does."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        for kind, names in ((ProcessSink, ("hold", "put")), (Recorder, ("hold", "put", "_work"))):
            for name in names:
                stack.enter_context(mock.patch.object(kind, name, _method(clock, getattr(kind, name))))
        looks = property(clock.timed(vars(ProcessSink)["events"].fget))
        stack.enter_context(mock.patch.object(ProcessSink, "events", looks))
        yield clock


def _method(clock: Clock, function: Any) -> Any:
    timed = clock.timed(function)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return timed(self, *args, **kwargs)

    return method


def cost(recorder: Any, run: Path) -> float:
    """Milliseconds of processor time a step, beyond the measurement."""
    model = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(PARAMETERS)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for parameter in model:
        parameter.grad = torch.ones(1)
    with clocked() as clock, gradwatch.attach(model, optimizer, run, recorder=recorder) as watch:
        for _ in range(STEPS):
            optimizer.step()
        watch.flush(60.0)
        return clock.seconds / STEPS * 1e3


def costs() -> None:
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"thread": [], "process": []}
    with tempfile.TemporaryDirectory() as folder:
        for at in range(ROUNDS):
            for name, each in found.items():
                each.append(cost(name, Path(folder) / f"{name}{at}"))
    load = os.getloadavg()[0]
    print(f"{PARAMETERS:,} parameters, {ROUNDS} turns of {STEPS} steps; the load of the machine is {load:.1f}")
    print("recorder   ms a step beyond the measurement: median   least   goal")
    for name, each in found.items():
        goal = f"{GOAL:>6}" if name == "process" else ""
        print(f"{name:<43} {statistics.median(each):>6.3f} {min(each):>7.3f} {goal}", flush=True)


# --------------------------------------------------------------------------------------- kills


class Process(Training):
    """A training whose recorder is a process."""

    def attach(self, run: Path) -> gradwatch.Watch:
        clip = gradwatch.clip.NormClip(0.5) if self.kind.clipped else None
        whole = nn.ModuleList(self.models)
        return gradwatch.attach(whole, self.optimizers, run, clip=clip, weights_every=0, recorder="process")


def watched(run: Path, counter: mmap.mmap, kind: Kind) -> None:
    training = Process(kind)
    with training.attach(run):
        for step in range(MOST):
            training.step()
            struct.pack_into("q", counter, 0, step + 1)


def wait_for_recorder(run: Path) -> float:
    """Wait until the recorder's process has ended; return the seconds that took."""
    began = time.monotonic()
    with contextlib.closing(sqlite3.connect(run / "gradwatch.db", timeout=PATIENCE)) as db:
        row = None
        with contextlib.suppress(sqlite3.OperationalError):
            row = db.execute("select pid from attempt order by attempt desc").fetchone()
    while row is not None and Path(f"/proc/{row[0]}").exists() and time.monotonic() < began + PATIENCE:
        state = ""
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{row[0]}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("Z", ""):
            break
        time.sleep(0.005)
    return time.monotonic() - began


def kill(kind: Kind, expected: np.ndarray, folder: Path, generator: random.Random) -> tuple[int, int, bool, float]:
    """Steps made, steps recorded, whether all is right, seconds until the recorder's process had ended."""
    counter = mmap.mmap(-1, 8)
    run = folder / f"{generator.getrandbits(64):x}"
    child = os.fork()
    if child == 0:
        watched(run, counter, kind)
        os._exit(0)
    if generator.random() > 0.1:  # every tenth dies while it begins
        deadline = time.monotonic() + PATIENCE
        while struct.unpack_from("q", counter, 0)[0] < 1 and time.monotonic() < deadline:
            time.sleep(0.001)
    time.sleep(generator.uniform(0, LONGEST))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    made = struct.unpack_from("q", counter, 0)[0]
    if not (run / "gradwatch.db").exists():
        return made, 0, made == 0, 0.0
    seconds = wait_for_recorder(run)
    if made == 0:
        return 0, 0, True, seconds
    recorded, whole, right = look(run, expected, kind)
    return made, recorded, whole and right, seconds


def kills(count: int) -> None:
    torch.set_num_threads(1)
    generator = random.Random(0)
    for name in ("plain", "clipped", "three optimizers"):
        kind, number = KINDS[name], count // 3 + (name == "plain") * (count % 3)
        if number == 0:
            continue
        expected = expected_norms(kind)
        with tempfile.TemporaryDirectory() as folder:
            found = [kill(kind, expected, Path(folder), generator) for _ in range(number)]
        lost = sum(max(0, made - recorded) for made, recorded, _, _ in found)
        print(
            f"{name}: {len(found)} kills, {sum(made for made, *_ in found):,} steps made, {lost} of them lost;"
            f" whole and right: {sum(right for _, _, right, _ in found)} of {len(found)};"
            f" ended {statistics.median(s for *_, s in found):.2f} s after the kill,"
            f" {max(s for *_, s in found):.2f} at most",
            flush=True,
        )


def main() -> None:
    costs()
    kills(int(sys.argv[1]) if len(sys.argv) > 1 else 500)


if __name__ == "__main__":
    main()
