"""Combines the steps of a subtree of ranks, in the sending thread of the rank at its root."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from gradwatch.distributed import gather
from gradwatch.distributed.combine import HeldParts, as_table, combine_ranks
from gradwatch.distributed.inbox import ALL_AT_ONCE, Inbox, Names, Sender, TakenStep, held_together
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import Ended, HandedOver, Heard, Item, JoinedParts, SubtreeParts, SubtreeStep
from gradwatch.distributed.tree import RankTree
from gradwatch.distributed.world import ParameterPart
from gradwatch.record import ParameterInfo

NEARER = 0.8
"""Patience of a rank over that of its reader, so that each gives up before its reader gives up on it."""


class SubtreeRelay:
    """Makes one step of the steps of this rank and of those that send to it. It never waits itself.

    Attributes:
        is_open: whether steps are combined here. After `hand_over` this rank sends its own items as any other.
    """

    def __init__(self, mailbox: Mailbox, tree: RankTree, rank: int) -> None:
        self.is_open = True
        self._mailbox = mailbox
        self._tree = tree
        self._rank = rank
        self._inbox = Inbox(mailbox, rank, tree.children(rank))
        self._patience = NEARER ** tree.depth(rank)
        self._waiting: dict[str, tuple[int, float]] = {}  # for which step and since when, by optimizer
        self._next: dict[str, int] = {}  # the first step that is not combined yet, by optimizer
        self._said: dict[str, int] = {}  # `Inbox.changes` when what is held was last sent, by optimizer
        self._progress = time.monotonic()  # when a step was last complete
        self._looked = 0.0  # when each rank was last asked for letters
        self._closing_since: float | None = None

    def add(self, item: Item) -> None:
        """Take an item of this rank."""
        self._inbox.add(self._rank, item)

    def collect(self) -> list[Item]:
        """What can be sent now: steps that are complete, or whose missing ranks are no longer waited for."""
        senders = self._inbox.senders
        if not any(sender.steps for sender in senders.values()) and (self._is_idle() or senders[self._rank].ended):
            self._looked = time.monotonic()
            for rank in list(senders):
                self._inbox.read(rank)
        optimizers = {optimizer for sender in senders.values() for optimizer, _ in sender.steps}
        items = [item for optimizer in sorted(optimizers) for item in self._collect(optimizer)]
        if self._mailbox.seldom_announced("flat") is not None:
            items += self.hand_over()
        return items

    def close(self) -> None:
        """Combine no more, because nothing is read any more."""
        self.is_open = False
        self._mailbox.close_node(forward=False)

    def hurry(self) -> None:
        """The training has ended here: wait for the other ranks no longer than their last letters take."""
        self._closing_since = self._closing_since or time.monotonic()

    def is_done(self) -> bool:
        """Whether all ranks that send here have ended, or time is up."""
        since = self._closing_since
        if since is not None and time.monotonic() > since + gather.LAST_PATIENCE * self._patience:
            return True
        return not self.is_open or self.have_ended()

    def have_ended(self) -> bool:
        """Whether nothing is left of the ranks that send here, and nothing will come."""
        return all(sender.ended and not sender.steps for sender in self._inbox.senders.values())

    def hand_over(self) -> list[Item]:
        """Combine no more. Returns what the reader of this rank needs to read the other ranks itself."""
        self.is_open = False
        self._mailbox.close_node(forward=True)  # what is unread there is for the reader of this rank
        others = [
            HandedOver(
                rank=rank,
                read=self._mailbox.letters_read(rank),
                next_steps=self._next,
                items=tuple(self._known_of(rank, sender)),
                silent=sender.silent,
            )
            for rank, sender in self._inbox.senders.items()
            if rank != self._rank
        ]
        return [*others, *self._known_of(self._rank, self._inbox.senders[self._rank])]

    def _collect(self, optimizer: str) -> Iterator[Item]:
        while (number := self._next_ready(optimizer)) is not None:
            taken = self._inbox.take(optimizer, number, by_majority=True)
            self._next[optimizer] = number + 1
            assert taken is not None
            if taken.layout.overlaps:
                self._mailbox.announce("flat", True)
            if self._said.get(optimizer) != self._inbox.changes:
                self._said[optimizer] = self._inbox.changes
                yield from self._held(optimizer)
            yield self._step(optimizer, number, taken)

    def _next_ready(self, optimizer: str) -> int | None:
        """The next step, if all of it has arrived that is to be waited for."""
        if self._first_waiting(optimizer) is None or not self._look_for(optimizer, self._next.get(optimizer, 0)):
            return None
        number = self._first_waiting(optimizer)  # no rank has a step before this one, if not every step is recorded
        return number if number is not None and self._look_for(optimizer, number) else None

    def _first_waiting(self, optimizer: str) -> int | None:
        """The first step that any rank has sent; those that come too late are dropped."""
        first, begin = None, self._next.get(optimizer, 0)
        for sender in self._inbox.senders.values():
            for key in [key for key in sender.steps if key[0] == optimizer]:
                if key[1] < begin:
                    del sender.steps[key]
                elif first is None or key[1] < first:
                    first = key[1]
        return first

    def _look_for(self, optimizer: str, number: int) -> bool:
        """Look for a step of all ranks, and give up on those that are late; return whether none is waited for."""
        now = time.monotonic()
        waits_for, since = self._waiting.get(optimizer, (-1, now))
        if waits_for != number:
            since = now
            self._waiting[optimizer] = number, now

        def is_late(rank: int) -> bool:
            return time.monotonic() > self._deadline(since, rank)

        looks = now > max(since, self._looked) + ALL_AT_ONCE or self._closing_since is not None
        self._looked = now if looks else self._looked
        missing = self._inbox.missing(optimizer, number, one_by_one=looks)
        if any(map(is_late, missing)):
            late = self._inbox.give_up(optimizer, number, is_late)
            gather.say_silent(self._tree, late, number, own=self._rank)
            missing = self._inbox.missing(optimizer, number, one_by_one=False)
        self._progress = self._progress if missing else now
        return not missing

    def _is_idle(self) -> bool:
        """Whether no step was complete for a while: this rank may be the one that makes none."""
        return time.monotonic() > max(self._progress, self._looked) + ALL_AT_ONCE

    def _deadline(self, since: float, rank: int) -> float:
        seconds = gather.PATIENCE if self._inbox.senders[rank].heard else gather.FIRST_PATIENCE
        deadline = since + seconds * self._patience
        if self._closing_since is None:
            return deadline
        return min(deadline, self._closing_since + gather.LAST_PATIENCE * self._patience)

    def _held(self, optimizer: str) -> Iterator[Item]:
        """What the subtree holds."""
        names = self._inbox.names_of(optimizer)
        together = held_together(self._inbox.senders, optimizer, names)
        yield _subtree_parts(optimizer, names.infos, together)
        yield Heard(tuple(sorted(self._inbox.heard)))

    def _step(self, optimizer: str, number: int, taken: TakenStep) -> SubtreeStep:
        ranks = self._tree.subtree(self._rank)
        combined, weights = taken.combined, taken.combined.weights
        return SubtreeStep(
            optimizer=optimizer,
            number=number,
            stats=tuple(combined.stats),
            table=as_table(combined, taken.layout.whole),
            weights=None if weights is None else np.stack([weights.weight_norm, weights.update_norm]),
            updates=combined.updates,
            magnitudes=combined.magnitudes,
            sentinels=combined.sentinels,
            first_rank=self._rank,
            ranks=combine_ranks(taken.steps, taken.held, combined, ranks),
            loss_sum=sum(step.loss_sum for step in taken.steps),
            losses=sum(step.losses for step in taken.steps),
        )

    def _known_of(self, rank: int, sender: Sender) -> Iterator[Item]:
        """What a rank, or the subtree it sends for, holds, and its steps that are not combined yet."""
        for optimizer, held in sender.held.items():
            yield _held_by(optimizer, held, self._inbox.names_of(optimizer), is_subtree=sender.is_subtree)
        if sender.is_subtree:
            yield Heard(tuple(sorted(self._inbox.heard.intersection(self._tree.subtree(rank)))))
        yield from (step for step, _ in sender.steps.values())
        if sender.ended and rank != self._rank:
            yield Ended()


def _held_by(optimizer: str, held: HeldParts, names: Names, *, is_subtree: bool) -> JoinedParts | SubtreeParts:
    """What a sender holds, as it would say so itself."""
    infos = [ParameterInfo(name="", shape=())] * held.width
    parts: list[frozenset[str]] = [frozenset()] * held.width
    for column, position, one in zip(held.columns, held.positions, held.parts, strict=True):
        infos[column], parts[column] = names.infos[position], one
    if is_subtree:
        return _subtree_parts(optimizer, infos, parts)
    mine = [
        ParameterPart(info=info, part=next(iter(one))) if one else None for info, one in zip(infos, parts, strict=True)
    ]
    return JoinedParts(optimizer, 0, mine)


def _subtree_parts(optimizer: str, infos: Sequence[ParameterInfo], parts: Sequence[frozenset[str]]) -> SubtreeParts:
    numbers: dict[frozenset[str], int] = {}
    held = tuple(numbers.setdefault(one, len(numbers)) for one in parts)
    return SubtreeParts(optimizer=optimizer, infos=tuple(infos), parts=tuple(numbers), held=held)
