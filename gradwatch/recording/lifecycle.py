"""The open recordings of this process, and what ends them: the interpreter's exit, SIGTERM, a fork.

Python runs a signal handler between two instructions of the main thread, which may hold a lock at that
moment. While the main thread is within gradwatch, SIGTERM is therefore only noted, and handled when the
thread leaves; and ending a recording by a signal takes no lock.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Protocol

from gradwatch.errors import RunInUse

END_WITHIN = 30.0  # seconds that a process ending by SIGTERM waits for its records to be written


class Endable(Protocol):
    """A recording, as this module ends it."""

    def close(self, reason: str) -> None: ...
    def ask_to_end(self, reason: str) -> None:
        """Begin to end; takes no lock."""
        ...

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until all is written, without taking a lock; False where that took longer."""
        ...

    def go_on_in_child(self) -> None:
        """Go on in a forked child, which has neither the threads nor the store."""
        ...


_open: dict[Path, Endable] = {}
_main_thread = threading.main_thread().ident


class _Depth:
    """How deep the main thread is within gradwatch, and the signal that came meanwhile."""

    value = 0
    signal: int | None = None


def enter() -> None:
    """The calling thread enters gradwatch; SIGTERM waits until it leaves."""
    if threading.get_ident() == _main_thread:
        _Depth.value += 1


def leave() -> None:
    """The calling thread leaves gradwatch; an interrupt (Ctrl-C) may have come before it had entered."""
    if threading.get_ident() == _main_thread:
        _Depth.value = max(0, _Depth.value - 1)
        if _Depth.signal is not None and _Depth.value == 0:
            _end_process(_Depth.signal)


def is_inside() -> bool:
    """Whether the main thread is within gradwatch."""
    return _Depth.value > 0


@contextmanager
def inside() -> Iterator[None]:
    """SIGTERM waits until this is left."""
    try:
        enter()
        yield
    finally:
        leave()


def _place(run: Path) -> Path:
    """Where a run lies, whichever links lead there; a link to itself leads nowhere and is no error here."""
    return Path(os.path.realpath(run))


def check_not_open(run: Path) -> None:
    """See that this process does not record the run already.

    Raises:
        RunInUse: it does.
    """
    if _place(run) in _open:
        raise RunInUse(f"{str(run)!r} is being recorded by another watch of this process. Close that one first.")


def opened(run: Path, recording: Endable) -> None:
    """A recording begins; it is ended when the process ends."""
    if not _open:
        atexit.register(_close_at_exit)
    _open[_place(run)] = recording
    on_main = threading.get_ident() == _main_thread
    if on_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_signal)


def closed(run: Path) -> None:
    """A recording has ended."""
    _open.pop(_place(run), None)
    if not _open:
        atexit.unregister(_close_at_exit)
        _leave_signal_alone()


def open_runs() -> list[Path]:
    """The runs that are being recorded."""
    return list(_open)


def _leave_signal_alone() -> None:
    on_main = threading.get_ident() == _main_thread
    if on_main and signal.getsignal(signal.SIGTERM) is _on_signal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _close_at_exit() -> None:
    """The script ended without closing; Python keeps the type of the exception that ended it.

    In a notebook or at a prompt, which set ``sys.ps1``, it was that of an earlier cell or line, and ended nothing.
    """
    uncaught = None if hasattr(sys, "ps1") else getattr(sys, "last_type", None)
    reason = "exit" if uncaught is None else f"exception {uncaught.__name__}"
    for recording in list(_open.values()):
        recording.close(reason)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _Depth.value and (frame is None or _is_within(frame)):
        _Depth.signal = number
    else:
        _end_process(number)


def _is_within(frame: FrameType | None) -> bool:
    """Whether a frame is one of gradwatch or was called from one.

    An interrupt (Ctrl-C) that comes between two instructions of ours may have left without saying so.
    """
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("gradwatch.recording."):
            return True
        frame = frame.f_back
    return False


def _end_process(number: int) -> None:
    """Let all that was recorded be written, then end as the signal would have without us."""
    recordings = dict(_open)
    for recording in recordings.values():
        recording.ask_to_end(f"signal {signal.Signals(number).name}")
    for run, recording in recordings.items():
        if not recording.wait_for_end(END_WITHIN):
            _say_unfinished(run)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _say_unfinished(run: Path) -> None:
    """Say it on stderr itself: logging takes locks, which the interrupted code may hold."""
    text = f"gradwatch could not write all of {str(run)!r} before the process ended (recording-unfinished)\n"
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _after_fork_in_child() -> None:
    """The child has one thread, the forking one, and a copy of everything else."""
    global _main_thread
    if _main_thread != threading.get_ident():
        _main_thread, _Depth.value = threading.get_ident(), 0
    _Depth.signal = None
    recordings = list(_open.values())
    _open.clear()
    atexit.unregister(_close_at_exit)
    _leave_signal_alone()
    for recording in recordings:
        recording.go_on_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
