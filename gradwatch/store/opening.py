"""Opens the file of any store for reading, and never changes it or its folder.

A store may come from an untrusted source or a failing disk. Therefore only regular files are opened, the tables must
have the declared schema, SQLite may only read them, and every query ends after a number of operations that depends on
the size of the file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from gradwatch.errors import GradwatchError, NotARun, RunNotFound, StoreDamaged, StoreTooNew
from gradwatch.store.schema import (
    APPLICATION_ID,
    CURRENT,
    FILE_NAME,
    SCHEMA_VERSION,
    Layout,
    declared,
    parse,
)

_TABLES = declared(CURRENT)
"""Of a new store, with the definitions of their columns."""

TICK = 10_000
"""Operations of SQLite's virtual machine between two looks at the budget of a query."""

BASE_OPERATIONS, OPERATIONS_PER_BYTE = 3_000_000, 4
"""The budget of a query. Reading a whole row of any table takes less than an operation for each of its bytes."""

MAX_VALUE = 128 * 2**20
"""Bytes of the largest value that is read."""

MAX_STATEMENT = 100_000
"""Bytes of the longest declaration that is read."""

MAX_LOG = 2**30
"""Bytes of the largest log or journal that is read in a copy."""

RETRIES = 20
"""How often a file is opened whose log or journal a writer makes or takes away between our look and SQLite's."""

MAX_SPARSENESS = 64
"""How many times larger a file may be than the disk space it takes, which a file system that compresses makes less."""


class Database:
    """A store file that is open for reading, with its `Layout`.

    Raises:
        RunNotFound: there is no file.
        NotARun: gradwatch did not write the file.
        StoreTooNew: a newer gradwatch wrote it.
        StoreDamaged: it can't be read, or its tables are not those of a store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_file(path)
        self._file = path.resolve()  # SQLite looks for a log beside the file that a link leads to
        self._log = self._file.with_name(self._file.name + "-wal")
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._budget = self._ticks_left = 0  # in ticks: of each query, and of the one that runs
        for left in reversed(range(RETRIES)):
            try:
                self._open()
                return
            except (sqlite3.Error, OSError, UnicodeDecodeError, MemoryError) as error:
                if not (left and _has_changed(error)):
                    raise damaged(path, error) from error

    def close(self) -> None:
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        self._ticks_left = self._budget
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "decode" not in str(error) or self._db.text_factory is _decode:
                raise damaged(self.path, error) from error
        except (
            sqlite3.Error,
            UnicodeDecodeError,
            MemoryError,
        ) as error:  # SQLite's own message may have a damaged name in it
            raise damaged(self.path, error) from error
        # A damaged text fails its checksum, and should not hide the rows beside it.
        self._db.text_factory = _decode
        return self.rows(query, *values)

    def data_version(self) -> int:
        """A number that is another one when a writer has committed something since."""
        ((version,),) = self.rows("pragma data_version")
        return int(version)

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """Everything that is read within is of one moment, whatever a writer adds meanwhile."""
        self.rows("begin")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")

    def _open(self) -> None:
        self._db = self._connect()
        self._restrict()
        self.layout = self._read_layout()
        self._db.set_authorizer(_authorize)

    def _connect(self) -> sqlite3.Connection:
        """A connection that leaves the folder as it is.

        SQLite would create a shared-memory file beside a store with a write-ahead log. If there is one already (a
        writer is alive or was killed), it is used. Without a log the file is complete. A log alone, or a journal that a
        killed writer left, is read in a copy.
        """
        journal = self._beside("-journal")
        if journal is not None and journal.stat().st_size:
            return self._connect_to_a_copy(journal)
        log, shared = self._beside("-wal"), self._beside("-shm")
        if log is None:
            return _connect(self._file, "immutable=1" if _uses_log(self._file) else "mode=ro")
        if shared is None or not os.access(self._file.parent, os.W_OK):
            return self._connect_to_a_copy(log)
        return _connect(self._file, "mode=ro")

    def _connect_to_a_copy(self, beside: Path) -> sqlite3.Connection:
        if beside.stat().st_size > MAX_LOG or _is_sparse(self._file):
            raise OSError(f"{beside.name!r} is too large to copy for reading")
        self._copy = tempfile.TemporaryDirectory(prefix="gradwatch-")
        for file in (self._file, beside):
            shutil.copy(file, self._copy.name)
        return _connect(Path(self._copy.name) / self._file.name, "mode=rw")

    def _beside(self, suffix: str) -> Path | None:
        """The log or journal of that suffix; None if there is none.

        Raises:
            OSError: it is not a regular file, and opening it might wait for ever.
        """
        path = self._file.with_name(self._file.name + suffix)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            raise OSError(f"{path.name!r} is not a regular file")
        return path

    def _restrict(self) -> None:
        self._budget = self._ticks_left = self._ticks_of_the_file()
        self._db.set_progress_handler(self._tick, TICK)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for setting in ("trusted_schema = off", "cell_size_check = on"):
            self._db.execute(f"pragma {setting}")

    def _ticks_of_the_file(self) -> int:
        size = _size(self._file) + _size(self._log)
        return (BASE_OPERATIONS + OPERATIONS_PER_BYTE * size) // TICK

    def _tick(self) -> bool:
        """Ends a query that goes on for longer than the file can explain: its pages lead in a circle."""
        self._ticks_left -= 1
        if self._ticks_left >= 0:
            return False
        # The file may have grown: it is looked at only here, for a long run takes hundreds of queries.
        before, self._budget = self._budget, self._ticks_of_the_file()
        self._ticks_left += self._budget - before
        return self._ticks_left < 0

    def _read_layout(self) -> Layout:
        (application,) = self._db.execute("pragma application_id").fetchone()
        (version,) = self._db.execute("pragma user_version").fetchone()
        if application != APPLICATION_ID and not _size(self._file):
            raise NotARun(
                f"{str(self.path)!r} is an empty file: its training ended before it wrote anything, or the copy is"
                " not whole. Give the folder of a recorded run."
            )
        if application != APPLICATION_ID:
            raise NotARun(
                f"{str(self.path)!r} is an SQLite file, but gradwatch did not write it. Give the folder of a"
                " recorded run."
            )
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{str(self.path)!r} was written by a newer gradwatch (schema {version}; this version reads up"
                f" to {SCHEMA_VERSION}). Upgrade with `pip install -U gradwatch`."
            )
        entries = self._db.execute("select type, name, tbl_name, rootpage, sql from sqlite_master").fetchall()
        (pages,) = self._db.execute("pragma page_count").fetchone()
        has_row_crc = any(name == "detector_state" for _, name, *_ in entries)
        layout = Layout(version=version, has_row_crc=has_row_crc)
        fault = find_fault(layout, entries, pages)
        if fault is not None:
            raise damaged(self.path, ValueError(fault))
        return layout


def find_fault(layout: Layout, entries: list[tuple[Any, ...]], pages: int) -> str | None:
    """What is wrong with the declared tables of a store; None if they are those of the layout.

    Tables, views and indexes that a user added under other names are never read, and do no harm.

    Args:
        layout: that the store should have.
        entries: of sqlite_master: type, name, tbl_name, rootpage, sql.
        pages: of the file.
    """
    if layout.version < 1 or not layout.may_have_row_crc:
        return f"it has no tables of schema {layout.version}"
    tables = declared(layout)
    indexes = {f"sqlite_autoindex_{table}_1" for table in tables if _has_text_key(table)}
    for kind, name, table, _, sql in entries:
        fault = (
            _kind_fault(kind, name, is_own=name in tables or name in indexes)
            or _table_fault(layout, tables, (kind, name, table, sql))
            or _index_fault(layout, name in indexes, (kind, name, table, sql))
        )
        if fault is not None:
            return fault
    return _count_fault({*tables} | indexes, entries) or _page_fault(entries, pages)


def _kind_fault(kind: Any, name: Any, *, is_own: bool) -> str | None:
    if kind in ("table", "index") or (kind == "view" and not is_own):
        return None
    return f"it has the {kind} {name!r}, which no store has"


def _table_fault(layout: Layout, tables: Mapping[str, Any], entry: tuple[Any, ...]) -> str | None:
    kind, name, table, sql = entry
    if name in tables and (kind != "table" or table != name or parse(str(sql)) != (name, tables[name])):
        return f"table {name!r} is not that of schema {layout.version}"
    if table == "parameter" and name != table:
        # SQLite counts by an index whatever it is told.
        return f"table 'parameter' has the {kind} {name!r}"
    return None


def _index_fault(layout: Layout, is_own: bool, entry: tuple[Any, ...]) -> str | None:
    kind, name, table, sql = entry
    if is_own and (kind != "index" or name != f"sqlite_autoindex_{table}_1" or sql):
        return f"index {name!r} is not that of schema {layout.version}"
    return None


def _count_fault(own: set[str], entries: Sequence[tuple[Any, ...]]) -> str | None:
    found = [name for _, name, *_ in entries if name in own]
    if sorted(found) == sorted(own):
        return None
    return f"tables are missing or there twice: {', '.join(sorted(own ^ {*found})) or 'twice'}"


def _page_fault(entries: Sequence[tuple[Any, ...]], pages: int) -> str | None:
    roots = [root for kind, _, _, root, _ in entries if kind != "view" and root != 0]
    if all(isinstance(root, int) and 2 <= root <= pages for root in roots) and len({*roots}) == len(roots):
        return None
    return "two tables begin on one page, or one outside of the file"


def _has_text_key(table: str) -> bool:
    return any(definition.endswith("text primary key") for definition in _TABLES[table])


def check_file(path: Path) -> None:
    """Raise unless a path leads to a regular file that begins as an SQLite file does."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise RunNotFound(
            f"There is no run at {str(path.parent if path.name == FILE_NAME else path)!r}. Give the folder of a"
            " recorded run; `gradwatch.attach(model, optimizer, run)` records one."
        ) from error
    except OSError as error:
        raise damaged(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, OSError("it is not a regular file"))
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise StoreDamaged(f"{str(path)!r} can't be read: {error}.") from error
    if found.st_size and not start.startswith(b"SQLite format 3\0"):
        raise NotARun(f"{str(path)!r} is not an SQLite file, so it is not a run. Give the folder of a recorded run.")


def damaged(path: Path, error: Exception) -> GradwatchError:
    """The error to raise for a file that can't be read."""
    reason = str(error)
    if "locked" in reason:
        return StoreDamaged(f"{str(path)!r} can't be read now: another program has locked it ({reason}).")
    if isinstance(error, MemoryError):
        reason = "a row asks for more memory than there is"
    if "interrupted" in reason:
        reason = "its pages lead in a circle"
    return StoreDamaged(
        f"{str(path)!r} can't be read: {reason}. It may be cut off or overwritten; restore it from a copy, or"
        " see what `sqlite3 FILE .recover` can save."
    )


def _has_changed(error: Exception) -> bool:
    """Whether a log or journal went away after we had looked, or a journal came."""
    return isinstance(error, FileNotFoundError) or "readonly" in str(error)


def _authorize(action: int, name: str | None, function: str | None, database: str | None, source: str | None) -> int:
    """Allow reading our tables; ``source`` is the view or trigger that wants to read."""
    allowed = (
        action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION)
        or (action == sqlite3.SQLITE_READ and name in _TABLES and source is None)
        or (action == sqlite3.SQLITE_PRAGMA and name == "data_version")
        or (action == sqlite3.SQLITE_FUNCTION and function in ("count", "max", "min"))
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # As bytes, for a name need not be UTF-8.
    uri = f"file:{quote_from_bytes(os.fsencode(path))}?{mode}"
    return sqlite3.connect(uri, uri=True, timeout=5, check_same_thread=False)


def _uses_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\2\2"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _size(path: Path) -> int:
    """Bytes of a file, 0 if there is none; of a sparse one what it may hold at most."""
    try:
        found = path.stat()
    except OSError:
        return 0
    if not hasattr(found, "st_blocks"):
        return found.st_size
    return min(found.st_size, MAX_SPARSENESS * 512 * found.st_blocks)


def _is_sparse(path: Path) -> bool:
    return _size(path) < path.stat().st_size
