"""Measure how fast the GradWatch tab is, how much memory its server holds, and how large the HTML report is.

A real TensorBoard serves stores of 150 parameters x 10,000 steps and 1,000 x 100,000 (1.7 GB, all four statistics), and
a real Chromium opens them. For comparison, TensorBoard's own Scalars show the same norms, if they can be loaded.

    python benchmarks/dashboard.py | tee benchmarks/dashboard.txt

It needs Chromium, a few minutes and 3 GB of disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter
from gradwatch.views.html import render
from gradwatch.views.web.view import RunView

SIZES = ((150, 10_000), (1_000, 100_000))
TRIES = 21


def make(folder: Path, parameters: int, steps: int) -> Path:
    """Make a run of this size, with a spike of one step in one layer."""
    rng = np.random.default_rng(0)
    infos = tuple(
        ParameterInfo(name=f"blocks.{i // 10}.part.{i % 10}.weight", shape=(64, 64)) for i in range(parameters)
    )
    writer = StoreWriter(folder)
    writer.begin_attempt({"model": "Synthetic"}, {"0": ("AdamW", {"lr": 1e-3})})
    writer.add_parameters("0", infos)
    level = np.exp(rng.normal(size=parameters)).astype(np.float32)
    zeros = np.zeros(parameters, np.float32)
    for begin in range(0, steps, 500):
        batch = []
        for step in range(begin, min(begin + 500, steps)):
            norm = level * np.exp(0.2 * rng.standard_normal(parameters, np.float32))
            if step == steps // 3:
                norm[7] *= 1000
            total = float(np.sqrt(np.square(norm, dtype=float).sum()))
            layers = LayerStats(parameters=infos, norm=norm, abs_max=norm / 8, nonfinite=zeros, zeros=zeros)
            batch.append(
                StepRecord(
                    step=step,
                    wall_time=1.7e9 + step,
                    total_norm=total,
                    max_norm=2 * total,
                    loss=1.0,
                    learning_rates=(1e-3,),
                    layers=layers,
                )
            )
        writer.append(batch, [])
    writer.end_attempt("closed")
    return folder


def make_event_files(run: Path, folder: Path) -> None:
    """Write the same norms as scalars, through torch.utils.tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    from gradwatch import Run

    frame = Run(run).layers("norm")
    with SummaryWriter(str(folder)) as writer:
        for step, row in zip(frame.index, frame.to_numpy(), strict=True):
            for name, value in zip(frame.columns, row, strict=True):
                writer.add_scalar(f"norm/{name}", value, step)


@contextmanager
def tensorboard(logdir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    url = next(found[1] for line in process.stderr if (found := re.search(r"at (http://\S+)", line)))
    try:
        yield process, url
    finally:
        process.terminate()
        process.wait()


def resident(process: subprocess.Popen[str], children: bool = False) -> float:
    """Return the memory of a process in MB, with its data server on request."""
    pids = [process.pid]
    if children:
        pids += [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(kilobytes) for kilobytes in re.findall(r"VmRSS:\s+(\d+)", status)) / 1024


def say(what: str, value: str) -> None:
    print(f"    {what:<36}{value}", flush=True)


def fetch(url: str) -> tuple[float, int]:
    began = time.perf_counter()
    with urllib.request.urlopen(url) as response:
        size = len(response.read())
    return 1000 * (time.perf_counter() - began), size


def of_the_server(url: str, run: str, steps: int) -> None:
    base = f"{url}data/plugin/gradwatch"
    while b'"name"' not in urllib.request.urlopen(f"{base}/runs").read():
        time.sleep(0.1)
    for route in ("overview", "layers", "advice"):
        first, _ = fetch(f"{base}/{route}?run={run}")
        again, _ = fetch(f"{base}/{route}?run={run}")
        say(route, f"{first:>7.0f} ms first {again:>8.0f} ms again")
    rng = np.random.default_rng(1)
    for span in (steps, steps // 4, steps // 16, steps // 64, 1000):
        times, size = [], 0
        for _ in range(TRIES):
            begin = int(rng.integers(0, steps - span + 1))
            taken, size = fetch(f"{base}/tile?run={run}&stat=norm&from={begin}&to={begin + span - 1}&columns=1200")
            times.append(taken)
        times.sort()
        say(
            f"tile of {span:,} steps",
            f"{times[TRIES // 2]:>7.0f} ms median {times[-1]:>7.0f} ms worst {size / 1e6:>6.1f} MB",
        )
    times = [fetch(f"{base}/series?run={run}&from=0&to={steps}&columns=1200")[0] for _ in range(TRIES)]
    say("lines of the whole run", f"{statistics.median(times):>7.0f} ms median {max(times):>7.0f} ms worst")


def of_the_browser(url: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        print("    no Chromium here: the browser was not measured")
        return
    from playwright.sync_api import sync_playwright

    drawn = "() => performance.getEntriesByName('gradwatch: {} drawn').map(mark => mark.startTime)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.goto(f"{url}#gradwatch")
        page.frame_locator("iframe[src*=gradwatch]").locator("canvas.heat").wait_for(timeout=120_000)
        frame = next(frame for frame in page.frames if "gradwatch" in frame.url and frame != page.main_frame)
        frame.wait_for_function("performance.getEntriesByName('gradwatch: layers drawn').length > 0", timeout=120_000)
        lines = frame.evaluate(drawn.format("lines"))[0]
        layers = frame.evaluate(drawn.format("layers"))[0]
        say("first paint of the lines", f"{lines:>7.0f} ms")
        say("first paint of the layers", f"{layers:>7.0f} ms")
        times = []
        for _ in range(5):
            for name in ("fewer steps", "more steps"):
                began = frame.evaluate("() => performance.now()")
                frame.get_by_role("button", name=name).click()
                page.wait_for_timeout(900)
                times.append(frame.evaluate(drawn.format("layers"))[-1] - began)
        say(
            "from a zoom to finer layers",
            f"{statistics.median(times):>7.0f} ms median, 90 of them waited",
        )
        browser.close()


def of_scalars(folder: Path, parameters: int) -> None:
    """Time TensorBoard's own Scalars: until the last tag has all its points, and one tag's points."""
    began = time.perf_counter()
    with tensorboard(folder) as (process, url):
        last = f"norm/blocks.{(parameters - 1) // 10}.part.{(parameters - 1) % 10}.weight"
        address = f"{url}data/plugin/scalars/scalars?run=.&tag={last}"
        while True:
            try:
                points = json.loads(urllib.request.urlopen(address).read())
                if points and points[-1][1] == 9_999:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        loaded, held = time.perf_counter() - began, resident(process, True)
        say("TensorBoard's scalars: loaded after", f"{loaded:>7.1f} s, its processes hold {held:.0f} MB")
        times = [fetch(address)[0] for _ in range(TRIES)]
        say("one tag of them, 1,000 points", f"{statistics.median(times):>7.0f} ms median; there are {parameters}")


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gradwatch-dashboard-"))
    try:
        for parameters, steps in SIZES:
            run = make(folder / f"{parameters}" / "run", parameters, steps)
            size = sum(file.stat().st_size for file in run.iterdir())
            print(f"{parameters:,} parameters x {steps:,} steps, store {size / 1e6:,.0f} MB", flush=True)
            with tensorboard(run.parent) as (process, url):
                urllib.request.urlopen(url).read()
                time.sleep(2)
                before = resident(process)
                of_the_server(url, "run", steps)
                of_the_browser(url)
                say("server holds", f"{resident(process):>7.0f} MB, {before:.0f} before the first request")
            with tensorboard(run.parent) as (_, url):
                print("  a fresh server:")
                of_the_browser(url)
            began = time.perf_counter()
            page = render(RunView(run))
            say("HTML report", f"{len(page) / 1e6:>7.2f} MB, made in {time.perf_counter() - began:.1f} s")
            if steps <= 10_000:
                make_event_files(run, folder / "scalars")
                of_scalars(folder / "scalars", parameters)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
