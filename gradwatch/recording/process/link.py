"""Starts the recorder's process and holds the channels to it.

The process notices the end of the training when a pipe closes that only the training process holds open. A forked
child therefore closes its copy of the pipe at once, and no process that the training starts inherits one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from gradwatch import errors
from gradwatch.distributed import sweep_nodes
from gradwatch.errors import GradwatchError, RecorderProcessFailed
from gradwatch.recording.process.channel import Channel
from gradwatch.recording.process.messages import Part
from gradwatch.recording.process.ring import HEADER_BYTES, Ring, beyond_standard, open_memory

START_WITHIN = 60.0  # seconds from the start of the process until the store is open
STDERR = 2
STARTER = Path(__file__).with_name("start.py")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class RecorderLink:
    """The recorder's process, as the training process has it.

    Attributes:
        channel: lines to it and from it.
        attempt: the number of the attempt that it writes.
        office: where it serves the letters of all ranks, as the fields of an `Address`; None if there is one rank.
    """

    def __init__(self, run: Path, room: int, facts: Mapping[str, Any]) -> None:
        """Start it, and wait until it has opened the store.

        Args:
            run: the folder of the run.
            room: bytes of messages that may wait for it.
            facts: what `gradwatch.recording.process.serve` is to know.

        Raises:
            RecorderProcessFailed: it can't be started.
            StoreNotWritable, RunInUse, NotARun, StoreTooNew, StoreDamaged: it can't write the run.
        """
        fd = -1
        try:
            fd = open_memory(HEADER_BYTES + room, run)
            self._ring = Ring(fd)
            self._process = _start(fd)
        except (OSError, ValueError) as error:
            raise _failed(f"can't be started: {error}") from error
        finally:
            if fd >= 0:
                os.close(fd)
        self.channel = Channel(_taken(self._process.stdout), _taken(self._process.stdin))
        self._process.stdin = self._process.stdout = None
        _links.add(self)
        try:
            self.attempt, self.office = self._introduce(facts)
        except BaseException:
            self._process.kill()
            self.close()
            raise

    def _introduce(self, facts: Mapping[str, Any]) -> tuple[int, list[Any] | None]:
        self.channel.send(dict(facts) | {"training": os.getpid()})
        deadline = time.monotonic() + START_WITHIN
        while (left := deadline - time.monotonic()) > 0 and not self.channel.is_ended:
            self.channel.push()
            for kind, *values in self.channel.receive(min(left, 0.05)):
                if kind == "ready":
                    return int(values[0]), values[1]
                if kind == "fault":
                    raise error_of(*values)
        raise _failed("did not begin" if self.channel.is_ended else f"did not begin within {START_WITHIN:.0f} seconds")

    @property
    def is_filling(self) -> bool:
        """Whether so much waits in the ring that the process had better look at once."""
        return self._ring.used > self._ring.size // 8

    def write(self, message: list[Part]) -> bool:
        """Write a message into the ring; False if there is no room for it."""
        return self._ring.write(message)

    def end_of_process(self) -> RecorderProcessFailed:
        """Return the error of a process that ended without a word."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        with contextlib.suppress(OSError):
            sweep_nodes()  # the other ranks may not have known its folder yet
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else "ended"
        return _failed(f"{how}; its last steps, and all later ones, are not in the store")

    def close(self, timeout: float = 1.0) -> None:
        """Let go of the process, which ends if it has not."""
        _links.discard(self)
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def leave_in_child(self) -> None:
        """In a forked child: it is no part of the recording."""
        self.channel.close()
        self._process.returncode = 0  # it is not this process's child


def error_of(name: str, text: str) -> Exception:
    """The error that the process met, of the class that it had there."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, GradwatchError):
        return kind(text)
    return _failed(f"met {name}: {text}")


def _failed(how: str) -> RecorderProcessFailed:
    return RecorderProcessFailed(f"The recorder's process {how}.")


def _taken(pipe: IO[bytes] | None) -> int:
    """A descriptor of the pipe that only its owner closes, and that nothing inherits."""
    assert pipe is not None
    fd = os.dup(pipe.fileno())
    pipe.close()
    return beyond_standard(fd)


def _start(fd: int) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own, so that no Ctrl-C and no signal to the training's group meets it."""
    if not sys.executable:
        raise OSError("this Python does not know its own executable")
    command = [sys.executable, "-P", str(STARTER), str(fd)]
    environment = dict(os.environ) | dict.fromkeys(_ONE_THREAD, "1")
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if _is_open(STDERR) else subprocess.DEVNULL,
        bufsize=0,
        pass_fds=(fd,),
        env=environment,
        start_new_session=True,
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


_links: weakref.WeakSet[RecorderLink] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for link in list(_links):
        link.leave_in_child()
    _links.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
