"""A recorded run, read back as pandas frames. Nothing here judges."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.frames import indexed_by_step, standing_rows, steps_frame
from gradwatch.analysis.tables import numbered_frame, parameter_frame, sentinel_frame, side_by_side, slice_of
from gradwatch.capture import CaptureInfo, list_captures
from gradwatch.detect import replay
from gradwatch.errors import BadArgument, RunNotFound
from gradwatch.record import (
    ACCUMULATION_STATS,
    MAGNITUDE_BINS,
    RANK_STATS,
    SAMPLED_STATS,
    STATS,
    UPDATE_STATS,
    WEIGHT_STATS,
    Event,
    Floats,
    ParameterInfo,
    StepRecord,
)
from gradwatch.store import FILE_NAME, Attempt, StoreReader
from gradwatch.store.layer_digests import LayerDigest
from gradwatch.store.reader import last_change
from gradwatch.store.values import settings_of

LAYER_STATS = (*STATS, *WEIGHT_STATS, "update_ratio", *SAMPLED_STATS)

RECORDED_UPDATE_STATS = (*UPDATE_STATS, "update_ratio")

ENTRIES_PER_READ, LEAST_ROWS_PER_READ = 2_000_000, 64
MAGNITUDES_AT_ONCE = 500  # rows, each of which has the histograms of all parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """The step at which a later attempt continued a run.

    Attributes:
        attempt: number of the attempt that continued.
        step: the first step that it made.
        last: the last step made before it.
    """

    attempt: int
    step: int
    last: int

    def __str__(self) -> str:
        """A sentence for a person.

        >>> print(ResumePoint(attempt=1, step=7, last=9))
        resumed at step 7, which made steps 7 to 9 again
        >>> print(ResumePoint(attempt=1, step=12, last=9))
        resumed at step 12; steps 10 to 11 are missing
        >>> print(ResumePoint(attempt=1, step=10, last=9))
        resumed at step 10
        """
        resumed = f"resumed at step {self.step}"
        if self.step <= self.last:
            return f"{resumed}, which made steps {self.step} to {self.last} again"
        missing = f"; steps {self.last + 1} to {self.step - 1} are missing"
        return resumed + (missing if self.step > self.last + 1 else "")


def made_again_by(event: Event, resumed: Iterable[ResumePoint]) -> int | None:
    """The last attempt that made the step of an event again; None where none did.

    >>> points = [ResumePoint(attempt=1, step=7, last=9), ResumePoint(attempt=2, step=8, last=9)]
    >>> [made_again_by(Event(step=s, kind="spike", severity="info", message=""), points) for s in (6, 7, 8)]
    [None, 1, 2]
    """
    later = [point.attempt for point in resumed if event.attempt < point.attempt and event.step >= point.step]
    return later[-1] if later else None


def rows_per_read(parameters: int) -> int:
    """How many rows of layers to read in one query: of a wide model fewer, so that little memory is taken."""
    return max(LEAST_ROWS_PER_READ, ENTRIES_PER_READ // max(1, parameters))


class RunReader:
    """The record of a run in its folder, finished or still being written. Reading changes nothing.

    `gradwatch.Run` adds the summary, the diagnosis and the advice.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: the folder holds no run that can be read.

    >>> reader = RunReader(example_run)
    >>> reader.steps()[["total_norm", "clip_coef"]].head(2).round(3).to_dict("index")
    {0: {'total_norm': 1.0, 'clip_coef': 1.0}, 1: {'total_norm': 1.0, 'clip_coef': 1.0}}
    >>> reader.layers("norm").columns.tolist()
    ['rnn.weight', 'out.weight']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._store = StoreReader(self.path)
        if self.path.is_file():
            self.path = self.path.parent

    def close(self) -> None:
        """Close the file. A reader that is garbage-collected does so too."""
        self._store.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The last part of the run's path."""
        return self.path.resolve().name

    @cached_property
    def optimizers(self) -> dict[str, str]:
        """The class of each optimizer, by the optimizer's name."""
        return self._store.optimizers()

    def optimizer(self, name: str | None = None) -> str:
        """Check the name of an optimizer of this run; without a name, return the first one's.

        Raises:
            BadArgument: the run has no optimizer of that name.
        """
        first = next(iter(self.optimizers), "0")
        if name is None or name == first:
            return first
        if name not in self.optimizers:
            raise BadArgument(f"optimizer is {name!r}; this run has {', '.join(self.optimizers) or 'none'}.")
        return name

    def meta(self) -> dict[str, str]:
        """Facts about the whole run: versions, the model's class, the settings of the recording."""
        return self._store.meta()

    def config(self) -> dict[str, Any]:
        """The hyperparameters passed to `gradwatch.attach`, by their dotted names; empty without any."""
        return settings_of(self.meta().get("config", "{}")) or {}

    def attempts(self) -> list[Attempt]:
        """One entry for each process that wrote to the run."""
        return self._store.attempts()

    def is_being_written(self) -> bool:
        """Whether the process of the last attempt is still alive and has not closed the run."""
        return self._store.is_being_written()

    def resume_points(self, optimizer: str | None = None) -> list[ResumePoint]:
        """The steps at which later attempts continued, for one optimizer (the first if None)."""
        if not self._store.last_attempt():
            return []
        rows = self._store.step_ids(self.optimizer(optimizer))
        attempts = np.unique(rows[:, 2]) if len(rows) else rows[:, 2]
        spans = [(int(a), int(rows[rows[:, 2] == a, 1].min())) for a in attempts]
        before = [int(rows[rows[:, 2] < a, 1].max()) for a in attempts[1:]]
        return [
            ResumePoint(attempt=a, step=first, last=last) for (a, first), last in zip(spans[1:], before, strict=True)
        ]

    def seams(self, optimizer: str | None = None) -> list[ResumePoint]:
        """The older name of `resume_points`."""
        return self.resume_points(optimizer)

    def parameters(self, optimizer: str | None = None) -> tuple[ParameterInfo, ...]:
        """The parameters of one optimizer (the first if None), in the model's order."""
        return self._store.parameters(self.optimizer(optimizer))

    def captures(self) -> list[CaptureInfo]:
        """The bad steps kept for a replay (``attach(..., capture=True)``), by step."""
        return list_captures(self.path)

    def events(self) -> list[Event]:
        """The events that the detectors found while the run was recorded, in order."""
        return self._store.events()

    def records(self, optimizer: str | None = None) -> Iterator[StepRecord]:
        """The records of one optimizer, in the order in which they were written."""
        return self._store.records(self.optimizer(optimizer))

    def settings(self, optimizer: str | None = None) -> dict[str, Any]:
        """The defaults that an optimizer was created with, for example ``eps`` and ``betas``."""
        return self._store.settings(self.optimizer(optimizer))

    def replay(self, optimizer: str | None = None) -> list[Event]:
        """Run today's detectors over the records of one optimizer.

        With the version that recorded the run, the events are those of `events`.
        """
        name = self.optimizer(optimizer)
        return replay(self.records(name), self.optimizers.get(name, ""), self.settings(name))

    @property
    def damaged_rows(self) -> int:
        """Rows of the store read so far and left out because they do not match their checksum."""
        return self._store.damaged_rows

    def steps(self, optimizer: str | None = None) -> pd.DataFrame:
        """A row for every recorded step, indexed by ``step``; of all optimizers, or of one.

        Columns: total_norm, max_norm, norm_type, clip_value, clip_coef, clipped, cut_fraction (share of
        entries that value clipping cut), nonfinite, loss, loss_logged, learning_rate (and learning_rate_1,
        ... of further parameter groups), loss_scale, skipped, clip_fault, update_norm (of the update that the
        optimizer computed), weight_norm (of the same weights before the step), update_ratio (their quotient),
        wall_time, attempt, optimizer.
        ``clipped_fraction`` is the older name of cut_fraction; elsewhere that word is a share of steps.
        Unknown values are NaN; a loss that was logged as NaN has ``loss_logged``. Where several attempts
        recorded a step, the row is the latest attempt's.
        """
        return self.steps_to_read(optimizer).copy()

    def steps_to_read(self, optimizer: str | None = None) -> pd.DataFrame:
        """`steps`, which must not be changed: a column of one value takes no memory, however long the run."""
        # Replaced rows are found from these very rows: a run that is being written may have more by now.
        names = list(self.optimizers) if optimizer is None else [self.optimizer(optimizer)]
        arrays = self._store.step_arrays(None if optimizer is None else names[0])
        return indexed_by_step(steps_frame(arrays, self._entries(names)))

    def layers(self, stat: str = "norm", optimizer: str | None = None, *, one_of: int = 1) -> pd.DataFrame:
        """One statistic of every parameter, (steps, parameters); NaN where a parameter had no gradient.

        ``stat`` is norm, abs_max, nonfinite or zeros of the gradient before clipping, or one of the
        sampled weight_norm, update_norm, update_ratio, moved (share of the entries that the step changed),
        momentum_cosine and weight_cosine (of the gradient with the momentum and with the weights), with one
        row a sample. With several optimizers and none named, their columns stand side by side. ``one_of``
        greater than 1 reads an even sample: one of that many recorded steps.
        """
        if stat not in LAYER_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(LAYER_STATS)}.")
        names = list(self.optimizers) if optimizer is None else [self.optimizer(optimizer)]
        read = self._store.layer_table
        return side_by_side([parameter_frame(self._store, read, stat, name, one_of) for name in names])

    def updates(self, stat: str = "update_ratio", optimizer: str | None = None, *, one_of: int = 1) -> pd.DataFrame:
        """One statistic of every parameter's update as its optimizer computed it, (steps, parameters).

        In contrast to the sampled statistics of `layers` there is a row for every step at which updates were
        recorded; empty where the optimizer's update can't be read from its state. NaN where a parameter had
        no gradient.

        ``stat`` is update_norm (weight decay included), weight_norm (before the step), update_ratio (their
        quotient), rms_ratio (the root mean square of the gradient over the square root of the second moment:
        far above 1 the second moment lags behind) or second_moment_norm (norm of that square root).
        """
        if stat not in RECORDED_UPDATE_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(RECORDED_UPDATE_STATS)}.")
        names = list(self.optimizers) if optimizer is None else [self.optimizer(optimizer)]
        read = self._store.update_table
        return side_by_side([parameter_frame(self._store, read, stat, name, one_of) for name in names])

    def sentinels(
        self, stat: str = "rms_ratio", optimizer: str | None = None, *, after: int = 0, up_to: int | None = None
    ) -> pd.DataFrame:
        """One statistic of the updates of the sentinels at every recorded step, (steps, sentinels).

        Where a model has so many parameters that their updates are read at some steps only, those of a few are read
        at every step: of the first and the last three matrices, and of up to four whose ``rms_ratio`` was once above
        2. NaN where a parameter was no sentinel yet. Empty where all updates are read at every step or none are, on a
        CPU without the compiled pass, and for small models on accelerators other than CUDA. ``stat`` is one of those of
        `updates`. Only rows with ``after < id <= up_to`` are read.
        """
        if stat not in RECORDED_UPDATE_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(RECORDED_UPDATE_STATS)}.")
        return sentinel_frame(self._store, stat, self.optimizer(optimizer), after=after, up_to=up_to)

    def has_sentinels(self, optimizer: str | None = None) -> bool:
        """Whether the updates of a few parameters were read at steps at which those of all were not."""
        return bool(len(self._store.sentinel_table("update_norm", self.optimizer(optimizer), most=1)[0]))

    def standing(self, optimizer: str | None = None) -> NDArray[np.int64]:
        """Id, step and attempt of one optimizer's rows that no later attempt replaced, (rows, 3), by step."""
        rows = standing_rows(self._store.step_ids(self.optimizer(optimizer)))
        is_ordered = (rows[1:, 1] >= rows[:-1, 1]).all()
        return rows if is_ordered else rows[np.argsort(rows[:, 1], kind="stable")]

    def row_ids(self, optimizer: str | None = None) -> NDArray[np.int64]:
        """The ids of one optimizer's rows, replaced ones included, in order."""
        return self._store.step_ids(self.optimizer(optimizer))[:, 0]

    def layer_digests(
        self, optimizer: str | None = None, stats: Collection[str] = STATS
    ) -> Iterator[tuple[int, LayerDigest]]:
        """What the store holds of many rows in short, with the id of the last of them; see `analysis.long_runs`."""
        return self._store.digested_layers(self.optimizer(optimizer), stats)

    def layer_rows(
        self, stat: str, optimizer: str | None = None, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """A slice of one statistic as it was written, replaced rows included: ids (rows,), values (rows, parameters).

        At ``most`` that many rows with ``after < id <= up_to``. ``stat`` is a statistic of the gradient,
        update_ratio, rms_ratio, one of `updates` with the prefix ``computed_``, or one of `ranks` with the prefix
        ``rank_``; the latter has values (rows, ranks).
        """
        return slice_of(self._store, stat, self.optimizer(optimizer), after=after, up_to=up_to, most=most)

    def ranks(self, stat: str = "norm", optimizer: str | None = None) -> pd.DataFrame:
        """One statistic of every process, (steps, ranks); empty where the ranks were not recorded.

        ``stat`` is norm or nonfinite (of each rank's own gradient before the reduction over ranks where
        before_reduction is 1, else of the gradient that the rank holds), differing (parameters whose
        gradient should equal the other ranks' and does not), differs_in (position of the first of these)
        or before_reduction. NaN where a rank was not heard.
        """
        if stat not in RANK_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(RANK_STATS)}.")
        name = self.optimizer(optimizer)
        return numbered_frame(self._store, *self._store.rank_table(stat, name), name)

    def accumulation(self, stat: str = "norm", optimizer: str | None = None) -> pd.DataFrame:
        """One statistic of each gradient while it was accumulated over micro-batches, (steps, times it was read).

        ``stat`` is norm (the total norm then, unscaled and before clipping) or micro_batches (how many the gradient
        held): after the first micro-batch and after the last. Empty where a step has one backward pass, or where
        several processes train together.
        """
        if stat not in ACCUMULATION_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(ACCUMULATION_STATS)}.")
        name = self.optimizer(optimizer)
        return numbered_frame(self._store, *self._store.accumulation_table(stat, name), name)

    def magnitudes(self, parameter: str, optimizer: str | None = None) -> pd.DataFrame:
        """How many entries of one parameter's gradient have which magnitude, (samples, bins), indexed by step.

        The columns are `gradwatch.record.MAGNITUDE_BINS`: 32 bins of log2, each named by its lower end ("below" is
        smaller than 2^-126), then zero, inf and nan. The entries are counted before clipping, with every second sample
        of the weights; of a long parameter, an evenly spaced sample of them. NaN where the parameter had no gradient;
        empty where nothing was counted.
        """
        name = self.optimizer(optimizer)
        names = [info.name for info in self.parameters(name)]
        if parameter not in names:
            raise BadArgument(f"parameter is {parameter!r}; expected a name such as {', '.join(map(repr, names[:3]))}.")
        ids = self.magnitude_ids(name)[:, 0]
        rows, counts = self.magnitude_rows(ids, [names.index(parameter)], name)
        return pd.DataFrame(counts[:, 0], index=pd.Index(rows[:, 1], name="step"), columns=list(MAGNITUDE_BINS))

    def magnitude_ids(self, optimizer: str | None = None) -> NDArray[np.int64]:
        """Id and step of one optimizer's rows whose entries were counted, (rows, 2), by step, without replaced ones."""
        name = self.optimizer(optimizer)
        ids = self._store.magnitude_ids(name)
        if not len(ids):
            return np.empty((0, 2), np.int64)
        standing = self.standing(name)
        return standing[np.isin(standing[:, 0], ids), :2]

    def magnitude_rows(
        self, ids: NDArray[np.int64], positions: Sequence[int], optimizer: str | None = None
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of these rows, (rows, 2), and their counts of entries, (rows, positions, bins), by step."""
        name = self.optimizer(optimizer)
        parts = [
            self._store.magnitude_table(name, ids[begin : begin + MAGNITUDES_AT_ONCE].tolist(), positions)
            for begin in range(0, max(1, len(ids)), MAGNITUDES_AT_ONCE)
        ]
        rows, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(rows[:, 1], kind="stable")
        return rows[order], counts[order]

    def _entries(self, names: Iterable[str]) -> dict[str, int]:
        """The number of entries over all parameters of each optimizer."""
        return {name: sum(p.numel for p in self._store.parameters(name)) for name in names}


def newest(folder: Path = Path("runs")) -> Path:
    """The folder of the most recently written run under ``folder``.

    Raises:
        RunNotFound: there is no run under it.
    """
    return newest_first(folder)[0]


def is_imported(meta: Mapping[str, str]) -> bool:
    """Whether the meta table is that of a history that was imported, which does not know what it does not hold."""
    return "source" in meta


def newest_first(folder: Path = Path("runs")) -> list[Path]:
    """The folders of the runs under ``folder``, at least one, the most recently written first.

    Raises:
        RunNotFound: there is no run under it.
    """
    stores = list(folder.rglob(FILE_NAME)) if folder.is_dir() else []
    if not stores:
        raise RunNotFound(
            f"There is no run under {str(folder)!r}. Give the folder of a recorded run, or record one:"
            " `gradwatch run SCRIPT`, `gradwatch demo`, or `gradwatch.attach(model, optimizer, 'runs/first')`."
        )
    return [store.parent for store in sorted(stores, key=last_change, reverse=True)]
