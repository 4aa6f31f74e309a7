"""Before ranks add up their numbers by a collective, they agree on the table: which parameter stands where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.distributed.inbox import Copies, Names
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import JoinedParts, pack, unpack
from gradwatch.errors import BadArgument
from gradwatch.record import ParameterInfo

WITHIN = 30.0
"""Seconds in which every rank has to attach."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TablePlan:
    """Where one rank's parts of an optimizer's parameters stand in the table that the ranks add up.

    The arrays have an entry for each part that the rank holds.

    Attributes:
        infos: the parameters of the table, in rank 0; empty elsewhere.
        parameters: how many the table has.
        own_width: columns of the rank's own tables.
        columns: of the part in the rank's own tables.
        positions: of the parameter in the common table.
        counted: whether this rank adds the part. Of several ranks with the same part only the first does.
        compared: whether it is a copy of a whole parameter that another rank adds.
    """

    infos: tuple[ParameterInfo, ...] = ()
    parameters: int
    own_width: int
    columns: NDArray[np.int64]
    positions: NDArray[np.int64]
    counted: NDArray[np.bool_]
    compared: NDArray[np.bool_]


Plans: TypeAlias = dict[str, TablePlan]
"""By optimizer, in the same order in every rank."""


def agree(mailbox: Mailbox, world_size: int, own: Sequence[JoinedParts], known: Mapping[str, Names]) -> Plans | None:
    """The plans of this rank; None if not every rank asks for a collective in time.

    Args:
        mailbox: through which the ranks agree.
        world_size: number of ranks.
        own: what this rank holds, by optimizer.
        known: in rank 0 the parameters that have a position already; those of other ranks are added.

    Raises:
        BadArgument: the ranks train other optimizers.
    """
    if mailbox.rank:
        mailbox.announce(f"parts/{mailbox.rank}", pack(own).decode())
        told = mailbox.announced(f"plan/{mailbox.rank}", 2 * WITHIN)
    else:
        told = _plan_for_all(mailbox, world_size, own, known)
    if told is None:
        return None
    if told.get("refused"):
        raise BadArgument(told["refused"])
    return {
        optimizer: _plan(*numbers, own=held.parts, names=known.get(optimizer))
        for held, (optimizer, numbers) in zip(own, told["plans"].items(), strict=True)
    }


def _plan_for_all(
    mailbox: Mailbox, world_size: int, own: Sequence[JoinedParts], known: Mapping[str, Names]
) -> dict[str, Any] | None:
    """Plan the tables and tell every other rank its plans. Returns those of rank 0."""
    ranks = range(1, world_size)
    others = mailbox.all_announced([f"parts/{rank}" for rank in ranks], WITHIN)
    told: list[dict[str, Any]] | list[None]
    if others is None:
        told = [None] * world_size
    else:
        held = [own, *(_joined(text) for text in others)]
        _compare_copies(held)
        told = _plans_of(held, known)
    for rank in ranks:
        mailbox.announce(f"plan/{rank}", told[rank])
    return told[0]


def _compare_copies(held: Sequence[Sequence[JoinedParts]]) -> None:
    """Warn of parameters that count as copies and are none."""
    copies = Copies()
    for rank, each in enumerate(held):
        for one in each:
            copies.see(rank, one)
    copies.say()


def _plans_of(held: Sequence[Sequence[JoinedParts]], known: Mapping[str, Names]) -> list[dict[str, Any]]:
    """What each rank is told: its plans by optimizer, or why there are none."""
    optimizers = [[one.optimizer for one in each] for each in held]
    odd = next((rank for rank, names in enumerate(optimizers) if names != optimizers[0]), None)
    if odd is not None:
        refused = (
            f'ranks is "collective", and rank {odd} trains other optimizers than rank 0, so that they can\'t add up one'
            " table. Attach with ranks=True."
        )
        return [{"refused": refused}] * len(held)
    told: list[dict[str, Any]] = [{"plans": {}} for _ in held]
    for at, optimizer in enumerate(optimizers[0]):
        for rank, numbers in enumerate(plan_table(known[optimizer], [each[at].parts for each in held])):
            told[rank]["plans"][optimizer] = numbers
    return told


def _joined(text: str) -> list[JoinedParts]:
    return [item for item in unpack(text.encode()) if isinstance(item, JoinedParts)]


def plan_table(names: Names, held: Iterable[Sequence[Any]]) -> list[tuple[int, list[int], str]]:
    """Of each rank: parameters of the table, the position of each of its parts, and what it does with the part.

    That is a letter for each part: ``c``, it is counted; ``w``, it is a copy of a whole parameter; ``-``, of a part.

    >>> from gradwatch.distributed.world import ParameterPart
    >>> w, v = (ParameterInfo(name=name, shape=(4,)) for name in "wv")
    >>> held = [[ParameterPart(info=w, part="0"), ParameterPart(info=v)], [None, ParameterPart(info=v)]]
    >>> plan_table(Names(), [*held, held[0]])
    [(2, [0, 1], 'cc'), (2, [1], 'w'), (2, [0, 1], '-w')]
    """
    counted: set[tuple[int, str]] = set()
    found: list[tuple[list[int], str]] = []
    for parts in held:
        positions, does = [], ""
        for part in parts:
            if part is None:
                continue
            position = names.position(part.info)
            positions.append(position)
            key = position, part.part
            does += "c" if key not in counted else "-" if part.part.strip(",-") else "w"
            counted.add(key)
        found.append((positions, does))
    return [(len(names.infos), positions, does) for positions, does in found]


def _plan(
    parameters: int, positions: Sequence[int], does: str, *, own: Sequence[object | None], names: Names | None
) -> TablePlan:
    return TablePlan(
        infos=() if names is None else tuple(names.infos),
        parameters=parameters,
        own_width=len(own),
        columns=np.array([column for column, part in enumerate(own) if part is not None], np.int64),
        positions=np.array(positions, np.int64),
        counted=np.array([letter == "c" for letter in does], bool),
        compared=np.array([letter == "w" for letter in does], bool),
    )
