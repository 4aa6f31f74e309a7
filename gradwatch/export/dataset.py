"""Runs as a partitioned Parquet data set, for histories that outgrow one machine.

Tables runs, steps, layers and events, each partitioned by run (and attempt), where fsspec can write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary, summarize
from gradwatch.errors import BadArgument, CannotExport, EmptyRun
from gradwatch.record import EVENT_KEYS, STATS
from gradwatch.store import FILE_NAME

STEPS_AT_ONCE = 20_000  # of a run's layers in memory, at a thousand parameters some 600 MB


def runs_in(paths: Sequence[Path]) -> dict[str, Path]:
    """The folder of each run by its name: of those given, and of all in the folders given.

    Raises:
        BadArgument: two have one name, by which the data set tells them apart.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = sorted(store.parent for store in path.rglob(FILE_NAME)) if not (path / FILE_NAME).exists() else [path]
        for folder in inside or [path]:
            name = folder.resolve().name
            if name in found:
                raise BadArgument(f"{str(found[name])!r} and {str(folder)!r} are both called {name!r}; rename one.")
            found[name] = folder
    return found


def write_dataset(folders: Sequence[Path], target: str) -> int:
    """Write the runs; what the data set had of the same runs is replaced. Returns how many were written.

    Args:
        folders: of runs, or full of them. Runs without a step are left out.
        target: a folder, or a URL of fsspec's.

    Raises:
        CannotExport: a package is missing, or the target can't be written.
    """
    try:
        import fsspec.core
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq
        from pyarrow.fs import FSSpecHandler, PyFileSystem
    except ImportError as error:
        raise CannotExport("A data set needs pyarrow and fsspec: `pip install gradwatch[parquet]`.") from error
    try:
        plain, root = fsspec.core.url_to_fs(target)
        files = PyFileSystem(FSSpecHandler(plain))
        written = 0
        for name, folder in runs_in(folders).items():
            run = Run(folder)
            try:
                summary = summarize(run, layers=False)
            except EmptyRun:
                continue
            written += 1
            for table, parts in _tables(run, summary).items():
                keys = ["run"] if table == "runs" else ["run", "attempt"]
                place = f"{root}/{table}.parquet/run={name}"
                if plain.exists(place):
                    plain.rm(place, recursive=True)
                for number, frame in enumerate(parts):
                    found = pa.Table.from_pandas(frame.assign(run=name), preserve_index=False)
                    if not len(frame):
                        # write_dataset would leave no file, and then readers would not find the table at all.
                        plain.makedirs(f"{place}/attempt=0", exist_ok=True)
                        pq.write_table(found.drop_columns(keys), f"{place}/attempt=0/part-0.parquet", filesystem=files)
                        continue
                    ds.write_dataset(
                        found,
                        f"{root}/{table}.parquet",
                        filesystem=files,
                        format="parquet",
                        partitioning=keys,
                        partitioning_flavor="hive",
                        basename_template=f"part-{number}-{{i}}.parquet",
                        existing_data_behavior="overwrite_or_ignore",
                    )
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, BadArgument):
            raise
        raise CannotExport(f"{target!r} can't be written: {error}.") from error
    return written


def _tables(run: Run, summary: RunSummary) -> dict[str, Iterator[pd.DataFrame]]:
    return {
        "runs": iter([_about(summary)]),
        "steps": iter([run.steps().reset_index().astype({"clip_fault": "string", "optimizer": "string"})]),
        "layers": _layers(run),
        "events": iter([_events(run)]),
    }


def _events(run: Run) -> pd.DataFrame:
    """Of the same types in every run, whatever there is."""
    frame = pd.DataFrame([event.as_dict() for event in run.events()], columns=EVENT_KEYS)
    numbers = dict.fromkeys(("step", "attempt"), "int64") | dict.fromkeys(("until", "rank"), "Int64")
    return frame.astype(dict.fromkeys(EVENT_KEYS, "string") | numbers | dict.fromkeys(("observed", "limit"), "float64"))


def _about(summary: RunSummary) -> pd.DataFrame:
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
    numbers = ("max_norm", "clipped_fraction", "median_norm", "largest_norm", "last_loss", "learning_rate")
    return pd.DataFrame([row]).astype(dict.fromkeys(numbers, float))


def _layers(run: Run) -> Iterator[pd.DataFrame]:
    """A row a step and parameter, a stretch of steps at a time."""
    for optimizer in run.optimizers:
        standing = run.standing(optimizer)
        names = [info.name for info in run.parameters(optimizer)]
        for begin in range(0, len(standing), STEPS_AT_ONCE):
            rows = standing[begin : begin + STEPS_AT_ONCE]
            yield _stretch(run, optimizer, rows, names)


def _stretch(run: Run, optimizer: str, rows: NDArray[np.int64], names: Sequence[str]) -> pd.DataFrame:
    after, up_to = int(rows[:, 0].min()) - 1, int(rows[:, 0].max())
    columns: dict[str, Any] = {}
    place = {int(number): at for at, number in enumerate(rows[:, 0])}
    for stat in STATS:
        table = np.full((len(rows), len(names)), np.nan, np.float32)
        ids, values = run.layer_rows(stat, optimizer, after=after, up_to=up_to)
        at = np.array([place.get(int(number), -1) for number in ids], np.int64)
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
