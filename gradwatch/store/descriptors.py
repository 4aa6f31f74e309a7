"""The descriptors by which SQLite writes a store.

A script may close them, and open files of its own under their numbers. SQLite would not notice and write into these.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from pathlib import Path
from typing import TypeAlias

Identity: TypeAlias = tuple[int, int]
"""Device and inode: which file it is."""

_LISTED = Path("/dev/fd")
_BESIDE = ("", "-wal", "-shm")


def open_descriptors() -> set[int]:
    """The numbers that are in use; empty where the system does not list them."""
    try:
        listed = [int(entry.name) for entry in _LISTED.iterdir()]
    except OSError:
        return set()
    return {number for number in listed if identity_of(number) is not None}  # without that of the list itself


class Descriptors:
    """Those that were opened for a store since ``before``, and the file that each belongs to."""

    def __init__(self, store: Path, before: set[int]) -> None:
        files = {identity for ending in _BESIDE if (identity := identity_of(Path(f"{store}{ending}"))) is not None}
        found = {number: identity_of(number) for number in open_descriptors() - before} if before else {}
        self._known = {number: identity for number, identity in found.items() if identity in files}

    def are_intact(self) -> bool:
        """Whether each still belongs to its file."""
        return all(identity_of(number) == identity for number, identity in self._known.items())


def identity_of(file: Path | int) -> Identity | None:
    """Which file stands at a path or belongs to a descriptor; None if there is none that can be seen."""
    try:
        stat = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


_abandoned: set[Path] = set()


def is_abandoned(store: Path) -> bool:
    """Whether a store was given up: in this process SQLite would read it by its lost descriptors, too."""
    return store in _abandoned


def never_close(db: sqlite3.Connection, store: Path) -> None:
    """Keep a connection for ever: to close it would close files of the script, and write into them."""
    _abandoned.add(store)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
