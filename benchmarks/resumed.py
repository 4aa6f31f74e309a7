"""What a resumed attempt costs and keeps, after how many earlier steps: `python benchmarks/resumed.py [STEPS ...]`.

Each run is resumed with the state of its detectors in the store and without it, as an older gradwatch left it. The
script prints how long `attach` takes, when the first new step is in the store, how much a kill -9 after 3 seconds
loses, and whether a short attempt of 50 steps is there after `close`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import gradwatch
from gradwatch.detect import detectors_for
from gradwatch.detect.state import dump
from gradwatch.record import ParameterInfo, StepRecord
from gradwatch.recording.snapshots import version_of
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter
from gradwatch.testing import steady, stream

STEPS = (90_000, 220_000)
CHUNK = 5_000  # records of one transaction
SEEN = 1_000  # of the earlier steps by the detectors whose state is stored, which is as large after all of them
KILLED_AFTER, PAUSE = 3.0, 0.003  # seconds of the attempt, and of sleep in each of its steps
SHORT = 50


def training() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of 16 parameters that does not change."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(8)])
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model, torch.optim.SGD(model.parameters(), 0.0)


def earlier_steps(steps: int) -> Iterator[list[StepRecord]]:
    """The records of the first attempt, in chunks."""
    named = training()[0].named_parameters()
    infos = tuple(ParameterInfo(name=name, shape=tuple(parameter.shape)) for name, parameter in named)
    norms = steady(steps)
    for begin in range(0, steps, CHUNK):
        part = norms[begin : begin + CHUNK]
        yield stream(part, parameters=infos, shares=[0.25] * len(infos), first_step=begin)


def write_earlier(run: Path, steps: int) -> None:
    """A run of so many steps, with the state of its detectors."""
    with gradwatch.attach(*training(), run, weights_every=0):
        pass  # for the facts that belong to a run
    with StoreReader(run) as reader:
        settings = reader.settings("0")
    writer, last, records = StoreWriter(run), 0, []
    writer.begin_attempt({}, {"0": ("SGD", settings)})
    for records in earlier_steps(steps):
        last = writer.append(records)
    detectors = detectors_for("SGD", settings)
    version = version_of(detectors)
    for record in records[-SEEN:]:
        for detector in detectors:
            detector.update(record)
    writer.save_detector_state("0", last, version, [dump(detectors)])
    writer.end_attempt("closed")


def newest(run: Path) -> int:
    """The last step in the store."""
    db = sqlite3.connect(f"file:{run / FILE_NAME}?mode=ro", uri=True)
    try:
        return int(db.execute("select step from step order by id desc limit 1").fetchone()[0])
    finally:
        db.close()


def killed(run: Path, earlier: int) -> str:
    """Resume in a process of its own and kill it; say when the first step was there and what is lost."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        model, optimizer = training()
        gradwatch.attach(model, optimizer, run, weights_every=0)
        os.write(writing, f"{time.monotonic() - began:.3f}\n".encode())
        while True:
            optimizer.step()
            os.write(writing, b".")
            time.sleep(PAUSE)
    attached = os.read(reading, 100).split(b"\n")[0].decode()
    begun = time.monotonic()
    first = None
    while time.monotonic() - begun < KILLED_AFTER:
        if first is None and newest(run) >= earlier:
            first = time.monotonic() - begun
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.set_blocking(reading, False)
    made = len(os.read(reading, 2**20))
    with StoreReader(run) as reader:
        stored = reader.next_step("0") - earlier
    shown = "none" if first is None else f"{first:.2f} s"
    lost = KILLED_AFTER * (made - stored) / max(made, 1)
    return f"attach {attached} s, first commit {shown}, killed: {stored} of {made} steps, {lost:.2f} s lost"


def short(run: Path, earlier: int) -> str:
    """Resume for a few steps and close."""
    model, optimizer = training()
    watch = gradwatch.attach(model, optimizer, run, weights_every=0)
    for _ in range(SHORT):
        optimizer.step()
    began = time.monotonic()
    watch.close()
    took = time.monotonic() - began
    with StoreReader(run) as reader:
        stored, last = reader.next_step("0") - earlier, reader.attempts()[-1]
    return f"close {took:.2f} s: {stored} of {SHORT} steps, {last.dropped} dropped, ended {last.reason!r}"


def main() -> None:
    torch.set_num_threads(1)
    lengths = [int(argument) for argument in sys.argv[1:]] or STEPS
    with tempfile.TemporaryDirectory() as folder:
        for earlier in lengths:
            run = Path(folder) / f"{earlier}"
            write_earlier(run, earlier)
            for has_state in (True, False):
                copies = [Path(folder) / f"{earlier}.{has_state}.{kind}" for kind in ("killed", "short")]
                for copy in copies:
                    shutil.copytree(run, copy)
                    if not has_state:
                        db = sqlite3.connect(copy / FILE_NAME)
                        db.execute("update detector_state set version = 'of another gradwatch'")
                        db.commit()
                        db.close()
                print(f"{earlier:,} earlier steps, {'with' if has_state else 'without'} the state of the detectors")
                print(f"  {killed(copies[0], earlier)}")
                print(f"  {short(copies[1], earlier)}", flush=True)


if __name__ == "__main__":
    main()
