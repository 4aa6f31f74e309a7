"""Replays of planted faults: is the place right, is the row right, are the gradients equal bit for bit?

python benchmarks/blackbox/planted.py tuning      # the half that rules may be tuned on
python benchmarks/blackbox/planted.py held_out    # the half that is looked at after a rule is committed
python benchmarks/blackbox/planted.py all         # both, with what anomaly mode says; writes RESULTS.md
"""

from __future__ import annotations

import argparse
import collections
import math
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from planted_faults import Fault, every_fault

import gradwatch
from gradwatch.analysis.replays.result import Replay

HERE = Path(__file__).parent
HEAD = """# Replays of planted faults

`python benchmarks/blackbox/planted.py all`, one thread of a CPU. Each step has one planted fault, or none. A place
is right if its direction, its module and its line are the planted ones. Faults that raise the norm less than twofold
are no bad steps, and are not counted.
"""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One fault with what was said of it."""

    fault: Fault
    replay: Replay
    seconds: float
    step_seconds: float
    anomaly: str | None  # what anomaly mode says; None where it was not asked
    anomaly_seconds: float

    @property
    def recurs_right(self) -> bool:
        return self.replay.recurs in self.fault.expected.recurs

    @property
    def place_right(self) -> bool:
        expected, origin = self.fault.expected, self.replay.origin
        if expected.direction is None:
            return origin is None
        if origin is None or origin.direction not in expected.direction:
            return False
        return (expected.module is None or expected.module == origin.module) and (
            expected.code is None or expected.code in (origin.code or "")
        )

    @property
    def row_right(self) -> bool:
        expected, suspects = self.fault.expected, self.replay.suspects
        if expected.rows is None:
            return not suspects
        return bool(suspects) and (suspects[0].row, suspects[0].micro_batch) == (
            expected.rows[0],
            self._micro_batch(expected.micro_batch),
        )

    def _micro_batch(self, expected: int) -> int:
        return expected

    @property
    def has_row(self) -> bool:
        """Whether a row was planted that raises the norm at least twofold."""
        return self.fault.expected.rows is not None and self.is_bad

    @property
    def rise(self) -> float:
        norm = self.replay.captured_norm
        if norm is None or not math.isfinite(norm):
            return math.inf
        return norm / self.fault.healthy_norm

    @property
    def is_bad(self) -> bool:
        """Whether the fault makes the step a bad one: not finite, or at least twice the norm."""
        return self.rise >= 2.0


def judge(fault: Fault, anomaly: bool) -> Judged:
    began = time.perf_counter()
    replay = gradwatch.replay(fault.capture, fault.model, fault.control)
    seconds = time.perf_counter() - began
    step_seconds, _ = timed(fault, False)
    anomaly_seconds, told = timed(fault, True) if anomaly else (0.0, None)
    return Judged(
        fault=fault,
        replay=replay,
        seconds=seconds,
        step_seconds=step_seconds,
        anomaly=told,
        anomaly_seconds=anomaly_seconds,
    )


def timed(fault: Fault, anomaly: bool) -> tuple[float, str | None]:
    """Seconds of one step, and the line that anomaly mode names, if any."""
    told: str | None = None
    fault.model.zero_grad()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        try:
            with torch.autograd.set_detect_anomaly(anomaly):
                fault.train().backward()
        except RuntimeError as error:
            told = str(error)
        seconds = time.perf_counter() - began
    if anomaly and told is not None:
        lines = [line for one in caught for line in re.findall(r"\n    (\S.*)", str(one.message))]
        told = f"{told.splitlines()[0]} | {lines[-1] if lines else 'no line'}"
    fault.model.zero_grad()
    return seconds, told


def anomaly_right(one: Judged) -> bool:
    """Whether anomaly mode names the planted line."""
    code = one.fault.expected.code
    return one.anomaly is not None and code is not None and code in one.anomaly


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("half", choices=("tuning", "held_out", "all"))
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = {"tuning": (0,), "held_out": (1,), "all": (0, 1)}[chosen.half]
    judged = []
    for at, make in enumerate(every_fault()):
        if at % 2 not in wanted:
            continue
        fault = make()
        if chosen.only not in fault.name:
            continue
        judged.append(judge(fault, anomaly=chosen.half == "all"))
        _print(judged[-1], chosen.verbose)
    table = results(judged)
    print("\n" + table)
    if chosen.half == "all" and not chosen.only:
        (HERE / "RESULTS.md").write_text(f"{HEAD}\n{table}\n")
    return 0


def _print(one: Judged, verbose: bool) -> None:
    planted = one.fault.expected.direction is not None
    right = one.recurs_right and ((one.place_right and one.row_right) or (planted and not one.is_bad))
    if right and not verbose:
        return
    origin = one.replay.origin
    said = None if origin is None else (origin.direction, origin.module, origin.operation, origin.code)
    rows = [(row.micro_batch, row.row) for row in one.replay.suspects]
    print(
        f"{'right' if right else 'WRONG'} {one.fault.name}: x {one.rise:.3g}, recurs {one.replay.recurs}, {said},"
        f" rows {rows}, expected {one.fault.expected}, unknown {one.replay.unknown}",
        flush=True,
    )
    if verbose:
        for row in one.replay.suspects:
            print("     ", row.odd)


def results(judged: Sequence[Judged]) -> str:
    lines = ["| what | right | of |", "|---|---|---|"]

    def line(what: str, right: int, of: int) -> None:
        lines.append(f"| {what} | {right} ({100 * right / max(1, of):.0f}%) | {of} |")

    again = [one for one in judged if one.fault.expected.recurs != ("no",)]
    outside = [one for one in judged if one.fault.expected.recurs == ("no",)]
    placed = [one for one in again if one.fault.expected.direction is not None and one.is_bad]
    healthy = [one for one in again if one.fault.expected.direction is None]
    with_row = [one for one in again if one.has_row]
    without_row = [one for one in again if one.fault.expected.rows is None]
    line("gradients equal bit for bit", sum(one.replay.recurs == "bitwise" for one in again), len(again))
    line("changed from outside once: does not happen again", sum(one.recurs_right for one in outside), len(outside))
    line("place: direction, module and line", sum(one.place_right for one in placed), len(placed))
    line("healthy: no place is named", sum(one.place_right for one in healthy), len(healthy))
    line("row, where it raises the norm at least twofold", sum(one.row_right for one in with_row), len(with_row))
    line("no row is named where none stands out", sum(one.row_right for one in without_row), len(without_row))
    if any(one.anomaly_seconds for one in judged):
        lined = [one for one in placed if one.fault.expected.code is not None]
        line("anomaly mode: names the planted line", sum(anomaly_right(one) for one in lined), len(lined))
        line("the replay, of the same: names it", sum(one.place_right for one in lined), len(lined))
        silent = sum(one.anomaly is None for one in placed)
        line("anomaly mode: says nothing of the planted fault", silent, len(placed))
        times = sorted(one.anomaly_seconds / one.step_seconds for one in judged)
        lines += ["", f"A step in anomaly mode takes {times[len(times) // 2]:.1f} times as long (median)."]
    counts = collections.Counter(one.fault.arch for one in judged)
    seconds = sorted(one.seconds for one in judged)
    lines += [
        f"A replay with all answers takes {seconds[len(seconds) // 2]:.2f} s (median), {seconds[-1]:.2f} s at most.",
        "",
        f"{len(judged)} steps of {len(counts)} models: {', '.join(f'{name} {n}' for name, n in counts.items())}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
