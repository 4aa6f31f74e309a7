"""The files of a data set: parts that hold many runs, the index, and the lock.

A part is a number. Its rows are in one file of that number in each table. An export writes the new files of a part to
a folder aside, notes in the index that they are complete, and gives them their places: each takes the place of the old
one at once. The next export finishes what a killed one had noted, and deletes what it had not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from gradwatch.errors import CannotExport, DataSetInUse
from gradwatch.export.dataset_tables import SCHEMA_VERSION, TABLES, schema
from gradwatch.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

INDEX_NAME = ".gradwatch-export.json"  # readers of Parquet ignore names that begin with a dot
LOCK_NAME = ".gradwatch-export.lock"
ASIDE_NAME = ".gradwatch-export.new"
ROWS_OF_A_GROUP = 100_000  # in a row group, the least that a reader can skip or has to take

Stamp: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a run in the data set.

    Attributes:
        part: that has its rows.
        stamp: of its store when it was written; None: it has to be written again.
        folder: it was recorded in; None: not known.
    """

    part: int
    stamp: Stamp | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """What is yet to be done to the files: parts whose new files lie aside, and parts that are to be deleted."""

    new: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    drops_version_1: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """The runs of a data set, and what an export was doing to its files when it wrote the index."""

    runs: Mapping[str, Entry] = field(default_factory=dict)
    unfinished: Commit | None = None

    def as_json(self) -> str:
        runs = {name: [entry.part, entry.stamp, entry.folder] for name, entry in self.runs.items()}
        commit = self.unfinished
        unfinished = commit and [commit.new, commit.dropped, commit.drops_version_1]
        return json.dumps({"schema": SCHEMA_VERSION, "version": __version__, "runs": runs, "unfinished": unfinished})

    @classmethod
    def from_json(cls, text: bytes) -> Index | None:
        """None if it is damaged or of another layout. Without stamps if another version of gradwatch wrote it."""
        try:
            found = json.loads(text)
            if found["schema"] != SCHEMA_VERSION:
                return None
            is_ours = found["version"] == __version__
            runs = {
                str(name): Entry(int(part), _stamp(stamp) if is_ours else None, None if place is None else str(place))
                for name, (part, stamp, place) in found["runs"].items()
            }
            unfinished = found["unfinished"]
            if unfinished is not None:
                new, dropped, drops_version_1 = unfinished
                unfinished = Commit(_stamp(new) or (), _stamp(dropped) or (), bool(drops_version_1))
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return cls(runs, unfinished)


def _stamp(found: Any) -> Stamp | None:
    return None if found is None else tuple(int(number) for number in found)


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where the tables are: fsspec's file system, the same for pyarrow, and the root folder."""

    plain: Any
    files: Any
    root: str

    @classmethod
    def at(cls, target: str) -> DataSet:
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

    @property
    def is_local(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self.plain, LocalFileSystem)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other exports out. The system takes the lock from a process that ends. A bucket has no locks.

        Raises:
            DataSetInUse: another process has it.
        """
        self.plain.makedirs(self.root, exist_ok=True)
        if not self.is_local:
            yield
            return
        with (Path(self.root) / LOCK_NAME).open("a+b") as file:
            if not _lock(file.fileno()):
                file.seek(0)
                holder = file.read(100).decode(errors="replace") or "another process"
                raise DataSetInUse(f"{holder} exports into {self.root!r}; wait until it is done.")
            file.truncate(0)
            file.write(f"process {os.getpid()}".encode())
            file.flush()
            yield

    # --------------------------------------------------------------------------------------- index

    def open(self) -> Index:
        """The index, after an interrupted export has been finished and what it left has been deleted.

        Without a valid index the runs are looked up in the files, and each has to be written again.

        Raises:
            CannotExport: a newer version of gradwatch wrote the data set.
        """
        text = self._read_index()
        index = Index.from_json(text)
        if index is None:
            self._refuse_newer(text)
            index = Index(self._runs_in_parts())
        elif index.unfinished is not None:
            index = self._finish(index)
        self.clear_aside()
        return index

    def clear_aside(self) -> None:
        """Delete what lies aside and has no place."""
        if self.plain.exists(f"{self.root}/{ASIDE_NAME}"):
            self.plain.rm(f"{self.root}/{ASIDE_NAME}", recursive=True)

    def commit(self, index: Index) -> Index:
        """Put the files that lie aside in their places, as ``index.unfinished`` says, and then write the index."""
        self._write_index(index)
        return self._finish(index)

    def _finish(self, index: Index) -> Index:
        commit = index.unfinished or Commit()
        if commit.drops_version_1:
            for place in self._folders_of_version_1():
                self.plain.rm(place, recursive=True)
        for number in commit.new:
            for table in reversed(TABLES):  # runs last: it tells which runs there are
                self._replace(self.aside(table, number), self.place(table, number))
        for number in commit.dropped:
            for table in TABLES:
                if self.plain.exists(self.place(table, number)):
                    self.plain.rm(self.place(table, number))
        done = replace(index, unfinished=None)
        self._write_index(done)
        return done

    def _read_index(self) -> bytes:
        try:
            return bytes(self.plain.cat_file(f"{self.root}/{INDEX_NAME}"))
        except FileNotFoundError:
            return b""

    def _refuse_newer(self, text: bytes) -> None:
        try:
            newer = json.loads(text)["schema"] > SCHEMA_VERSION
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if newer:
            raise CannotExport(
                f"{self.root!r} was written by a newer gradwatch. Upgrade with `pip install -U gradwatch`."
            )

    def _write_index(self, index: Index) -> None:
        beside = f"{self.root}/{INDEX_NAME}.new"
        self.plain.pipe_file(beside, index.as_json().encode())
        self._replace(beside, f"{self.root}/{INDEX_NAME}")

    def _replace(self, new: str, place: str) -> None:
        """Put a file in the place of another at once. Nothing to do if that has been done before."""
        if not self.plain.exists(new):
            return
        self.plain.makedirs(place.rpartition("/")[0], exist_ok=True)
        if self.is_local:
            with open(new, "rb+") as file:  # noqa: PTH123 - a power failure must not leave a name without its content
                os.fsync(file.fileno())
            os.replace(new, place)  # noqa: PTH105
        else:
            self.plain.mv(new, place)

    # --------------------------------------------------------------------------------------- parts

    def place(self, table: str, part: int) -> str:
        return f"{self.root}/{table}.parquet/part-{part:05d}.parquet"

    def aside(self, table: str, part: int) -> str:
        """Where the new file of a part is written."""
        return f"{self.root}/{ASIDE_NAME}/{table}-{part:05d}.parquet"

    def sizes(self) -> dict[int, int]:
        """The bytes of each part that has a file in every table."""
        found: dict[str, list[int]] = {}
        for table in TABLES:
            for entry in self._listing(table):
                found.setdefault(entry["name"].rpartition("/")[2], []).append(int(entry["size"]))
        return {
            number: sum(sizes)
            for name, sizes in found.items()
            if len(sizes) == len(TABLES) and (number := _number(name)) is not None
        }

    def copy_rows(self, part: int, runs: Collection[str], into: PartWriter) -> None:
        """Copy the rows of some runs of a part, a row group at a time."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        for table in TABLES if runs else ():
            if not self.plain.exists(self.place(table, part)):
                continue
            with pq.ParquetFile(self.place(table, part), filesystem=self.files) as file:
                for number in range(file.num_row_groups):
                    rows = file.read_row_group(number)
                    kept = pc.is_in(rows["run"], value_set=pa.array(list(runs), pa.string()))
                    into.add(table, rows.filter(kept))

    def _runs_in_parts(self) -> dict[str, Entry]:
        import pyarrow.parquet as pq

        found: dict[str, Entry] = {}
        for entry in self._listing("runs"):
            number = _number(entry["name"].rpartition("/")[2])
            if number is not None:
                place = self.place("runs", number)
                names = pq.read_table(place, columns=["run"], filesystem=self.files, partitioning=None)["run"]
                found |= dict.fromkeys(names.to_pylist(), Entry(number))
        return found

    def runs_of_version_1(self) -> set[str]:
        """The runs that have folders of their own, as versions before the first release wrote them."""
        return {unquote(place.rpartition("/run=")[2]) for place in self._folders_of_version_1()}

    def _folders_of_version_1(self) -> list[str]:
        return [entry["name"] for table in TABLES for entry in self._listing(table) if "/run=" in entry["name"]]

    def _listing(self, table: str) -> list[dict[str, Any]]:
        try:
            found = self.plain.ls(f"{self.root}/{table}.parquet", detail=True)
        except FileNotFoundError:
            return []
        return [dict(entry) for entry in found]


class PartWriter:
    """Writes the new files of a part aside. Rows of small runs are gathered into row groups.

    Attributes:
        number: of the part.
        runs: that it has.
    """

    def __init__(self, dataset: DataSet, number: int) -> None:
        import pyarrow.parquet as pq

        self.number = number
        self.runs: dict[str, Entry] = {}
        dataset.plain.makedirs(f"{dataset.root}/{ASIDE_NAME}", exist_ok=True)
        self._waiting: dict[str, list[pa.Table]] = {table: [] for table in TABLES}
        self._sinks = {table: dataset.files.open_output_stream(dataset.aside(table, number)) for table in TABLES}
        self._writers = {table: pq.ParquetWriter(sink, schema(table)) for table, sink in self._sinks.items()}

    @property
    def size(self) -> int:
        """Bytes in the files so far."""
        return sum(sink.tell() for sink in self._sinks.values())

    def add(self, table: str, rows: pa.Table) -> None:
        waiting = self._waiting[table]
        waiting.append(rows)
        if sum(part.num_rows for part in waiting) >= ROWS_OF_A_GROUP:
            self._write(table)

    def close(self) -> None:
        for table, writer in self._writers.items():
            self._write(table)
            writer.close()
            self._sinks[table].close()

    def _write(self, table: str) -> None:
        import pyarrow as pa

        waiting = self._waiting[table]
        if waiting:
            self._writers[table].write_table(pa.concat_tables(waiting).replace_schema_metadata(), ROWS_OF_A_GROUP)
            waiting.clear()


def _number(name: str) -> int | None:
    """The part that a file is of.

    >>> _number("part-00012.parquet"), _number("run=a"), _number("part-x.parquet")
    (12, None, None)
    """
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return int(digits) if digits.isdecimal() and name == f"part-{int(digits):05d}.parquet" else None


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed; False if another process has it. A file system without locks gives it to all."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text, which stays readable
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True
