"""How long `gradwatch ls` takes over many runs, and how much memory: first without an index, then with one.

    python benchmarks/many_runs.py --runs 1000 --steps 2000 > benchmarks/many_runs.txt

The runs are copies of a few, each with a time and a config of its own. Every listing is a process of its own, timed
from its start to its end, and its peak memory is what the kernel counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from gradwatch.testing import replaced, steady, stream, write_run

KINDS = 10  # different runs; the others are copies


def make(folder: Path, runs: int, steps: int) -> int:
    """Write the runs and return their bytes."""
    originals = []
    for kind in range(min(KINDS, runs)):
        norms = steady(steps, spread=0.2, seed=kind)
        if kind % 3 == 0:
            norms = replaced(norms, {steps // 2: 90.0, steps - 2: float("inf"), steps - 1: float("nan")})
        losses = [2.0 / (1 + step / 100) for step in range(steps)]
        originals.append(write_run(folder / f"group-0/run-{kind:04}", stream(norms, losses=losses, max_norm=1.5)))
    for number in range(len(originals), runs):
        shutil.copytree(originals[number % len(originals)], folder / f"group-{number // 100}/run-{number:04}")
    return sum(file.stat().st_size for file in folder.rglob("gradwatch.db"))


def listing(folder: Path, *options: str) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak MB of one listing; the peak of its largest process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "gradwatch", "ls", str(folder), "--json", *options]
    pid = os.spawnve(
        os.P_NOWAIT, "/bin/sh", ["/bin/sh", "-c", 'exec "$@" > /dev/null', "sh", *command], dict(os.environ)
    )
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make(folder, options.runs, options.steps)
        print(f"{options.runs} runs of {options.steps} steps, {size / 1e6:.0f} MB; {os.cpu_count()} processors")
        print(f"{'':34}  {'seconds':>8}  {'processor':>9}  {'peak MB':>8}")
        show("without an index", listing(folder))
        each = sorted(listing(folder) for _ in range(options.repeats))
        show("with the index, median", each[len(each) // 2])
        show("with the index, slowest", each[-1])
        for store in sorted(folder.rglob("gradwatch.db"))[:10]:
            os.utime(store)
        show("after 10 runs have changed", listing(folder))


def show(what: str, taken: tuple[float, float, float]) -> None:
    seconds, processor, peak = taken
    print(f"{what:34}  {seconds:8.2f}  {processor:9.2f}  {peak:8.0f}", flush=True)


if __name__ == "__main__":
    main()
