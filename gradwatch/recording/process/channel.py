"""Lines of JSON over a pair of pipes. Neither end waits for the other."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from typing import Any

MOST_UNSENT = 4 * 2**20  # bytes that may wait for the other side, which may be busy for hours
CHUNK = 2**16


class Channel:
    """One end: a pipe to read lines from, and one to write them to.

    Attributes:
        is_ended: whether the other side has closed its end, or is dead.
    """

    def __init__(self, reads_from: int, writes_to: int) -> None:
        """Take over two descriptors."""
        self.is_ended = False
        self._reads_from, self._writes_to = reads_from, writes_to
        self._read, self._unsent = b"", b""
        os.set_blocking(reads_from, False)
        os.set_blocking(writes_to, False)

    def send(self, *values: Any) -> None:
        """Send one line, or keep it until there is room; a line is left out where too many wait."""
        if len(self._unsent) < MOST_UNSENT:
            self._unsent += json.dumps(values).encode() + b"\n"
        self.push()

    def push(self) -> bool:
        """Send what waits, without waiting; return whether all of it is out."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._writes_to, self._unsent) :]
        except BlockingIOError:
            return False
        except OSError:  # nobody reads it any more
            self._unsent = b""
        return True

    def push_all(self, timeout: float) -> None:
        """Send what waits, at most this many seconds long."""
        deadline = time.monotonic() + timeout
        while not self.push() and (left := deadline - time.monotonic()) > 0:
            select.select([], [self._writes_to], [], left)

    def wake(self) -> None:
        """Let the other side look what there is; an empty line."""
        with contextlib.suppress(OSError):  # it has not read earlier ones yet, or is gone
            os.write(self._writes_to, b"\n")

    def receive(self, timeout: float = 0.0) -> list[list[Any]]:
        """Return the lines that have come, after waiting this long for the first byte."""
        if timeout > 0.0 and not self.is_ended:
            select.select([self._reads_from], [], [], timeout)
        found: list[list[Any]] = []
        with contextlib.suppress(BlockingIOError):
            while not self.is_ended:
                data = os.read(self._reads_from, CHUNK)
                self.is_ended = not data
                *lines, self._read = (self._read + data).split(b"\n")
                for line in filter(None, lines):
                    with contextlib.suppress(ValueError):  # a signal handler read in between
                        found.append(json.loads(line))
                if len(data) < CHUNK and data:
                    break
        return found

    def close(self) -> None:
        """Close both pipes; the other side notices."""
        for fd in (self._reads_from, self._writes_to):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.is_ended = True
