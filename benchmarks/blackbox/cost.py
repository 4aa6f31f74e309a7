"""Measure what `capture=True` adds to a step that is not kept, and how long it takes to write one that is.

    python benchmarks/blackbox/cost.py [--models gpt,lstm] [--steps 200]

The models are those of overhead.py. Four trainings take steps in turn, so that a slow moment of the machine hits all of
them, and which goes first changes: two without capture, whose ratio is the noise, one with capture, and one with
capture in which each function that PyTorch or the recording calls for it is timed. That time is of the thread's own
processor time, so that other programs do not count in it. It holds all that capturing does but for two things that
PyTorch does for it: a view of each output, and a call of one module by the way with hooks. Both are in the step of a
model that does next to nothing, the last table. Ratios and shares are medians over rounds, with quartiles. The memory
is the peak of what PyTorch allocates within a step, as its profiler counts it. cost.txt is the printed text.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

sys.path.insert(0, str(Path(__file__).parents[1]))

from overhead import LEARNING_RATE, MODELS, Model

import gradwatch
from gradwatch.analysis.replays.wording import headline
from gradwatch.capture import list_captures, read
from gradwatch.recording.capture import recorder
from gradwatch.recording.hooks import carried

WARM_UP = 40  # the rule of captures knows the level of the norms after 32 steps
NEXT_TO_NOTHING = Model("a linear layer with one weight", lambda: torch.nn.Linear(1, 1), lambda: torch.ones(1, 1), 1, 8)
ENTRIES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (carried.CarriedHook, ("__call__",)),
    (
        recorder.StepCapture,
        ("arrived", "before_backward", "after_backward", "after_zeroing", "before_step", "measured", "after_step"),
    ),
)
"""Everything that PyTorch and the recording call for a capture, in the training thread."""


class Counter:
    """How often the entries are called, and how long they take of the thread's processor time."""

    def __init__(self) -> None:
        self.calls, self.nanoseconds, self._is_within = 0, 0, False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_within:  # of an entry that is counted already
                return function(*args, **kwargs)
            self._is_within = True
            self.calls += 1
            began = time.thread_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.nanoseconds += time.thread_time_ns() - began
                self._is_within = False

        return call

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is called within, and begin at zero."""
        self.calls = self.nanoseconds = 0
        with ExitStack() as stack:
            for owner, names in ENTRIES:
                for name in names:
                    stack.enter_context(mock.patch.object(owner, name, self.timed(getattr(owner, name))))
            yield


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its seconds by the clock and of the processor, and those of the entries if they are counted."""

    clock: float
    processor: float
    calls: int = 0
    entries: float = 0.0


def training(model: Model, folder: Path, capture: bool) -> Generator[Step, bool]:
    """Train without end; yield each step; sent True, meet a NaN."""
    torch.manual_seed(0)
    module = model.make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    is_bad = False
    with gradwatch.attach(module, optimizer, folder, capture=capture) as watch:
        while True:
            data = model.data()
            began, began_processor = time.perf_counter(), time.thread_time()
            optimizer.zero_grad()
            loss = module(data)
            (loss * float("nan") if is_bad else loss).backward()
            optimizer.step()
            step = Step(time.perf_counter() - began, time.thread_time() - began_processor)
            watch.flush()
            is_bad = yield step


def rounds_of(model: Model, steps: int, folder: Path) -> list[dict[str, Step]]:
    """Steps of all four trainings in turn, by the name of the training; "capture" meets a NaN in the end."""
    counter = Counter()
    found = []
    with ExitStack() as stack:
        runs = {}
        for name in ("plain", "plain again", "capture", "counted"):
            with counter.counting() if name == "counted" else contextlib.nullcontext():
                runs[name] = training(model, folder / name, name in ("capture", "counted"))
                stack.callback(runs[name].close)
                next(runs[name])
        names = list(runs)
        for at in range(WARM_UP + steps):
            steps_by_name = {}
            for name in names[at % 4 :] + names[: at % 4]:
                if name != "counted":
                    steps_by_name[name] = runs[name].send(False)
                    continue
                with counter.counting():
                    step = runs[name].send(False)
                    steps_by_name[name] = Step(step.clock, step.processor, counter.calls, counter.nanoseconds / 1e9)
            if at >= WARM_UP:
                found.append(steps_by_name)
        runs["capture"].send(True)
    return found


def peak(model: Model, folder: Path, capture: bool) -> int:
    """The most bytes that PyTorch allocates within one step beyond what it had before."""
    run = training(model, folder, capture)
    next(run)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(3):  # the allocator knows the sizes of what it has allocated since the profiler began
            run.send(False)
        with record_function("the last step"):
            run.send(False)
    run.close()
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda one: one.start_ns())
    begin = next(one.start_ns() for one in events if one.name() == "the last step")
    sizes = [one.nbytes() for one in events if one.name() == "[memory]" and one.start_ns() >= begin]
    return max(itertools.accumulate(sizes))


def quartiles(values: Sequence[float], form: str) -> str:
    """The median, and the quartiles in brackets."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def show_steps(model: Model, found: Sequence[dict[str, Step]]) -> None:
    plain = [each["plain"] for each in found]
    print(f"{model.about}: {1e3 * statistics.median(one.clock for one in plain):.2f} ms a step, {len(found)} rounds")
    for name, what in (("capture", "with capture=True"), ("plain again", "noise: twice without")):
        for clock, by in (("clock", "the clock"), ("processor", "the processor")):
            ratios = [getattr(each[name], clock) / getattr(each["plain"], clock) for each in found]
            print(f"  {what + ', ratio by ' + by:<48}{quartiles(ratios, '.4f')}")
    calls = statistics.median(each["counted"].calls for each in found)
    entries = [1e6 * each["counted"].entries for each in found]
    shares = [each["counted"].entries / each["plain"].processor for each in found]
    print(f"  {f'called for it, {calls:.0f} functions a step, in microseconds':<48} {quartiles(entries, '.0f')}")
    print(f"  {'which is of the processor time of a step':<48}{quartiles(shares, '.2%')}")


def show_capture(model: Model, run: Path, folder: Path) -> None:
    (info,) = list_captures(run)
    peaks = {capture: peak(model, folder / f"peak {capture}", capture) for capture in (False, True)}
    began = time.perf_counter()
    read(info.folder)
    read_in = time.perf_counter() - began
    began = time.perf_counter()
    gradwatch.capture.write(read(info.folder), run / "again")
    written_in = time.perf_counter() - began - read_in
    began = time.perf_counter()
    replayed = gradwatch.replay(info.folder, model.make(), write=False)
    replayed_in = time.perf_counter() - began
    print(f"  a capture of {info.bytes / 2**20:.0f} MiB: written in {written_in:.2f} s, read in {read_in:.2f} s")
    print(f"  replayed with all answers in {replayed_in:.1f} s; {headline(replayed)}")
    print(f"  the most memory within a step: {peaks[False]:,} bytes, with capture=True {peaks[True]:,}")
    print(f"  which is {peaks[True] - peaks[False]:+,} bytes\n", flush=True)


def show_next_to_nothing(steps: int) -> None:
    """What a step costs beside its model: the difference is nearly all that there is, so that it is known well."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = rounds_of(NEXT_TO_NOTHING, steps, Path(folder))
    print(f"{NEXT_TO_NOTHING.about}, {len(found)} rounds, in microseconds of the processor a step")
    for name, what in (("plain", "without capture"), ("capture", "with capture=True")):
        print(f"  {what:<42}{quartiles([1e6 * each[name].processor for each in found], '.0f')}")
    differences = [1e6 * (each["capture"].processor - each["plain"].processor) for each in found]
    print(f"  {'the difference':<42}{quartiles(differences, '.0f')}")
    entries = [1e6 * each["counted"].entries for each in found]
    print(f"  {'of which in functions that are counted':<42}{quartiles(entries, '.0f')}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="gpt,lstm")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    for name in options.models.split(","):
        model = MODELS[name]
        torch.set_num_threads(model.threads)
        with tempfile.TemporaryDirectory() as folder:
            show_steps(model, rounds_of(model, options.steps, Path(folder)))
            show_capture(model, Path(folder) / "capture", Path(folder))
    show_next_to_nothing(5 * options.steps)


if __name__ == "__main__":
    main()
