"""Where finished steps go: the protocol of every destination, and the one thread that empties a queue.

The training thread hands a step over and goes on. It takes no lock on the way, so an
interruption, for example by a signal, can't block the thread of the queue.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from gradwatch.record import Event, ParameterInfo, StepRecord

if TYPE_CHECKING:
    from gradwatch.distributed import ParameterPart
    from gradwatch.recording.pending import PendingStep  # it needs torch

Item = TypeVar("Item")

INTERVAL = 0.5
"""Seconds between two rounds, so that a killed process loses less than one second.

A round that takes one step finds nothing of the recorder in the processor's caches. At five steps a second a step costs
the thread 1.5 ms with a round every 0.25 s, and 1.1 ms with one every 0.5 s (benchmarks/thread_cost.py)."""

SHORT_INTERVAL = 0.25
"""The same where steps wait at two places, one after the other: of several ranks, and of a recorder's process."""

POLL = 0.005  # seconds between two looks whether the thread has ended
HALT_WITHIN = 1.0  # seconds that the interpreter's exit waits for a thread that is late, and for one that is to stop


class StepSource(Protocol):
    """What a sink reads of the tracker whose step it is handed."""

    @property
    def name(self) -> str: ...
    @property
    def optimizer_class(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def step(self) -> int: ...
    @property
    def first_step(self) -> int: ...
    @property
    def infos(self) -> tuple[ParameterInfo, ...]: ...
    @property
    def parts(self) -> Sequence[ParameterPart | None]: ...
    @property
    def present(self) -> list[bool]: ...


class Beginning(NamedTuple):
    """Where an optimizer begins in this recording.

    Attributes:
        step: the number of its first step.
        stored: the parameters that the run knows of it already, by position.
        is_recorded: False where no process asks for its numbers.
    """

    step: int = 0
    stored: tuple[ParameterInfo, ...] = ()
    is_recorded: bool = True


class StepSink(Protocol):
    """Takes the finished steps of all trackers of one recording.

    Attributes:
        events: what the detectors found and the training thread has not taken yet, in order.
        fault: the exception that ended the recording, or None.
        dropped: steps that were handed over and are lost.
        takes_late_losses: whether a step is worth holding back, for a loss that is logged after it.
    """

    takes_late_losses: bool

    @property
    def events(self) -> deque[Event]: ...
    @property
    def fault(self) -> BaseException | None: ...
    @property
    def dropped(self) -> int: ...
    @property
    def last(self) -> StepRecord | None:
        """The latest record that was made, without the statistics of parameters; None before the first."""
        ...

    def begin(
        self, name: str, optimizer_class: str, settings: dict[str, Any], first_step: int | None = None
    ) -> Beginning:
        """Say where an optimizer begins; called before `admit`, with the step asked for."""
        ...

    def admit(self, tracker: StepSource, beginning: Beginning) -> None:
        """Take one more optimizer in, before its first step, with what `begin` said of it."""
        ...

    def join(self, tracker: StepSource, first: int) -> None:
        """Name the parameters of an optimizer from position ``first`` on, before the steps that have them."""
        ...

    def hold(self, pending: PendingStep, tracker: StepSource) -> None:
        """Take note of a step that was made and is `put` later, and again of one that was given a loss meanwhile."""
        ...

    def put(self, pending: PendingStep, tracker: StepSource) -> None:
        """Take a finished step; never waits."""
        ...

    def dismiss(self, name: str) -> None:
        """The optimizer of this name makes no more steps."""
        ...

    def note(self, facts: Mapping[str, str]) -> None:
        """Keep facts about the training, by their key in the table meta."""
        ...

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all steps handed over are out of this process; False where that took too long."""
        ...

    def ask_to_end(self, reason: str, *, hurry: bool = False) -> None:
        """Begin to end; takes no lock, so a signal handler may call it."""
        ...

    def wait_for_end(self, timeout: float) -> bool:
        """Wait for the end without taking a lock; False where it has not come."""
        ...

    def close(self, reason: str, timeout: float = 30.0) -> bool:
        """End, and wait for it; False where that took longer than ``timeout`` seconds."""
        ...


class NullSink:
    """Takes steps and keeps none: no process asks for the numbers of this one."""

    fault: BaseException | None = None
    dropped = 0
    last: StepRecord | None = None
    takes_late_losses = False

    def __init__(self) -> None:
        self.events: deque[Event] = deque()

    def hold(self, pending: PendingStep, tracker: StepSource) -> None:
        """Keep nothing."""

    def begin(
        self, name: str, optimizer_class: str, settings: dict[str, Any], first_step: int | None = None
    ) -> Beginning:
        return Beginning(step=first_step or 0, is_recorded=False)

    def admit(self, tracker: StepSource, beginning: Beginning) -> None:
        """Keep nothing."""

    def join(self, tracker: StepSource, first: int) -> None:
        """Keep nothing."""

    def put(self, pending: PendingStep, tracker: StepSource) -> None:
        """Keep nothing."""

    def dismiss(self, name: str) -> None:
        """Keep nothing."""

    def note(self, facts: Mapping[str, str]) -> None:
        """Keep nothing."""

    def flush(self, timeout: float = 10.0) -> bool:
        return True

    def ask_to_end(self, reason: str, *, hurry: bool = False) -> None:
        """Nothing is open."""

    def wait_for_end(self, timeout: float) -> bool:
        return True

    def close(self, reason: str, timeout: float = 30.0) -> bool:
        return True


class Bell:
    """Wakes one waiting thread. Ringing takes no lock, unlike `threading.Event.set`.

    >>> bell = Bell()
    >>> bell.ring(), bell.ring(), bell.wait(0.0), bell.wait(0.0)
    (None, None, True, False)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it rings already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most this long; whether there was one."""
        return self._lock.acquire(timeout=seconds)


class QueueThread(Generic[Item]):
    """A queue with room for ``capacity`` items, and the daemon thread that works it off in rounds.

    Attributes:
        fault: the exception that ended the thread, or None.
        ended: whether the thread has done all it ever will.
    """

    def __init__(self, work: Callable[[bool], None], capacity: int, interval: float | None = None) -> None:
        """``work`` is called in the thread every ``interval`` seconds, or `INTERVAL`; with True the last time."""
        self.fault: BaseException | None = None
        self.ended = False
        self.capacity = capacity
        self._work, self._interval = work, interval
        self._queue: deque[Item] = deque()
        self._wake, self._round_done = Bell(), Bell()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="gradwatch", daemon=True)

    def start(self) -> None:
        _started.add(self)
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Queue an item; False if the queue is full or the thread has ended."""
        if self.ended or len(self._queue) >= self.capacity:
            return False
        self._queue.append(item)
        return True

    def put_always(self, item: Item) -> None:
        """Queue an item for which there is always room."""
        self._queue.append(item)

    def take(self) -> Iterator[Item]:
        """The items, for the thread; those that come meanwhile too."""
        while self._queue:
            yield self._queue.popleft()

    def wake(self) -> None:
        """Begin the next round now."""
        self._wake.ring()

    def flush(self, timeout: float, is_done: Callable[[], bool]) -> bool:
        """Wait until the queue is empty and ``is_done``; False where that took too long."""
        deadline = time.monotonic() + timeout
        while not self.ended and time.monotonic() < deadline:
            self._round_done.wait(0.0)
            self._wake.ring()
            if self._round_done.wait(min(0.1, timeout)) and not self._queue and is_done():
                return True
        return not self._queue and is_done()

    def ask_to_end(self) -> None:
        """Let the thread end after one more round; takes no lock."""
        self._closing = True
        self._wake.ring()

    def end(self, timeout: float) -> bool:
        """Ask the thread to end and wait for it; False if it is still at work."""
        self.ask_to_end()
        return self._join(timeout)

    def wait_for_end(self, timeout: float) -> bool:
        """Wait for the end without taking a lock, as a signal handler has to."""
        deadline = time.monotonic() + timeout
        while not self.ended and time.monotonic() < deadline:
            time.sleep(POLL)
        return self.ended

    def halt(self, timeout: float) -> bool:
        """Raise `SystemExit` in the thread, wherever it is, and wait for its end; False if it is still in a call."""
        if not self.ended:
            identity = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))
        return self._join(timeout)

    def _join(self, timeout: float) -> bool:
        """Wait for the end; False if the thread is still at work.

        `ended` tells, and not `Thread.is_alive`: once Ctrl-C has interrupted a join, Python before 3.13 takes the
        thread for dead.
        """
        deadline = time.monotonic() + timeout
        self._thread.join(timeout)
        return self.wait_for_end(deadline - time.monotonic())

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait(INTERVAL if self._interval is None else self._interval)
                closing = self._closing
                self._work(closing)
                self._round_done.ring()
                if closing:
                    return
        except BaseException as fault:
            self.fault = fault
            self._queue.clear()
        finally:
            self.ended = True
            with contextlib.suppress(Exception):  # whoever waits looks at `ended` too
                self._round_done.ring()


_started: weakref.WeakSet[QueueThread[Any]] = weakref.WeakSet()


@atexit.register
def _halt_all() -> None:
    """Stop the threads that are at work although they were given time to end.

    The interpreter ends a thread that comes back from a call into torch by unwinding it, which C++ answers by ending
    the process with SIGABRT, after all that the training had to do. Handlers of `atexit` run in reverse order: every
    recording was opened after this import, and is closed before this.
    """
    for thread in list(_started):
        if not _has_ended(thread):
            thread.halt(HALT_WITHIN)


def _has_ended(thread: QueueThread[Any]) -> bool:
    """Wait for the end of a thread, no longer and no shorter where Ctrl-C is pressed again and again."""
    deadline = time.monotonic() + HALT_WITHIN
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return thread.end(max(0.0, deadline - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_started.clear)  # a child has none of its parent's threads
