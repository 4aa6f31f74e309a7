"""The messages that one rank has read from its senders, and the parts that these hold."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from gradwatch.distributed.combine import Combined, HeldParts, Layout, by_sender, combine, left_out, widened
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import (
    Ended,
    HandedOver,
    Heard,
    Item,
    JoinedParts,
    LocalStep,
    SubtreeParts,
    SubtreeStep,
    of_one_rank,
    unpack,
)
from gradwatch.record import ParameterInfo

logger = logging.getLogger("gradwatch")

MAX_WAITING_STEPS = 10_000
"""Steps of one rank to keep for later."""

ALL_AT_ONCE = 1.0
"""Seconds after which, and then again and again, each rank is asked for letters without waiting for all to have one."""

KNOWN_LAYOUTS = 16
"""Layouts to keep. There are several where parts are missing now and then."""

Look = tuple[tuple[int, ...], int | None]
"""Shape and mark of a part."""

Place = tuple[int, int]
"""A rank, and the column of its tables."""


@dataclass(slots=True)
class Names:
    """The parameters of one optimizer in the tables of the receiver, and the position of each by its name."""

    infos: list[ParameterInfo] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, infos: Iterable[ParameterInfo]) -> Self:
        """Parameters that stand at positions 0, 1, ... already."""
        names = cls()
        for info in infos:
            names.position(info)
        return names

    def position(self, info: ParameterInfo) -> int:
        """The position of a parameter, which gets one if it is new."""
        position = self.positions.setdefault(info.name, len(self.infos))
        if position == len(self.infos):
            self.infos.append(info)
        return position


@dataclass(slots=True)
class Sender:
    """What was heard from one rank, or from the subtree that it sends for.

    Attributes:
        held: what it holds now, by optimizer.
        steps: that wait to be combined, each with what the sender held then.
        latest: number of the last step, by optimizer.
        is_subtree: whether it sends for other ranks too.
        heard: whether anything has come.
        ended: whether nothing will come any more.
        silent: whether it is no longer waited for.
    """

    held: dict[str, HeldParts] = field(default_factory=dict)
    steps: dict[tuple[str, int], tuple[SubtreeStep, HeldParts]] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    is_subtree: bool = False
    heard: bool = False
    ended: bool = False
    silent: bool = False

    def may_send(self, optimizer: str, number: int) -> bool:
        """Whether the step of that number has not arrived and may still do so."""
        is_past = self.ended or self.latest.get(optimizer, -1) > number
        return not is_past and (optimizer, number) not in self.steps

    def take(self, optimizer: str, number: int) -> tuple[SubtreeStep, HeldParts] | None:
        """The step of that number if it has arrived. Earlier ones will not be asked for again and are dropped."""
        step = self.steps.pop((optimizer, number), None)
        if step is not None:
            self.silent = False
            for old in [key for key in self.steps if key[0] == optimizer and key[1] < number]:
                del self.steps[old]
        return step

    def add_step(self, step: SubtreeStep) -> None:
        self.steps[step.optimizer, step.number] = step, self.held.get(step.optimizer, HeldParts())
        self.latest[step.optimizer] = step.number
        if len(self.steps) > MAX_WAITING_STEPS:  # they are of an optimizer that the receiver does not have
            del self.steps[next(iter(self.steps))]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TakenStep:
    """One step of all senders that were heard.

    Attributes:
        steps: of the senders that were heard.
        held: what each of them held.
        layout: where their parts belong.
        combined: their statistics together.
    """

    steps: tuple[SubtreeStep, ...]
    held: tuple[HeldParts, ...]
    layout: Layout
    combined: Combined


class Copies:
    """Notices parameters that have the same name on several ranks, count as copies, and are none.

    What it says follows from what the ranks hold, in whatever order they tell it.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], dict[Look, Place]] = {}
        self._is_news = False
        self._said = False

    def see(self, rank: int, joined: JoinedParts) -> None:
        """Note what a rank holds."""
        if self._said:
            return
        for column, part in enumerate(joined.parts, joined.first):
            if part is None:
                continue
            seen = self._seen.setdefault((joined.optimizer, part.info.name, part.part), {})
            look, place = (part.info.shape, part.mark), (rank, column)
            self._is_news |= bool(seen) and look not in seen
            seen[look] = min(place, seen.get(look, place))

    def say(self) -> None:
        """Warn of them, once."""
        if self._said or not self._is_news:
            return
        self._is_news = False
        odd: dict[str, tuple[Place, Place]] = {}
        for (_, name, _), seen in self._seen.items():
            if pair := differing(seen):
                odd[name] = min(pair, odd.get(name, pair))
        if not odd:
            return
        self._said = True
        self._seen.clear()
        name = min(odd, key=lambda one: (odd[one], one))
        (first, _), (rank, _) = odd[name]
        others = len(odd) - 1
        more = "" if not others else ", and so is another" if others == 1 else f", and so are {others} others"
        logger.warning(
            "%r is another parameter on rank %d than on rank %d%s. Parameters of one name count as copies, so that the"
            " norm has one of them only. Give them names that are unique over the ranks (not-copies)",
            name,
            rank,
            first,
            more,
        )


def differing(seen: Mapping[Look, Place]) -> tuple[Place, Place] | None:
    """The first two places whose looks cannot be those of copies; a mark that is not known may be any.

    >>> differing({((2,), 7): (3, 0), ((2,), 8): (1, 0), ((2,), None): (0, 0)})
    ((1, 0), (3, 0))
    >>> differing({((2,), 7): (3, 0), ((2,), None): (0, 0)})
    """
    for one, other in itertools.combinations(sorted(seen, key=seen.__getitem__), 2):
        (shape, mark), (other_shape, other_mark) = one, other
        if shape != other_shape or (mark is not None and other_mark is not None and mark != other_mark):
            return seen[one], seen[other]
    return None


class Inbox:
    """Reads the letters of some ranks. This rank's own items are added as they are made.

    Attributes:
        senders: by rank.
        names: of the parameters, by optimizer.
        heard: all ranks that were heard, directly or through others.
        changes: a number that grows whenever a sender holds other parts, or another rank was heard.
    """

    def __init__(self, mailbox: Mailbox, own: int, ranks: Iterable[int]) -> None:
        """``own`` is this rank, and ``ranks`` those that send to it."""
        self.senders = {rank: Sender() for rank in (own, *ranks)}
        self.names: dict[str, Names] = {}
        self.heard: set[int] = set()
        self.changes = 0
        self._mailbox = mailbox
        self._own = own
        self._layouts: dict[tuple[object, ...], Layout] = {}
        self._sets: dict[frozenset[str], frozenset[str]] = {}
        self._copies = Copies()

    def names_of(self, optimizer: str) -> Names:
        """The parameters of an optimizer."""
        return self.names.setdefault(optimizer, Names())

    def read(self, rank: int) -> None:
        """Read what a rank has sent until now."""
        while not self.senders[rank].ended and rank != self._own and (message := self._mailbox.receive(rank)):
            self._take_in(rank, message)

    def _take_in(self, rank: int, message: bytes) -> None:
        for item in unpack(message):
            self.add(rank, item)

    def add(self, rank: int, item: Item) -> None:
        """Take an item of a rank."""
        sender = self.senders[rank]
        if not sender.heard:
            self._hear([rank])
        sender.heard = True
        match item:
            case LocalStep():
                sender.add_step(of_one_rank(rank, item))
            case SubtreeStep():
                sender.add_step(item)
            case JoinedParts():
                self._copies.see(rank, item)
                self._join(sender, item)
            case SubtreeParts():
                self._join_subtree(sender, item)
            case Heard():
                self._hear(item.ranks)
            case HandedOver():
                self._take_over(item)
            case Ended():
                sender.ended = True
                if item.was_killed and rank != self._own:
                    say_killed(rank, sender)

    def missing(self, optimizer: str, number: int, *, one_by_one: bool) -> list[int]:
        """The ranks whose step of that number is to be waited for.

        Letters are read from all of them at once, when each has sent one, or from those that have.
        """
        for rank, sender in list(self.senders.items()):
            if sender.silent and sender.may_send(optimizer, number):
                self.read(rank)
        while ranks := [rank for rank in self._awaited(optimizer, number) if rank != self._own]:
            messages = self._mailbox.receive_from_all(ranks)
            if messages is None:
                break
            for rank, message in zip(ranks, messages, strict=True):
                self._take_in(rank, message)
        if one_by_one:
            self._read_what_is_there(ranks)
        return self._awaited(optimizer, number)

    def _read_what_is_there(self, ranks: Sequence[int]) -> None:
        """Take in every letter that has come from these ranks."""
        while ranks and (found := self._mailbox.receive_what_is_there(ranks)):
            for rank, message in found.items():
                self._take_in(rank, message)
            ranks = [rank for rank in found if not self.senders[rank].ended]

    def give_up(self, optimizer: str, number: int, is_late: Callable[[int], bool]) -> list[int]:
        """Wait no longer for the ranks that are late with the step of that number. Returns them."""
        late = [rank for rank in self.missing(optimizer, number, one_by_one=True) if is_late(rank)]
        for rank in late:
            self.senders[rank].silent = True
        return late

    def _awaited(self, optimizer: str, number: int) -> list[int]:
        return [r for r, sender in self.senders.items() if not sender.silent and sender.may_send(optimizer, number)]

    def take(self, optimizer: str, number: int, *, by_majority: bool = False) -> TakenStep | None:
        """Take one step of all ranks that were heard out of the inbox and combine it; None if none was."""
        pairs = {rank: pair for rank, one in self.senders.items() if (pair := one.take(optimizer, number)) is not None}
        if not pairs:
            return None
        self._copies.say()
        held = tuple(parts for _, parts in pairs.values())
        steps = tuple(widened(step, parts.width) for step, parts in pairs.values())
        gone = by_sender(
            {rank: one.held[optimizer] for rank, one in self.senders.items() if optimizer in one.held},
            (rank for rank in self.senders if rank not in pairs),
        )
        layout = self._layout(steps, held, gone, len(self.names_of(optimizer).infos))
        return TakenStep(
            steps=steps, held=held, layout=layout, combined=combine(layout, steps, by_majority=by_majority)
        )

    def _layout(
        self, steps: Sequence[SubtreeStep], held: Sequence[HeldParts], gone: Sequence[HeldParts], parameters: int
    ) -> Layout:
        unknown = [left_out(step, parts) for step, parts in zip(steps, held, strict=True)]
        marks = tuple(None if one is None else one.tobytes() for one in unknown)
        key = (tuple(held), marks, tuple(gone), parameters)
        if key not in self._layouts:
            if len(self._layouts) >= KNOWN_LAYOUTS:
                self._layouts.clear()
            there = [parts.without(one) for parts, one in zip(held, unknown, strict=True)]
            not_there = [p.without(~one) for p, one in zip(held, unknown, strict=True) if one is not None]
            self._layouts[key] = Layout.of(there, [*gone, *not_there], parameters)
        return self._layouts[key]

    def _hear(self, ranks: Iterable[int]) -> None:
        before = len(self.heard)
        self.heard.update(ranks)
        self.changes += len(self.heard) > before

    def _join(self, sender: Sender, joined: JoinedParts) -> None:
        """Add parts that a rank holds."""
        if sender.is_subtree:  # it sends for itself from here on
            sender.held, sender.is_subtree = {}, False
        names, old = self.names_of(joined.optimizer), sender.held.get(joined.optimizer, HeldParts())
        known = set(old.columns)
        new = [
            (column, names.position(part.info), self._interned(frozenset((part.part,))))
            for column, part in enumerate(joined.parts, joined.first)
            if part is not None and column not in known
        ]
        self._hold(sender, joined.optimizer, old, new)

    def _join_subtree(self, sender: Sender, joined: SubtreeParts) -> None:
        sender.is_subtree = True
        names, sets = self.names_of(joined.optimizer), [self._interned(parts) for parts in joined.parts]
        new = [
            (column, names.position(info), sets[at])
            for column, (info, at) in enumerate(zip(joined.infos, joined.held, strict=True))
            if sets[at]  # else no rank of it holds the parameter any more
        ]
        self._hold(sender, joined.optimizer, HeldParts(), new)

    def _hold(
        self, sender: Sender, optimizer: str, old: HeldParts, new: Sequence[tuple[int, int, frozenset[str]]]
    ) -> None:
        columns, positions, parts = zip(*new, strict=True) if new else ((), (), ())
        held = HeldParts(old.columns + columns, old.positions + positions, old.parts + parts)
        sender.held = {**sender.held, optimizer: held}
        self.changes += 1

    def _interned(self, parts: frozenset[str]) -> frozenset[str]:
        return self._sets.setdefault(parts, parts)

    def _take_over(self, item: HandedOver) -> None:
        self._mailbox.read_from(item.rank, item.read)
        sender = self.senders[item.rank] = Sender(latest=dict(item.next_steps))
        for one in item.items:
            self.add(item.rank, one)
        sender.silent = item.silent


def held_together(senders: Mapping[int, Sender], optimizer: str, names: Names) -> list[frozenset[str]]:
    """Of each parameter the parts that any of the senders holds."""
    together: list[frozenset[str]] = [frozenset()] * len(names.infos)
    unions: dict[tuple[frozenset[str], frozenset[str]], frozenset[str]] = {}  # most parameters are held alike
    for sender in senders.values():
        held = sender.held.get(optimizer, HeldParts())
        for position, parts in zip(held.positions, held.parts, strict=True):
            key = (together[position], parts)
            if key not in unions:
                unions[key] = together[position] | parts
            together[position] = unions[key]
    return together


def say_killed(rank: int, sender: Sender) -> None:
    """Warn that the training process of a rank is dead, as its recorder's process has told."""
    logger.warning(
        "Rank %d ended without closing its recording, for example by a kill or a crash, after %d of its steps."
        " What only that rank knows is missing from here on (rank-silent)",
        rank,
        max(sender.latest.values(), default=-1) + 1,
    )


def ranks_in(numbers: Iterable[int]) -> str:
    """Ranks as a person writes them.

    >>> ranks_in([3]), ranks_in([8, 9, 10, 3])
    ('3', '3, 8-10')
    """
    ordered = np.array(sorted(numbers))
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
