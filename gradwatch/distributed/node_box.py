"""Letters between the ranks of one machine: files in a folder in its memory.

The rank that reads them makes the folder. A rank that can open the folder is on the same machine, so nothing has to be
compared, and no port is opened. Letters keep the numbers that they have in the training's key-value store, and each is
in one of the two places: the reader needs no message from a sender that changes the place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "gradwatch-node-"
HIDDEN = ".gradwatch-"  # until it is locked

OPEN = "open"
"""The file that the reader keeps locked while it reads."""

ROOM = 512 * 1024
"""Bytes of unread letters that a rank keeps here: the training needs the machine's shared memory, too."""

AT_ONCE = 64 * 1024
"""Bytes to read at once: more than most letters have."""

LEFT_FOR = 3600.0
"""Seconds for which a folder that is no longer read may still hold letters on their way to the store."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Which ranks have their next letter here, and which will put it here."""

    here: frozenset[int] = frozenset()
    coming: frozenset[int] = frozenset()


class NodeBox:
    """The folder, as its reader and its senders use it.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: Path, lock: int | None = None) -> None:
        """``lock`` is the descriptor of the locked file, of the reader."""
        self.folder = folder
        self._lock = lock
        if lock is not None:
            _served.add(self)
        self._path = f"{folder}{os.sep}"  # a Path for each letter takes twice the time

    # ------------------------------------------------------------------------------------- the reader

    @classmethod
    def serve(cls, place: Path | None = None) -> NodeBox | None:
        """Make a folder for the letters of others; None if this machine has no room for one."""
        place = place or memory_folder()
        try:
            sweep_nodes(place)
            hidden = Path(tempfile.mkdtemp(prefix=HIDDEN, dir=place))
        except OSError:
            return None
        lock = None
        try:
            lock = os.open(hidden / OPEN, os.O_CREAT | os.O_RDONLY, 0o600)
            if not _locked(lock):
                raise OSError("this system has no such locks")
            # A sweep looks for the visible name only, and so never meets a folder that is not locked yet.
            folder = place / f"{PREFIX}{hidden.name.removeprefix(HIDDEN)}"
            hidden.rename(folder)
        except OSError:
            if lock is not None:
                os.close(lock)
            shutil.rmtree(hidden, ignore_errors=True)
            return None
        return cls(folder, lock)

    def whereabouts(self, letters: Mapping[int, int]) -> Whereabouts:
        """Where the next letters are, given their number by rank."""
        begins: dict[int, int] = {}
        found = self._names()
        for name in found:
            rank, _, letter = name.partition(".from.")
            if letter:
                begins[int(rank)] = int(letter)
        here = frozenset(rank for rank, letter in letters.items() if f"{rank}.{letter}" in found)
        coming = (rank for rank in begins.keys() & letters.keys() if letters[rank] >= begins[rank])
        return Whereabouts(here, frozenset(coming) - here)

    def close(self) -> None:
        """Tell the senders that nothing is read here from now on."""
        self._unlink(OPEN)
        self.unlock()

    def unlock(self) -> None:
        """Let go of the lock, which is the reader's as long as one process has its descriptor."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ------------------------------------------------------------------------------------- a sender

    @classmethod
    def find(cls, folder: str) -> NodeBox | None:
        """The folder that another rank has made; None if it is not on this machine, or no longer read."""
        box = cls(Path(folder))
        return box if box.is_open() else None

    def is_open(self) -> bool:
        """Whether the reader is alive and reads."""
        try:
            descriptor = os.open(self._path + OPEN, os.O_RDONLY)
        except OSError:
            return False
        try:
            return not _locked(descriptor, shared=True)
        finally:
            os.close(descriptor)

    def begin(self, rank: int, letter: int) -> None:
        """Say that the letters of a rank are here, from this one on."""
        (self.folder / f"{rank}.from.{letter}").touch(mode=0o600)

    def withdraw(self, rank: int) -> None:
        """Say that further letters of a rank are not here."""
        for name in self._names():
            if name.startswith(f"{rank}.from."):
                self._unlink(name)
        self._unlink(f"{rank}.new")

    def put(self, rank: int, letter: int, message: bytes) -> None:
        """Leave a letter. An empty one says that this letter is in the key-value store."""
        new = f"{self._path}{rank}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            rest = memoryview(message)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.rename(new, f"{self._path}{rank}.{letter}")  # noqa: PTH104

    # ------------------------------------------------------------------------------------- both

    def has(self, rank: int, letter: int) -> bool:
        """Whether a letter is here and unread."""
        return os.access(f"{self._path}{rank}.{letter}", os.F_OK)

    def read(self, rank: int, letter: int) -> bytes | None:
        """A letter; None if it is gone."""
        try:
            descriptor = os.open(f"{self._path}{rank}.{letter}", os.O_RDONLY)
        except OSError:
            return None
        try:
            pieces = [os.read(descriptor, AT_ONCE)]
            while len(pieces[-1]) == AT_ONCE:
                pieces.append(os.read(descriptor, AT_ONCE))
        finally:
            os.close(descriptor)
        return b"".join(pieces)

    def delete(self, rank: int, letter: int) -> None:
        self._unlink(f"{rank}.{letter}")

    def left(self) -> Iterator[tuple[int, int]]:
        """Rank and number of the letters that are here."""
        for name in self._names():
            rank, _, letter = name.partition(".")
            if rank.isdecimal() and letter.isdecimal():
                yield int(rank), int(letter)

    def remove(self) -> None:
        """Remove the folder, which is no longer read, if it holds no letters."""
        self._unlink(OPEN)  # of a reader that was killed
        for name in self._names():
            if ".from." in name:  # of ranks that have ended
                self._unlink(name)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _names(self) -> set[str]:
        with contextlib.suppress(OSError), os.scandir(self.folder) as found:
            return {one.name for one in found}
        return set()

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path + name)  # noqa: PTH108


_served: weakref.WeakSet[NodeBox] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A child, such as the worker of a data loader, may outlive the reader, and does not read in its place."""
    for box in list(_served):
        box.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def memory_folder() -> Path:
    """Where files are kept in memory, if this system says so."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def sweep_nodes(place: Path | None = None) -> None:
    """Remove the folders of readers that were killed."""
    place = place or memory_folder()
    for hidden in place.glob(f"{HIDDEN}*"):  # killed before it had a name
        with contextlib.suppress(OSError):
            if time.time() > hidden.stat().st_mtime + LEFT_FOR:
                shutil.rmtree(hidden, ignore_errors=True)
    for folder in place.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(folder / OPEN, os.O_RDONLY)
        except OSError:  # another user's, or its senders are about to remove it
            with contextlib.suppress(OSError):
                if time.time() > folder.stat().st_mtime + LEFT_FOR:
                    shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            if _locked(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _locked(descriptor: int, *, shared: bool = False) -> bool:
    """Lock a file until it is closed; False if another process has it, or this system has no such locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
