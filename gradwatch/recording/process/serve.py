"""The recorder's process: takes messages out of the ring, makes the records, judges them and writes the store.

It ends when the training process says so or is dead, which shows in a closed pipe or a changed parent process. It
then still writes the messages left in the ring.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, cast

from gradwatch.distributed import Address, Mailbox, ParameterPart, RankGatherer, open_office, reach_office
from gradwatch.distributed.mailbox import RANK_0_WITHIN
from gradwatch.errors import GradwatchError, RecorderProcessFailed, RunInUse
from gradwatch.record import Event, ParameterInfo, StepRecord
from gradwatch.recording.mirror import event_files
from gradwatch.recording.process.channel import Channel
from gradwatch.recording.process.messages import (
    decode,
    decode_step,
    infos_of,
    late_of,
    parts_of,
    plain_event,
    plain_record,
)
from gradwatch.recording.process.ring import Ring
from gradwatch.recording.rank_sender import KILLED, RankSender
from gradwatch.recording.recorder import MakeRecord, Recorder
from gradwatch.recording.records import StepNumbers, gathered_record, local_of, record_of
from gradwatch.recording.sink import SHORT_INTERVAL, Beginning
from gradwatch.sinks.feed import Feeds
from gradwatch.sinks.targets import trackers_of_plain
from gradwatch.sinks.tracker import RunFacts
from gradwatch.store import StoreWriter

logger = logging.getLogger("gradwatch")

FLUSH_WITHIN = 2.0  # seconds for what is to be judged at once
END_WITHIN = 120.0  # seconds for the last steps, on a disk that is slow
LAST_WORDS_WITHIN = 5.0  # seconds until the training process has read how it ended
PREDECESSOR_WITHIN = 20.0  # seconds until the process of the attempt before a restart has written its last steps


@dataclass(slots=True)
class Source:
    """An optimizer as the training process tells of it: what a recorder reads of a tracker."""

    name: str
    optimizer_class: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    first_step: int = 0
    part_sizes: tuple[int, ...] = ()
    infos: tuple[ParameterInfo, ...] = ()
    parts: Sequence[ParameterPart | None] = ()
    present: list[bool] = field(default_factory=list)


class Session:
    """One recording in the recorder's process: what the messages of the training process ask for.

    Attributes:
        recorder: as in the training process, with a thread of its own.
        attempt: the number of the attempt that it writes.
        office: where it serves the letters of all ranks.
        flushes: numbers of the flushes that were asked for, with the time until which each is waited for.
    """

    attempt = 0
    office: Address | None = None
    flush_within = END_WITHIN

    def __init__(self, recorder: Recorder | RankSender) -> None:
        self.recorder = recorder
        self.flushes: dict[int, float] = {}
        self._sources: dict[str, Source] = {}
        self._held: dict[str, StepNumbers] = {}

    def take(self, message: bytes) -> None:
        """Do what a message says."""
        kind, values, data = decode(message)
        if kind in ("put", "held"):
            settled, *values = values
            for optimizer in settled:
                self._settle(optimizer, None)
            optimizer, numbers = decode_step(values, data)
            self._take_interrupted(optimizer, numbers.step)
            if kind == "held":
                self._held[optimizer] = numbers
            else:
                self._put(optimizer, numbers)
        elif kind == "settle":
            self._settle(*values)
        elif kind == "flush":
            self.flushes[values[0]] = time.monotonic() + self.flush_within
        else:
            getattr(self, f"_{kind}")(*values)

    def take_held(self) -> None:
        """The training process is dead: what it held back gets no more losses."""
        for optimizer in list(self._held):
            self._settle(optimizer, None)

    def say_killed(self) -> None:
        """The training process is dead; the store says so."""

    def _put(self, optimizer: str, numbers: StepNumbers) -> None:
        raise NotImplementedError

    def _take_interrupted(self, optimizer: str, step: int) -> None:
        """An interrupt, as by Ctrl-C, may have come before an earlier step was settled, or this one noted."""
        held = self._held.pop(optimizer, None)
        if held is not None and held.step != step:
            self._put(optimizer, held)

    def _settle(self, optimizer: str, late: Sequence[Any] | None) -> None:
        numbers = self._held.pop(optimizer, None)
        if numbers is None:  # an interrupt came between this being said and being noted, so that it is said again
            return
        self._put(optimizer, numbers if late is None else numbers._replace(late=late_of(late)))

    # -------------------------------------------------------------- the messages by their kind

    def _late(self, optimizer: str, late: Sequence[Any]) -> None:
        self._held[optimizer] = self._held[optimizer]._replace(late=late_of(late))

    def _infos(self, name: str, infos: Sequence[Any], present: str) -> None:
        source = self._sources.setdefault(name, Source(name))
        source.infos += tuple(infos_of(infos))
        source.present = [mark == "1" for mark in present]

    def _sizes(self, name: str, sizes: Sequence[int]) -> None:
        self._sources[name].part_sizes = tuple(sizes)

    def _admit(
        self, name: str, optimizer_class: str, settings: dict[str, Any], step: int, asked: int | None, known: int
    ) -> None:
        source = self._sources.setdefault(name, Source(name))
        source.optimizer_class, source.settings = optimizer_class, settings
        source.step = source.first_step = step
        self._begin(source, asked)
        self.recorder.admit(source, Beginning(step=step, stored=source.infos[:known]))

    def _begin(self, source: Source, asked: int | None) -> None:
        """An optimizer is new here."""

    def _join(self, name: str, first: int, parts: Sequence[Any]) -> None:
        source = self._sources[name]
        source.parts = [*([None] * first), *parts_of(parts)]
        self.recorder.join(source, first)

    def _dismiss(self, name: str) -> None:
        self.recorder.dismiss(name)

    def _note(self, facts: Mapping[str, str]) -> None:
        self.recorder.note(facts)


class WritingSession(Session):
    """Writes the run: of one process, or in rank 0 of all."""

    recorder: Recorder

    def __init__(self, facts: Mapping[str, Any]) -> None:
        """Open the store, and begin the attempt.

        Raises:
            GradwatchError: the store can't be written.
        """
        run = Path(facts["run"])
        self._writer = _opened_writer(run)
        self._team: RankGatherer | None = None
        try:
            self._writer.begin_attempt(facts["meta"] | {"journal_mode": self._writer.journal_mode}, {})
            for key, value in facts["settings"].items():
                self._writer.set_meta(key, value)
            if facts["world_size"] > 1:
                self._team = self._team_of(facts["world_size"])
            recorder = Recorder(
                self._writer,
                capacity=facts["capacity"],
                at_once=facts["at_once"],
                mirror=event_files(run, facts["several"]) if facts["tensorboard"] else None,
                team=self._team,
                feeds=_feeds_of(run, facts),
            )
        except BaseException:
            self._writer.abort()
            raise
        super().__init__(recorder)
        self.attempt = self._writer.attempt

    def _begin(self, source: Source, asked: int | None) -> None:
        self.recorder.begin(source.name, source.optimizer_class, source.settings, asked)

    def _team_of(self, world_size: int) -> RankGatherer:
        self._writer.set_meta("world_size", str(world_size))
        try:
            store, self.office = open_office()
        except OSError as error:
            raise RecorderProcessFailed(f"The recorder's process can't serve the other ranks: {error}.") from error
        return RankGatherer(Mailbox(0, store), world_size)

    def _put(self, optimizer: str, numbers: StepNumbers) -> None:
        source = self._sources[optimizer]
        attempt, infos, present = self.attempt, source.infos, source.present
        make: MakeRecord
        if self._team is None:
            make = functools.partial(record_of, numbers, optimizer, attempt, infos, present)
        else:
            number, sizes = numbers.step - source.first_step, source.part_sizes
            make = functools.partial(gathered_record, numbers, sizes, optimizer, attempt, present, self._team, number)
        self.recorder.put_record(make)

    def _opened(self, first_step: int | None, resumed: Mapping[str, Any] | None, first_steps: dict[str, int]) -> None:
        if self._team is not None:
            self._team.open(first_steps)
        if first_step is not None:
            self._writer.set_first_step(first_step)
        if resumed is not None:
            self._writer.append([], [Event(**resumed)])


class SendingSession(Session):
    """Sends the part of one rank towards rank 0."""

    recorder: RankSender
    flush_within = FLUSH_WITHIN  # rank 0 may be busy with other ranks

    def __init__(self, facts: Mapping[str, Any]) -> None:
        """Reach the recorder's process of rank 0.

        Raises:
            RecorderProcessFailed: it can't be reached.
        """
        address = Address(*facts["office"])
        try:
            mailbox = Mailbox(facts["rank"], reach_office(address, address.ways(facts["store_host"])))
            first_steps = mailbox.announced("open", RANK_0_WITHIN)
        except Exception as error:
            raise RecorderProcessFailed(f"The recorder's process can't reach that of rank 0: {error}.") from error
        if first_steps is None:
            raise RecorderProcessFailed("The recorder's process of rank 0 does not answer.")
        super().__init__(RankSender(mailbox, first_steps, facts["capacity"]))
        self._rank = mailbox.rank

    def say_killed(self) -> None:
        logger.warning(
            "The training process of rank %d ended without closing its recording, for example by a kill or a crash."
            " Its last steps are sent to rank 0 (rank-silent)",
            self._rank,
        )

    def _put(self, optimizer: str, numbers: StepNumbers) -> None:
        source = self._sources[optimizer]
        number = numbers.step - source.first_step
        self.recorder.put_local(
            functools.partial(local_of, numbers, source.part_sizes, optimizer, source.present, number)
        )


def open_session(facts: Mapping[str, Any]) -> Session:
    """The session that the training process asks for.

    Raises:
        GradwatchError: it can't begin.
    """
    return WritingSession(facts) if facts["office"] is None else SendingSession(facts)


def _feeds_of(run: Path, facts: Mapping[str, Any]) -> Feeds | None:
    """What is fed beside the run, from here."""
    if facts["destinations"] is None:
        return None
    config = json.loads(facts["settings"].get("config", "{}"))
    run_facts = RunFacts(path=run, config=config, several=facts["several"])
    return Feeds(trackers_of_plain(facts["destinations"]), run_facts)


def _opened_writer(run: Path) -> StoreWriter:
    """The writer of the run.

    After a restart by torchrun the process of the attempt before may still be writing what a kill has left. torchrun
    counts no restart for a node that joins, so whatever it starts may be one.
    """
    deadline = time.monotonic() + (PREDECESSOR_WITHIN if "TORCHELASTIC_RUN_ID" in os.environ else 0)
    while True:
        try:
            return StoreWriter(run)
        except RunInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(SHORT_INTERVAL)


class _ToTraining(logging.Handler):
    """Hands what is logged here to the training process, whose log it belongs to."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        if self._channel.is_ended:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"{record.getMessage()}\n")
        else:
            self._channel.send("log", record.levelno, record.getMessage())


class Server:
    """The loop of the process, between the ring, the recorder and the training process."""

    def __init__(self, session: Session, ring: Ring, channel: Channel, *, training: int, at_once: bool) -> None:
        self._session, self._ring, self._channel = session, ring, channel
        self._training, self._at_once = training, at_once
        self._last_told: StepRecord | None = None

    def run(self) -> tuple[str, bool]:
        """Serve until the end; return its reason, and whether there is little time."""
        while True:
            # Before the ring is read: what was written before the end, or before the death, is read then.
            lines = self._channel.receive(SHORT_INTERVAL)
            is_dead = self._channel.is_ended or os.getppid() != self._training
            end = next((line for line in lines if line[0] == "end"), None)
            self._pump()
            if isinstance(self._session.recorder.fault, BaseException):
                return "fault", True
            if end is not None:
                return str(end[1]), bool(end[2])
            if is_dead:
                self._session.take_held()
                self._session.say_killed()
                return KILLED, False
            self._tell()

    def _pump(self) -> None:
        """Take everything out of the ring."""
        taken = 0
        while (message := self._ring.read()) is not None:
            taken += 1
            try:
                self._session.take(message)
            except Exception as fault:  # one message takes no other with it
                logger.error(
                    "gradwatch could not read a message of the training process: %s: %s (record-not-made)",
                    type(fault).__name__,
                    fault,
                )
        if taken and self._at_once:
            self._session.recorder.flush(FLUSH_WITHIN)

    def _tell(self) -> None:
        """Tell the training process what was found and written."""
        recorder = self._session.recorder
        self._answer_flushes()
        while recorder.events:
            self._channel.send("event", plain_event(recorder.events.popleft()))
        last = recorder.last
        if last is not None and last is not self._last_told:
            self._last_told = last
            self._channel.send("last", plain_record(last))
        self._channel.push()

    def _answer_flushes(self) -> None:
        """Answer those that are done or late.

        To wait here until a full disk takes the steps would leave the ring and the end of the training unread.
        """
        flushes = self._session.flushes
        is_done = bool(flushes) and self._session.recorder.flush(SHORT_INTERVAL)
        for number, until in list(flushes.items()):
            if is_done or time.monotonic() > until:
                self._channel.send("flushed", number, is_done)
                del flushes[number]

    def end(self, reason: str, hurry: bool) -> bool:
        """Write everything, and say how it ended; return whether it has ended."""
        recorder = self._session.recorder
        recorder.ask_to_end(reason, hurry=hurry)
        has_ended = recorder.wait_for_end(END_WITHIN)
        self._tell()
        fault = recorder.fault
        if fault is not None:
            self._channel.send("fault", type(fault).__name__, str(fault.args[0]) if fault.args else "")
        self._channel.send("ended", recorder.dropped)
        self._channel.push_all(LAST_WORDS_WITHIN)
        return has_ended


def serve(fd: int) -> None:
    """Record until the training process ends; ``fd`` is the memory of the ring."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the training process, and not before
    with contextlib.suppress(OSError):
        writes_to = os.dup(1)
        os.dup2(2, 1)  # what a library prints is no line of the channel
    channel = Channel(0, writes_to)
    facts = _facts(channel)
    if facts is None:
        return
    logger.setLevel(facts["level"])
    logger.addHandler(_ToTraining(channel))
    logger.propagate = False
    try:
        session = open_session(facts)
    except GradwatchError as error:
        channel.send("fault", type(error).__name__, str(error.args[0]))
        channel.push_all(LAST_WORDS_WITHIN)
        return
    channel.send("ready", session.attempt, None if session.office is None else astuple(session.office))
    server = Server(session, Ring(fd), channel, training=facts["training"], at_once=facts["at_once"])
    os.close(fd)
    has_ended = server.end(*server.run())
    if not has_ended:
        os._exit(1)  # the disk holds up the recorder's thread


def _facts(channel: Channel) -> dict[str, Any] | None:
    """The first line; None if the training process is gone before it."""
    while not channel.is_ended:
        for line in channel.receive(SHORT_INTERVAL):
            return cast("dict[str, Any]", line[0])
    return None
