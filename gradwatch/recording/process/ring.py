"""A ring of messages in memory that two processes share: one writes, the other reads, and neither waits.

The memory has no name in a file system, so it needs no room in ``/dev/shm``, leaves nothing behind, and lives as long
as one of the two processes. A published message stays there even if the writer dies.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

HEAD, TAIL = 0, 1  # words of the header: bytes written and bytes read since the beginning
HEADER_BYTES = 64
WORD = 8  # bytes; every message begins at a multiple
FIRST = 3  # descriptor after the standard ones
TO_THE_START = 2**64 - 1  # in place of a length: the next message is at the beginning of the ring


def open_memory(size: int, folder: Path) -> int:
    """Return the descriptor of ``size`` bytes of zeros that no file system shows.

    Args:
        size: in bytes.
        folder: where to put a file, which has no name either, if the system has no anonymous memory.

    Raises:
        OSError: there is room for neither.
    """
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            fd = beyond_standard(os.memfd_create("gradwatch"))
            try:
                os.ftruncate(fd, size)
            except OSError:  # above a limit on the size of files
                os.close(fd)
                raise
            return fd
    with tempfile.TemporaryFile(dir=folder if folder.is_dir() else None) as file:
        fd = beyond_standard(os.dup(file.fileno()))
    try:
        # A sparse file on a full disk would end the training by SIGBUS as it is written to.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.pwrite(fd, bytes(size), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def beyond_standard(fd: int) -> int:
    """Take over a descriptor; return one of the same file that is not 0, 1 or 2.

    A program without a terminal may have closed these three, and new files get their numbers. A process that is started
    has its own in their place, and what a library prints would go into the file.
    """
    if fd >= FIRST:
        return fd
    import fcntl  # there is none on Windows

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(fd)


class Ring:
    """The ring behind a descriptor of `open_memory`, as its one writer or its one reader.

    >>> fd = open_memory(HEADER_BYTES + 64, Path("."))
    >>> writer, reader = Ring(fd), Ring(fd)
    >>> writer.write([b"norm", b"s"]), writer.write([bytes(60)]), reader.read(), reader.read()
    (True, False, b'norms', None)
    >>> os.close(fd)
    """

    def __init__(self, fd: int) -> None:
        # All pages at once: to meet one after the other costs the training more than to copy into them.
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size, flags=flags)
        self._words = memoryview(self._memory)[:HEADER_BYTES].cast("Q")
        self._bytes = memoryview(self._memory)[HEADER_BYTES:]
        self.size = len(self._bytes) // WORD * WORD
        self._locks = threading.Lock(), threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are written and not read yet."""
        return int(self._words[HEAD]) - int(self._words[TAIL])

    def write(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Write one message, given in parts; False if there is no room for it now.

        It is published by one store of eight bytes at the very end: a writer that dies before leaves nothing.
        """
        length = sum(map(len, parts))
        needed = WORD + -(-length // WORD) * WORD
        head = int(self._words[HEAD])
        at = head % self.size
        skipped = self.size - at if at + needed > self.size else 0
        if skipped + needed > self.size - (head - int(self._words[TAIL])):
            return False
        if skipped:
            self._put_word(at, TO_THE_START)
            at = 0
        self._put_word(at, length)
        at += WORD
        for part in parts:
            self._bytes[at : at + len(part)] = part
            at += len(part)
        self._order_memory()
        self._words[HEAD] = head + skipped + needed
        return True

    def read(self) -> bytes | None:
        """Take the oldest message; None if there is none."""
        head, tail = int(self._words[HEAD]), int(self._words[TAIL])
        if head == tail:
            return None
        self._order_memory()
        at = tail % self.size
        length = self._word(at)
        if length == TO_THE_START:
            tail += self.size - at
            at, length = 0, self._word(0)
        message = bytes(self._bytes[at + WORD : at + WORD + length])
        self._order_memory()
        self._words[TAIL] = tail + WORD + -(-length // WORD) * WORD
        return message

    def _word(self, at: int) -> int:
        return int.from_bytes(self._bytes[at : at + WORD], "little")

    def _put_word(self, at: int, value: int) -> None:
        self._bytes[at : at + WORD] = value.to_bytes(WORD, "little")

    def _order_memory(self) -> None:
        """Let no access to the memory pass from one side of this call to the other, on any processor.

        Python has no barrier. A lock that is taken and given back, and then another, is one: nothing may move past the
        release of the first, nor before the second is acquired. An interrupt in between may leave one taken. It is then
        not waited for, because nobody would give it back, and is free again after this call.
        """
        for lock in self._locks:
            lock.acquire(blocking=False)
            lock.release()
