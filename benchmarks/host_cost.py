"""What recording on CUDA costs the training thread in Python, with the kernel's launches replaced by nothing.

    python benchmarks/host_cost.py > benchmarks/host_cost.txt

The gradients lie on the CPU and are taken for those of a device. First, measuring alone. Then all that a recorded step
does around the update of an optimizer that does nothing, without sampling weights and updates. Then reading the updates
of AdamW, with the number of steps on the host and, as `fused=True` has it, on the device: of all parameters, of the
sentinels, and a step of a run, which does the one or the other. Times are the processor's in this thread, so other
programs on the machine count little. Two launches of Triton for each dtype come on top.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import gradwatch
from gradwatch.measure import devices, fused_triton, measure, measure_updates, routes, updates, updates_triton
from gradwatch.recording.sentinels import ENTRIES, Sentinels
from gradwatch.recording.weight_sampler import usual_updates_every

ROUNDS = {150: 400, 1_000: 100, 10_000: 20}


class _NoLaunch:
    def __getitem__(self, grid: object) -> object:
        return lambda *arguments, **options: None


class _Ones:
    """In the place of the launch that fills the table, so that there is something to record."""

    def __getitem__(self, grid: object) -> object:
        return lambda sums, first, positions, table, **options: table.fill_(1.0)


class _DoesNothing(torch.optim.Optimizer):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        pass


def _no(*_: object) -> bool:
    """A mock with a return value takes ten microseconds to answer, which would count as ours."""
    return False


def _milliseconds(action: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The median and the least."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        action()
        times.append((time.thread_time() - start) * 1e3)
    return statistics.median(times), min(times)


def _of_recorded_step(count: int, rounds: int) -> tuple[float, float]:
    model = nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(count)])
    for parameter in model.parameters():
        parameter.grad = torch.randn(4)
    optimizer = _DoesNothing(model.parameters())
    bare, _ = _milliseconds(optimizer.step, rounds)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"weights_every": 0, "updates_every": 0}
        with gradwatch.attach(model, optimizer, Path(folder) / "run", **options):
            median, least = _milliseconds(optimizer.step, rounds)
    return median - bare, least - bare


def _is_number(value: Any) -> bool:
    """In the place of the question whether a setting lies on the device."""
    return isinstance(value, torch.Tensor) and value.numel() == 1


def _print_updates(count: int, rounds: int) -> None:
    """Matrices and vectors in turn, as in a transformer."""
    weights = [nn.Parameter(torch.randn((64, 64) if at % 2 == 0 else (64,))) for at in range(count)]
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    few, every = Sentinels().among(weights), usual_updates_every(count, at_once=True)
    for where, is_remote in (("host", updates._is_remote), ("device", _is_number)):
        with mock.patch.object(updates, "_is_remote", is_remote):
            whole, _ = _milliseconds(lambda: measure_updates(optimizer, weights), rounds)
            sentinels, _ = _milliseconds(lambda: measure_updates(optimizer, few, ENTRIES), rounds)
        step = (whole + (every - 1) * sentinels) / every
        print(f"{count:>9}   {where:<8}{whole:>20.2f} {sentinels:>11.2f} {step:>8.2f}", flush=True)


def main() -> None:
    print(f"PyTorch {torch.__version__}, milliseconds a step of the training thread's processor time")
    print("gradients   measuring: median   least   goal   recorded step: median   least")
    with (
        mock.patch.object(fused_triton, "_read", _NoLaunch()),
        mock.patch.object(fused_triton, "_add", _Ones()),
        mock.patch.object(routes, "is_available", _no),
        mock.patch.object(routes, "_TRITON_DEVICES", {"cpu"}),
        mock.patch.object(routes, "_triton", fused_triton),
        mock.patch.object(devices, "copies_behind", _no),
    ):
        for count, rounds in ROUNDS.items():
            gradients = [torch.randn(4) for _ in range(count)]
            median, least = _milliseconds(lambda of=gradients: measure(of), rounds)  # type: ignore[misc]
            whole, least_whole = _of_recorded_step(count, rounds)
            goal = {150: "0.15", 1_000: "1"}.get(count, "none")
            print(f"{count:>9} {median:>19.2f} {least:>7.2f}   {goal:<5}{whole:>23.2f} {least_whole:>7.2f}", flush=True)
        print("weights     steps on   updates: of all   sentinels   a step")
        with (
            mock.patch.object(updates_triton, "_read", _NoLaunch()),
            mock.patch.object(updates_triton, "_add", _NoLaunch()),
            mock.patch.object(updates, "reads_updates", _no),
        ):
            for count, rounds in ROUNDS.items():
                _print_updates(count, rounds)


if __name__ == "__main__":
    main()
