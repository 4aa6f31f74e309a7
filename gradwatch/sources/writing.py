"""How a history that another tool recorded becomes a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradwatch.detect import detectors_for
from gradwatch.errors import CannotImport, StoreNotWritable
from gradwatch.record import NOT_LOGGED, VALIDATION_KEY, Event, LayerStats, ParameterInfo, StepRecord
from gradwatch.sources.history import History, Point
from gradwatch.sources.values import is_step
from gradwatch.store import FILE_NAME, LATEST, StoreWriter
from gradwatch.text import count

BATCH = 1000  # records in one transaction


@dataclass(frozen=True, slots=True)
class Imported:
    """What `write` has written.

    Attributes:
        run: its folder.
        steps: that were written.
        every: the usual distance between two steps.
        events: that the detectors found.
        notes: sentences for the user.
    """

    run: Path
    steps: int
    every: int
    events: int
    notes: tuple[str, ...]


def write(history: History, run: Path, optimizer_class: str = "", moment: str | None = None) -> Imported:
    """Turn a history into a run, which today's detectors judge. After an error there is no run.

    Args:
        history: to write.
        run: folder of the new run.
        optimizer_class: name of the optimizer's class, instead of the history's own; empty: that one.
        moment: as in `History`, instead of the history's own.

    Raises:
        CannotImport: the folder holds a run already, or the history holds no step that can be written.
        StoreNotWritable: the folder can't be written.
    """
    _refuse_existing(run)
    possible = [point for point in history.points if point.norm is None or not point.norm < 0]
    points, repeated = _in_order(possible)
    _check_steps(points, history.source)
    every = _spacing([point for point in points if point.optimizer == points[0].optimizer])
    has_norms = any(point.norm is not None for point in points)
    moment = (moment or history.moment) if has_norms else NOT_LOGGED
    notes = (*history.notes, *_negative_notes(len(history.points) - len(possible)), *_notes(repeated, every, moment))
    if not optimizer_class:
        notes += _optimizer_notes(history)
    optimizer_class = optimizer_class or history.optimizer
    optimizers = dict.fromkeys(point.optimizer for point in possible)
    detectors = {name: detectors_for(optimizer_class) for name in optimizers}
    parameters = tuple(ParameterInfo(name=name, shape=()) for name in history.layers)
    records = [_record(point, parameters) for point in points]
    events = [
        event for record in records for detector in detectors[record.optimizer] for event in detector.update(record)
    ]
    meta = _meta(history, points) | {"moment": moment, "every": str(every)}
    known = {} if history.learning_rate is None else {"lr": history.learning_rate}
    with tempfile.TemporaryDirectory(prefix="gradwatch-") as aside:
        _write_store(Path(aside), meta, dict.fromkeys(optimizers, (optimizer_class, known)), records, events)
        _put_in_place(Path(aside) / FILE_NAME, run)
    return Imported(run, len({point.step for point in points}), every, len({event.key for event in events}), notes)


def _meta(history: History, points: Sequence[Point]) -> dict[str, str]:
    """What the table meta has of a history, but for how its norms were taken."""
    meta = {"model": "", "source": history.source}
    rewards = [point.reward for point in points if point.reward is not None and math.isfinite(point.reward)]
    if rewards:
        meta["rewards"] = json.dumps(rewards)
    if history.config:
        meta["config"] = json.dumps(history.config)
    if history.validation:
        meta[f"{VALIDATION_KEY}0"] = json.dumps(list(history.validation))
    return meta


def _check_steps(points: Sequence[Point], source: str) -> None:
    if not points:
        raise CannotImport(f"{source} holds no step with a gradient norm, a loss or a reward.")
    if not is_step(points[-1].step) or not is_step(points[0].step):
        raise CannotImport(f"{source} holds a step below 0 or above 2^53, where float64 has gaps.")


def _optimizer_notes(history: History) -> tuple[str, ...]:
    if not history.optimizer:
        return ()
    return (f"optimizer {history.optimizer} taken from {history.optimizer_from}; --optimizer overrides it",)


def _notes(repeated: int, every: int, moment: str) -> Iterator[str]:
    """What a user should know of the import, a sentence each."""
    yield from repeated_notes(repeated)
    if every > 1:
        yield f"a row every {every} steps: what happened between was not recorded"
    if moment == NOT_LOGGED:
        yield "no gradient norm is logged: the loss alone is judged, and nothing can be said of gradients or clipping"
    if moment == "unknown":
        yield "not known whether the norms were taken before or after clipping; pass --moment"


def _negative_notes(negative: int) -> Iterator[str]:
    if negative:
        yield f"{count(negative, 'row')} left out: the norm is below 0 there, so it was not known or is no norm"


def repeated_notes(repeated: int) -> Iterator[str]:
    """A sentence if some steps are there more than once.

    >>> list(repeated_notes(0)), list(repeated_notes(1))
    ([], ['1 step is there more than once; the last value of a step counts'])
    """
    if repeated:
        are = "step is" if repeated == 1 else "steps are"
        yield f"{repeated} {are} there more than once; the last value of a step counts"


def _refuse_existing(run: Path) -> None:
    if run.is_file():
        raise CannotImport(f"{str(run)!r} is a file; expected the folder of the new run as the last path.")
    if (run / FILE_NAME).exists():
        raise CannotImport(f"{str(run)!r} is already a run, and stays as it is. Give the folder of a new one.")


def _write_store(
    folder: Path,
    meta: dict[str, str],
    optimizers: Mapping[str, tuple[str, dict[str, Any]]],
    records: Sequence[StepRecord],
    events: Sequence[Event],
) -> None:
    writer = StoreWriter(folder)
    try:
        writer.begin_attempt(meta, optimizers)
        writer.set_first_step(records[0].step)
        if records[0].layers is not None:
            writer.add_parameters(records[0].optimizer, records[0].layers.parameters)
        for start in range(0, len(records), BATCH):
            writer.append(records[start : start + BATCH])
        writer.append([], events)
        writer.end_attempt("imported")
    except BaseException:
        writer.abandon()
        raise


def _put_in_place(store: Path, run: Path) -> None:
    """Move a store into the folder of a run, whole: a process that is killed meanwhile leaves no part of one."""
    beside = run / f"{FILE_NAME}.{os.getpid()}.new"
    try:
        run.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store, beside)
        _refuse_existing(run)
        beside.replace(run / FILE_NAME)
    except (OSError, ValueError) as error:
        raise StoreNotWritable(
            f"The folder {str(run)!r} can't be written: {error}. Give a folder that can be written."
        ) from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            beside.unlink(missing_ok=True)


def _in_order(points: Sequence[Point]) -> tuple[list[Point], int]:
    """The points by step, the last of each step and optimizer, and how many were left out."""
    latest = {(point.step, point.optimizer): point for point in points}
    return sorted(latest.values(), key=lambda point: point.step), len(points) - len(latest)


def _spacing(points: Sequence[Point]) -> int:
    """The usual distance between two steps."""
    if len(points) < 2:
        return 1
    return max(1, int(np.median(np.diff([point.step for point in points]))))


def _record(point: Point, parameters: tuple[ParameterInfo, ...]) -> StepRecord:
    return StepRecord(
        step=point.step,
        optimizer=point.optimizer,
        wall_time=point.wall_time if abs(point.wall_time) <= LATEST else 0.0,
        total_norm=math.nan if point.norm is None else point.norm,
        nonfinite=0 if point.norm is None or math.isfinite(point.norm) else 1,
        loss=point.loss,
        learning_rates=() if point.learning_rate is None else (point.learning_rate,),
        layers=_layers(point, parameters) if parameters else None,
    )


def _layers(point: Point, parameters: tuple[ParameterInfo, ...]) -> LayerStats:
    """The norms of the parameters. How many entries a parameter has is not known, so its shape is empty."""
    norms = point.layers or (None,) * len(parameters)
    with np.errstate(over="ignore"):
        norm = np.array([math.nan if value is None else value for value in norms]).astype(np.float32)
    bad = [math.nan if value is None else float(not math.isfinite(value)) for value in norms]
    return LayerStats(parameters=parameters, norm=norm, nonfinite=np.array(bad, np.float32))
