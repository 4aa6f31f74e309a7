"""A history that another tool recorded, and how it becomes a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from gradwatch.detect import detectors_for
from gradwatch.errors import CannotImport, StoreNotWritable
from gradwatch.record import NOT_LOGGED, VALIDATION_KEY, Event, LayerStats, ParameterInfo, StepRecord
from gradwatch.store import FILE_NAME, LARGEST, LATEST, StoreWriter
from gradwatch.text import count

NAMES = {
    "norm": (
        "grad_norm",
        "gradnorm",
        "gradient_norm",
        "total_norm",
        "grad_2.0_norm_total",
        "global_norm",
        "gnorm",
        "grad_l2_norm",
        "grad_global",  # of Composer's l2_norm/grad/global
    ),
    "loss": ("loss", "train_loss", "training_loss", "train_loss_step", "loss_step", "train_total"),
    "learning_rate": ("learning_rate", "lr"),
    # The last two parts of verl's critic/score/mean, and what TRL, Stable-Baselines3, CleanRL, RLlib and PyMARL write.
    "reward": (
        "reward",
        "rewards",
        "reward_mean",
        "mean_reward",
        "rewards_mean",
        "score_mean",
        "rlhf_reward",
        "ep_rew_mean",
        "episode_reward",
        "episodic_return",
        "return_mean",
        "mean_return",
        "average_return",
        "avg_return",
        "ep_return",
        "episode_return",
        "episode_return_mean",
        "average_reward",
        "avg_reward",
        "episode_reward_mean",
        "mean_episode_reward",
        "mean_episode_return",
        "average_episode_reward",
        "average_episode_return",
        "avg_episode_reward",
        "avg_episode_return",
        "ep_reward",
        "ep_reward_mean",
        "ep_return_mean",
        "cumulative_reward",
        "battle_won_mean",
        "win_rate",
    ),
    "step": (
        "step",
        "global_step",
        "iteration",
        "iter",
        "_step",
        "current_steps",
        "num_updates",
        "global_step_max_steps",
    ),
}
"""The usual names of each series. They are compared without case, with the last part of a path."""

UNSURE_NORMS = ("l2_norm",)  # the gradient's where no series has a usual name; beside one it is often the weights'
UNSURE_LOSSES = (
    "total_loss",
    "loss_total",
    "loss_train",
    "lm_loss",
    "loss_epoch",
    "train_loss_epoch",
    "avg_loss",
    "avg_train_loss",
    "mean_loss",
    "loss_mean",
    "running_loss",
)  # where no series has a usual name
MOST_LISTED = 30  # names in an error
BATCH = 1000  # records in one transaction
MOST_ROUNDED_DECIMALS = 6  # of a log that rounds its numbers


@dataclass(frozen=True, slots=True)
class Point:
    """The values logged at one step; None is not known."""

    step: int
    norm: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    reward: float | None = None  # of a policy that is trained by it
    wall_time: float = 0.0  # seconds since the epoch; 0: not known
    layers: tuple[float | None, ...] = ()  # norms of `History.layers`; None was not logged


@dataclass(frozen=True, slots=True)
class History:
    """What a file holds.

    Attributes:
        points: in any order.
        source: the file, and the part of it that was read, in words.
        moment: when norms were taken: "before clipping", "after clipping" or "unknown"; of a history without norms that
            does not count.
        notes: sentences for the user.
        optimizer: class of the optimizer, as a config beside the history tells; empty: not known.
        optimizer_from: what tells it, in words.
        learning_rate: that the optimizer began with, as a config tells; None: not known, or the points have it.
        config: the settings of the training by their dotted names.
        layers: the names of the parameters whose norms the points have.
        validation: steps, and the loss on data that the training did not learn from.
    """

    points: Sequence[Point]
    source: str
    moment: str = "unknown"
    notes: Sequence[str] = field(default_factory=tuple)
    optimizer: str = ""
    optimizer_from: str = ""
    layers: tuple[str, ...] = ()
    learning_rate: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    validation: Sequence[tuple[int, float]] = ()


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


_MONITORED_RATE = re.compile(r"lr-[A-Za-z]\w*(/pg1|/group0)?")  # of Lightning's LearningRateMonitor and Composer's
_OF_TRAINING = re.compile(r"(?<![^/])(?:train|training)_")
_OF_A_TEST = re.compile(r"(?<![^/])(?:test|eval|evaluation)[_/]")


def pick(kind: str, available: Sequence[str], wanted: str | None, where: str) -> str | None:
    """The name of the series that is meant; None if there is none.

    Args:
        kind: one of `NAMES`.
        available: the names of all series.
        wanted: the name that the user gave, if any.
        where: the file, for messages.

    Raises:
        CannotImport: there is no series of the given name, or several may be the norm.

    >>> pick("norm", ["train/loss", "train/grad_norm"], None, "a.csv")
    'train/grad_norm'
    >>> pick("learning_rate", ["lr-AdamW"], None, "a.csv"), pick("learning_rate", ["lr-Adam", "lr-SGD"], None, "a.csv")
    ('lr-AdamW', None)
    >>> pick("loss", ["eval/loss", "train/loss"], None, "a.csv"), pick("loss", ["eval/loss"], None, "a.csv")
    ('train/loss', None)
    >>> pick("reward", ["eval/reward", "train_reward"], None, "a.csv")
    'train_reward'
    >>> pick("reward", ["eval/reward"], None, "a.csv"), pick("reward", ["test_return_mean"], None, "a.csv")
    ('eval/reward', 'test_return_mean')
    """
    listed = ", ".join(map(repr, available[:MOST_LISTED])) or "nothing"
    if wanted is not None:
        if wanted in available:
            return wanted
        raise CannotImport(f"{where} has no {wanted!r}; expected one of {listed}.")
    found = _candidates(kind, available)
    if kind == "norm" and len(found) > 1:
        several = ", ".join(map(repr, found))
        raise CannotImport(f"{where} has several series that may be the gradient norm: {several}. Name it with --norm.")
    return min(found, key=lambda name: (kind == "loss" and _is_of_a_part(name), len(name)), default=None)


def _is_of_a_part(name: str) -> bool:
    """Whether a path does not say that its series is the training's: that may be of a part of the model or the loss.

    >>> [name for name in ("loss", "train/loss", "kl/loss", "train_loss") if _is_of_a_part(name)]
    ['kl/loss']
    """
    return "/" in name and {"train", "training"}.isdisjoint(re.split(r"\W|_", name.lower()))


def _candidates(kind: str, available: Sequence[str]) -> list[str]:
    """The series that may be of this kind, from the surest sort of name of which there is one."""
    possible = [name for name in available if kind not in ("loss", "reward") or not _is_held_out(name)]
    if found := [name for name in possible if is_called(name, NAMES[kind])]:
        return found
    if found := [name for name in possible if is_called(_OF_TRAINING.sub("", name.lower()), NAMES[kind])]:
        return found
    if kind == "reward":  # that of a test is the policy's as well
        return [name for name in available if is_called(_OF_A_TEST.sub("", name.lower()), NAMES[kind])]
    if kind in ("norm", "loss"):
        unsure = UNSURE_NORMS if kind == "norm" else UNSURE_LOSSES
        return [name for name in possible if is_called(name, unsure)]
    if kind == "learning_rate":
        monitored = [name for name in available if _MONITORED_RATE.fullmatch(name)]
        return monitored if len(monitored) == 1 else []
    return []


def on_through_epochs(steps: Iterable[int], epochs: Iterable[float | None]) -> Iterator[int]:
    """The steps, counted on where a tool counts those of each epoch anew, from 0 or from 1.

    >>> list(on_through_epochs([1, 2, 1, 2], [0, 0, 1, 1])), list(on_through_epochs([0, 50, 0, 50], [0, 0, 1, 1]))
    ([1, 2, 3, 4], [0, 50, 100, 150])
    >>> list(on_through_epochs([99, 199], [0, 1])), list(on_through_epochs([5, 4], [None, None]))
    ([99, 199], [5, 4])
    """
    before = highest = 0  # steps of the epochs before, and of this one
    last, last_epoch, distance = 0, math.inf, 1
    for step, epoch in zip(steps, epochs, strict=True):
        if epoch is not None:
            if step <= last and epoch > last_epoch:
                before += highest + (distance if step == 0 else 0)
                highest = 0
            elif step > last:
                distance = step - last
            last, last_epoch, highest = step, epoch, max(highest, step)
        yield before + step


OF_DATA = ("split", "phase", "mode", "stage", "subset")
"""Names of a column that says of which data a row is."""


def is_of_held_out_data(row: Mapping[str, Any]) -> bool:
    """Whether a row says that it is of data that is not trained on.

    >>> is_of_held_out_data({"split": "val", "loss": 2.0}), is_of_held_out_data({"mode": "train", "loss": 2.0})
    (True, False)
    """
    return any(isinstance(row.get(name), str) and _is_held_out(row[name]) for name in OF_DATA)


def first_line(error: Exception) -> str:
    """The first line of a parser's message, without the period at its end."""
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


_HELD_OUT = {"eval", "evaluation", "val", "valid", "validation", "test", "testing", "dev", "cv", "holdout", "heldout"}


def _is_held_out(name: str) -> bool:
    """Whether a series is of data that is not trained on.

    >>> _is_held_out("eval/loss"), _is_held_out("run 7 - valid/loss"), _is_held_out("devices/loss")
    (True, True, False)
    """
    return not _HELD_OUT.isdisjoint(re.split(r"\W|_", name.lower()))


def is_called(name: str, usual: Sequence[str]) -> bool:
    """Whether the last part of a path, or its last two joined, is a usual name.

    >>> is_called("run 7 - train/Grad-Norm", NAMES["norm"]), is_called("grad_norm__MAX", NAMES["norm"])
    (True, False)
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    parts = plain.split("/")
    return parts[-1].split("___")[-1] in usual or "_".join(parts[-2:]) in usual


def as_float(value: object) -> float | None:
    """A number as float64; None if the value is no number, or a whole number too large for float64.

    >>> as_float("1.5"), as_float("large") is None, as_float(10**400) is None
    (1.5, True, True)
    """
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def is_rounded_to_zero(value: object) -> bool:
    """Whether a text shows only that a number is below its last decimal: a small learning rate in fixed decimals.

    >>> [is_rounded_to_zero(text) for text in ("0.000000", "0", "0.0", "0.00e+00")]
    [True, False, False, False]
    """
    return isinstance(value, str) and re.fullmatch(r"\s*[-+]?0?\.00+\s*", value) is not None


def rounds_rates(rates: Iterable[object], others: Iterable[object]) -> bool:
    """Whether a log shows so few decimals of all its numbers that a learning rate of 0 may be a small one.

    mmcv's JSON, for example, rounds each number to five decimals, and JSON shows no zeros at the end of a number.

    >>> rounds_rates([0.0, 1e-05], [2.31542, 7.5]), rounds_rates([0.0, 1e-05], [2.315417289733887, 7.5])
    (True, False)
    """
    if not any(as_float(rate) == 0 for rate in rates):
        return False
    shown = [str(value) for value in (*rates, *others) if value is not None and value != ""]
    return all(_decimals(text) <= MOST_ROUNDED_DECIMALS for text in shown)


def _decimals(text: str) -> int:
    """The decimals of a number as it is written; 0 where it is none.

    >>> [_decimals(text) for text in ("1e-05", "2.50", "7", "nan", "1.5e-7")]
    [5, 2, 0, 0, 8]
    """
    try:
        exponent = Decimal(text.strip()).as_tuple().exponent
    except InvalidOperation:
        return 0
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def is_step(value: object) -> bool:
    """Whether a value is a whole number that a store can hold as a step.

    >>> is_step(7), is_step(-1), is_step(2**63), is_step(True)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


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
    every = _spacing(points)
    has_norms = any(point.norm is not None for point in points)
    moment = (moment or history.moment) if has_norms else NOT_LOGGED
    notes = (*history.notes, *_negative_notes(len(history.points) - len(possible)), *_notes(repeated, every, moment))
    if not optimizer_class:
        notes += _optimizer_notes(history)
    optimizer_class = optimizer_class or history.optimizer
    detectors = detectors_for(optimizer_class)
    parameters = tuple(ParameterInfo(name=name, shape=()) for name in history.layers)
    records = [_record(point, parameters) for point in points]
    events = [event for record in records for detector in detectors for event in detector.update(record)]
    meta = {"model": "", "moment": moment, "every": str(every), "source": history.source}
    rewards = [point.reward for point in points if point.reward is not None and math.isfinite(point.reward)]
    if rewards:
        meta["rewards"] = json.dumps(rewards)
    if history.config:
        meta["config"] = json.dumps(history.config)
    if history.validation:
        meta[f"{VALIDATION_KEY}0"] = json.dumps(list(history.validation))
    known = {} if history.learning_rate is None else {"lr": history.learning_rate}
    with tempfile.TemporaryDirectory(prefix="gradwatch-") as aside:
        _write_store(Path(aside), meta, (optimizer_class, known), records, events)
        _put_in_place(Path(aside) / FILE_NAME, run)
    return Imported(run, len(points), every, len({event.key for event in events}), notes)


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
    if (run / FILE_NAME).exists():
        raise CannotImport(f"{str(run)!r} is already a run, and stays as it is. Give the folder of a new one.")


def _write_store(
    folder: Path,
    meta: dict[str, str],
    optimizer: tuple[str, dict[str, Any]],
    records: Sequence[StepRecord],
    events: Sequence[Event],
) -> None:
    writer = StoreWriter(folder)
    try:
        writer.begin_attempt(meta, {"0": optimizer})
        writer.set_first_step(records[0].step)
        if records[0].layers is not None:
            writer.add_parameters("0", records[0].layers.parameters)
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
    """The points by step, the last of each step, and how many were left out."""
    latest = {point.step: point for point in points}
    return [latest[step] for step in sorted(latest)], len(points) - len(latest)


def _spacing(points: Sequence[Point]) -> int:
    """The usual distance between two steps."""
    if len(points) < 2:
        return 1
    return max(1, int(np.median(np.diff([point.step for point in points]))))


def _record(point: Point, parameters: tuple[ParameterInfo, ...]) -> StepRecord:
    return StepRecord(
        step=point.step,
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
