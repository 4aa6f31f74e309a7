"""The sink that writes the run: from the training thread to the store, without making the training wait.

The training thread hands over a measured step, whose numbers may still be on a device, and goes on.
The recorder's thread makes the record, runs the detectors over it and writes both, several steps in
one transaction.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from gradwatch.detect import Detector, detectors_for
from gradwatch.errors import StoreNotWritable
from gradwatch.record import FROZEN_KEY, JoinedParameters, ParameterInfo, StepRecord, small
from gradwatch.recording.batch_writer import BatchWriter
from gradwatch.recording.judge import SLICE, Judge, Past
from gradwatch.recording.mirror import GuardedMirror, Mirror
from gradwatch.recording.records import SharedStep, make_record, record_of_all, share
from gradwatch.recording.sink import SHORT_INTERVAL, Beginning, QueueThread, StepSource
from gradwatch.recording.snapshots import Snapshots, unseen_records
from gradwatch.sinks.closing import closing_of
from gradwatch.store import StoreWriter

if TYPE_CHECKING:
    from gradwatch.distributed import JoinedParts, RankCollective, RankGatherer
    from gradwatch.recording.pending import PendingStep  # it needs torch
    from gradwatch.sinks.feed import Feeds

logger = logging.getLogger("gradwatch")

MakeRecord: TypeAlias = Callable[[], StepRecord | None]
"""None: the step can't be known as a whole, and counts as dropped."""

Job: TypeAlias = Callable[[], object]
"""What the recorder's thread does in its turn."""

AT_ONCE = 256  # records in one commit
JUDGED_AT_END, IN_A_HURRY = 10.0, 1.0  # seconds for which a recording that ends may still look for events
OF_EVERY_PROCESS = frozenset({FROZEN_KEY})
"""Facts of which each process of a training knows as much as rank 0."""
UNJUDGED = "unjudged_since"
"""The first attempt with steps that no detector has seen, in the table meta; empty if there is none."""


class _End(NamedTuple):
    """How the attempt ends, and whether the process ends with it and waits for little."""

    reason: str = "closed"
    hurry: bool = False


@dataclass(slots=True)
class _Counts:
    """Steps on their way through the queue."""

    queued: int = 0
    taken: int = 0  # out of the queue
    refused: int = 0  # because the queue was full
    unmade: int = 0  # because making the record failed


class Recorder:
    """Makes the records of one run in order, judges and writes them.

    Attributes:
        events: what the detectors found and the training thread has not taken yet, in order.
    """

    takes_late_losses = True

    def __init__(
        self,
        writer: StoreWriter,
        detectors: Mapping[str, Sequence[Detector]] | None = None,
        capacity: int = 10_000,
        at_once: bool = False,
        past: Mapping[str, Past] | None = None,
        mirror: Mirror | None = None,
        team: RankGatherer | None = None,
        feeds: Feeds | None = None,
    ) -> None:
        """Start the thread.

        Args:
            writer: of the run, whose attempt has begun.
            detectors: of the optimizers known now, by name; `admit` adds more.
            capacity: steps that may wait in the queue, and as many for the disk.
            at_once: write and judge each step as it comes, not several together.
            past: the records of the store by optimizer, for the detectors of a run that is continued.
            mirror: is shown each record that was written.
            team: brings together what the ranks of a training by several processes have.
            feeds: are given each record and event that was written, for trackers outside the run.
        """
        self._writer, self._team = writer, team
        self._mirror = GuardedMirror(mirror)
        self._feeds = feeds
        self._last: StepRecord | None = None
        self._judge = Judge(detectors or {}, past or {}, since=_first_unjudged(writer), attempt=writer.attempt)
        self._disk = BatchWriter(writer, capacity)
        self._snapshots = Snapshots(writer)
        self._at_once = at_once
        self._collective: RankCollective | None = None
        self._waiting: dict[tuple[str, int], SharedStep] = {}  # for the other ranks, by optimizer and number
        self._end = _End()
        self._counts = _Counts()
        self._gone: list[str] = []  # optimizers whose last steps may still wait for the disk
        self._thread: QueueThread[Job] = QueueThread(self._work, capacity, None if team is None else SHORT_INTERVAL)
        self.events = self._judge.events
        self._thread.start()

    @property
    def fault(self) -> BaseException | None:
        return self._thread.fault

    @property
    def dropped(self) -> int:
        """Steps that came while the queue was full, gave way while the disk took nothing, or could not be made.

        A thread that ended by a fault also lost the steps that were still queued.
        """
        left_behind = 0
        if self.fault is not None:
            left_behind = self._counts.queued - self._counts.taken + len(self._waiting)
        return self._counts.refused + self._disk.lost + left_behind

    @property
    def last(self) -> StepRecord | None:
        return None if self._last is None else small(self._last)

    # ------------------------------------------------------------------------ in the training thread

    def begin(
        self, name: str, optimizer_class: str, settings: dict[str, Any], first_step: int | None = None
    ) -> Beginning:
        is_known = self._writer.knows(name)
        self._writer.add_optimizer(name, optimizer_class, settings)
        if not is_known:  # reading the store costs more with every optimizer and step in it
            return Beginning(step=first_step or 0)
        from gradwatch.store import StoreReader

        with StoreReader(self._writer.path) as reader:
            step = self._writer.next_step(name) if first_step is None else first_step
            return Beginning(step=step, stored=reader.parameters_alone(name))

    def admit(self, tracker: StepSource, beginning: Beginning) -> None:
        detectors = detectors_for(tracker.optimizer_class, tracker.settings)
        self._do(functools.partial(self._admit, tracker.name, detectors))
        if self._team is None:
            known = len(beginning.stored)
            self._writer.add_parameters(tracker.name, tracker.infos[known:], known)
        else:
            self._do(functools.partial(self._team.known, tracker.name, beginning.stored))
            self.join(tracker, 0)
            self._do(functools.partial(self._team.first_step, tracker.name, beginning.step))
            self._thread.wake()

    def join(self, tracker: StepSource, first: int) -> None:
        if self._team is not None:
            from gradwatch.distributed import JoinedParts

            joined = JoinedParts(tracker.name, first, tuple(tracker.parts[first:]))
            self._do(functools.partial(self._join, self._team, joined))
            return
        for position, part in enumerate(tracker.parts[first:], first):
            if part is not None:
                named = JoinedParameters(optimizer=tracker.name, first=position, infos=(part.info,))
                self._do(functools.partial(self._name, named))

    def hold(self, pending: PendingStep, tracker: StepSource) -> None:
        """Do nothing: the tracker keeps it, and a process that is killed loses what is queued, too."""

    def share_by(self, collective: RankCollective, parameters: Mapping[str, Sequence[ParameterInfo]]) -> None:
        """Bring the ranks together by this collective, from the first step on; ``parameters`` are those it carries."""
        assert self._team is not None
        for optimizer, infos in parameters.items():
            self._do(functools.partial(self._team.expect, optimizer, infos))
        self._collective = collective

    def put(self, pending: PendingStep, tracker: StepSource) -> None:
        number = pending.step - tracker.first_step
        if self._collective is not None:
            self._put(functools.partial(self._share, pending, tracker.name, tracker.present, number))
            return
        self.put_record(
            functools.partial(
                make_record,
                pending,
                tracker.name,
                self._writer.attempt,
                tracker.infos,
                tracker.present,
                self._team,
                number,
            )
        )

    def dismiss(self, name: str) -> None:
        self._do(functools.partial(self._dismiss, name))

    def put_record(self, make: MakeRecord) -> None:
        """Queue a record that is yet to be made; never waits."""
        self._put(functools.partial(self._take, make))

    def _put(self, job: Job) -> None:
        """Queue what is to be done with a step."""
        if not self._thread.put(job):
            self._counts.refused += 1
            return
        self._counts.queued += 1
        if self._at_once:
            self._thread.wake()

    def flush(self, timeout: float = 10.0) -> bool:
        return self._thread.flush(timeout, lambda: not (self._disk.batch or self._waiting))

    def ask_to_end(self, reason: str, *, hurry: bool = False) -> None:
        self._end = _End(reason, hurry)
        for others in (self._team, self._collective):
            if others is not None:
                others.hurry()
        self._thread.ask_to_end()

    def wait_for_end(self, timeout: float) -> bool:
        return self._thread.wait_for_end(timeout)

    def close(self, reason: str, timeout: float = 30.0) -> bool:
        self.ask_to_end(reason)
        return self._thread.end(timeout)

    def note(self, facts: Mapping[str, str]) -> None:
        """Keep facts about a training; of several processes only what each of them knows of the whole."""
        kept = {key: value for key, value in facts.items() if self._team is None or key in OF_EVERY_PROCESS}
        if kept:
            self._do(functools.partial(self._note, kept))

    def _admit(self, optimizer: str, detectors: Sequence[Detector]) -> None:
        self._snapshots.admit(optimizer, detectors)
        past = None
        if self._writer.attempt > 0:
            past = functools.partial(unseen_records, self._writer.path, optimizer, detectors, self._judge.note)
        self._judge.admit(optimizer, detectors, past)

    def _dismiss(self, optimizer: str) -> None:
        self._judge.dismiss(optimizer)
        self._gone.append(optimizer)

    def _note(self, facts: Mapping[str, str]) -> None:
        try:
            for key, value in facts.items():
                self._writer.set_meta(key, value)
        except StoreNotWritable as fault:
            logger.debug("facts about the run were not written", exc_info=fault)

    def _do(self, job: Job) -> None:
        """Let the thread do something in its turn, however full the queue is."""
        self._thread.put_always(job)

    # ------------------------------------------------------------------------ in the recorder's thread

    def _work(self, closing: bool) -> None:
        try:
            self._catch_up(SLICE)
            for job in self._thread.take():
                job()
            self._meet_other_ranks(closing)
            self._commit(closing)
            if closing:
                self._end_attempt()
        except BaseException:
            self._disk.give_up()
            self._let_go()
            self._writer.abort()
            if self._feeds is not None:
                self._feeds.close(dict, hurry=True)
            raise

    def _catch_up(self, seconds: float, **how: float) -> None:
        """Judge earlier records, while all later ones are on the disk."""
        if self._judge.is_behind and not self._disk.batch.records:
            self._disk.batch.events += self._judge.catch_up(seconds, **how)
            if not self._judge.is_behind:
                self._note({UNJUDGED: ""})
            elif self._judge.is_among_own:
                self._thread.wake()

    def _name(self, joined: JoinedParameters) -> None:
        self._disk.batch.joined.append(joined)

    def _join(self, team: RankGatherer, joined: JoinedParts) -> None:
        team.join(0, joined)
        self._disk.batch.joined += team.take_joined()

    def _take(self, make: MakeRecord) -> None:
        self._counts.taken += 1
        self._record(make)

    def _share(self, pending: PendingStep, optimizer: str, present: list[bool], number: int) -> None:
        """Hand the numbers of a step to the collective, or get those of the other ranks now where it has ended."""
        self._counts.taken += 1
        try:
            shared = share(pending, optimizer, present, number)
        except Exception as fault:
            self._note_unmade(fault)
            self._disk.lost += 1
            return
        if self._collective is not None and self._collective.add(shared.mine):
            self._waiting[optimizer, number] = shared
        else:
            self._record_gathered(shared)

    def _meet_other_ranks(self, closing: bool) -> None:
        """Record what all ranks have added up, and the rest as without a collective once that has ended."""
        if self._collective is None or not self._collective.is_open:
            return
        for added in self._collective.advance(leaving=closing):
            shared = self._waiting.pop((added.optimizer, added.number))
            self._record(functools.partial(record_of_all, shared, added.whole, self._writer.attempt))
        if not self._collective.is_open:
            for shared in sorted(self._waiting.values(), key=lambda one: one.mine.number):
                self._record_gathered(shared)
            self._waiting.clear()
            self._collective.left_over()

    def _record_gathered(self, shared: SharedStep) -> None:
        team = self._team
        assert team is not None
        self._record(lambda: record_of_all(shared, team.gather(shared.mine), self._writer.attempt))

    def _note_unmade(self, fault: Exception) -> None:
        if self._counts.unmade == 0:  # the others have the same cause
            _say_unmade(fault)
        self._counts.unmade += 1

    def _record(self, make: MakeRecord) -> None:
        """Make a record and judge it; one that can't be made takes no other with it."""
        try:
            record = make()
        except Exception as fault:
            record = None
            self._note_unmade(fault)
        if self._team is not None:
            self._disk.batch.joined += self._team.take_joined()
        if record is None:
            self._disk.lost += 1
            return
        found = self._judge.see(record)
        self._disk.batch.records.append(record)
        self._last = record
        self._disk.batch.events += found
        if len(self._disk.batch.records) >= AT_ONCE or any(event.severity == "critical" for event in found):
            self._commit()

    def _commit(self, closing: bool = False) -> None:
        events = self._disk.batch.events
        written = self._disk.commit(self._counts.refused, closing=closing)
        self._judge.tell_news(events)  # also of a batch that waits, for events are few and a stop can't wait
        if written is not None:
            while self._gone:
                self._writer.forget(self._gone.pop())
            self._mirror.show(written.records)
            if self._feeds is not None:
                self._feeds.put(written.records, written.events)
            if not self._judge.is_behind:
                self._snapshots.save(self._judge.detectors, self._disk.last_id, closing=closing)

    def _end_attempt(self) -> None:
        end = self._end
        self._catch_up(IN_A_HURRY if end.hurry else JUDGED_AT_END, rest=0.0)
        self._commit(closing=True)
        if self._judge.is_behind:
            _say_unjudged(self._writer.path.parent)
        self._let_go()
        self._writer.end_attempt(end.reason)
        if self._feeds is not None:
            self._feeds.close(functools.partial(closing_of, self._writer.path.parent), hurry=end.hurry)

    def _let_go(self) -> None:
        """Let go of everything but the writer."""
        self._judge.close()
        if self._collective is not None:
            self._collective.abandon()
        if self._team is not None:
            self._team.close()
        self._mirror.close()


def _say_unmade(fault: Exception) -> None:
    logger.error(
        "gradwatch could not record a step and leaves it out. %s: %s (record-not-made)",
        type(fault).__name__,
        fault,
    )
    logger.debug("the fault", exc_info=fault)


def _say_unjudged(run: Path) -> None:
    logger.warning(
        "gradwatch did not look for events in all steps of %r: the attempt ended before the detectors were done."
        " The next attempt continues (steps-not-judged)",
        str(run),
    )


def _first_unjudged(writer: StoreWriter) -> int:
    """The first attempt with steps that no detector has seen; it is said in the store while there is one."""
    if writer.attempt == 0:
        return 0
    from gradwatch.store import StoreReader

    with StoreReader(writer.path) as reader:
        known = reader.meta().get(UNJUDGED, "")
    since = min(int(known), writer.attempt) if known.isdecimal() else writer.attempt
    writer.set_meta(UNJUDGED, str(since))
    return since
