"""Many runs as a table: one row for each, kept in an index so that a thousand runs are listed at once.

The index is a file in the folder that was listed. It holds only what can be computed again, so it may be deleted at any
time. A row is computed again when the size or the time of its store has changed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from gradwatch.analysis.notes import read_notes
from gradwatch.analysis.places import find_stores
from gradwatch.errors import EmptyRun, GradwatchError
from gradwatch.store import StoreReader
from gradwatch.version import __version__

if TYPE_CHECKING:
    from gradwatch.analysis.summary import RunSummary

INDEX_NAME = ".gradwatch-index.json"
INDEX_VERSION = 4
MAX_INDEX_BYTES = 256 * 2**20
SAVE_EVERY = 50  # rows, while many are computed
LEAST_FOR_PROCESSES = 16  # runs; fewer are computed in this process

Stamp: TypeAlias = tuple[int, ...]
"""Time in nanoseconds and bytes of the store and of its log."""

State: TypeAlias = Literal["ended", "live", "unreadable", "not computed"]
BATCH_KEYS = ("batch_size", "batch", "bs", "per_device_train_batch_size", "train_batch_size", "micro_batch_size")
"""Settings of a config that tell the batch size, the most certain first; the last part of a dotted name counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run in a list. Numbers are those of the optimizer with the gravest finding; None is not known.

    Attributes:
        name: the path of the run below the folder that was listed.
        state: live: its process writes to it; not computed: its row is not in the index yet.
        verdict: as in a report.
        steps: recorded steps.
        last_loss: the loss at the end; NaN or infinite where the last one is.
        optimizer: the class of the optimizer.
        learning_rate: the last one.
        batch_size: as the run's config tells it.
        clipping: by norm, value, norm+value or policy; none: it was not clipped.
        threshold: of clipping, the last one in force.
        clipped_fraction: the share of clipped steps.
        fault: the code of the first finding that is more than information.
        fault_step: the step where that began.
        fault_layer: the most relevant parameter of that finding.
        median_norm: of the total norm.
        max_norm: the largest total norm.
        nonfinite_steps: steps with NaN or infinity.
        written: when the store was written last, in seconds since the epoch.
        size: bytes of the store and its log.
        note: as `gradwatch note` wrote it.
        tags: as `gradwatch tag` wrote them.
        config: the hyperparameters that were given to `attach`.
        error: why the run can't be read.
    """

    name: str
    state: State = "ended"
    verdict: str | None = None
    steps: int | None = None
    last_loss: float | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    batch_size: float | None = None
    clipping: str | None = None
    threshold: float | None = None
    clipped_fraction: float | None = None
    fault: str | None = None
    fault_step: int | None = None
    fault_layer: str | None = None
    median_norm: float | None = None
    max_norm: float | None = None
    nonfinite_steps: int | None = None
    written: float = 0.0
    size: int = 0
    note: str = ""
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Every field by its name; tags as a list."""
        # Not `asdict`, which copies each value: of a thousand rows that took as long as all else.
        return {name: getattr(self, name) for name in _FIELDS} | {"tags": list(self.tags), "config": dict(self.config)}


_FIELDS = tuple(field.name for field in fields(RunRow))


NAMES = {field.name: field.name for field in fields(RunRow)} | {
    "loss": "last_loss",
    "lr": "learning_rate",
    "batch": "batch_size",
    "clipped": "clipped_fraction",
    "age": "written",
}
"""What may stand in a filter or name the order, with the field of `RunRow` that it stands for."""


def list_runs(
    folder: Path,
    *,
    compute: bool = True,
    progress: Callable[[int, int], object] | None = None,
    keep_index: bool = True,
) -> list[RunRow]:
    """A row for each run below a folder, in the order of their names.

    Args:
        folder: that holds runs, at any depth.
        compute: compute the rows that the index lacks; else their state is "not computed".
        progress: called with how many rows are computed and how many have to be.
        keep_index: write the index; else the folder stays as it is.

    >>> [(row.name, row.verdict, row.steps) for row in list_runs(example_run.parent)]
    [('example', 'healthy', 400)]
    """
    stores = dict(sorted(find_stores({"": folder})))
    stamps = _stamps(stores)
    index = _read_index(folder)
    rows = _rows_that_hold(index, stores, stamps)
    missing = {name: stores[name] for name in stamps if compute and name not in rows}
    for done, row in enumerate(_computed(missing), 1):
        rows[row.name] = row
        if progress is not None:
            progress(done, len(missing))
        if keep_index and done % SAVE_EVERY == 0:
            _write_index(folder, rows, stamps)
    if keep_index and (missing or index.keys() - stamps.keys()):
        _write_index(folder, rows, stamps)
    return [
        _with_the_file(rows.get(name, RunRow(name=name, state="not computed")), stores[name], stamp)
        for name, stamp in stamps.items()
    ]


def _stamps(stores: Mapping[str, Path]) -> dict[str, Stamp]:
    """The stamps of the stores that are still there."""
    return {name: stamp for name, path in stores.items() if (stamp := store_stamp(path))}


def sorted_rows(rows: Sequence[RunRow], by: str, *, descending: bool = False) -> list[RunRow]:
    """The rows in the order of a field; those that lack it or have NaN come last.

    >>> rows = [RunRow(name="a"), RunRow(name="b", last_loss=2.0), RunRow(name="c", last_loss=1.0)]
    >>> [row.name for row in sorted_rows(rows, "last_loss")]
    ['c', 'b', 'a']
    """
    known = [row for row in rows if _is_known(getattr(row, by))]
    rest = [row for row in rows if not _is_known(getattr(row, by))]
    known.sort(key=lambda row: _order(getattr(row, by)), reverse=descending)
    return [*known, *rest]


def row_of(name: str, path: Path) -> RunRow:
    """The row of the store at a path; of one that can't be read, the reason why."""
    from gradwatch.analysis.history import RunReader
    from gradwatch.analysis.summary import summarize

    try:
        reader = RunReader(path)
        live: State = "live" if reader.is_being_written() else "ended"
        row = RunRow(name=name, state=live, config=reader.config(), batch_size=batch_size(reader.config()))
        try:
            summary = summarize(reader, layers=False)
        except EmptyRun:
            return row
        finally:
            reader.close()
    except Exception as error:  # one broken run must not hide the others
        text = str(error) if isinstance(error, GradwatchError | OSError) else f"{type(error).__name__}: {error}"
        return RunRow(name=name, state="unreadable", error=text)
    return replace(
        row,
        verdict=summary.verdict,
        optimizer=summary.optimizer_class,
        clipping=summary.clipping.how,
        **numbers_of(summary),
    )


NUMBERS = (
    *("fault", "fault_step", "fault_layer", "steps", "learning_rate", "threshold", "clipped_fraction"),
    *("median_norm", "max_norm", "nonfinite_steps", "last_loss"),
)
"""What the page's table has of each run, by the names of `RunRow`."""


def numbers_of(summary: RunSummary) -> dict[str, Any]:
    """The `NUMBERS` of a run."""
    fault = next((finding for finding in summary.findings if finding.severity != "info"), None)
    return {
        "fault": None if fault is None else fault.code,
        "fault_step": None if fault is None or fault.steps is None else fault.steps[0],
        "fault_layer": None if fault is None or not fault.parameters else fault.parameters[0],
        "steps": summary.steps,
        "learning_rate": summary.learning_rate,
        "threshold": summary.clipping.threshold,
        "clipped_fraction": summary.clipping.clipped_fraction,
        "median_norm": summary.total_norm.median,
        "max_norm": summary.total_norm.max,
        "nonfinite_steps": summary.nonfinite_steps,
        "last_loss": None if summary.loss is None else summary.loss.end,
    }


def batch_size(config: Mapping[str, Any]) -> float | None:
    """The batch size in a config, if one of its settings has a usual name.

    >>> batch_size({"data.batch_size": 64, "lr": 0.1}), batch_size({"batch_size": "large"})
    (64.0, None)
    """
    for key in BATCH_KEYS:
        for name, value in config.items():
            if name.split(".")[-1] == key and isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
    return None


# ------------------------------------------------------------------------------------ computing


def _rows_that_hold(
    index: Mapping[str, tuple[Stamp, RunRow]], stores: Mapping[str, Path], stamps: Mapping[str, Stamp]
) -> dict[str, RunRow]:
    """The rows of the index whose stores have not changed."""
    return {
        name: row for name, (stamp, row) in index.items() if stamps.get(name) == stamp and _still(row, stores[name])
    }


def _computed(stores: Mapping[str, Path]) -> Iterator[RunRow]:
    """The rows of stores as they come, by all processors if there are many."""
    workers = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(stores)
    )
    if workers < 2 or len(stores) < LEAST_FOR_PROCESSES:
        yield from (row_of(name, path) for name, path in stores.items())
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = [pool.submit(row_of, name, path) for name, path in stores.items()]
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _with_the_file(row: RunRow, path: Path, stamp: Stamp) -> RunRow:
    """The row with what the files beside the store tell now."""
    notes = read_notes(path.parent)
    return replace(row, written=max(stamp[::2]) / 1e9, size=sum(stamp[1::2]), note=notes.note, tags=notes.tags)


def _still(row: RunRow, path: Path) -> bool:
    """Whether a row holds while its store has not changed: a process may have died."""
    if row.state != "live":
        return True
    try:
        with StoreReader(path) as reader:
            return reader.is_being_written()
    except (GradwatchError, OSError):
        return False


def store_stamp(path: Path) -> Stamp:
    """The time of change and the size of a store's files, by which it is known whether it has changed."""
    found: list[int] = []
    for file in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(OSError):
            stat = file.stat()
            found += [stat.st_mtime_ns, stat.st_size]
    return tuple(found)


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value)) and value not in ("", ())


def _order(value: Any) -> Any:
    return str(value) if isinstance(value, tuple | Mapping | str) else float(value)


# ------------------------------------------------------------------------------------- the index


def _read_index(folder: Path) -> dict[str, tuple[Stamp, RunRow]]:
    """The rows of the index with the stamps of their stores; what is damaged is left out."""
    file = folder / INDEX_NAME
    try:
        if file.stat().st_size > MAX_INDEX_BYTES:
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["version"] != _version():
            return {}
        entries = found["runs"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: kept for name, entry in entries if (kept := _kept(name, entry)) is not None}


def _kept(name: str, entry: Any) -> tuple[Stamp, RunRow] | None:
    try:
        values = dict(entry["row"])
        row = RunRow(**values | {"name": name, "tags": ()})
        stamp = tuple(int(number) for number in entry["stamp"])
    except (KeyError, TypeError, ValueError):
        return None
    return (stamp, row) if _is_valid(row) else None


def _is_valid(row: RunRow) -> bool:
    """Whether each field holds what it may: the index may come from a stranger."""
    texts = (row.verdict, row.optimizer, row.clipping, row.fault, row.fault_layer, row.error)
    numbers = (
        row.steps,
        row.last_loss,
        row.learning_rate,
        row.batch_size,
        row.threshold,
        row.clipped_fraction,
        row.fault_step,
        row.median_norm,
        row.max_norm,
        row.nonfinite_steps,
    )
    return (
        row.state in get_args(State)
        and all(text is None or isinstance(text, str) for text in texts)
        and all(number is None or isinstance(number, int | float) for number in numbers)
        and isinstance(row.config, Mapping)
    )


def _write_index(folder: Path, rows: Mapping[str, RunRow], stamps: Mapping[str, Stamp]) -> None:
    """Replace the index. Without the right to write there, there is none."""
    entries = {name: {"stamp": stamps[name], "row": _stored(row)} for name, row in rows.items()}
    beside = folder / f"{INDEX_NAME}.{os.getpid()}.new"
    with contextlib.suppress(OSError):
        try:
            beside.write_text(json.dumps({"version": _version(), "runs": entries}), encoding="utf-8")
            beside.replace(folder / INDEX_NAME)
        finally:
            beside.unlink(missing_ok=True)


def _stored(row: RunRow) -> dict[str, Any]:
    """The fields that the store tells; the others are looked up each time."""
    left_out = ("name", "written", "size", "note", "tags")
    return {name: value for name, value in row.as_dict().items() if name not in left_out}


def _version() -> list[object]:
    return [INDEX_VERSION, __version__]
