"""The tables of a data set: their columns, and the rows of a run.

docs/many-runs.md says what each column means, and a test compares it with `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary, summarize
from gradwatch.export.table import without_unknown_clipping
from gradwatch.record import STATS, Event
from gradwatch.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 2
"""Of the columns and the layout; 1 had a folder for each run."""

MAX_STEPS_IN_MEMORY = 20_000  # of a run's layers: 600 MB at a thousand parameters

_TEXT, _COUNT, _REAL, _STATISTIC, _FLAG = "string", "int64", "double", "float", "bool"
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "runs": {
        "run": _TEXT,
        "model": _TEXT,
        "optimizer_class": _TEXT,
        "steps": _COUNT,
        "verdict": _TEXT,
        "reason": _TEXT,
        "finding": _TEXT,
        "finding_step": _COUNT,
        "max_norm": _REAL,
        "clipped_fraction": _REAL,
        "median_norm": _REAL,
        "largest_norm": _REAL,
        "last_loss": _REAL,
        "learning_rate": _REAL,
    },
    "steps": {
        "run": _TEXT,
        "attempt": _COUNT,
        "optimizer": _TEXT,
        "step": _COUNT,
        "total_norm": _REAL,
        "max_norm": _REAL,
        "norm_type": _REAL,
        "clip_value": _REAL,
        "clip_coef": _REAL,
        "clipped": _FLAG,
        "cut_fraction": _REAL,
        "nonfinite": _COUNT,
        "loss": _REAL,
        "loss_logged": _FLAG,
        "learning_rate": _REAL,
        "further_learning_rates": "list<double>",
        "loss_scale": _REAL,
        "skipped": _FLAG,
        "clip_fault": _TEXT,
        "update_norm": _REAL,
        "weight_norm": _REAL,
        "update_ratio": _REAL,
        "wall_time": _REAL,
    },
    "layers": {
        "run": _TEXT,
        "attempt": _COUNT,
        "optimizer": _TEXT,
        "step": _COUNT,
        "parameter": _TEXT,
        **dict.fromkeys(STATS, _STATISTIC),
    },
    "events": {
        "run": _TEXT,
        "attempt": _COUNT,
        "optimizer": _TEXT,
        "step": _COUNT,
        "until": _COUNT,
        "kind": _TEXT,
        "severity": _TEXT,
        "parameter": _TEXT,
        "observed": _REAL,
        "limit": _REAL,
        "origin": _TEXT,
        "rank": _COUNT,
        "message": _TEXT,
    },
}
"""The columns of each table with their types in Arrow's names. A value that is not known is null."""

TABLES = tuple(COLUMNS)


def schema(table: str) -> pa.Schema:
    """The schema of a table, with the version of the columns as its metadata."""
    import pyarrow as pa

    lists = {"list<double>": pa.list_(pa.float64())}
    fields = [(name, lists.get(kind, kind)) for name, kind in COLUMNS[table].items()]
    return pa.schema(fields, {"gradwatch.schema": str(SCHEMA_VERSION), "gradwatch.version": __version__})


@dataclass(frozen=True, slots=True)
class RunTables:
    """The rows of a run.

    Attributes:
        summary: of which the row in ``runs`` is made.
        short: the tables runs, steps and events.
        layers: the table layers, some steps at a time.
    """

    summary: RunSummary
    short: Mapping[str, pa.Table]
    layers: Iterator[pa.Table]


def read_tables(run: Run, name: str) -> RunTables:
    """Read the rows of a run under a name; all of the layers but those of the first steps are read later.

    Raises:
        EmptyRun: it has no step.
    """
    import pyarrow as pa

    facts = read_facts(run)
    summary = summarize(run, layers=False, facts=facts)
    frames = [without_unknown_clipping(optimizer.frame, run.meta()) for optimizer in facts.optimizers]
    steps = pa.concat_tables([_steps(name, frame) for frame in frames])
    short = {"runs": _about(name, summary), "steps": steps, "events": _events(name, facts.events)}
    layers = _layers(run, name)
    first = [*islice(layers, 1)]
    return RunTables(summary, short, chain(first, layers))


def _about(name: str, summary: RunSummary) -> pa.Table:
    """The row of a run."""
    import pyarrow as pa

    finding = next((finding for finding in summary.findings if finding.severity != "info"), None)
    row = {
        "run": name,
        "model": summary.model,
        "optimizer_class": summary.optimizer_class,
        "steps": summary.steps,
        "verdict": summary.verdict,
        "reason": summary.reason,
        "finding": None if finding is None else finding.code,
        "finding_step": None if finding is None or finding.steps is None else finding.steps[0],
        "max_norm": summary.clipping.threshold,
        "clipped_fraction": summary.clipping.clipped_fraction,
        "median_norm": summary.total_norm.median,
        "largest_norm": summary.total_norm.max,
        "last_loss": None if summary.loss is None else summary.loss.end,
        "learning_rate": summary.learning_rate,
    }
    return pa.Table.from_pylist([row], schema("runs"))


def _steps(name: str, frame: pd.DataFrame) -> pa.Table:
    """A row for each step of an optimizer."""
    groups = [column for column in frame.columns if column.startswith("learning_rate_")]
    known = {column: frame[column].to_numpy() for column in frame.columns if column in COLUMNS["steps"]}
    further = [*frame[groups].to_numpy()] if groups else [None] * len(frame)
    known["clipped"] = frame["clipped"].array  # may be unknown, which an array of NumPy can't say
    more = {"run": _repeated(name, len(frame)), "step": frame.index.to_numpy(), "further_learning_rates": further}
    return _table("steps", known | more)


def _events(name: str, events: Iterable[Event]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([event.as_dict() | {"run": name} for event in events], schema("events"))


def _layers(run: Run, run_name: str) -> Iterator[pa.Table]:
    """A row for each step and parameter, some steps at a time."""
    for optimizer in run.optimizers:
        standing = run.standing(optimizer)
        names = [info.name for info in run.parameters(optimizer)]
        for begin in range(0, len(standing), MAX_STEPS_IN_MEMORY):
            rows = standing[begin : begin + MAX_STEPS_IN_MEMORY]
            found = _stretch(run, optimizer, rows, names)
            yield _table("layers", found | {"run": _repeated(run_name, len(found["step"]))})


def _stretch(run: Run, optimizer: str, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """All statistics at the given rows of `Run.standing`; rows in which nothing is known are left out."""
    import pyarrow as pa

    after, up_to = int(rows[:, 0].min()) - 1, int(rows[:, 0].max())
    place = {int(row_id): at for at, row_id in enumerate(rows[:, 0])}
    values = np.full((len(STATS), len(rows), len(names)), np.nan, np.float32)
    for stat, table in zip(STATS, values, strict=True):
        ids, found = run.layer_rows(stat, optimizer, after=after, up_to=up_to)
        at = np.array([place.get(int(row_id), -1) for row_id in ids], np.int64)
        table[at[at >= 0], : found.shape[1]] = found[at >= 0]
    step, parameter = np.nonzero(~np.isnan(values).all(0))
    known = {
        "attempt": rows[step, 2],
        "optimizer": _repeated(optimizer, len(step)),
        "step": rows[step, 1],
        "parameter": pa.array(list(names), pa.string()).take(pa.array(parameter)),
    }
    return known | dict(zip(STATS, values[:, step, parameter], strict=True))


def _repeated(text: str, length: int) -> Any:
    import pyarrow as pa

    return pa.repeat(pa.scalar(text, pa.string()), length)


def _table(table: str, columns: Mapping[str, Any]) -> pa.Table:
    """A table of columns, with NaN as null."""
    import pyarrow as pa

    fields = schema(table)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type, from_pandas=True)
        for field, column in ((field, columns[field.name]) for field in fields)
    ]
    return pa.Table.from_arrays(arrays, schema=fields)
