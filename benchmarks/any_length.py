"""What reading a long run takes: `python benchmarks/any_length.py [STEPS [WIDE]]`.

One store of 1,000,000 steps x 150 parameters and one of 100,000 steps x 1,000, with all four statistics, are written by
the store's own writer. Each command then runs in a fresh process, which tells its time from its first line to its last
and its peak memory. The first paint of the layers is that of a fresh server: what the page asks for, without Chromium.

    python benchmarks/any_length.py | tee benchmarks/any_length.txt

It needs ten minutes and 7 GB of disk. ANY_LENGTH=FOLDER keeps the stores there and uses them again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter

SIZES = ((1_000_000, 150), (100_000, 1_000))
SPIKE = 40.0

MEASURED = """
import resource, sys, time
began, busy = time.perf_counter(), time.process_time()
{code}
taken, busy = time.perf_counter() - began, time.process_time() - busy
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(taken, busy, peak, file=sys.stderr)
"""

COMMAND = """
import io, contextlib
sys.argv = ["gradwatch", "{command}", r"{run}"]
from gradwatch.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main()
    except SystemExit:
        pass
"""

DIAGNOSIS = """
from gradwatch import Run
Run(r"{run}").diagnosis()
"""

PAINT = """
from pathlib import Path
from gradwatch.views.web.view import RunView
view = RunView(Path(r"{run}"))
view.overview()
first, last = view.summary.first_step, view.summary.last_step
view.series(first, last, 1200)
view.layers()
view.tile("norm", first, last, 1200)
"""

HTML = """
from pathlib import Path
from gradwatch.views.html import render
from gradwatch.views.web.view import RunView
render(RunView(Path(r"{run}")))
"""


JOBS = {
    "gradwatch report": COMMAND.replace("{command}", "report"),
    "gradwatch recommend": COMMAND.replace("{command}", "recommend"),
    "Run.diagnosis": DIAGNOSIS,
    "first paint of the tab by a fresh server": PAINT,
    "HTML report": HTML,
}


def make(folder: Path, steps: int, parameters: int) -> Path:
    """Write a healthy run whose loss falls, which is clipped at some steps and has a spike every 10,000."""
    rng = np.random.default_rng(0)
    infos = tuple(
        ParameterInfo(name=f"blocks.{i // 10}.part.{i % 10}.weight", shape=(64, 64)) for i in range(parameters)
    )
    writer = StoreWriter(folder)
    writer.begin_attempt({"model": "Synthetic"}, {"0": ("AdamW", {"lr": 1e-3, "eps": 1e-8})})
    writer.add_parameters("0", infos)
    level = np.exp(rng.normal(size=parameters)).astype(np.float32)
    nonfinite = np.zeros(parameters, np.float32)
    threshold = 1.6 * float(np.linalg.norm(level))
    for begin in range(0, steps, 1000):
        count = min(1000, steps - begin)
        norms = level * np.exp(0.2 * rng.standard_normal((count, parameters), np.float32))
        norms *= np.exp(0.2 * rng.standard_normal((count, 1), np.float32))
        at = np.arange(begin, begin + count)
        norms[at % 10_000 == 7_777, 7] *= SPIKE
        totals = np.sqrt(np.square(norms, dtype=float).sum(1))
        losses = 0.5 + 3 * np.exp(-at / (steps / 5)) + 0.05 * rng.standard_normal(count)
        zeros = rng.integers(0, 9, (count, parameters)).astype(np.float32)
        writer.append(
            [
                StepRecord(
                    step=int(step),
                    wall_time=1.7e9 + 0.1 * step,
                    total_norm=float(total),
                    max_norm=threshold,
                    norm_type=2.0,
                    clip_coef=min(1.0, threshold / float(total)),
                    loss=float(loss),
                    learning_rates=(1e-3,),
                    layers=LayerStats(parameters=infos, norm=norm, abs_max=norm / 8, nonfinite=nonfinite, zeros=zero),
                )
                for step, total, loss, norm, zero in zip(at, totals, losses, norms, zeros, strict=True)
            ],
            [],
        )
    writer.end_attempt("closed")
    return folder


def measured(code: str, run: Path) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak MB of a fresh process that runs this, without the interpreter's start.

    On a machine that others use, the second number is the one to compare.
    """
    text = MEASURED.format(code=code.format(run=run).strip())
    # Modules are compiled once, as pip does: else every process would compile gradwatch's again (0.3 s).
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, env=compiled)
    if done.returncode:
        raise SystemExit(done.stderr)
    taken, busy, peak = map(float, done.stderr.split()[-3:])
    return taken, busy, peak


def table(run: Path) -> None:
    measured(COMMAND.replace("{command}", "ls"), run)  # which compiles the modules
    for name, code in JOBS.items():
        seconds, busy, peak = measured(code, run)
        print(f"    {name:<42}{seconds:>7.2f} s {busy:>7.2f} s busy {peak:>6.0f} MB", flush=True)


def main() -> None:
    kept = os.environ.get("ANY_LENGTH")
    with tempfile.TemporaryDirectory() as temporary:
        for steps, parameters in SIZES:
            run = Path(kept or temporary) / f"{steps}x{parameters}" / "run"
            if not run.exists():
                began = time.monotonic()
                make(run, steps, parameters)
                print(f"    written in {time.monotonic() - began:.0f} s")
            size = (run / "gradwatch.db").stat().st_size
            print(f"{steps:,} steps x {parameters:,} parameters: {size / 1e9:.3f} GB", flush=True)
            table(run)


if __name__ == "__main__":
    main()
