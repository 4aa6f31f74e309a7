"""The sink that writes each step into shared memory for another process, so the measurements survive this process."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gradwatch.distributed import Mailbox
from gradwatch.distributed.mailbox import RANK_0_WITHIN
from gradwatch.record import Event, StepRecord
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.process.link import RecorderLink, error_of
from gradwatch.recording.process.messages import (
    Part,
    encode,
    encode_quick,
    encode_step,
    plain_event,
    plain_infos,
    plain_late,
    plain_parts,
    record_of_plain,
)
from gradwatch.recording.records import LateNumbers, StepNumbers, collect, collect_late
from gradwatch.recording.sink import POLL, Beginning, StepSource
from gradwatch.store import StoreReader

logger = logging.getLogger("gradwatch")

LOCK_WITHIN = 0.5  # seconds; another thread of the training writes for microseconds
ROOM_WITHIN = 5.0  # seconds until there is room for the last messages
SLICE = 20_000  # parameters in one message
POLL_EVERY = 0.02  # seconds between two looks for what the process says


class ProcessSink:
    """Hands the steps of one recording to the recorder's process.

    Attributes:
        link: the process.
    """

    takes_late_losses = True

    def __init__(self, link: RecorderLink, run: Path, *, at_once: bool = False, mailbox: Mailbox | None = None) -> None:
        """Take over the link.

        Args:
            link: the process.
            run: the folder of the run.
            at_once: the process looks at each step as it comes.
            mailbox: of the training processes that record together; None if this one records alone.
        """
        self.link = link
        self._run, self._at_once = run, at_once
        self._mailbox = mailbox
        self._of_several = mailbox is not None
        self._lock = threading.Lock()
        self._outgoing = Outgoing(link)
        self._answers = Answers(link)
        self._held: dict[str, tuple[PendingStep, LateNumbers]] = {}
        self._arriving: deque[tuple[PendingStep, str, LateNumbers | None]] = deque()
        self._known: dict[str, tuple[Any, Any]] = {}
        self._asked: dict[str, int | None] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._was_filling = False

    # ------------------------------------------------------------------------- what comes back

    @property
    def events(self) -> deque[Event]:
        self._answers.look(every=0.0 if self._at_once else POLL_EVERY)
        return self._answers.events

    @property
    def fault(self) -> BaseException | None:
        return self._answers.fault

    @property
    def dropped(self) -> int:
        return self._outgoing.refused + self._answers.dropped

    @property
    def last(self) -> StepRecord | None:
        self._answers.look()
        return self._answers.last

    # ------------------------------------------------------------------------- the optimizers

    def begin(
        self, name: str, optimizer_class: str, settings: dict[str, Any], first_step: int | None = None
    ) -> Beginning:
        self._asked[name] = first_step
        if self.link.attempt == 0 and name not in self._known:
            return Beginning(step=first_step or 0)
        with StoreReader(self._run) as reader:
            step = reader.next_step(name) if first_step is None else first_step
            return Beginning(step=step, stored=reader.parameters_alone(name))

    def admit(self, tracker: StepSource, beginning: Beginning) -> None:
        with self._writing():
            self._follow(tracker)
            known, asked = len(beginning.stored), self._asked.pop(tracker.name, None)
            self._outgoing.tell(
                encode("admit", tracker.name, tracker.optimizer_class, tracker.settings, beginning.step, asked, known)
            )
            if self._of_several:
                self._tell_parts(tracker, 0)
        self._announce_first(tracker.name, beginning.step)

    def _announce_first(self, name: str, step: int) -> None:
        """Tell the other training processes where an optimizer begins."""
        if self._mailbox is not None:
            self._mailbox.announce(f"first/{name}", step)

    def join(self, tracker: StepSource, first: int) -> None:
        with self._writing():
            self._follow(tracker)
            self._tell_parts(tracker, first)

    def _tell_parts(self, tracker: StepSource, first: int) -> None:
        for begin in range(first, len(tracker.parts), SLICE):
            parts = plain_parts(tracker.parts[begin : begin + SLICE])
            self._outgoing.tell(encode("join", tracker.name, begin, parts))

    def opened(self, first_step: int | None, resumed: Event | None, first_steps: Mapping[str, int]) -> None:
        """All optimizers are in: say where the attempt begins, and tell the other ranks."""
        with self._writing():
            event = None if resumed is None else plain_event(resumed)
            self._outgoing.tell(encode("opened", first_step, event, dict(first_steps)))
        if self._mailbox is not None:
            self.link.channel.wake()
            self._mailbox.announce("office", self.link.office)
            self._mailbox.announce("open", dict(first_steps))

    def _follow(self, tracker: StepSource) -> None:
        """Tell what the process does not know of an optimizer's parameters: new ones, and which are present."""
        infos, present = self._known.get(tracker.name, ((), None))
        if infos is tracker.infos and present is tracker.present:
            return
        marks = "".join("1" if there else "0" for there in tracker.present)
        count = len(tracker.infos)
        for begin in range(len(infos), max(count, len(infos) + 1), SLICE):
            self._outgoing.tell(encode("infos", tracker.name, plain_infos(tracker.infos[begin : begin + SLICE]), marks))
        self._known[tracker.name] = (tracker.infos, tracker.present)

    def dismiss(self, name: str) -> None:
        with self._writing():
            if not self._arriving:  # else its last step comes later, and its detectors stay to the end
                self._outgoing.tell(encode("dismiss", name))

    def note(self, facts: Mapping[str, str]) -> None:
        with self._writing():
            self._outgoing.tell(encode("note", dict(facts)))

    # ------------------------------------------------------------------------- the steps

    def hold(self, pending: PendingStep, tracker: StepSource) -> None:
        with self._writing() as is_free:
            if not is_free:
                return
            if self._arriving:
                self._take_arrived()
            if self._arriving or not pending.is_here:
                return
            if self._held.get(tracker.name, (None,))[0] is pending:
                late = collect_late(pending)
                self._outgoing.tell(encode_quick("late", tracker.name, plain_late(late)))
                self._held[tracker.name] = (pending, late)
                return
            self._prepare(pending, tracker)
            numbers = collect(pending, of_several=self._of_several)
            if self._outgoing.put_step("held", tracker.name, numbers):
                self._held[tracker.name] = (pending, numbers.late)

    def put(self, pending: PendingStep, tracker: StepSource) -> None:
        with self._writing() as is_free:
            held, late = self._held.pop(tracker.name, (None, None))
            if held is not pending:
                self._prepare(pending, tracker)
            self._arriving.append((pending, tracker.name, late))
            if is_free:
                self._take_arrived()
            if self._at_once:
                self._outgoing.tell_settled()
        if self._at_once or self._fills_up():
            self.link.channel.wake()

    def _prepare(self, pending: PendingStep, tracker: StepSource) -> None:
        """Tell what the process has to know before this step."""
        self._follow(tracker)
        if self._of_several and self._sizes.get(tracker.name) != pending.part_sizes:
            self._sizes[tracker.name] = pending.part_sizes
            self._outgoing.tell(encode("sizes", tracker.name, pending.part_sizes))

    def _fills_up(self) -> bool:
        """Whether the ring is filling since this was last asked: once awake, the process takes all there is."""
        was_filling, self._was_filling = self._was_filling, self.link.is_filling
        return self._was_filling and not was_filling

    def _take_arrived(self, seconds: float = 0.0) -> None:
        """Write the steps whose numbers have come from their device, in order, after waiting this long for them."""
        deadline = time.monotonic() + seconds
        while self._arriving:
            pending, name, held = self._arriving[0]
            try:
                while held is None and not pending.has_arrived:  # what was held was here already
                    if time.monotonic() >= deadline:
                        return
                    time.sleep(POLL)
                self._hand_over(pending, name, held)
            except Exception as fault:  # of the device, for example: one step takes no other with it
                self._answers.say_failed(fault)
                self._outgoing.refused += 1
            self._arriving.popleft()

    def _hand_over(self, pending: PendingStep, name: str, held: LateNumbers | None) -> None:
        """Write a step that is complete, or what has changed since it was ``held``."""
        if held is None:
            numbers = collect(pending, of_several=self._of_several)
            self._outgoing.refused += not self._outgoing.put_step("put", name, numbers)
        elif (late := collect_late(pending)) != held:
            self._outgoing.tell(encode_quick("settle", name, plain_late(late)))
        else:
            self._outgoing.settle(name)

    def _writing(self) -> _Writing:
        return _Writing(self, self._lock, self._outgoing)

    # ------------------------------------------------------------------------- the end

    def flush(self, timeout: float = 10.0) -> bool:
        if self._answers.has_ended:
            return self.fault is None
        deadline = time.monotonic() + timeout
        with self._writing() as is_free:
            if is_free:
                self._take_arrived(timeout)
            number = self._answers.next_flush()
            self._outgoing.tell(encode("flush", number))
        while (left := deadline - time.monotonic()) > 0 and not self._answers.has_ended:
            with self._writing():
                self.link.channel.wake()
            self._answers.look(timeout=min(left, 0.05))
            if number in self._answers.flushed:
                return self._answers.flushed.pop(number)
        return False

    def ask_to_end(self, reason: str, *, hurry: bool = False) -> None:
        deadline = time.monotonic() + ROOM_WITHIN
        with self._writing() as is_free:
            if is_free:
                self._take_arrived(ROOM_WITHIN)
                self._outgoing.refused += len(self._arriving)
                self._outgoing.tell_settled()
            while is_free and not self._outgoing.push() and self.fault is None and time.monotonic() < deadline:
                self.link.channel.wake()
                self._answers.look(timeout=POLL)
        if not self._answers.has_ended:
            self.link.channel.send("end", reason, hurry)

    def wait_for_end(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._answers.has_ended and time.monotonic() < deadline:
            self._answers.look(timeout=POLL)
        return self._answers.has_ended

    def close(self, reason: str, timeout: float = 30.0) -> bool:
        self.ask_to_end(reason)
        has_ended = self.wait_for_end(timeout)
        if has_ended:
            self.link.close()
        self._say_closed()
        return has_ended

    def _say_closed(self) -> None:
        """Tell the other training processes that this recording is over."""
        if self._mailbox is not None:
            try:
                self._mailbox.announce("closed", True)
            except Exception as error:
                logger.debug("the other ranks could not be told that the recording is closed", exc_info=error)


class _Writing:
    """Write alone; False if another thread writes, or this one does and was interrupted by a signal.

    Then what is told waits until the next time. To wait for this thread itself would last for ever. A class, because a
    generator takes four times as long, and the training pays that at every step.
    """

    __slots__ = ("_is_free", "_lock", "_outgoing", "_sink")

    def __init__(self, sink: ProcessSink, lock: threading.Lock, outgoing: Outgoing) -> None:
        self._sink, self._lock, self._outgoing = sink, lock, outgoing

    def __enter__(self) -> bool:
        self._is_free = self._lock.acquire(timeout=LOCK_WITHIN) or _is_left_locked(self._sink)
        return self._is_free

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self._is_free:
            return
        try:
            if error is None:
                self._outgoing.push()
        finally:
            self._lock.release()


WRITERS = frozenset({"admit", "join", "opened", "dismiss", "note", "hold", "put", "flush", "ask_to_end"})
"""The methods that write; none calls another."""


def _is_left_locked(sink: ProcessSink) -> bool:
    """Whether no method but the one that asks is writing.

    An interrupt, as of a cell in a notebook, may come when the lock is taken and not yet known to be. Nobody would give
    it back, so that each later step would wait for it and be left out.
    """
    writers = 0
    for frame in sys._current_frames().values():
        for one, _ in traceback.walk_stack(frame):
            writers += one.f_code.co_name in WRITERS and one.f_locals.get("self") is sink
    return writers == 1


class SendingSink(ProcessSink):
    """Hands the steps of a rank other than 0 to its recorder's process, which sends them."""

    takes_late_losses = False  # losses are logged in rank 0
    fault = None  # where rank 0 is gone, the training is too, or soon
    dropped = 0  # rank 0 notices the steps that it misses, and counts them

    def __init__(self, link: RecorderLink, run: Path, mailbox: Mailbox, first_steps: Mapping[str, int]) -> None:
        """``first_steps`` is what rank 0 announced of each optimizer."""
        super().__init__(link, run, mailbox=mailbox)
        self._first_steps = dict(first_steps)

    def begin(
        self, name: str, optimizer_class: str, settings: dict[str, Any], first_step: int | None = None
    ) -> Beginning:
        assert self._mailbox is not None
        step = self._first_steps.get(name)
        if step is None:
            step = self._mailbox.announced(f"first/{name}", RANK_0_WITHIN)
        return Beginning(step=step or 0)

    def _announce_first(self, name: str, step: int) -> None:
        """Do nothing: rank 0 has said it."""

    def note(self, facts: Mapping[str, str]) -> None:
        """Rank 0 keeps its own."""

    def dismiss(self, name: str) -> None:
        """Do nothing: rank 0 notices it."""

    def hold(self, pending: PendingStep, tracker: StepSource) -> None:
        """Do nothing: losses are logged in rank 0."""

    def _say_closed(self) -> None:
        """Do nothing: the recording goes on in rank 0."""


class Outgoing:
    """Messages into the ring, in order. What must come waits in front of it where there is no room; a step does not.

    Attributes:
        refused: steps for which there was no room.
    """

    def __init__(self, link: RecorderLink) -> None:
        self.refused = 0
        self._link = link
        self._waiting: deque[list[Part]] = deque()
        self._settled: list[str] = []

    def tell(self, message: list[Part]) -> None:
        """Queue a message that must come, for the next `push`."""
        self.tell_settled()
        self._waiting.append(message)

    def settle(self, optimizer: str) -> None:
        """The held step of this optimizer is complete as it is; the next message says so, or comes right after it."""
        self._settled.append(optimizer)

    def tell_settled(self) -> None:
        """Queue what was settled and not said yet as a message of its own."""
        for optimizer in self._settled:
            self._waiting.append(encode_quick("settle", optimizer, None))
        self._settled = []

    def put_step(self, kind: Literal["held", "put"], optimizer: str, numbers: StepNumbers) -> bool:
        """Write a step behind everything that waits; False if there is no room for it."""
        is_written = self.push() and self._link.write(encode_step(kind, optimizer, numbers, self._settled))
        if is_written:
            self._settled = []
        return is_written

    def push(self) -> bool:
        """Write what waits, as far as there is room; return whether nothing waits any more."""
        while self._waiting and self._link.write(self._waiting[0]):
            self._waiting.popleft()
        return not self._waiting


class Answers:
    """What the recorder's process said.

    Attributes:
        events: what the detectors found and the training thread has not taken yet.
        last: the latest record, without the statistics of its parameters.
        dropped: steps that were lost on its side.
        fault: what ended it before its time.
        has_ended: it has written all it ever will.
        flushed: by the number that was asked with, whether everything was written.
    """

    def __init__(self, link: RecorderLink) -> None:
        self.events: deque[Event] = deque(maxlen=1000)
        self.last: StepRecord | None = None
        self.dropped = 0
        self.fault: BaseException | None = None
        self.has_ended = False
        self.flushed: dict[int, bool] = {}
        self._link = link
        self._flushes = 0
        self._looked = 0.0
        self._has_failed = False

    def say_failed(self, fault: Exception) -> None:
        """A step could not be handed over; the first time, say so."""
        if not self._has_failed:
            logger.error(
                "gradwatch could not record a step and leaves it out. %s: %s (record-not-made)",
                type(fault).__name__,
                fault,
            )
            logger.debug("the fault", exc_info=fault)
        self._has_failed = True

    def next_flush(self) -> int:
        self._flushes += 1
        return self._flushes

    def look(self, *, timeout: float = 0.0, every: float = 0.0) -> None:
        """Read what has come, after waiting for it this long; not if that was done less than ``every`` seconds ago."""
        now = time.monotonic()
        if self.has_ended or now - self._looked < every:
            return
        self._looked = now
        for line in self._link.channel.receive(timeout):
            self._take(line)
        if self._link.channel.is_ended and not self.has_ended:
            self.has_ended = True
            self.fault = self.fault or self._link.end_of_process()

    def _take(self, line: Sequence[Any]) -> None:
        kind, *values = line
        if kind == "event":
            self.events.append(Event(**values[0]))
        elif kind == "last":
            self.last = record_of_plain(values[0])
        elif kind == "log":
            logger.log(values[0], "%s", values[1])
        elif kind == "flushed":
            self.flushed[values[0]] = values[1]
        elif kind == "fault":
            self.fault = error_of(*values)
        elif kind == "ended":
            self.dropped, self.has_ended = values[0], True
