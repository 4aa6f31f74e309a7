"""What a history recorded by somebody else holds, and how it becomes a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gradwatch.detect import detectors_for
from gradwatch.errors import CannotImport, GradwatchError
from gradwatch.record import StepRecord
from gradwatch.store import FILE_NAME, StoreWriter

NAMES = {
    "norm": ("grad_norm", "gradnorm", "gradient_norm", "total_norm", "grad_2.0_norm_total", "global_norm"),
    "loss": ("loss", "train_loss", "training_loss"),
    "learning_rate": ("learning_rate", "lr"),
    "step": ("step", "global_step", "iteration", "iter"),
}
"""What the series are usually called; compared without case, and with the last part of a path."""


@dataclass(frozen=True, slots=True)
class Point:
    """What was logged at one step."""

    step: int
    norm: float
    loss: float | None = None
    learning_rate: float | None = None
    wall_time: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """A history, and what has to be said about it."""

    points: Sequence[Point]
    source: str  # what was read, in words
    moment: str = "unknown"  # before clipping, after clipping or unknown
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Imported:
    """What `write` has written."""

    run: Path
    steps: int
    every: int
    events: int
    notes: tuple[str, ...]


def pick(kind: str, available: Sequence[str], wanted: str | None, where: str) -> str | None:
    """Which of the series is meant; None where none is, which is an error for the norm alone.

    Raises:
        CannotImport: the one named is not there, or there is not just one that it can be.

    >>> pick("norm", ["train/loss", "train/grad_norm"], None, "a.csv")
    'train/grad_norm'
    >>> pick("loss", ["eval/accuracy"], None, "a.csv") is None
    True
    """
    listed = ", ".join(repr(name) for name in available[:30]) or "nothing"
    if wanted is not None:
        if wanted in available:
            return wanted
        raise CannotImport(f"{where} has no {wanted!r}; expected one of {listed}.")
    found = [name for name in available if _is_called(name, NAMES[kind])]
    if len(found) == 1 or (found and kind != "norm"):
        return min(found, key=len)
    if kind != "norm":
        return None
    what = "several series that can be the gradient norm" if found else "no series that is called a gradient norm"
    raise CannotImport(f"{where} has {what}: {', '.join(map(repr, found)) or listed}. Name it with --norm.")


def first_line(error: Exception) -> str:
    """Of what a parser raised, for a message of ours."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _is_called(name: str, usual: Sequence[str]) -> bool:
    """The last part of a path, or all of it joined, is a usual name.

    >>> _is_called("run 7 - train/Grad-Norm", NAMES["norm"]), _is_called("grad_norm__MAX", NAMES["norm"])
    (True, False)
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    parts = plain.split("/")
    return parts[-1].split("___")[-1] in usual or "_".join(parts[-2:]) in usual


def write(history: History, run: Path, optimizer_class: str = "", moment: str | None = None) -> Imported:
    """Make a run of a history; today's detectors judge it.

    Raises:
        CannotImport: there is a run already, or nothing to be written.
        StoreNotWritable: the folder can't be written.
    """
    if (run / FILE_NAME).exists():
        raise CannotImport(f"{str(run)!r} is a run already, and is left as it is. Give the folder of a new one.")
    points, repeated = _in_order(history.points)
    if not points:
        raise CannotImport(f"{history.source} holds no step with a gradient norm.")
    every = _spacing(points)
    notes = [*history.notes]
    if repeated:
        notes.append(f"{repeated} steps are there more than once; the last of each stands")
    if every > 1:
        notes.append(f"a norm every {every} steps: what happened between was not recorded")
    moment = moment or history.moment
    if moment == "unknown":
        notes.append("not known whether the norms were taken before or after clipping; --moment says it")
    detectors = detectors_for(optimizer_class)
    writer = StoreWriter(run)
    try:
        meta = {"model": "", "moment": moment, "every": str(every), "source": history.source}
        writer.begin_attempt(meta, {"0": (optimizer_class, {})})
        writer.set_first_step(points[0].step)
        records = [_record(point) for point in points]
        events = [event for record in records for detector in detectors for event in detector.update(record)]
        for start in range(0, len(records), 1000):
            writer.append(records[start : start + 1000])
        writer.append([], events)
        writer.end_attempt("imported")
    except GradwatchError:
        writer.abandon()
        raise
    return Imported(run, len(points), every, len({event.key for event in events}), tuple(notes))


def _in_order(points: Sequence[Point]) -> tuple[list[Point], int]:
    """By step, of each step the last; and how many were left out."""
    latest = {point.step: point for point in points}
    return [latest[step] for step in sorted(latest)], len(points) - len(latest)


def _spacing(points: Sequence[Point]) -> int:
    """The usual distance of two steps."""
    if len(points) < 2:
        return 1
    return max(1, int(np.median(np.diff([point.step for point in points]))))


def _record(point: Point) -> StepRecord:
    return StepRecord(
        step=point.step,
        wall_time=point.wall_time,
        total_norm=point.norm,
        nonfinite=0 if math.isfinite(point.norm) else 1,
        loss=point.loss,
        learning_rates=() if point.learning_rate is None else (point.learning_rate,),
    )
