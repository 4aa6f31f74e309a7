"""The answers to the page's requests about one run.

Every number comes from the summary, the events and the recommendation.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.differences import difference, differing_settings
from gradwatch.analysis.history import made_again_by
from gradwatch.analysis.long_runs import ACCURACY, LongLayers, long_layers
from gradwatch.analysis.recommend import Recommendation, WhatIf, recommend_with_curve
from gradwatch.analysis.replays.result import of_event, result_files
from gradwatch.analysis.run import Run
from gradwatch.analysis.statistics.distribution import distribution
from gradwatch.analysis.statistics.layers import most_relevant
from gradwatch.analysis.statistics.magnitudes import magnitudes
from gradwatch.analysis.statistics.owners import NormOwner, dominant, norm_owners
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.ranks import noise_scale
from gradwatch.analysis.statistics.scatter import QUANTITIES, scatter
from gradwatch.analysis.statistics.updates import largest_rms_ratios, sentinel_series
from gradwatch.analysis.summary import LayerSummary, RunSummary, summarize
from gradwatch.errors import BadArgument
from gradwatch.record import MAGNITUDE_BINS, SEVERITIES, STATS, Event
from gradwatch.store import FILE_NAME
from gradwatch.views.json import recommendation, replays, report
from gradwatch.views.parting import sentences
from gradwatch.views.web.layers import LayerHistory, LongHistory, squared_shares
from gradwatch.views.web.sentinels import STATS as SENTINEL_TILES
from gradwatch.views.web.sentinels import sentinel_tile
from gradwatch.views.web.series import at_zoom

HEAT_STATS = (
    "norm",
    "abs_max",
    "zeros",
    "nonfinite",
    "update_ratio",
    "weight_norm",
    "rms_ratio",
    "rank_norm",
    "rank_nonfinite",
    "rank_differing",
)
OTHERS = tuple(stat for stat in STATS if stat != "norm")
MOST_INSPECTED = 6  # parameters whose rows are given at once
MAX_EVENTS = 1000  # given to a page; of more, the most severe

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One optimizer of the run, as the last `RunView.refresh` read it."""

    run: Run
    summary: RunSummary  # without layers
    standing: NDArray[np.int64]
    names: tuple[str, ...]  # of the parameters
    identity: tuple[object, ...]
    kept: dict[str, LongLayers | None] = field(default_factory=dict)
    derived: dict[str, Any] = field(default_factory=dict)  # computed when it is first asked for

    @classmethod
    def of(cls, path: Path, optimizer: str | None) -> _Read:
        run = Run(path)
        summary = summarize(run, optimizer, layers=False)
        name = summary.optimizer
        return cls(
            run=run,
            summary=summary,
            standing=run.standing(name),
            names=tuple(info.name for info in run.parameters(name)),
            identity=_identity(run, name),
        )

    @property
    def optimizer(self) -> str:
        return self.summary.optimizer

    def long(self, stat: str) -> LongLayers | None:
        """What the digests of a long run tell of its layers, read when it is first asked for; None if not of this.

        Of a wide model the maxima of all statistics take four times as long as those of the norm, which a page shows
        first; the others are read together when one of them is.
        """
        if "norm" not in self.kept:
            self.kept["norm"] = long_layers(self.run, self.optimizer, self.standing, ("norm",), zeros=False)
        if stat != "norm" and self.kept["norm"] is not None and "others" not in self.kept:
            self.kept["others"] = long_layers(self.run, self.optimizer, self.standing, OTHERS, sketched=False)
        found = self.kept.get("norm" if stat == "norm" else "others")
        return found if found is not None and stat in found.maxima else None

    def read_all(self) -> None:
        """Read what `long` reads for any statistic in one pass over the digests."""
        if not self.kept:
            self.kept["norm"] = self.kept["others"] = long_layers(self.run, self.optimizer, self.standing)

    def owners(self) -> tuple[NormOwner, ...]:
        """Who owns the norm."""
        if "owners" not in self.derived:
            self.derived["owners"] = norm_owners(self.run, self.optimizer)
        found: tuple[NormOwner, ...] = self.derived["owners"]
        return found

    def more_series(self) -> dict[str, Array]:
        """Series that the summary leaves out because they are read from statistics of parameters."""
        if "series" not in self.derived:
            steps = self.summary.series.step
            scales = noise_scale(self.run, self.optimizer)
            self.derived["series"] = {
                "rms_ratio": largest_rms_ratios(self.run, self.optimizer, steps)[0],
                "noise_scale": scales[~scales.index.duplicated()].reindex(steps).to_numpy(float),
                **sentinel_series(self.run, self.optimizer, steps),
            }
        found: dict[str, Array] = self.derived["series"]
        return found

    def magnitude_ids(self) -> NDArray[np.int64]:
        """`RunReader.magnitude_ids`."""
        if "magnitude_ids" not in self.derived:
            self.derived["magnitude_ids"] = self.run.magnitude_ids(self.optimizer)
        found: NDArray[np.int64] = self.derived["magnitude_ids"]
        return found

    def first_row(self, stat: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The id of the first row with this statistic, and its values, (1, parameters); (0, parameters) if none."""
        return self.run.layer_rows(stat, self.optimizer, most=1)

    def updates_every(self) -> int | None:
        """Steps from one reading of all updates to the next, as a rule; None where they were not read twice."""
        series = self.summary.series
        read = series.step[~np.isnan(series.update_norm)]
        return int(np.median(np.diff(read))) if len(read) > 1 else None

    def has_ended(self) -> bool:
        """Whether the process of a run that was being written is gone. A killed process writes no sign of it."""
        return self.summary.running and not self.run.is_being_written()


class RunView:
    """One optimizer's part of a run, as of the last `refresh`. Threads may share a view.

    Args:
        path: folder of the run, or its store.
        optimizer: its name; by default the worst, looked up at each refresh.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: there is no readable run.
        EmptyRun: no step has been recorded yet.
    """

    def __init__(self, path: Path, optimizer: str | None = None) -> None:
        self.path = path
        self._optimizer = optimizer
        self._lock = threading.RLock()
        self._stamp = written(path)
        self._read = _Read.of(path, optimizer)
        self._advice: tuple[Recommendation, tuple[WhatIf, ...]] | None = None
        self._histories: dict[str, LayerHistory | LongHistory] = {}
        self._up_to_date: set[str] = set()

    def refresh(self) -> None:
        """Read what was written since. An unchanged store is not opened; another store is read from its start."""
        with self._lock:
            stamp = written(self.path)
            if stamp == self._stamp and not self._read.has_ended():
                return
            read = _Read.of(self.path, self._optimizer)
            if self._read.identity != read.identity:
                self._histories = {}
            self._read, self._advice, self._up_to_date = read, None, set()
            self._stamp = stamp

    @property
    def summary(self) -> RunSummary:
        """The summary of the run without its layers."""
        return self._read.summary

    @property
    def nbytes(self) -> int:
        """Bytes that are kept of the layers."""
        return sum(history.nbytes for history in self._histories.values())

    def overview(self) -> dict[str, Any]:
        """As `gradwatch report --json`, without layers; of very many events only the most severe."""
        summary = self._read.summary
        events, hidden = _most_severe(summary.events)
        return report(summary) | {
            "seams": [str(seam) for seam in summary.seams],
            "events": [_event(event, summary) for event in events],
            "events_hidden": hidden,
            "norm_owners": [asdict(owner) for owner in self._read.owners()],
            "dominant": [asdict(owner) for owner in dominant(self._read.owners())],
            "parameters": len(self._read.names),
            "updates_every": self._read.updates_every(),
        }

    def series(self, first: float, last: float, columns: int) -> Arrays:
        """The steps from ``first`` to ``last`` in at most twice as many columns as asked for (`at_zoom`)."""
        with self._lock:
            more = self._read.more_series()
        return at_zoom(self._read.summary.series, first, last, columns, more)

    def distribution(self, first: float, last: float, spans: int) -> tuple[dict[str, Any], Arrays]:
        """How the total norms of the steps from ``first`` to ``last`` are distributed (`Distribution`)."""
        series = self._read.summary.series
        found = distribution(series.step, series.total_norm, first, last, spans)
        arrays = {name: getattr(found, name) for name in ("first", "last", "unknown", "zeros", "norms")}
        return {"accuracy": ACCURACY}, arrays | {"counts": found.counts.astype(np.float32)}

    def scatter(self, first: float, last: float, points: int, spans: int) -> tuple[dict[str, Any], Arrays]:
        """A sample of the steps from ``first`` to ``last`` with several quantities each (`Scatter`)."""
        found = scatter(self._read.summary.series, first, last, points, spans)
        counted = ("first", "last", "steps", "nan", "infinite", "unknown", "left_out")
        return {"quantities": QUANTITIES}, {"step": found.step, "values": found.values} | {
            name: getattr(found, name) for name in counted
        }

    def read_all_layers(self) -> None:
        """Read every statistic of the layers of a long run together, for a page that shows them all."""
        with self._lock:
            self._read.read_all()

    def layers(self) -> dict[str, Any]:
        """Every parameter with its median and its largest norm, and the indices of the most relevant first."""
        with self._lock:
            history = self._history("norm")
            level = history.level()
            infos = self._read.run.parameters(self._read.optimizer)
            layers = [
                LayerSummary(
                    name=info.name,
                    numel=info.numel,
                    median=_known(float(level[i])),
                    p99=None,
                    max=_known(float(history.high[i]), history.high_at[i] >= 0),
                    max_step=int(history.high_at[i]) if history.high_at[i] >= 0 else None,
                    last=None,
                    zero_fraction=None,
                    nonfinite_steps=int(history.bad[i]),
                    absent_steps=0,
                    update_ratio=None,
                    weight_growth=None,
                )
                for i, info in enumerate(infos)
            ]
            keys = ("name", "numel", "median", "max", "max_step", "nonfinite_steps")
            return {
                "layers": [{key: getattr(layer, key) for key in keys} for layer in layers],
                "ranks": self._read.first_row("rank_norm")[1].shape[1],
                "telling": most_relevant(layers, self._read.summary.events),
                "sampled": history.sampled,
                "quantile_error": ACCURACY if isinstance(history, LongHistory) else None,
                "stats": [stat for stat in HEAT_STATS if self._has(stat)],
                "magnitudes": bool(len(self._read.magnitude_ids())),
                "sentinels": list(SENTINEL_TILES) if self._read.run.has_sentinels(self._read.optimizer) else [],
                "updates_every": self._read.updates_every(),
            }

    def tile(self, stat: str, first: float, last: float, columns: int) -> tuple[dict[str, Any], Arrays]:
        """One statistic of every parameter from ``first`` to ``last`` (`LayerHistory.tile`).

        Of the sentinels' statistics the columns of ``values`` are the parameters at ``positions`` (`sentinel_tile`).

        Raises:
            BadArgument: the statistic is unknown.
        """
        if stat not in (*HEAT_STATS, *SENTINEL_TILES):
            raise BadArgument(f"stat is {stat!r}; expected one of {', '.join((*HEAT_STATS, *SENTINEL_TILES))}.")
        with self._lock:
            if stat in SENTINEL_TILES:
                read = self._read
                positions, firsts, lasts, values, joined = sentinel_tile(
                    read.run, read.optimizer, read.standing, stat, first, last, columns
                )
                about = {"stat": stat, "joined": joined, "positions": positions}
                return about, {"first": firsts, "last": lasts, "values": values}
            firsts, lasts, values, joined = self._history(stat).tile(self._read.run, first, last, columns)
        return {"stat": stat, "joined": joined}, {"first": firsts, "last": lasts, "values": values}

    def rows(self, parameters: Sequence[int], first: float, last: float, columns: int) -> tuple[dict[str, Any], Arrays]:
        """Every statistic of a few parameters from ``first`` to ``last``: `tile`, of these parameters alone.

        Where each column is one step, ``norm_share`` is the share that each has of the squared norm of all.

        Raises:
            BadArgument: there is no such parameter, or there are too many.
        """
        if len(parameters) > MOST_INSPECTED or not all(0 <= one < len(self._read.names) for one in parameters):
            raise BadArgument(
                f"layers is {list(parameters)}; expected at most {MOST_INSPECTED} of {len(self._read.names)}."
            )
        joined: dict[str, int] = {}
        arrays: dict[str, NDArray[np.generic]] = {}
        with self._lock:
            for stat in HEAT_STATS:
                if stat.startswith("rank_") or not self._has(stat):
                    continue
                firsts, lasts, values, joined[stat] = self._history(stat).tile(self._read.run, first, last, columns)
                tables = {stat: values}
                if stat == "norm" and joined[stat] == 1:
                    joined["norm_share"], tables["norm_share"] = 1, squared_shares(values)
                for name, table in tables.items():
                    own: Arrays = {"first": firsts, "last": lasts, "values": table[:, list(parameters)]}
                    arrays |= {f"{name}.{key}": array for key, array in own.items()}
        return {"joined": joined}, arrays

    def magnitudes(
        self, parameters: Sequence[int], first: float, last: float, samples: int
    ) -> tuple[dict[str, Any], Arrays]:
        """How many entries of some parameters have which magnitude, at steps from ``first`` to ``last`` (`Magnitudes`).

        Raises:
            BadArgument: there is no such parameter.
        """
        if not all(0 <= one < len(self._read.names) for one in parameters):
            raise BadArgument(f"layers is {list(parameters)}; expected some of {len(self._read.names)}.")
        with self._lock:
            found = magnitudes(
                self._read.run,
                self._read.summary.series,
                self._read.optimizer,
                parameters,
                first,
                last,
                most=samples,
                rows=self._read.magnitude_ids(),
            )
        about = {"bins": MAGNITUDE_BINS, "layers": list(parameters), "counted": found.counted}
        return about, {"step": found.step, "counts": found.counts, "loss_scale": found.loss_scale}

    def parting(self, other: RunView, names: tuple[str, str]) -> dict[str, Any]:
        """Where this run and another first differ (`difference`), in numbers and in sentences; ``names`` are theirs.

        Both are read as they are now. ``step`` is None where they are alike, or have nothing in common.
        """
        first, second = Run(self.path), Run(other.path)
        optimizer = self._read.optimizer
        settings = [
            f"{name}: {' against '.join(map(str, values))}"
            for name, values in differing_settings([first.config(), second.config()]).items()
        ]
        if optimizer not in second.optimizers:
            said = [f"{names[1]} has no optimizer {optimizer}: nothing to compare"]
            return {"step": None, "parameter": None, "said": said, "settings": settings}
        found = difference(first, second, optimizer)
        parameter = found.parameters[0] if found.parameters else None
        return {"step": found.step, "parameter": parameter, "said": sentences(found, *names), "settings": settings}

    def advice(self) -> dict[str, Any]:
        """The recommendation, and what every threshold would have done (`recommend_with_curve`)."""
        with self._lock:
            if self._advice is None:
                self._advice = recommend_with_curve(self._read.run, self._read.summary)
            advice, curve = self._advice
        return recommendation(advice) | {"curve": [asdict(point) for point in curve]}

    def _has(self, stat: str) -> bool:
        return bool(len(self._read.first_row(stat)[0]))

    def _history(self, stat: str) -> LayerHistory | LongHistory:
        long = self._read.long(stat) if stat in STATS else None
        if long is not None:
            return self._long_history(stat, long)
        history = self._histories.get(stat)
        if isinstance(history, LongHistory):
            history = None
        if history is None:
            first = self._read.first_row(stat)[1] if stat.startswith("rank_") else None
            rows = len(self._read.names) if first is None else first.shape[1]
            history = self._histories[stat] = LayerHistory(stat, self._read.optimizer, rows)
        if stat not in self._up_to_date:
            history.update(self._read.run, self._read.standing)
            self._up_to_date.add(stat)
        return history

    def _long_history(self, stat: str, long: LongLayers) -> LongHistory:
        history = self._histories.get(stat)
        if not isinstance(history, LongHistory):
            history = self._histories[stat] = LongHistory(stat, self._read.optimizer, long)
        elif history.long is not long:
            history.become(long)
        return history


def _event(event: Event, summary: RunSummary) -> dict[str, Any]:
    """An event, the attempt that made its step again if any, and what the replay of its step found if there is one."""
    later = made_again_by(event, summary.resume_points)
    told = event.as_dict() | ({} if later is None else {"made_again_by": later})
    replay = of_event(summary.replays, event.step, event.optimizer, event.until)
    if replay is None:
        return told
    (found,) = replays([replay])
    return told | {"replay": {"step": replay.step, "answers": found["answers"]}}


def written(path: Path) -> tuple[tuple[int, int], ...]:
    """Modification time (ns) and size of the store, its log and results of replays. They change with every write."""
    store = path / FILE_NAME if path.is_dir() else path
    files = (store, Path(f"{store}-wal"), *result_files(store.parent))
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in files if file.exists()))


def _identity(run: Run, optimizer: str) -> tuple[object, ...]:
    """What stays while one store grows, and differs for a run that was deleted and recorded again under its name."""
    attempts = run.attempts()
    names = tuple(info.name for info in run.parameters(optimizer))
    return (attempts[0].started if attempts else None, optimizer, names)


def _most_severe(events: tuple[Event, ...]) -> tuple[list[Event], int]:
    """At most `MAX_EVENTS` events in their order, and how many were left out."""
    if len(events) <= MAX_EVENTS:
        return list(events), 0
    ranked = sorted(range(len(events)), key=lambda i: -SEVERITIES.index(events[i].severity))[:MAX_EVENTS]
    return [events[i] for i in sorted(ranked)], len(events) - MAX_EVENTS


def _known(value: float, known: bool = True) -> float | None:
    return value if known and np.isfinite(value) else None
