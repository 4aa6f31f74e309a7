"""Runs as a Parquet data set, for histories too large for one machine.

The data set has the tables runs, steps, layers and events, each in files that hold many runs. It is written with
fsspec, to a folder or to a bucket. An index beside the tables tells which runs have not changed since they were
written, so that a nightly export takes what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradwatch.analysis.listing import store_stamp
from gradwatch.analysis.run import Run
from gradwatch.errors import BadArgument, CannotExport, EmptyRun, GradwatchError
from gradwatch.export.dataset_files import Commit, DataSet, Entry, Index, PartWriter
from gradwatch.export.dataset_tables import RunTables, read_tables
from gradwatch.store import FILE_NAME

PART_BYTES = 64 * 2**20  # of a part's files; a part that has as many takes no further run
MOST_NAMED = 3  # runs in a message


def runs_in(paths: Sequence[Path]) -> dict[str, Path]:
    """The folder of each run by its name: paths that are runs, and all runs below paths that are not.

    Raises:
        BadArgument: two runs have the same name, by which the data set distinguishes them.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = [path] if (path / FILE_NAME).exists() else sorted(store.parent for store in path.rglob(FILE_NAME))
        for folder in inside or [path]:
            name = folder.resolve().name.encode("utf-8", "backslashreplace").decode()  # Arrow has UTF-8 only
            if name in found:
                raise BadArgument(f"{str(found[name])!r} and {str(folder)!r} are both called {name!r}; rename one.")
            found[name] = folder
    return found


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_dataset` did.

    Attributes:
        runs: that were written.
        unchanged: runs that were left as they are.
        removed: runs whose rows were removed.
        from_version_1: whether the files were of an older layout, and are of this one now.
    """

    runs: int
    unchanged: int
    removed: int = 0
    from_version_1: bool = False


def write_dataset(folders: Sequence[Path], target: str, *, keep_deleted: bool = False) -> Written:
    """Write runs to a data set. Runs that it already holds under the same names are replaced.

    A run whose store has not changed since this version of gradwatch wrote it is left as it is. A run that was exported
    from one of the folders, and is no longer there or has no step any more, is removed.

    Args:
        folders: of runs, or folders that contain runs. Runs without a step are skipped.
        target: a folder, or a URL that fsspec understands.
        keep_deleted: keep the rows of runs that are no longer there.

    Raises:
        BadArgument: two runs have the same name.
        DataSetInUse: another process writes to the data set.
        CannotExport: a package is missing, or the target can't be written.
        GradwatchError: a run can't be read. The others are written nevertheless.
    """
    runs = runs_in(folders)
    try:
        dataset = DataSet.at(target)
        with dataset.locked():
            export = _Export(dataset, runs, dataset.open())
            return export.write([] if keep_deleted else [folder.resolve() for folder in folders])
    except GradwatchError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise CannotExport(f"{target!r} can't be written: {error}.") from error


@dataclass(slots=True)
class _Export:
    """One export: which parts have to be written again, and how far that is."""

    dataset: DataSet
    runs: dict[str, Path]
    index: Index
    staged: list[PartWriter] = field(default_factory=list)
    written: int = 0
    unreadable: dict[str, GradwatchError] = field(default_factory=dict)
    is_version_1: bool = False

    def write(self, mirrored: Sequence[Path]) -> Written:
        """Write what has changed, and remove the runs of the mirrored folders that are gone."""
        self.is_version_1 = self._is_version_1()
        sizes = self.dataset.sizes()
        stamps = {name: store_stamp(path / FILE_NAME) for name, path in self.runs.items()}
        changed = [name for name in self.runs if not _is_current(self.index.runs.get(name), stamps[name], sizes)]
        moved = self._note_moved(set(changed))
        known = self.index.runs
        stale = known.keys() & {*changed, *self._gone(mirrored)}
        for part, names in sorted(self._parts_to_write(changed, stale, sizes).items()):
            kept = {name for name, entry in known.items() if entry.part == part} - stale
            self._write_part(part, kept, names, stamps)
        if not (self.is_version_1 and self.unreadable):  # their rows would be lost
            self._commit()
        if moved and self.index.runs is known:
            self.dataset.commit(self.index)
        self.dataset.clear_aside()
        if self.unreadable:
            self._raise_unreadable()
        return Written(
            runs=self.written,
            unchanged=len(self.runs) - len(changed),
            removed=len(stale - self.index.runs.keys()),
            from_version_1=self.is_version_1,
        )

    def _gone(self, mirrored: Sequence[Path]) -> set[str]:
        """The runs that the data set holds from the mirrored folders and that are no longer there."""
        runs = self.index.runs.items()
        return {name for name, entry in runs if name not in self.runs and _is_gone(entry, mirrored)}

    def _parts_to_write(self, changed: Sequence[str], stale: Set[str], sizes: dict[int, int]) -> dict[int, list[str]]:
        """The runs to read for each part that is written: those that changed in it, and for one of them the new ones.

        A part whose stale runs are all gone has none to read.
        """
        known = self.index.runs
        again = {known[name].part: list[str]() for name in stale}
        for name in changed:
            if name in known:
                again[known[name].part].append(name)
        if new := [name for name in changed if name not in known]:
            again.setdefault(self._open_part(sizes, again), []).extend(new)
        return again

    def _note_moved(self, changed: set[str]) -> bool:
        """Note where runs are now whose folders were moved; their rows are as they were."""
        places = {name: str(path.resolve()) for name, path in self.runs.items() if name not in changed}
        moved = {
            name: replace(self.index.runs[name], folder=place)
            for name, place in places.items()
            if self.index.runs[name].folder != place
        }
        self.index = Index({**self.index.runs, **moved})
        return bool(moved)

    def _is_version_1(self) -> bool:
        """Whether the files are of the older layout.

        Raises:
            CannotExport: it has runs that are not exported now, so that their rows would be lost.
        """
        older = self.dataset.runs_of_version_1()
        if lost := sorted(older - self.runs.keys()):
            raise CannotExport(
                f"{self.dataset.root!r} has the layout of an older version and holds {_named(lost)}, not among the runs"
                " to export. Give the folders of all its runs, or another target."
            )
        return bool(older)

    def _open_part(self, sizes: dict[int, int], again: Iterable[int]) -> int:
        """The part that new runs are added to: one that is written anyway, or else the smallest, if it has room."""
        room = {part: size for part, size in sizes.items() if size < PART_BYTES}
        return min(room, key=lambda part: (part not in again, room[part])) if room else self._next_part()

    def _next_part(self) -> int:
        parts = [entry.part for entry in self.index.runs.values()]
        return max([*parts, *self.dataset.sizes(), *(writer.number for writer in self.staged)], default=-1) + 1

    def _write_part(self, part: int, kept: set[str], names: Sequence[str], stamps: dict[str, tuple[int, ...]]) -> None:
        """Write a part again: the rows of runs to keep, and the runs of the given names as they are now.

        New runs for which there is no room go to further parts. A run that has a part stays there, whatever its size:
        while it moved, a reader could find it twice or not at all.
        """
        writer = self._begin(part)
        self._keep(writer, part, kept)
        for name in names:
            if writer.size >= PART_BYTES and name not in self.index.runs:
                self._end(writer)
                writer = self._begin(self._next_part())
            try:
                tables = read_tables(Run(self.runs[name]), name)
            except EmptyRun:
                continue
            except GradwatchError as error:
                self.unreadable[name] = error
                if name in self.index.runs:
                    self._keep(writer, self.index.runs[name].part, {name})
                continue
            self._write_run(writer, name, tables, stamps[name])
        self._end(writer)

    def _begin(self, part: int) -> PartWriter:
        self.staged.append(PartWriter(self.dataset, part))
        return self.staged[-1]

    def _end(self, writer: PartWriter) -> None:
        writer.close()
        if not self.is_version_1:  # whose folders are deleted once all runs are written
            self._commit()

    def _keep(self, writer: PartWriter, part: int, runs: set[str]) -> None:
        self.dataset.copy_rows(part, runs, writer)
        for name in runs:
            entry = self.index.runs[name]
            writer.runs[name] = Entry(writer.number, entry.stamp, entry.folder)

    def _write_run(self, writer: PartWriter, name: str, tables: RunTables, stamp: tuple[int, ...]) -> None:
        for table, rows in tables.short.items():
            writer.add(table, rows)
        for rows in tables.layers:
            writer.add("layers", rows)
        # A live run has changed as soon as its process is gone, whether or not that still wrote.
        held = None if tables.summary.running else stamp
        writer.runs[name] = Entry(writer.number, held, str(self.runs[name].resolve()))
        self.written += 1

    def _commit(self) -> None:
        """Put the parts that were written in their places."""
        if not self.staged:
            return
        numbers = {writer.number for writer in self.staged}
        runs = {name: entry for name, entry in self.index.runs.items() if entry.part not in numbers}
        for writer in self.staged:
            runs |= writer.runs
        new = tuple(writer.number for writer in self.staged if writer.runs)
        dropped = tuple(writer.number for writer in self.staged if not writer.runs)
        self.index = self.dataset.commit(Index(runs, Commit(new, dropped, self.is_version_1)))
        self.staged.clear()

    def _raise_unreadable(self) -> None:
        first, *others = self.unreadable.values()
        more = f" {_named([*self.unreadable][1:])} can't be read either." if others else ""
        raise type(first)(f"{first.args[0]}{more}") from first


def _is_current(entry: Entry | None, stamp: tuple[int, ...], sizes: dict[int, int]) -> bool:
    """Whether the data set holds a run as it is. Its files are looked at, whatever the index says."""
    return entry is not None and entry.stamp == stamp and entry.part in sizes


def _is_gone(entry: Entry, folders: Sequence[Path]) -> bool:
    """Whether a run was recorded in one of the folders and is no longer there."""
    place = None if entry.folder is None else Path(entry.folder)
    return place is not None and any(map(place.is_relative_to, folders)) and not (place / FILE_NAME).exists()


def _named(runs: Sequence[str]) -> str:
    """Runs in a message.

    >>> _named(["a"]), _named(["a", "b", "c", "d", "e"])
    ("'a'", "'a', 'b', 'c' and 2 more runs")
    """
    shown = ", ".join(map(repr, runs[:MOST_NAMED]))
    more = len(runs) - MOST_NAMED
    return f"{shown} and {more} more run{'s' * (more > 1)}" if more > 0 else shown
