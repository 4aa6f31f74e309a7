"""Print the peak memory of a training with and without sampling the weights.

Each training runs in a process of its own; its peak is what the system counts (`ru_maxrss`). Two of its 12 steps are
sampled. The C library gives large blocks back at once (`MALLOC_MMAP_THRESHOLD_`), so that the peak counts what is held
and not what is kept for later.

Usage: python benchmarks/weights_memory.py [MILLIONS OF PARAMETERS]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from contextlib import nullcontext

WIDTH = 2048
STEPS = 12
KINDS = {"PyTorch alone": None, "weights_every=0": 0, "weights sampled": 10}


def train(millions: int, weights_every: int | None) -> int:
    """Train, and return the peak in bytes."""
    import torch
    from torch import nn

    import gradwatch

    torch.set_num_threads(1)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, millions * 10**6 // WIDTH**2))))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        recording = (
            nullcontext()
            if weights_every is None
            else gradwatch.attach(model, optimizer, f"{folder}/run", weights_every=weights_every)
        )
        with recording:
            for _ in range(STEPS):
                model(torch.ones(1, WIDTH)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 170
    weights = millions * 10**6 // WIDTH**2 * (WIDTH**2 + WIDTH) * 4
    print(f"weights: {weights / 1e6:.0f} MB in float32; SGD, so gradients take as much again\n")
    plain = None
    for name, weights_every in KINDS.items():
        call = [sys.executable, __file__, "--train", str(millions), str(weights_every)]
        env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
        peak = int(subprocess.run(call, capture_output=True, text=True, check=True, env=env).stdout)
        plain = plain or peak
        more = (peak - plain) / 1e6
        print(
            f"{name:22} peak {peak / 1e6:6.0f} MB  {more:+6.0f} MB  {100 * more * 1e6 / weights:+6.1f} % of the weights"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(train(int(sys.argv[2]), None if sys.argv[3] == "None" else int(sys.argv[3])))
    else:
        main()
