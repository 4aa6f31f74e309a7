"""What recording on CUDA costs the training thread in Python, with kernels and copies replaced by nothing.

    python benchmarks/host_cost.py > benchmarks/host_cost.txt

The tensors lie on the CPU and are taken for those of a device: no question is answered from their values, and a copy to
the host is begun and marked by an event of no content. First, measuring alone. Then everything that gradwatch does in
the training thread at a step of AdamW, from the beginning of `backward` to the end of `optimizer.step`: without
sampling weights and updates, and as `attach` records by default, with the optimizer's number of steps on the host and,
as `fused=True` has it, on the device. Then what of that is reading updates: of all parameters, and of the sentinels.

A step of a run is the mean of its kinds (steps that read all updates, that sample the weights, that count entries, and
the others), each by its median and as often as a run has it; of 10,000 tensors only the others fall into the rounds.
Times are the processor's in this thread. Other programs still count where they empty the processor's caches between two
steps: measuring alone, in a loop of its own, is two to three times as fast as within a step. Two launches of Triton for
each dtype come on top, and two for updates.

Then what of that the training had to do anyway: PyTorch makes a Python object of each new gradient for whoever asks
first, and without a recording that is the optimizer. Then what plain Python takes for no more than a step has to ask:
whether a parameter has a gradient before `backward`, each gradient after it, whether the parameters are still the same,
and what the kernel has to know of each gradient. And last how many bytecodes of gradwatch a step runs that samples
nothing, which no other program disturbs.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import repeat
from math import lcm
from operator import attrgetter, is_, is_not
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch.measure import (
    devices,
    fused,
    fused_triton,
    magnitudes,
    measure,
    measure_updates,
    moved,
    routes,
    updates,
    updates_kept,
    updates_numbers,
    updates_operators,
    updates_pointers,
    updates_triton,
)
from gradwatch.recording import alignment, weight_sampler
from gradwatch.recording.recording import Recording
from gradwatch.recording.sentinels import ENTRIES, Sentinels
from gradwatch.recording.weight_sampler import usual_updates_every

ROUNDS = {150: 400, 1_000: 200, 10_000: 40}
WEIGHTS_EVERY = 50  # as `attach` has it, which counts entries at every second sample
GOALS = {150: 0.15, 1_000: 1.0}

_GRADIENT = attrgetter("grad")


class _NoLaunch:
    def __getitem__(self, grid: object) -> object:
        return lambda *arguments, **options: None


class _Ones:
    """In the place of the launch that fills the table, so that there is something to record."""

    def __getitem__(self, grid: object) -> object:
        return lambda sums, first, positions, table, **options: table.fill_(1.0)


class _NoUpdates:
    """The same for the launch that adds the updates."""

    def __getitem__(self, grid: object) -> object:
        return lambda rows, numbers, sums, first, found, **options: found.fill_(1.0)


class _Complete:
    """An event of copies that are complete."""

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def _no(*_: object) -> bool:
    """A mock with a return value takes ten microseconds to answer, which would count as ours."""
    return False


def _yes(*_: object) -> bool:
    return True


def _counted(*tensors: Any, **options: object) -> None:
    """In the place of what AdamW computes on the device: the numbers of steps alone."""
    torch._foreach_add_(tensors[5], 1.0)


def _same(values: Tensor) -> Tensor:
    return values


def _copied(values: Tensor) -> Tensor:
    return torch.empty(values.shape, dtype=values.dtype).copy_(values)


def _complete(device: object) -> _Complete:
    return _Complete()


def _is_number(value: Any) -> bool:
    """In the place of the question whether a setting lies on the device."""
    return isinstance(value, Tensor) and value.numel() == 1


@contextlib.contextmanager
def as_on_device() -> Iterator[None]:
    """Take the CPU for a CUDA device with kernels that compute nothing."""
    replaced = [
        (fused_triton, "_read", _NoLaunch()),
        (fused_triton, "_add", _Ones()),
        (updates_triton, "_read", _NoLaunch()),
        (updates_triton, "_add", _NoUpdates()),
        (updates, "reads_updates", _no),
        (weight_sampler, "reads_updates_at_once", _yes),
        (routes, "is_available", _no),
        (alignment, "compares_steps", _no),
        (magnitudes, "counts_magnitudes", _no),
        (routes, "_TRITON_DEVICES", {"cpu"}),
        (routes, "_triton", fused_triton),
        (sys.modules["torch.optim.adam"], "adam", _counted),
        (devices, "copies_behind", _yes),
        (devices, "_pinned", _same),
        (devices, "_copy_behind", _copied),
        (devices, "_mark", _complete),
    ]
    is_on_host = devices.is_on_host
    ours = [module for name, module in sys.modules.items() if name.startswith("gradwatch.")]
    replaced += [(module, "is_on_host", _no) for module in ours if vars(module).get("is_on_host") is is_on_host]
    with contextlib.ExitStack() as stack:
        for module, name, value in replaced:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """Add up the milliseconds of all calls of a recording, in the one number of the list."""
    spent = [0.0]
    guarded = Recording.guarded

    def timed_guarded(self: Recording, method: Any, *args: Any, **kwargs: Any) -> None:
        start = time.thread_time()
        try:
            guarded(self, method, *args, **kwargs)
        finally:
            spent[0] += (time.thread_time() - start) * 1e3

    with mock.patch.object(Recording, "guarded", timed_guarded):
        yield spent


def _judged(count: int, milliseconds: float) -> str:
    goal = GOALS.get(count)
    if goal is None:
        return "none"
    return f"{goal:g} {'met' if milliseconds <= goal else 'missed'}"


def _milliseconds(action: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The median and the least."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        action()
        times.append((time.thread_time() - start) * 1e3)
    return statistics.median(times), min(times)


def _weights(count: int) -> nn.ParameterList:
    """Matrices and vectors in turn, as in a transformer. Small: the host of a device does not touch their entries."""
    return nn.ParameterList([nn.Parameter(torch.randn((2, 2) if at % 2 == 0 else (2,))) for at in range(count)])


def of_recorded_step(count: int, rounds: int, **options: Any) -> tuple[float, float, float]:
    """Milliseconds of a step of a run by medians, of one that samples nothing, and of that the least."""
    weights = _weights(count)
    optimizer = torch.optim.AdamW(weights.parameters())
    every = 0 if "updates_every" in options else usual_updates_every(count, at_once=True)
    kinds: defaultdict[tuple[bool, bool, bool], list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        timed() as spent,
        gradwatch.attach(weights, optimizer, Path(folder) / "run", **options),
    ):
        for step in range(5 + rounds):
            optimizer.zero_grad()
            loss = torch.stack([weight.sum() for weight in weights.parameters()]).sum()
            spent[0] = 0.0
            loss.backward()
            optimizer.step()
            if step >= 5:
                kinds[_kind(step, every, "weights_every" not in options)].append(spent[0])
    whole = lcm(every or 1, 2 * WEIGHTS_EVERY)
    found = [_kind(step, every, "weights_every" not in options) for step in range(whole)]
    ordinary = kinds[False, False, False]
    known = {kind: statistics.median(times) for kind, times in kinds.items() if times}
    step_of_run = statistics.fmean(known[kind] for kind in found if kind in known)
    return step_of_run, statistics.median(ordinary), min(ordinary)


def _kind(step: int, every: int, samples: bool) -> tuple[bool, bool, bool]:
    return (
        bool(every) and step % every == 0,
        samples and step % WEIGHTS_EVERY == 0,
        samples and step % (2 * WEIGHTS_EVERY) == 0,
    )


@contextlib.contextmanager
def numbers_on_device_by(is_remote: Callable[[Any], bool]) -> Iterator[None]:
    """Let this tell which settings and numbers of steps lie on the device."""
    with contextlib.ExitStack() as stack:
        for module in (moved, updates_kept, updates_numbers, updates_operators, updates_pointers):
            stack.enter_context(mock.patch.object(module, "is_remote", is_remote))
        yield


def _print_updates(count: int, rounds: int, where: str) -> None:
    weights = list(_weights(count).parameters())
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    few, every = Sentinels().among(weights), usual_updates_every(count, at_once=True)
    whole, _ = _milliseconds(lambda: measure_updates(optimizer, weights), rounds)
    sentinels, _ = _milliseconds(lambda: measure_updates(optimizer, weights, ENTRIES, few), rounds)
    step = (whole + (every - 1) * sentinels) / every
    print(f"{count:>9}   {where:<8} {whole:>17.2f} {sentinels:>11.2f} {step:>8.2f}", flush=True)


def _print_handed_out(count: int, rounds: int) -> None:
    """Ask for the gradients before every second step, and see how much sooner the optimizer is done then."""
    weights = list(_weights(count).parameters())
    optimizer = torch.optim.AdamW(weights)
    asked: list[float] = []
    steps: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2 * rounds):
        optimizer.zero_grad()
        torch.stack([weight.sum() for weight in weights]).sum().backward()
        is_asked = turn % 2 == 0
        start = time.thread_time()
        gradients = [weight.grad for weight in weights] if is_asked else []
        between = time.thread_time()
        optimizer.step()
        steps[is_asked].append((time.thread_time() - between) * 1e3)
        asked += [(between - start) * 1e3] * is_asked
        del gradients
    saved = statistics.median(steps[False]) - statistics.median(steps[True])
    print(f"{count:>9} {statistics.median(asked):>18.2f} {saved:>24.2f}", flush=True)


def _print_asked(count: int, rounds: int) -> None:
    """Ask of parameters and gradients what a recorded step asks, and do nothing with the answers."""
    weights = list(_weights(count).parameters())
    same = list(weights)
    times: defaultdict[str, list[float]] = defaultdict(list)

    def ask(what: str, question: Callable[[], Any]) -> Any:
        start = time.thread_time()
        answer = question()
        times[what].append((time.thread_time() - start) * 1e3)
        return answer

    for _ in range(rounds):
        for weight in weights:
            weight.grad = None
        loss = torch.stack([weight.sum() for weight in weights]).sum()
        ask("before", lambda: any(map(is_not, map(_GRADIENT, weights), repeat(None))))
        loss.backward()
        gradients = ask("after", lambda: list(map(_GRADIENT, weights)))
        ask("same", lambda: all(map(is_, weights, same)))
        ask("described", lambda of=gradients: fused.described(of))  # type: ignore[misc]
        del gradients
    before, after, compared, found = map(statistics.median, times.values())
    together = before + after + compared + found
    print(f"{count:>9} {before:>28.3f} {after:>10.3f} {compared:>17.3f} {found:>11.3f} {together:>10.3f}", flush=True)


def bytecodes_of_step(count: int, *, clips: bool, **options: Any) -> int:
    """Count what gradwatch's own code runs in a step that samples nothing."""
    weights = list(_weights(count).parameters())
    model, optimizer = nn.ParameterList(weights), torch.optim.AdamW(weights)
    found = 0

    def traced(frame: FrameType, event: str, _: object) -> Any:
        nonlocal found
        if event == "call":
            if not str(frame.f_globals.get("__name__", "")).startswith("gradwatch."):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        found += event == "opcode"
        return traced

    with tempfile.TemporaryDirectory() as folder, gradwatch.attach(model, optimizer, Path(folder) / "run", **options):
        for step in range(24):  # the first ones compile and plan
            optimizer.zero_grad()
            loss = torch.stack([weight.sum() for weight in weights]).sum()
            sys.settrace(traced if step == 23 else None)
            loss.backward()
            if clips:
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            sys.settrace(None)
    return found


def main() -> None:
    print(f"PyTorch {torch.__version__}, milliseconds a step of the training thread's processor time")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with as_on_device():
        print("gradients   measuring: median   least   goal")
        for count, rounds in ROUNDS.items():
            gradients = [torch.randn(4) for _ in range(count)]
            median, least = _milliseconds(lambda of=gradients: measure(of), rounds)  # type: ignore[misc]
            print(f"{count:>9} {median:>19.2f} {least:>7.2f}   {_judged(count, median)}", flush=True)
        print("gradients   recorded   steps on   a step of a run   nothing sampled: median   least   goal")
        for count, rounds in ROUNDS.items():
            for what, where, is_remote, options in (
                ("gradients", "host", moved.is_remote, {"weights_every": 0, "updates_every": 0}),
                ("default", "host", moved.is_remote, {}),
                ("default", "device", _is_number, {}),
            ):
                with numbers_on_device_by(is_remote):
                    run, median, least = of_recorded_step(count, rounds, **options)
                print(
                    f"{count:>9}   {what:<10} {where:<8} {run:>17.2f} {median:>25.2f} {least:>7.2f}  ",
                    _judged(count, run),
                    flush=True,
                )
        print("weights     steps on   updates: of all   sentinels   a step")
        for count, rounds in ROUNDS.items():
            for where, is_remote in (("host", moved.is_remote), ("device", _is_number)):
                with numbers_on_device_by(is_remote):
                    _print_updates(count, rounds, where)
        print("gradients   handed out first   saved of the optimizer")
        for count, rounds in ROUNDS.items():
            _print_handed_out(count, rounds)
        print("gradients   asked for: before backward   after it   same parameters   described   together")
        for count, rounds in ROUNDS.items():
            _print_asked(count, rounds)
        print("gradients   bytecodes: gradients   with a clip call   default")
        for count in (150, 1_000):
            alone = {"weights_every": 0, "updates_every": 0}
            plain, clipped = (bytecodes_of_step(count, clips=clips, **alone) for clips in (False, True))
            print(f"{count:>9} {plain:>22} {clipped:>18} {bytecodes_of_step(count, clips=False):>9}", flush=True)


if __name__ == "__main__":
    main()
