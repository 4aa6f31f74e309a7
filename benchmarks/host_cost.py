"""What measuring on CUDA costs the training thread in Python, with the kernel's launches replaced by nothing.

    python benchmarks/host_cost.py > benchmarks/host_cost.txt

The gradients lie on the CPU and are taken for those of a device. Times are the processor's in this thread, so other
programs on the machine count little. Two launches of Triton for each dtype come on top.
"""

from __future__ import annotations

import statistics
import time
from unittest import mock

import torch

from gradwatch.measure import devices, fused_triton, measure, routes

ROUNDS = {150: 400, 1_000: 100, 10_000: 20}


class _NoLaunch:
    def __getitem__(self, grid: object) -> object:
        return lambda *arguments, **options: None


def _no(*_: object) -> bool:
    """A mock with a return value takes ten microseconds to answer, which would count as ours."""
    return False


def main() -> None:
    print(f"PyTorch {torch.__version__}, milliseconds a step of the training thread's processor time")
    print("gradients   median   least   goal")
    with (
        mock.patch.object(fused_triton, "_read", _NoLaunch()),
        mock.patch.object(fused_triton, "_add", _NoLaunch()),
        mock.patch.object(routes, "is_available", _no),
        mock.patch.object(routes, "_TRITON_DEVICES", {"cpu"}),
        mock.patch.object(routes, "_triton", fused_triton),
        mock.patch.object(devices, "copies_behind", _no),
    ):
        for count, rounds in ROUNDS.items():
            gradients = [torch.randn(4) for _ in range(count)]
            times = []
            for _ in range(rounds):
                start = time.thread_time()
                measure(gradients)
                times.append((time.thread_time() - start) * 1e3)
            goal = {150: "0.15", 1_000: "1"}.get(count, "none")
            print(f"{count:>9} {statistics.median(times):>8.2f} {min(times):>7.2f}   {goal}")


if __name__ == "__main__":
    main()
