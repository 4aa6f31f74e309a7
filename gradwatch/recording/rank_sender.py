"""The sink of every process but rank 0: sends its part of each step towards rank 0, which writes the run."""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gradwatch.distributed import JoinedParts, LocalStep, Mailbox, RankCollective, RankTree, SubtreeRelay
from gradwatch.distributed.gather import PAUSE
from gradwatch.distributed.mailbox import RANK_0_WITHIN
from gradwatch.distributed.messages import Ended, Item, SubtreeStep, pack
from gradwatch.record import Event, StepRecord
from gradwatch.recording.records import make_local
from gradwatch.recording.sink import SHORT_INTERVAL, Beginning, QueueThread, StepSource

if TYPE_CHECKING:
    from gradwatch.recording.pending import PendingStep  # it needs torch

logger = logging.getLogger("gradwatch")

LETTER_BYTES = 4 * 2**20  # the tables in one letter, about
END_WITHIN = 10.0  # seconds for the last letters
KILLED = "killed"  # why a recording ended whose training process is dead

Make: TypeAlias = Callable[[], Item]


class RankSender:
    """Sends the steps of this process, from a thread of its own, with those of the ranks that send to this one."""

    takes_late_losses = False  # losses are logged in rank 0
    last: StepRecord | None = None  # records are made in rank 0

    def __init__(self, mailbox: Mailbox, first_steps: Mapping[str, int], capacity: int) -> None:
        """Start the thread; ``first_steps`` is what rank 0 announced of each optimizer."""
        self.events: deque[Event] = deque()  # detectors run in rank 0
        self._mailbox = mailbox
        self._first_steps = dict(first_steps)
        self._unsent: list[Item] = []
        self._unsent_bytes = 0
        self._ended = Ended()
        self._relay = _place_in_tree(mailbox)
        self._collective: RankCollective | None = None
        self._thread: QueueThread[Make] = QueueThread(self._work, capacity, SHORT_INTERVAL)
        self._thread.start()

    @property
    def fault(self) -> BaseException | None:
        """Always None: where rank 0 is gone, the training is too, or soon."""
        return None

    @property
    def dropped(self) -> int:
        """Always 0: rank 0 notices the steps that it misses, and counts them."""
        return 0

    def share_by(self, collective: RankCollective) -> None:
        """Bring the ranks together by this collective, from the first step on."""
        self._collective = collective

    def begin(
        self, name: str, optimizer_class: str, settings: dict[str, Any], first_step: int | None = None
    ) -> Beginning:
        step = self._first_steps.get(name)
        if step is None:
            step = self._mailbox.announced(f"first/{name}", RANK_0_WITHIN)
        return Beginning(step=step or 0)

    def admit(self, tracker: StepSource, beginning: Beginning) -> None:
        self.join(tracker, 0)

    def join(self, tracker: StepSource, first: int) -> None:
        joined = JoinedParts(tracker.name, first, tuple(tracker.parts[first:]))
        self._thread.put_always(lambda: joined)

    def note(self, facts: Mapping[str, str]) -> None:
        """Rank 0 keeps its own."""

    def dismiss(self, name: str) -> None:
        """Do nothing: rank 0 notices it."""

    def hold(self, pending: PendingStep, tracker: StepSource) -> None:
        """Do nothing: losses are logged in rank 0."""

    def put(self, pending: PendingStep, tracker: StepSource) -> None:
        """Queue a step. One that finds no room is missed by rank 0 when the next one comes."""
        number = pending.step - tracker.first_step
        self.put_local(functools.partial(make_local, pending, tracker.name, tracker.present, number))

    def put_local(self, make: Make) -> None:
        """Queue what is yet to be made of a step; never waits."""
        self._thread.put(make)

    def flush(self, timeout: float = 10.0) -> bool:
        return self._thread.flush(timeout, lambda: not self._unsent)

    def ask_to_end(self, reason: str, *, hurry: bool = False) -> None:
        self._ended = Ended(was_killed=reason == KILLED)
        if self._collective is not None:
            self._collective.hurry()
        self._thread.ask_to_end()

    def wait_for_end(self, timeout: float) -> bool:
        return self._thread.wait_for_end(timeout)

    def close(self, reason: str, timeout: float = END_WITHIN) -> bool:
        self.ask_to_end(reason)
        return self._thread.end(min(timeout, END_WITHIN))

    def _work(self, closing: bool) -> None:
        try:
            if self._mailbox.look_whether_closed():
                self._forget()
            elif closing or not self._mailbox.look_whether_full():
                self._send(closing)
        except Exception as fault:  # the key-value store is gone, and the training with it or soon
            logger.debug("rank 0 is not heard any more", exc_info=fault)
            self._abandon()
            self._mailbox.leave_nothing_on_node()
            raise

    def _forget(self) -> None:
        """Rank 0 reads no more letters."""
        self._abandon()
        for _ in self._thread.take():
            pass
        self._unsent = []
        if self._relay is not None:
            self._relay.close()

    def _abandon(self) -> None:
        if self._collective is not None:
            self._collective.abandon()

    def _send(self, closing: bool) -> None:
        for make in self._thread.take():
            self._share(make())
        if self._collective is not None and self._collective.is_open:
            self._meet_other_ranks(self._collective, closing)
        if self._relay is not None and self._relay.is_open:
            self._put(self._relay.collect())
        if closing:
            self._end()
        self._send_unsent()

    def _share(self, item: Item) -> None:
        """Hand a step to the collective, and all else to rank 0."""
        if self._collective is None or not isinstance(item, LocalStep) or not self._collective.add(item):
            self._take(item)

    def _meet_other_ranks(self, collective: RankCollective, closing: bool) -> None:
        """Let the collective carry what it can; once it has ended, send the rest."""
        collective.advance(leaving=closing)
        if not collective.is_open:
            for step in collective.left_over():
                self._take(step)

    def _take(self, item: Item) -> None:
        """Take an item of this process."""
        if self._relay is not None and self._relay.is_open:
            self._relay.add(item)
        else:
            self._put([item])

    def _put(self, items: Sequence[Item]) -> None:
        for item in items:
            self._unsent.append(item)
            self._unsent_bytes += _nbytes(item)
            if self._unsent_bytes > LETTER_BYTES:
                self._send_unsent()

    def _end(self) -> None:
        """Wait for the last letters of the ranks that send to this one; whoever reads this one reads the rest."""
        self._take(self._ended)
        if self._relay is None or not self._relay.is_open:
            return
        self._relay.hurry()
        while not self._relay.is_done() and self._mailbox.announced("closed") is None:
            self._put(self._relay.collect())
            self._send_unsent()
            time.sleep(PAUSE)
        if self._relay.is_open and not self._relay.have_ended():
            self._put(self._relay.hand_over())
        self._relay.close()
        self._put([self._ended])

    def _send_unsent(self) -> None:
        if self._unsent:
            self._mailbox.send(pack(self._unsent))
            self._unsent, self._unsent_bytes = [], 0


def _nbytes(item: Item) -> int:
    """Of the large tables of an item."""
    if not isinstance(item, LocalStep | SubtreeStep):
        return 0
    return item.table.nbytes + (0 if item.magnitudes is None else item.magnitudes.nbytes)


def _place_in_tree(mailbox: Mailbox) -> SubtreeRelay | None:
    """Where the steps of other ranks are combined with those of this one; None if no rank sends to this one."""
    shape = mailbox.announced("tree")
    if shape is None:
        return None
    tree, rank = RankTree(**shape), mailbox.rank
    if rank in tree.neighbours(tree.parent(rank)):
        mailbox.send_on_node(tree.parent(rank))
    if tree.neighbours(rank):
        mailbox.read_node_here()
    return SubtreeRelay(mailbox, tree, rank) if tree.children(rank) else None
