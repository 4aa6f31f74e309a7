"""Measure the processor time that observing adds to a step: in the training thread and in the recorder's, by part.

    python benchmarks/thread_cost.py [--models many,gpt,lstm] [--rounds 30]
    python benchmarks/thread_cost.py --intervals

The models, the threshold and the rounds of a few steps, each with a flush at its end, are those of overhead.py. A
training that clips, one that is observed, and one that is observed with `updates_every=0` take turns in one process.
PyTorch has one thread, so that all the training's work is in the thread that is measured. Other programs change the
processor time only as far as they empty the caches and share a core.

"training thread" is the median over the rounds, with the quarters, of the difference to the training that clips. It
has the noise of a whole step. "within" is the mean of what the hooks took, by part and without the parts within it, and
"recorder" the same of the recorder's thread; the parts do not have that noise. What gradwatch reads first, PyTorch then
finds in the caches, so that "within" is more than the difference. What the helper thread reads while PyTorch computes
its norm is in neither. The clock is read around each part, which takes about a microsecond.

`--intervals` measures instead what a step costs the recorder's thread with different times between its rounds. The
trainings have small tensors and the pace of the GPT and of the LSTM of overhead.py, and read 48 MB in each step, which
empties the caches. thread_cost.txt is the printed table of both.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from overhead import (
    LEARNING_RATE,
    MODELS,
    Model,
    Training,
    Variant,
    alone,
    ours_observing,
    threshold,
    torch_clip,
    without_updates,
)

import gradwatch
from gradwatch.measure import fused
from gradwatch.recording import recorder, sink, tracker
from gradwatch.recording.judge import Judge
from gradwatch.recording.recording import Recording
from gradwatch.recording.snapshots import Snapshots
from gradwatch.recording.weight_sampler import WeightSampler
from gradwatch.store import StoreWriter
from gradwatch.store import writer as store_writer
from gradwatch.store.connection import WritingConnection
from gradwatch.store.digests import RecordDigesters

VARIANTS: dict[str, Variant] = {
    "clips": torch_clip,
    "observing": ours_observing,
    "observing, updates_every=0": without_updates(ours_observing),
}
PARTS: list[tuple[Any, str, str]] = [
    (Recording, "guarded", "hooks"),
    (tracker, "measure", "gradients"),
    (WeightSampler, "before", "weights"),
    (WeightSampler, "after", "weights"),
    (WeightSampler, "magnitudes", "magnitudes"),
    (WeightSampler, "updates", "updates of all"),
    (WeightSampler, "sentinels", "sentinels"),
    (recorder, "make_record", "records"),
    (Judge, "see", "detectors"),
    (StoreWriter, "append", "store"),
    (store_writer, "step_rows", "rows"),
    (WritingConnection, "insert", "inserts"),
    (RecordDigesters, "add", "digests"),
    (Snapshots, "save", "snapshots"),
]
"""What is measured: where it is, its name, and that of the part."""


@dataclass
class Clock:
    """The processor time of the parts in one thread, without that of the parts within them."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    inside: list[float] = field(default_factory=list)  # what the parts within each running one took


clocks: dict[tuple[str, int], Clock] = {}
"""By variant and thread."""
running: list[str] = [""]
"""The variant whose round it is."""


def clock() -> Clock:
    return clocks.setdefault((running[0], threading.get_ident()), Clock())


def measured(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        own = clock()
        own.inside.append(0.0)
        began = time.thread_time()
        try:
            return work(*args, **kwargs)
        finally:
            took = time.thread_time() - began
            own.seconds[part] += took - own.inside.pop()
            if own.inside:
                own.inside[-1] += took

    return call


@contextlib.contextmanager
def parts_measured() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, name, part in PARTS:
            stack.enter_context(mock.patch.object(owner, name, measured(part, getattr(owner, name))))
        yield


def training(model: Model, variant: Variant, folder: Path, max_norm: float) -> Generator[float]:
    """Train without end; yield this thread's processor time of each round."""
    torch.manual_seed(0)
    module = model.make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    with contextlib.ExitStack() as stack:
        between, after = variant(Training(module, optimizer, folder, max_norm, stack))
        while True:
            with alone(folder):
                began = time.thread_time()
                for _ in range(model.steps):
                    optimizer.zero_grad()
                    module(model.data()).backward()
                    between()
                    optimizer.step()
                after()
                took = time.thread_time() - began
            yield took


@dataclass
class Found:
    """Of one variant, in seconds: its rounds in this thread, and the recorder's thread in all of them."""

    rounds: list[float] = field(default_factory=list)
    recorder: float = 0.0
    threads: list[int] = field(default_factory=list)  # of its recorder


def take_turns(model: Model, rounds: int) -> dict[str, Found]:
    max_norm = threshold(model)
    found = {name: Found() for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        runs, of_recorder = {}, {}
        for number, (name, variant) in enumerate(VARIANTS.items()):
            running[0] = name
            place = Path(folder) / str(number)
            place.mkdir()
            runs[name] = training(model, variant, place, max_norm)
            before = {one.ident for one in threading.enumerate()}
            next(runs[name])
            for one in threading.enumerate():
                if one.name == "gradwatch" and one.ident not in before and one.ident is not None:
                    of_recorder[name] = time.pthread_getcpuclockid(one.ident)
                    found[name].threads.append(one.ident)
        clocks.clear()
        for number in range(rounds):
            first = number % len(runs)
            for name in [*list(runs)[first:], *list(runs)[:first]]:
                running[0] = name
                began = time.clock_gettime(of_recorder[name]) if name in of_recorder else 0.0
                found[name].rounds.append(next(runs[name]))
                if name in of_recorder:
                    found[name].recorder += time.clock_gettime(of_recorder[name]) - began
        running[0] = ""  # what the end of a recording takes is not that of a step
        for run in runs.values():
            run.close()
    return found


def table(model: Model, rounds: int) -> None:
    torch.set_num_threads(1)
    found = take_turns(model, rounds)
    clips, steps = found.pop("clips").rounds, rounds * model.steps
    a_step = 1e3 * statistics.median(clips) / model.steps
    print(f"\n{model.about.rpartition(',')[0]}, {steps} steps: {a_step:.1f} ms a step that clips")
    for name, one in found.items():
        more = sorted(1e3 * (own - other) / model.steps for own, other in zip(one.rounds, clips, strict=True))
        middle, quarter = statistics.median(more), len(more) // 4
        print(f"  {name}: training thread {middle:+.2f} ms ({more[quarter]:+.2f} to {more[-1 - quarter]:+.2f})")
        parts: tuple[dict[str, float], dict[str, float]] = {}, {}
        for (variant, thread), own in clocks.items():
            if variant == name and thread in (threading.get_ident(), *one.threads):
                parts[thread != threading.get_ident()].update(own.seconds)
        within, recorded = parts
        print(line("within", sum(within.values()), within, steps))
        rest = {"rest": one.recorder - sum(recorded.values())}
        print(line("recorder", one.recorder, recorded | rest, steps), flush=True)


def line(title: str, seconds: float, parts: dict[str, float], steps: int) -> str:
    listed = ", ".join(
        f"{part} {1e3 * spent / steps:.3f}" for part, spent in sorted(parts.items(), key=lambda p: -p[1])
    )
    return f"    {title:<9}{1e3 * seconds / steps:6.3f} ms: {listed}"


class Small(torch.nn.Module):
    """Tensors of 16 entries."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.parts = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(4, 4) / 2) for _ in range(tensors)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = torch.tanh(x @ part)
        return 1e8 * x.square().mean()


PACES = {"GPT, 148 tensors": (148, 0.2), "LSTM, 11 tensors": (11, 0.08)}
"""Tensors, and seconds a step."""
INTERVALS = (0.25, 0.5, 1.0)
SECONDS = 2.0
"""The length of a round of `by_interval`."""


def by_interval(tensors: int, pace: float, rounds: int) -> dict[float, list[float]]:
    """The milliseconds of the recorder's thread for a step, in each round, by the time between its own rounds."""
    module, caches, steps = Small(tensors), torch.zeros(12 * 2**20), round(SECONDS / pace)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    found: dict[float, list[float]] = {interval: [] for interval in INTERVALS}
    with tempfile.TemporaryDirectory() as folder, gradwatch.attach(module, optimizer, Path(folder) / "run") as watch:
        (thread,) = (one.ident for one in threading.enumerate() if one.name == "gradwatch" and one.ident is not None)
        of_recorder = time.pthread_getcpuclockid(thread)
        for number in range(rounds + 1):
            for interval in INTERVALS:
                with mock.patch.object(sink, "INTERVAL", interval):
                    watch.flush()
                    began, begun = time.perf_counter(), time.clock_gettime(of_recorder)
                    for step in range(steps):
                        optimizer.zero_grad()
                        module(torch.randn(4, 4)).backward()
                        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                        optimizer.step()
                        caches.add_(1.0)
                        time.sleep(max(0.0, (step + 1) * pace - (time.perf_counter() - began)))
                    watch.flush()
                    if number:  # not in the first, which warms up
                        found[interval].append(1e3 * (time.clock_gettime(of_recorder) - begun) / steps)
    return found


def show_intervals(rounds: int) -> None:
    torch.set_num_threads(1)
    print("the recorder's thread, ms a step, by the seconds between its rounds; medians with the quarters")
    for about, (tensors, pace) in PACES.items():
        cells = []
        for interval, times in by_interval(tensors, pace, rounds).items():
            ordered, quarter = sorted(times), len(times) // 4
            spread = f"{ordered[quarter]:.2f} to {ordered[-1 - quarter]:.2f}"
            cells.append(f"{interval:.2f} s: {statistics.median(ordered):.2f} ({spread})")
        print(f"  {about}, a step every {pace:.2f} s: {', '.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="many,gpt,lstm")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--intervals", action="store_true", help="the recorder's thread by the time between its rounds")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, {os.cpu_count()} processors")
    print(f"compiled part: {fused.is_available()}; processor time in ms a step, PyTorch with one thread")
    if options.intervals:
        show_intervals(options.rounds)
        return
    with parts_measured():
        for name in options.models.split(","):
            table(MODELS[name], options.rounds)


if __name__ == "__main__":
    main()
