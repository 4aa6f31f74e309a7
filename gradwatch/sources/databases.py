"""SQLite files of other tools, opened for reading only."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote_from_bytes

from gradwatch.errors import CannotImport
from gradwatch.sources.values import first_line

MAX_OPERATIONS = 2_000_000_000
"""Of SQLite's virtual machine, after which a query of a broken file ends."""

TICK = 1_000_000


class Database:
    """A file of SQLite. Nothing is written; views and triggers in it may call no function of the program.

    Attributes:
        name: of the file.

    Raises:
        CannotImport: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        uri = f"file:{quote_from_bytes(os.fsencode(path.resolve()))}?mode=ro"
        try:
            self._db = sqlite3.connect(uri, uri=True, timeout=5)
            self._db.execute("pragma trusted_schema = off")
            self._db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            self._ticks = MAX_OPERATIONS // TICK
            self._db.set_progress_handler(self._tick, TICK)
            self.tables = self._columns_of_each()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._db.close()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            return self._db.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError, MemoryError) as error:
            raise self._unreadable(error) from error

    def has(self, table: str, *columns: str) -> bool:
        """Whether a table is there with these columns."""
        return table in self.tables and set(columns) <= self.tables[table]

    def _columns_of_each(self) -> dict[str, set[str]]:
        names = [name for (name,) in self._db.execute("select name from sqlite_master where type = 'table'")]
        quoted = {name: str(name).replace('"', '""') for name in names}
        return {name: {row[1] for row in self._db.execute(f'pragma table_info("{quoted[name]}")')} for name in names}

    def _tick(self) -> bool:
        self._ticks -= 1
        return self._ticks < 0

    def _unreadable(self, error: Exception) -> CannotImport:
        return CannotImport(f"{str(self._path)!r} can't be read as a database of SQLite: {first_line(error)}.")
