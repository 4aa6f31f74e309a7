"""Measure how the cost of a recorded step grows, how fast the store is, and what starting costs.

    python benchmarks/scaling.py

It prints scaling.txt: milliseconds in the training thread for 10 to 10,000 tensors and 10^4 to 10^8 entries, beside one
`torch._foreach_norm` of the same gradients; steps per second into the store while a reader polls; imports and commands.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.measure import fused
from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter


def hooks(tensors: int, entries: int, steps: int) -> tuple[float, float]:
    """Return the median milliseconds of gradwatch in the training thread, and of one foreach norm, in turn."""
    parameters = [nn.Parameter(torch.zeros(entries // tensors)) for _ in range(tensors)]
    gradients = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    model = nn.ParameterList(parameters)
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    ours, norms = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        gradwatch.attach(model, optimizer, folder, weights_every=0) as watch,
    ):
        for _ in range(steps):
            before = watch.overhead_seconds
            optimizer.step()
            ours.append(watch.overhead_seconds - before)
            watch.flush()
            began = time.perf_counter()
            torch._foreach_norm(gradients)
            norms.append(time.perf_counter() - began)
    return 1e3 * statistics.median(ours[2:]), 1e3 * statistics.median(norms[2:])


def scaling() -> None:
    print("milliseconds of a recorded step in the training thread / of one torch._foreach_norm")
    sizes = [10**power for power in range(4, 9)]
    print(f"  {'tensors':>8}" + "".join(f"{f'10^{len(str(size)) - 1} entries':>20}" for size in sizes))
    for tensors in (10, 100, 1000, 10_000):
        cells = []
        for size in sizes:
            if size < tensors:
                cells.append("")
                continue
            ours, norm = hooks(tensors, size, 9 if size >= 10**7 or tensors == 10_000 else 41)
            cells.append(f"{ours:.3f} / {norm:.3f}")
        print(f"  {tensors:>8}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def throughput(parameters: int = 1000, seconds: float = 10.0) -> None:
    """Write at full speed, in commits like the recorder's, while another process reads."""
    infos = tuple(ParameterInfo(name=f"layer{i}.weight", shape=(64, 64)) for i in range(parameters))
    column = np.random.default_rng(0).random(parameters).astype(np.float32)
    layers = LayerStats(parameters=infos, norm=column, abs_max=column, nonfinite=column, zeros=column)
    reads = [0]
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(Path(folder))
        writer.begin_attempt({}, {"0": ("SGD", {})})
        writer.add_parameters("0", infos)
        code = (
            "import sys, time; from gradwatch import Run; n = 0\n"
            "while True:\n"
            "    len(Run(sys.argv[1]).steps()); n += 1; print(n, flush=True); time.sleep(0.5)\n"
        )
        poll = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
        thread = threading.Thread(target=lambda: reads.extend(map(int, poll.stdout or ())), daemon=True)
        thread.start()
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            writer.append([StepRecord(step=steps + i, total_norm=1.0, layers=layers) for i in range(50)])
            steps += 50
        rate = steps / (time.perf_counter() - began)
        poll.kill()
        writer.end_attempt("closed")
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / steps
        assert len(Run(folder).steps()) == steps
    print(
        f"\nstore, {parameters} parameters, four statistics: {rate:,.0f} steps a second over {seconds:.0f} s"
        f" (50 a commit), {size:,.0f} bytes a step, while another process read all steps {max(reads)} times"
    )


def starting() -> None:
    timed = "import time, torch; a = time.perf_counter(); {}; print(1e3 * (time.perf_counter() - a))"
    alone: list[float] = []
    attach: list[float] = []
    for _ in range(9):
        for code, found in (("import gradwatch", alone), ("import gradwatch; gradwatch.attach", attach)):
            done = subprocess.run(
                [sys.executable, "-c", timed.format(code)], check=True, capture_output=True, text=True
            )
            found.append(float(done.stdout))
    helping = []
    for _ in range(9):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gradwatch", "--help"], check=True, capture_output=True)
        helping.append(1e3 * (time.perf_counter() - began))
    print(
        f"\nafter import torch: import gradwatch {statistics.median(alone):.1f} ms, and what attach needs"
        f" {statistics.median(attach):.0f} ms; gradwatch --help as a process: {statistics.median(helping):.0f} ms"
    )


def main() -> None:
    torch.set_num_threads(2)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}; compiled part: {fused.is_available()}\n")
    scaling()
    throughput()
    starting()


if __name__ == "__main__":
    main()
