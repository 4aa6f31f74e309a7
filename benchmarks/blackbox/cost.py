"""Measure what `capture=True` adds to a step that is not kept, and how long it takes to write one that is.

    python benchmarks/blackbox/cost.py [--models gpt,lstm] [--steps 200]

The models are those of overhead.py. Two trainings, with and without capture, take steps in turn, so that a slow moment
of the machine hits both; which one goes first alternates. The ratio is the median over pairs of steps. The memory is
the peak of what PyTorch allocates within a step, as its profiler counts it. cost.txt is the printed text.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

sys.path.insert(0, str(Path(__file__).parents[1]))

from overhead import LEARNING_RATE, MODELS, Model

import gradwatch
from gradwatch.analysis.replays.wording import headline
from gradwatch.capture import list_captures, read

WARM_UP = 10


def training(model: Model, folder: Path, capture: bool) -> Generator[tuple[float, float], bool]:
    """Train without end; yield the seconds of each step, by the clock and of the processor; sent True, meet a NaN."""
    torch.manual_seed(0)
    module = model.make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    is_bad = False
    with gradwatch.attach(module, optimizer, folder, capture=capture) as watch:
        while True:
            data = model.data()
            began, began_cpu = time.perf_counter(), time.process_time()
            optimizer.zero_grad()
            loss = module(data)
            (loss * float("nan") if is_bad else loss).backward()
            optimizer.step()
            seconds = time.perf_counter() - began, time.process_time() - began_cpu
            watch.flush()
            is_bad = yield seconds


def ratios(model: Model, steps: int, folder: Path) -> tuple[list[float], list[float], float, Path]:
    """The ratio of each pair of steps by both clocks, the seconds of a step, and the folder of a run with captures."""
    with ExitStack() as stack:
        runs = {capture: training(model, folder / str(capture), capture) for capture in (False, True)}
        for run in runs.values():
            stack.callback(run.close)
            next(run)
        pairs = []
        for step in range(WARM_UP + steps):
            order = (False, True) if step % 2 else (True, False)
            found = {capture: runs[capture].send(False) for capture in order}
            if step >= WARM_UP:
                pairs.append(found)
        runs[True].send(True)
    wall = [pair[True][0] / pair[False][0] for pair in pairs]
    cpu = [pair[True][1] / pair[False][1] for pair in pairs]
    return wall, cpu, statistics.median(pair[False][0] for pair in pairs), folder / "True"


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="gpt,lstm")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    for name in options.models.split(","):
        model = MODELS[name]
        torch.set_num_threads(model.threads)
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu, seconds, run = ratios(model, options.steps, Path(folder))
            (info,) = list_captures(run)
            peaks = {capture: peak(model, Path(folder) / f"peak {capture}", capture) for capture in (False, True)}
            began = time.perf_counter()
            read(info.folder)
            read_in = time.perf_counter() - began
            began = time.perf_counter()
            gradwatch.capture.write(read(info.folder), run / "again")
            written_in = time.perf_counter() - began - read_in
            began = time.perf_counter()
            replayed = gradwatch.replay(info.folder, model.make(), write=False)
            replayed_in = time.perf_counter() - began
        print(f"{model.about}: {1e3 * seconds:.1f} ms a step, {options.steps} pairs of steps")
        for what, each in (("the clock", wall), ("the processor", cpu)):
            low, middle, high = statistics.quantiles(each, n=4)
            print(f"  a step with capture=True, by {what:<14}{middle:.4f} ({low:.4f} to {high:.4f})")
        print(f"  a capture of {info.bytes / 2**20:.0f} MiB: written in {written_in:.2f} s, read in {read_in:.2f} s")
        print(f"  replayed with all answers in {replayed_in:.1f} s; {headline(replayed)}")
        print(f"  the most memory within a step: {peaks[False]:,} bytes, with capture=True {peaks[True]:,}")
        print(f"  which is {peaks[True] - peaks[False]:+,} bytes\n", flush=True)


if __name__ == "__main__":
    main()
