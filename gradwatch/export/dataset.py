"""Runs as a partitioned Parquet data set, for histories too large for one machine.

The data set has the tables runs, steps, layers and events, partitioned by run and all but the first by
attempt. It is written with fsspec, to a folder or to a bucket. An index beside the tables tells which runs have not
changed since they were written, so that a nightly export takes what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch import __version__
from gradwatch.analysis.listing import store_stamp
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary, summarize
from gradwatch.errors import BadArgument, CannotExport, EmptyRun
from gradwatch.record import EVENT_KEYS, STATS
from gradwatch.store import FILE_NAME

INDEX_NAME = ".gradwatch-export.json"  # readers of Parquet ignore names that begin with a dot
MAX_STEPS_IN_MEMORY = 20_000  # of a run's layers: 600 MB at a thousand parameters
_REAL_COLUMNS = ("max_norm", "clipped_fraction", "median_norm", "largest_norm", "last_loss", "learning_rate")


def runs_in(paths: Sequence[Path]) -> dict[str, Path]:
    """The folder of each run by its name: paths that are runs, and all runs below paths that are not.

    Raises:
        BadArgument: two runs have the same name, by which the data set distinguishes them.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = [path] if (path / FILE_NAME).exists() else sorted(store.parent for store in path.rglob(FILE_NAME))
        for folder in inside or [path]:
            name = folder.resolve().name
            if name in found:
                raise BadArgument(f"{str(found[name])!r} and {str(folder)!r} are both called {name!r}; rename one.")
            found[name] = folder
    return found


@dataclass(frozen=True, slots=True)
class Written:
    """How many runs `write_dataset` wrote, and how many it left as they are."""

    runs: int
    unchanged: int


def write_dataset(folders: Sequence[Path], target: str) -> Written:
    """Write runs to a data set. Runs that it already holds under the same names are replaced.

    A run whose store has not changed since this version of gradwatch wrote it is left as it is.

    Args:
        folders: of runs, or folders that contain runs. Runs without a step are skipped.
        target: a folder, or a URL that fsspec understands.

    Raises:
        BadArgument: two runs have the same name.
        CannotExport: a package is missing, or the target can't be written.
    """
    runs = runs_in(folders)
    try:
        dataset = _Dataset.at(target)
        known = dataset.read_index()
        stamps = {name: [*store_stamp(path / FILE_NAME)] for name, path in runs.items()}
        changed = [name for name in runs if known.get(name) != stamps[name] or not dataset.holds(name)]
        written = 0
        try:
            for name in changed:
                summary = _write_run(dataset, name, Run(runs[name]))
                if summary is not None:
                    # A live run has changed as soon as its process is gone, whether or not that still wrote.
                    known[name] = None if summary.running else stamps[name]
                    written += 1
        finally:
            if written:
                dataset.write_index(known)
        return Written(runs=written, unchanged=len(runs) - len(changed))
    except BadArgument:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise CannotExport(f"{target!r} can't be written: {error}.") from error


def _write_run(dataset: _Dataset, name: str, run: Run) -> RunSummary | None:
    """Write all tables of a run; None if it has no step."""
    try:
        summary = summarize(run, layers=False)
    except EmptyRun:
        return None
    for table, parts in _tables(run, summary).items():
        dataset.replace(table, name, parts)
    return summary


@dataclass(frozen=True, slots=True)
class _Dataset:
    """Where the tables are written: fsspec's file system, the same for pyarrow, and the root folder."""

    plain: Any
    files: Any
    root: str

    @classmethod
    def at(cls, target: str) -> _Dataset:
        """Raises:
        CannotExport: pyarrow or fsspec is missing.
        """
        try:
            import fsspec.core
            from pyarrow.fs import FSSpecHandler, PyFileSystem
        except ImportError as error:
            raise CannotExport("A data set needs pyarrow and fsspec: `pip install gradwatch[parquet]`.") from error
        plain, root = fsspec.core.url_to_fs(target)
        return cls(plain, PyFileSystem(FSSpecHandler(plain)), root)

    def holds(self, run: str) -> bool:
        """Whether the run is there, whatever the index says."""
        return bool(self.plain.exists(self._place("runs", run)))

    def read_index(self) -> dict[str, Any]:
        """The stamp of each run's store when it was written; none if the index is missing, damaged or older."""
        try:
            found = json.loads(self.plain.cat_file(f"{self.root}/{INDEX_NAME}"))
            return dict(found["runs"]) if found["version"] == __version__ else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def write_index(self, stamps: Mapping[str, Any]) -> None:
        text = json.dumps({"version": __version__, "runs": stamps})
        self.plain.pipe_file(f"{self.root}/{INDEX_NAME}", text.encode())

    def replace(self, table: str, run: str, parts: Iterator[pd.DataFrame]) -> None:
        """Write the rows of a run, in parts, in the place of those that the table has."""
        place = self._place(table, run)
        if self.plain.exists(place):
            self.plain.rm(place, recursive=True)
        for number, frame in enumerate(parts):
            if len(frame):
                self._write(table, run, frame, number)
            else:
                self._write_empty(place, table, run, frame)

    def _place(self, table: str, run: str) -> str:
        """The folder of a run's rows. pyarrow percent-encodes what is no letter, digit or one of "-._~"."""
        return f"{self.root}/{table}.parquet/run={quote(run, safe='')}"

    def _write(self, table: str, run: str, frame: pd.DataFrame, number: int) -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds

        ds.write_dataset(
            pa.Table.from_pandas(frame.assign(run=run), preserve_index=False),
            f"{self.root}/{table}.parquet",
            filesystem=self.files,
            format="parquet",
            partitioning=_partitions(table),
            partitioning_flavor="hive",
            basename_template=f"part-{number}-{{i}}.parquet",
            existing_data_behavior="overwrite_or_ignore",
        )

    def _write_empty(self, place: str, table: str, run: str, frame: pd.DataFrame) -> None:
        """Write a file without rows: `write_dataset` would write none, and readers would miss the table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = pa.Table.from_pandas(frame.assign(run=run), preserve_index=False)
        self.plain.makedirs(f"{place}/attempt=0", exist_ok=True)
        kept = found.drop_columns(_partitions(table))
        pq.write_table(kept, f"{place}/attempt=0/part-0.parquet", filesystem=self.files)


def _partitions(table: str) -> list[str]:
    return ["run"] if table == "runs" else ["run", "attempt"]


def _tables(run: Run, summary: RunSummary) -> dict[str, Iterator[pd.DataFrame]]:
    """The rows of each table, in parts."""
    steps = run.steps().reset_index().astype({"clip_fault": "string", "optimizer": "string"})
    return {
        "runs": iter([_about(summary)]),
        "steps": iter([steps]),
        "layers": _layers(run),
        "events": iter([_events(run)]),
    }


def _events(run: Run) -> pd.DataFrame:
    """The events, with the same types in every run."""
    frame = pd.DataFrame([event.as_dict() for event in run.events()], columns=EVENT_KEYS)
    numbers = dict.fromkeys(("step", "attempt"), "int64") | dict.fromkeys(("until", "rank"), "Int64")
    return frame.astype(dict.fromkeys(EVENT_KEYS, "string") | numbers | dict.fromkeys(("observed", "limit"), "float64"))


def _about(summary: RunSummary) -> pd.DataFrame:
    """The row of a run."""
    row: dict[str, Any] = {
        "model": summary.model,
        "optimizer_class": summary.optimizer_class,
        "steps": summary.steps,
        "verdict": summary.verdict,
        "reason": summary.reason,
        "max_norm": summary.clipping.threshold,
        "clipped_fraction": summary.clipping.clipped_fraction,
        "median_norm": summary.total_norm.median,
        "largest_norm": summary.total_norm.max,
        "last_loss": None if summary.loss is None else summary.loss.last,
        "learning_rate": summary.learning_rate,
    }
    return pd.DataFrame([row]).astype(dict.fromkeys(_REAL_COLUMNS, float))


def _layers(run: Run) -> Iterator[pd.DataFrame]:
    """A row for each step and parameter, some steps at a time."""
    for optimizer in run.optimizers:
        standing = run.standing(optimizer)
        names = [info.name for info in run.parameters(optimizer)]
        for begin in range(0, len(standing), MAX_STEPS_IN_MEMORY):
            rows = standing[begin : begin + MAX_STEPS_IN_MEMORY]
            yield _stretch(run, optimizer, rows, names)


def _stretch(run: Run, optimizer: str, rows: NDArray[np.int64], names: Sequence[str]) -> pd.DataFrame:
    """All statistics at the given rows of `Run.standing`; rows in which nothing is known are left out."""
    after, up_to = int(rows[:, 0].min()) - 1, int(rows[:, 0].max())
    columns: dict[str, Any] = {}
    place = {int(row_id): at for at, row_id in enumerate(rows[:, 0])}
    for stat in STATS:
        table = np.full((len(rows), len(names)), np.nan, np.float32)
        ids, values = run.layer_rows(stat, optimizer, after=after, up_to=up_to)
        at = np.array([place.get(int(row_id), -1) for row_id in ids], np.int64)
        table[at[at >= 0], : values.shape[1]] = values[at >= 0]
        columns[stat] = table.ravel()
    frame = pd.DataFrame(
        {
            "step": np.repeat(rows[:, 1], len(names)),
            "attempt": np.repeat(rows[:, 2], len(names)),
            "optimizer": optimizer,
            "parameter": np.tile(np.asarray(names), len(rows)),
            **columns,
        }
    )
    return frame[frame[list(STATS)].notna().any(axis=1)]
