"""Measure the store: bytes per step, steps per second, and how fast a run becomes a frame.

`python benchmarks/store.py` prints the table of store.txt.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradwatch import Run
from gradwatch.record import STATS, LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter

PARAMETERS = tuple(ParameterInfo(name=f"layer.{i}.weight", shape=(64, 64)) for i in range(1000))


def records(steps: int, stats: int) -> list[StepRecord]:
    rng = np.random.default_rng(0)
    found = []
    for step in range(steps):
        columns = {name: rng.random(1000).astype(np.float32) for name in STATS[:stats]}
        found.append(
            StepRecord(
                step=step,
                wall_time=1.7e9 + rng.random(),
                total_norm=rng.random(),
                max_norm=1.1,
                clip_coef=rng.random(),
                loss=rng.random(),
                learning_rates=(1.1e-3,),
                layers=LayerStats(parameters=PARAMETERS, **columns),
            )
        )
    return found


def write(folder: Path, batch: list[StepRecord], at_once: int) -> float:
    """Write the records, ``at_once`` per commit; return the seconds that the appends took."""
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", PARAMETERS)
    start = time.perf_counter()
    for first in range(0, len(batch), at_once):
        writer.append(batch[first : first + at_once])
    taken = time.perf_counter() - start
    writer.end_attempt("closed")
    return taken


def median_seconds(call: Callable[[], object], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    print("1,000 parameters\n")
    columns = ("statistics", "bytes a step", "steps/s, 1 a commit", "50 a commit", "2,000 steps to a frame")
    print("".join(f"{title:>{width}}" for title, width in zip(columns, (10, 14, 21, 13, 24), strict=True)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stats in (1, 4):
            batch = records(2000, stats)
            alone = write(folder / f"{stats}-1", batch, 1)
            together = write(folder / f"{stats}-50", batch, 50)
            write(folder / f"{stats}-half", batch[:1000], 50)
            sizes = [(folder / f"{stats}-{part}" / "gradwatch.db").stat().st_size for part in ("50", "half")]
            run = Run(folder / f"{stats}-50")
            frame = median_seconds(functools.partial(run.layers, "norm"))
            print(
                f"{stats:>10}{(sizes[0] - sizes[1]) / 1000:>14,.0f}{2000 / alone:>21,.0f}{2000 / together:>13,.0f}"
                f"{frame * 1e3:>21,.0f} ms"
            )


if __name__ == "__main__":
    main()
