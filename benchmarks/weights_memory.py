"""Print the peak memory of a training without and with gradwatch.

Each training runs in a process of its own; PyTorch alone imports no gradwatch. The kinds take turns, and the table has
medians. The peak is what the system counts (`VmHWM`). Own memory (`RssAnon`) and pages of files, such as the code
of libraries (`RssFile`), which all processes share and the system may drop, are read after each backward pass, and the
largest counts. The first step samples the weights, as by default, and so does one of the later steps, when the
optimizer has its state. The C library gives large blocks back at once (`MALLOC_MMAP_THRESHOLD_`), so that the peak
counts what is held and not what is kept for later. gradwatch is byte code, as pip installs it: to compile it takes a
megabyte in each process.

Usage: python benchmarks/weights_memory.py [--model linear|gpt] [--millions 170] [--steps 12] [--rounds 5]
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

WIDTH = 2048
KINDS = ("PyTorch alone", "weights_every=0", "weights sampled")
COLUMNS = {"peak": "VmHWM", "own": "RssAnon", "files": "RssFile"}


def memory() -> dict[str, int]:
    """What the system counts of this process, in bytes."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(rows[key].split()[0]) * 1024 for name, key in COLUMNS.items()}


def train(kind: str, millions: int, steps: int, weights_every: int | None) -> dict[str, int]:
    """Train, and return the largest numbers in bytes, with those of the weights."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "linear":
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, millions * 10**6 // WIDTH**2))))
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        inputs = torch.ones(1, WIDTH)
    else:
        # 12 layers of 12 times width squared, as in GPT-2, and an embedding of 2,048 tokens.
        width = round((millions * 10**6 / 144) ** 0.5 / 64) * 64
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        stack = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        model = nn.Sequential(nn.Embedding(2048, width), stack, nn.LayerNorm(width))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        inputs = torch.arange(16)[None]
    largest = memory() | {"weights": sum(p.numel() * p.element_size() for p in model.parameters())}
    with tempfile.TemporaryDirectory() as folder:
        if weights_every is None:
            recording: AbstractContextManager[object] = nullcontext()
        else:
            import gradwatch

            recording = gradwatch.attach(model, optimizer, f"{folder}/run", weights_every=weights_every)
        with recording:
            for _ in range(steps):
                loss = model(inputs).square().mean()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                largest = {name: max(largest[name], now) for name, now in (largest | memory()).items()}
                optimizer.step()
                optimizer.zero_grad()
    return {name: max(largest[name], now) for name, now in (largest | {"peak": memory()["peak"]}).items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["linear", "gpt"], default="linear")
    parser.add_argument("--millions", type=int, default=170)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", help="in a process of its own")
    options = parser.parse_args()
    if options.train:
        every = json.loads(options.train)
        print(json.dumps(train(options.model, options.millions, options.steps, every)))
        return
    package = importlib.util.find_spec("gradwatch")
    assert package is not None
    assert package.submodule_search_locations
    compileall.compile_dir(package.submodule_search_locations[0], quiet=1)
    found: dict[str, list[dict[str, int]]] = {name: [] for name in KINDS}
    for _ in range(options.rounds):
        for name, every in zip(KINDS, (None, 0, options.steps // 2 + 1), strict=True):
            call = [sys.executable, __file__, "--train", json.dumps(every)]
            call += ["--model", options.model, "--millions", str(options.millions), "--steps", str(options.steps)]
            env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(call, capture_output=True, text=True, check=True, env=env)
            found[name].append(json.loads(done.stdout))
    weights = found["PyTorch alone"][0]["weights"]
    rule = "AdamW" if options.model == "gpt" else "SGD"
    print(f"{options.model}, {rule}, weights of {weights / 1e6:.0f} MB; medians of {options.rounds} processes each\n")
    print(f"{'':18}{'peak':>9}{'more':>9}{'of weights':>12}{'least..most':>16}{'own':>9}{'files':>9}")
    middle = {
        name: {column: statistics.median(one[column] for one in runs) for column in COLUMNS}
        for name, runs in found.items()
    }
    plain = middle["PyTorch alone"]
    for name, runs in found.items():
        more = {column: (middle[name][column] - plain[column]) / 1e6 for column in COLUMNS}
        peaks = [(one["peak"] - plain["peak"]) / 1e6 for one in runs]
        print(
            f"{name:18}{middle[name]['peak'] / 1e6:6.0f} MB{more['peak']:+6.1f} MB"
            f"{1e8 * more['peak'] / weights:+11.2f}%"
            f"{f'{min(peaks):+.1f}..{max(peaks):+.1f}':>16}{more['own']:+6.1f} MB{more['files']:+6.1f} MB"
        )


if __name__ == "__main__":
    main()
