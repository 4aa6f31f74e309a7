"""A recorded run, read back as pandas frames."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.detect import eps_of, replay
from gradwatch.errors import BadArgument, EmptyRun, RunNotFound
from gradwatch.record import RANK_STATS, STATS, WEIGHT_STATS, Event, Floats, ParameterInfo, StepRecord, WeightStats
from gradwatch.store import FILE_NAME, Attempt, StoreReader

if TYPE_CHECKING:
    from gradwatch.analysis.recommend import Recommendation
    from gradwatch.analysis.summary import RunSummary

_REAL = [
    "total_norm",
    "max_norm",
    "norm_type",
    "clip_value",
    "clip_coef",
    "cut_entries",
    "loss",
    "learning_rate",
    "loss_scale",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Where an attempt went on with a run.

    Attributes:
        attempt: which.
        step: the first that it made.
        last: the last step that had been made before.
    """

    attempt: int
    step: int
    last: int

    def __str__(self) -> str:
        """What happened there.

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


LAYER_STATS = (*STATS, *WEIGHT_STATS, "update_ratio")


class Run:
    """A run in its folder, finished or still being written; reading changes nothing.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: there is no run that can be read.

    >>> run = Run(example_run)
    >>> run.steps()[["total_norm", "clip_coef"]].head(2).round(3).to_dict("index")
    {0: {'total_norm': 1.0, 'clip_coef': 1.0}, 1: {'total_norm': 1.0, 'clip_coef': 1.0}}
    >>> run.layers("norm").columns.tolist()
    ['rnn.weight', 'out.weight']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._store = StoreReader(self.path)
        if self.path.is_file():
            self.path = self.path.parent

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str | None:
        """In a notebook; as text where there is no step yet."""
        try:
            return self.summary()._repr_html_()
        except EmptyRun:
            return None

    @property
    def name(self) -> str:
        """The last part of the run's path."""
        return self.path.resolve().name

    @cached_property
    def optimizers(self) -> dict[str, str]:
        """The name of each optimizer, with the name of its class."""
        return self._store.optimizers()

    def optimizer(self, name: str | None = None) -> str:
        """The name of an optimizer of this run: the first one's where none is given.

        Raises:
            BadArgument: there is none of that name.
        """
        first = next(iter(self.optimizers), "0")
        if name is None or name == first:
            return first
        if name not in self.optimizers:
            raise BadArgument(f"optimizer is {name!r}; this run has {', '.join(self.optimizers) or 'none'}.")
        return name

    def meta(self) -> dict[str, str]:
        """Versions, the model's class, and what was recorded how."""
        return self._store.meta()

    def attempts(self) -> list[Attempt]:
        """One entry for each process that wrote to the run."""
        return self._store.attempts()

    def seams(self, optimizer: str | None = None) -> list[ResumePoint]:
        """Where later attempts went on, of one optimizer, the first if none is named."""
        if not self._store.last_attempt():
            return []
        rows = self._store.step_ids(self.optimizer(optimizer))
        attempts = np.unique(rows[:, 2]) if len(rows) else rows[:, 2]
        spans = [(int(a), int(rows[rows[:, 2] == a, 1].min())) for a in attempts]
        before = [int(rows[rows[:, 2] < a, 1].max()) for a in attempts[1:]]
        return [
            ResumePoint(attempt=a, step=first, last=last) for (a, first), last in zip(spans[1:], before, strict=True)
        ]

    def parameters(self, optimizer: str | None = None) -> tuple[ParameterInfo, ...]:
        """The parameters of an optimizer, the first one's if none is named, in the model's order."""
        return self._store.parameters(self.optimizer(optimizer))

    def events(self) -> list[Event]:
        """What the detectors found while the run was recorded, in order."""
        return self._store.events()

    def records(self, optimizer: str | None = None) -> Iterator[StepRecord]:
        """The records of an optimizer in the order in which they were written."""
        return self._store.records(self.optimizer(optimizer))

    def settings(self, optimizer: str | None = None) -> dict[str, Any]:
        """What an optimizer was made with: its defaults, ``eps`` and ``betas`` say."""
        return self._store.settings(self.optimizer(optimizer))

    def replay(self, optimizer: str | None = None) -> list[Event]:
        """What today's detectors find in the records of an optimizer; a run of an older version may hold other events.

        They find what was found live, if the version is the same.
        """
        name = self.optimizer(optimizer)
        return replay(self.records(name), self.optimizers.get(name, ""), eps_of(self.settings(name)))

    @property
    def damaged_rows(self) -> int:
        """Rows of the store that were read so far and left out, because they are not as they were written."""
        return self._store.damaged_rows

    def steps(self, optimizer: str | None = None) -> pd.DataFrame:
        """A row for every recorded step, indexed by ``step``; of all optimizers or of one.

        Columns: total_norm, max_norm, norm_type, clip_value, clip_coef, clipped, clipped_fraction
        (share of entries cut, value clipping only), nonfinite, loss, loss_logged, learning_rate
        (and learning_rate_1, ... of further parameter groups), loss_scale, skipped, clip_fault,
        wall_time, attempt, optimizer. What is not known is NaN; a loss that is NaN is one that was logged.
        Of two records of one step the later attempt's is given.
        """
        columns = self._store.step_columns()
        rates = columns.pop("learning_rates")
        del columns["parts"]
        frame = pd.DataFrame(columns)
        frame["loss_logged"] = [loss is not None for loss in columns["loss"]]
        for name in _REAL:
            frame[name] = frame[name].astype(float)
        frame["skipped"] = frame["skipped"].astype(bool)
        cut = frame.pop("cut_entries")
        frame["clipped"] = ~(frame["clip_coef"] >= 1.0) | (cut > 0)
        frame["clipped_fraction"] = cut / self._entries(frame["optimizer"])
        for group, values in _further_rates(rates).items():
            frame[f"learning_rate_{group}"] = values
        if optimizer is not None:
            frame = frame[frame["optimizer"] == self.optimizer(optimizer)]
        if frame["attempt"].nunique() > 1:
            # From these very rows: a run being written may have more by now.
            groups = [group[["id", "step", "attempt"]].to_numpy(np.int64) for _, group in frame.groupby("optimizer")]
            standing = np.concatenate([_standing_rows(rows)[:, 0] for rows in groups])
            frame = frame[frame["id"].isin(standing)].sort_values(["step", "id"])
        return frame.set_index("step")[_ordered(frame.columns)]

    def layers(self, stat: str = "norm", optimizer: str | None = None, *, one_of: int = 1) -> pd.DataFrame:
        """One statistic of every parameter, steps x parameters; NaN where there was no gradient.

        ``stat`` is norm, abs_max, nonfinite or zeros of the gradient before clipping, or one of
        the sampled weight_norm, update_norm and update_ratio, which have a row for each sample.
        With several optimizers and none named their columns stand side by side. Of ``one_of``
        recorded steps one is given, evenly, where a sample is enough.
        """
        if stat not in LAYER_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(LAYER_STATS)}.")
        names = list(self.optimizers) if optimizer is None else [self.optimizer(optimizer)]
        frames = [self._layers_of(stat, name, one_of) for name in names]
        frame = pd.concat(frames, axis=1) if len(frames) > 1 else frames[0]
        return frame.loc[:, ~frame.columns.duplicated()]

    def standing(self, optimizer: str | None = None) -> NDArray[np.int64]:
        """Id, step and attempt of the rows of one optimizer that no later attempt replaced, (rows, 3), by step."""
        rows = _standing_rows(self._store.step_ids(self.optimizer(optimizer)))
        return rows[np.argsort(rows[:, 1], kind="stable")]

    def layer_rows(
        self, stat: str, optimizer: str | None = None, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """A part of one statistic as it was written, replaced rows too: ids (rows,), values (rows, parameters).

        The rows whose id lies after ``after`` and not above ``up_to``, at ``most`` so many. Of the
        gradients' statistics, of update_ratio, and of those of `ranks` with ``rank_`` before them, (rows, ranks).
        """
        name = self.optimizer(optimizer)
        if stat.startswith("rank_"):
            of_rank = stat.removeprefix("rank_")
            keys, table = self._store.rank_table(of_rank, name, after=after, up_to=up_to, most=most)
            return keys[:, 0], table
        if stat == "update_ratio":
            keys, weight = self._store.layer_table("weight_norm", name, after=after, up_to=up_to, most=most)
            others, update = self._store.layer_table("update_norm", name, after=after, up_to=up_to, most=most)
            ids, left, right = np.intersect1d(keys[:, 0], others[:, 0], assume_unique=True, return_indices=True)
            return ids, WeightStats(weight_norm=weight[left], update_norm=update[right]).update_ratio
        keys, table = self._store.layer_table(stat, name, after=after, up_to=up_to, most=most)
        return keys[:, 0], table

    def ranks(self, stat: str = "norm", optimizer: str | None = None) -> pd.DataFrame:
        """What each process had, steps x ranks, of a training by several; empty where ranks were not heard.

        ``stat`` is norm or nonfinite (of each one's own gradient before it was reduced over the ranks
        where before_reduction is 1, else of what it holds), differing (parameters whose gradient is
        not that of the other ranks and should be), differs_in (position of the first of these) or
        before_reduction. NaN where a rank was not heard.
        """
        if stat not in RANK_STATS:
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join(RANK_STATS)}.")
        name = self.optimizer(optimizer)
        rows, table = self._store.rank_table(stat, name)
        rows, table = self._standing_of(rows, table, name)
        return pd.DataFrame(table, index=pd.Index(rows[:, 1], name="step"), columns=range(table.shape[1]))

    def noise_scale(self, optimizer: str | None = None, smoothing: float = 0.99) -> pd.Series[float]:
        """The gradient noise scale at each step, in batches of one rank; NaN while it can't be told.

        McCandlish, Kaplan, Amodei et al. 2018, "An empirical model of large-batch training", appendix
        A.1: with the norms of the ranks' own gradients, whose mean square is ``s``, and of their mean, ``b``,
        over ``n`` ranks, ``|G|^2 = (n b^2 - s) / (n - 1)`` and ``S = (s - b^2) n / (n - 1)``, both averaged over
        steps with weights that fall by ``smoothing`` a step; the noise scale is ``S / |G|^2``. Times the
        batch of a rank it is the batch size above which more data a step helps little. The ranks have to be
        heard (``attach(..., ranks=True)`` with DistributedDataParallel, which takes the mean).
        """
        local, before = self.ranks("norm", optimizer), self.ranks("before_reduction", optimizer)
        ranks = local.shape[1]
        if ranks < 2:
            return pd.Series(np.empty(0), index=local.index, name="noise_scale", dtype=float)
        usable = (before.to_numpy() == 1).all(axis=1) & np.isfinite(local.to_numpy()).all(axis=1)
        small = (local.astype(float) ** 2).mean(axis=1)[usable]
        large = self.steps(optimizer)["total_norm"].reindex(small.index) ** 2
        signal = (ranks * large - small) / (ranks - 1)
        noise = (small - large) * ranks / (ranks - 1)
        smooth = [values.ewm(alpha=1 - smoothing, ignore_na=True).mean() for values in (noise, signal)]
        scale: pd.Series[float] = (smooth[0] / smooth[1].where(smooth[1] > 0)).reindex(local.index)
        return scale.rename("noise_scale")

    def summary(self, optimizer: str | None = None) -> RunSummary:
        """Every number that a report shows."""
        from gradwatch.analysis.summary import summarize

        return summarize(self, optimizer)

    def recommend(self, optimizer: str | None = None) -> Recommendation:
        """The clipping threshold that the run should have had, or why that can't be known."""
        from gradwatch.analysis.recommend import recommend

        return recommend(self, optimizer)

    def _standing_of(self, rows: NDArray[np.int64], table: Floats, optimizer: str) -> tuple[NDArray[np.int64], Floats]:
        """Without the rows that a later attempt replaced."""
        if self._store.last_attempt():
            stands = np.isin(rows[:, 0], _standing_rows(self._store.step_ids(optimizer))[:, 0])
            rows, table = rows[stands], table[stands]
        return rows, table

    def _entries(self, optimizer: pd.Series[str]) -> pd.Series[float]:
        sizes = {name: float(sum(p.numel for p in self._store.parameters(name))) for name in self.optimizers}
        return optimizer.map(sizes).astype(float)

    def _layers_of(self, stat: str, optimizer: str, one_of: int) -> pd.DataFrame:
        if stat == "update_ratio":
            weight = self._layers_of("weight_norm", optimizer, one_of)
            return self._layers_of("update_norm", optimizer, one_of) / weight.where(weight != 0)
        rows, table = self._standing_of(*self._store.layer_table(stat, optimizer, one_of), optimizer)
        names = [info.name for info in self._store.parameters(optimizer)]
        frame = pd.DataFrame(table, index=pd.Index(rows[:, 1], name="step"), columns=names, copy=False)
        return frame if frame.index.is_monotonic_increasing else frame.sort_index(kind="stable")


def _standing_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows of id, step and attempt, by id, those that no later attempt at their step replaced."""
    if not len(rows) or rows[-1, 2] == rows[0, 2]:
        return rows
    order = np.lexsort((rows[:, 0], rows[:, 2], rows[:, 1]))
    last = np.append(rows[order[1:], 1] != rows[order[:-1], 1], True)
    standing: NDArray[np.int64] = rows[np.sort(order[last])]
    return standing


def _further_rates(rates: list[str | None]) -> dict[int, list[float]]:
    """The learning rates of the second parameter group on, by group."""
    if not any(rates):
        return {}
    parsed = [json.loads(text) if text else [] for text in rates]
    groups = max((len(row) for row in parsed), default=0)
    return {g: [row[g] if len(row) > g else np.nan for row in parsed] for g in range(1, groups)}


def _ordered(columns: pd.Index[str]) -> list[str]:
    first = [
        "total_norm",
        "max_norm",
        "norm_type",
        "clip_value",
        "clip_coef",
        "clipped",
        "clipped_fraction",
        "nonfinite",
        "loss",
        "loss_logged",
    ]
    rates = [name for name in columns if name.startswith("learning_rate")]
    return [*first, *rates, "loss_scale", "skipped", "clip_fault", "wall_time", "attempt", "optimizer"]


def newest(folder: Path = Path("runs")) -> Path:
    """The folder of the run under ``folder`` that was written last.

    Raises:
        RunNotFound: there is none.
    """
    stores = list(folder.rglob(FILE_NAME)) if folder.is_dir() else []
    if not stores:
        raise RunNotFound(
            f"There is no run under {str(folder)!r}. Give the folder of a recorded run, or record one:"
            " `gradwatch demo`, or `gradwatch.attach(model, optimizer, 'runs/first')`."
        )
    return max(stores, key=_last_written).parent


def _last_written(store: Path) -> float:
    log = Path(f"{store}-wal")
    return max(path.stat().st_mtime for path in (store, log) if path.exists())
