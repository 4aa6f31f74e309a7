"""Which rows of the batch a bad gradient comes from.

A finite gradient is split exactly: one row's part is the backward of the outputs' gradients with those of all
other rows set to zero. If the loss is computed inside the model, each row is replayed as a batch of its own. A
gradient that is not finite can't be split this way (zero times infinity is NaN). Each row is then replayed alone, and
the rows that are bad alone are replaced by good ones to see whether the step becomes normal.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradwatch.capture.record import Forward, Group
from gradwatch.replaying.batch import Batch, find_batch, only, padded, replace_rows, take
from gradwatch.replaying.passes import Gradients, Played, Player, dot, with_gradients
from gradwatch.text import fault_text

ONE_BY_ONE = 64
"""Up to as many rows are measured each; of more, in parts, and then those within the parts that stand out."""

PARTS = 16
MOST_NAMED = 16
MOST_SEARCHED = 256
"""Forwards of a step whose rows are told apart; of more, those to whose outputs the largest gradients came."""

TIMES_THE_OTHERS = 4.0
LEAST_SHARE = 0.25
LEAST_RISE = 1.3
"""A row stands out if its norm is several times that of the others, and it has a share of the gradient or raises its
norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row's part of the gradient."""

    micro_batch: int
    row: int
    norm: float
    share: float | None
    norm_without: float | None
    stands_out: bool = False

    @property
    def place(self) -> tuple[int, int]:
        return self.micro_batch, self.row


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is known of the rows.

    Attributes:
        forwards: of all groups, in order; packed sequences are padded.
        batches: of each forward; None where no batch dimension was found.
        parts: of the rows, the largest first.
        spread: whether no row stands out.
        norm_without: the total norm with other rows in the place of those that stand out; None where not known.
        unknown, notes: why something could not be told, and what is only roughly right.
    """

    forwards: tuple[Forward, ...]
    batches: tuple[Batch | None, ...]
    parts: tuple[Part, ...] = ()
    spread: bool = False
    norm_without: float | None = None
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def suspects(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.stands_out)

    @property
    def suspect_names(self) -> str:
        """The rows that stand out, each once: a model that is called twice on a batch has the same row twice."""
        rows = dict.fromkeys(part.row for part in self.suspects)
        return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))}"


@dataclass(slots=True)
class _Search:
    """The rows of one replay, and what was said on the way."""

    player: Player
    groups: Sequence[Group]
    forwards: list[Forward]
    batches: list[Batch | None]
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_rows(player: Player, played: Played) -> Rows:
    """Find the rows from which the gradient of a replay comes."""
    groups = player.capture.groups
    forwards = [padded(forward) for group in groups for forward in group.forwards]
    searched = _worth_searching(forwards)
    batches = [
        find_batch(player, one) if one.grad_enabled and at in searched else None for at, one in enumerate(forwards)
    ]
    search = _Search(player, groups, forwards, batches)
    if len(searched) < len(forwards):
        search.notes.append(
            f"rows were searched in {len(searched)} of {len(forwards)} forwards: those to whose outputs the largest"
            " gradients came"
        )
    for at, outputs in enumerate(played.outputs):
        search.forwards[at] = _with_finite_gradients(forwards[at], outputs)
    if not any(batches):
        search.unknown.append("rows: no batch dimension was found in the model's inputs")
        return _result(search, [])
    if math.isfinite(played.total_norm):
        return _finite_rows(search, played)
    return _nonfinite_rows(search)


def _worth_searching(forwards: Sequence[Forward]) -> set[int]:
    def size(at: int) -> float:
        norms = [float(one.double().norm()) for one in forwards[at].output_gradients if one is not None and one.numel()]
        largest = max(norms, key=lambda norm: norm if math.isfinite(norm) else math.inf, default=0.0)
        return largest if math.isfinite(largest) else math.inf

    if len(forwards) <= MOST_SEARCHED:
        return set(range(len(forwards)))
    return set(sorted(range(len(forwards)), key=size, reverse=True)[:MOST_SEARCHED])


def _with_finite_gradients(forward: Forward, outputs: Sequence[Tensor]) -> Forward:
    """The forward with a usual value for each NaN that the loss sent back because the output was not finite.

    Where rows mix, one bad row makes every output bad, and so the gradient of every row.
    """
    if len(outputs) != len(forward.output_gradients):
        return forward
    pairs = zip(forward.output_gradients, outputs, strict=True)
    return with_gradients(
        forward,
        [
            gradient if gradient is None or bool(output.isfinite().all()) else _with_usual_values(gradient)
            for gradient, output in pairs
        ],
    )


def _with_usual_values(gradient: Tensor) -> Tensor:
    """The median magnitude of the finite entries in the place of the others."""
    finite = gradient[gradient.isfinite()].double()
    usual = float(finite.abs().median()) if finite.numel() else 1.0 / max(1, gradient.numel())
    return torch.where(gradient.isfinite(), gradient, usual)


def _result(search: _Search, parts: Sequence[Part], norm_without: float | None = None) -> Rows:
    return Rows(
        forwards=tuple(search.forwards),
        batches=tuple(search.batches),
        parts=tuple(parts),
        spread=bool(parts) and len(parts) > 1 and not any(part.stands_out for part in parts),
        norm_without=norm_without,
        unknown=tuple(dict.fromkeys(search.unknown)),
        notes=tuple(dict.fromkeys(search.notes)),
    )


# --------------------------------------------------------------------------------- finite gradients


def _finite_rows(search: _Search, played: Played) -> Rows:
    total, found = played.total_norm, []
    for micro_batch, (forward, batch) in enumerate(zip(search.forwards, search.batches, strict=True)):
        if batch is None:
            continue
        try:
            measured = _measure(search, forward, batch, played.gradients)
        except Exception as error:  # a model may refuse single rows in any way
            search.unknown.append(f"rows: the model can't be replayed on single rows: {fault_text(error, 160)}")
            continue
        found += [(micro_batch, row, square, along) for row, square, along in measured]
    parts = [
        Part(
            micro_batch=micro_batch,
            row=row,
            norm=math.sqrt(square),
            share=along / total**2 if total else None,
            norm_without=math.sqrt(max(0.0, total**2 - 2 * along + square)),
        )
        for micro_batch, row, square, along in found
    ]
    parts = _marked(sorted(parts, key=lambda part: part.share or 0.0, reverse=True), total)
    return _result(search, parts[:MOST_NAMED], _norm_without_suspects(search, parts))


def _measure(search: _Search, forward: Forward, batch: Batch, total: Gradients) -> list[tuple[int, float, float]]:
    """Of each row: its index, the square of its norm, and its product with the whole gradient."""
    apart = _is_apart(forward, batch)
    player = search.player

    def gradients(rows: Sequence[int]) -> Gradients:
        if apart:
            return player.play([Group(forwards=(only(forward, batch, rows),))]).gradients
        return player.play([Group(forwards=(take(forward, batch, rows),))]).gradients

    def measure(rows: Sequence[int]) -> tuple[float, float]:
        weight = 1.0 if apart else len(rows) / batch.size
        own = gradients(rows)
        square = sum(dot(one, one) for one in own.values()) * weight**2
        along = sum(dot(one, total[name]) for name, one in own.items() if name in total) * weight
        return square, along

    if not apart:
        search.notes.append("the loss is computed inside the model: each row was replayed alone, shares are rough")
    everything = sum(dot(one, one) for one in total.values())
    found = _each(measure, list(range(batch.size)), everything)
    if len(found) < batch.size:
        search.notes.append(f"of {batch.size} rows, {len(found)} were measured each and the others in parts")
    scale = 1.0
    if not apart and len(search.forwards) == 1 and len(found) == batch.size:
        along = sum(one[2] for one in found)  # what the rows give together must be the whole
        scale = everything / along if along > 0 else 1.0
    return [(row, square * scale**2, along * scale) for row, square, along in found]


def _each(
    measure: Callable[[Sequence[int]], tuple[float, float]], rows: list[int], everything: float
) -> list[tuple[int, float, float]]:
    if len(rows) <= ONE_BY_ONE:
        return [(row, *measure([row])) for row in rows]
    size = math.ceil(len(rows) / PARTS)
    chunks = [rows[at : at + size] for at in range(0, len(rows), size)]
    measured = [(chunk, *measure(chunk)) for chunk in chunks]
    usual = statistics.median(math.sqrt(square) for _, square, _ in measured)
    chosen = [
        chunk for chunk, square, along in measured if math.sqrt(square) > 2 * usual or along > LEAST_SHARE * everything
    ]
    if not chosen:
        chosen = [max(measured, key=lambda one: one[1])[0]]
    return [found for chunk in chosen for found in _each(measure, chunk, everything)]


def _marked(parts: Sequence[Part], total: float) -> list[Part]:
    found = []
    norms = sorted(part.norm for part in parts)
    for part in parts:
        usual = _median_of_others(norms, part.norm)
        rises = part.norm_without is not None and total >= LEAST_RISE * part.norm_without
        has_share = part.share is not None and part.share >= LEAST_SHARE
        out = part.norm >= TIMES_THE_OTHERS * usual and (rises or has_share)
        found.append(dataclasses.replace(part, stands_out=out))
    return found


def _median_of_others(norms: Sequence[float], own: float) -> float:
    """The median of sorted numbers without one of them; infinite if there are no others.

    >>> _median_of_others([1.0, 2.0, 9.0], 2.0), _median_of_others([5.0], 5.0)
    (5.0, inf)
    """
    if len(norms) < 2:
        return math.inf
    at, middle = bisect.bisect_left(norms, own), (len(norms) - 1) // 2
    high = norms[middle + (middle >= at)]
    if len(norms) % 2 == 0:
        return high
    low = norms[middle - 1 + (middle - 1 >= at)]
    return (low + high) / 2


# ----------------------------------------------------------------------------- gradients with NaN or inf


def _nonfinite_rows(search: _Search) -> Rows:
    parts: list[Part] = []
    for micro_batch, (forward, batch) in enumerate(zip(search.forwards, search.batches, strict=True)):
        if batch is not None and not _is_fine(search, [forward]):
            parts += _nonfinite_parts(search, micro_batch, forward, batch)
    parts.sort(key=lambda part: not part.stands_out)
    without = _norm_without_suspects(search, parts)
    if without is not None:
        if not math.isfinite(without):
            search.unknown.append("rows: the gradient is not finite either with other rows in their place")
        parts = [dataclasses.replace(part, norm_without=without) if part.stands_out else part for part in parts]
    if not parts:
        search.unknown.append("rows: no row is bad alone, and no single row makes the step normal if it is replaced")
    return _result(search, parts[:MOST_NAMED], without)


def _nonfinite_parts(search: _Search, micro_batch: int, forward: Forward, batch: Batch) -> list[Part]:
    """The bad rows of a bad micro-batch, and the largest of its good ones."""
    try:
        norms = _alone(search, forward, batch)
    except Exception:  # a model may refuse single rows in any way: BatchNorm wants two
        norms = {}
    bad_alone = {row: norm for row, norm in norms.items() if not math.isfinite(norm)}
    bad = list(bad_alone) or _by_replacing(search, micro_batch)
    is_all = len(bad) == batch.size > 1
    parts = [
        Part(
            micro_batch=micro_batch,
            row=row,
            norm=bad_alone.get(row, math.nan),
            share=None,
            norm_without=None,
            stands_out=not is_all and len(bad) <= max(1, batch.size // 2),
        )
        for row in bad
    ]
    of_mean = len(search.forwards) == 1 and not _is_apart(forward, batch)
    is_bad = set(bad)
    good = sorted((-norm, row) for row, norm in norms.items() if row not in is_bad)
    for negative, row in good[:3]:
        norm = -negative / batch.size if of_mean else -negative
        parts.append(Part(micro_batch=micro_batch, row=row, norm=norm, share=None, norm_without=None))
    return parts


def _is_apart(forward: Forward, batch: Batch) -> bool:
    pairs = zip(forward.output_gradients, batch.outputs, strict=True)
    return all(dimension is not None for gradient, dimension in pairs if gradient is not None)


def _is_fine(search: _Search, forwards: Sequence[Forward]) -> bool:
    return math.isfinite(search.player.play([Group(forwards=tuple(forwards))]).total_norm)


def _alone(search: _Search, forward: Forward, batch: Batch) -> dict[int, float]:
    """The norm of each row as a batch of its own; of many rows, only of those in parts that are bad."""

    def norm(rows: Sequence[int]) -> float:
        return search.player.play([Group(forwards=(take(forward, batch, rows),))]).total_norm

    def each(rows: list[int]) -> dict[int, float]:
        if len(rows) <= ONE_BY_ONE:
            return {row: norm([row]) for row in rows}
        size = math.ceil(len(rows) / PARTS)
        chunks = [rows[at : at + size] for at in range(0, len(rows), size)]
        return {row: one for chunk in chunks if not math.isfinite(norm(chunk)) for row, one in each(chunk).items()}

    return each(list(range(batch.size)))


def _by_replacing(search: _Search, micro_batch: int) -> list[int]:
    """The fewest neighbouring rows that make the forward normal if others stand in their place; empty if none do."""
    forward, batch = search.forwards[micro_batch], search.batches[micro_batch]
    assert batch is not None

    def is_mended(rows: Sequence[int]) -> bool:
        donors = sorted(set(range(batch.size)) - set(rows))
        return bool(donors) and _is_fine(search, [replace_rows(forward, batch, rows, donors)])

    try:
        halves = _halves(list(range(batch.size)))
        rows = next((half for half in halves if is_mended(half)), [])
        while len(rows) > 1:
            smaller = next((half for half in _halves(rows) if is_mended(half)), None)
            if smaller is None:
                break
            rows = smaller
    except Exception as error:
        search.unknown.append(f"rows: the model can't be replayed with other rows: {fault_text(error, 160)}")
        return []
    return rows


def _halves(rows: list[int]) -> list[list[int]]:
    middle = len(rows) // 2
    return [half for half in (rows[:middle], rows[middle:]) if half]


# ------------------------------------------------------------------------------------ without them


def groups_with_others(rows: Rows, groups: Sequence[Group]) -> tuple[Group, ...] | None:
    """The groups with other rows in the place of those that stand out; None if there are no others."""
    return _replaced(groups, rows.forwards, rows.batches, [part.place for part in rows.suspects])


def _replaced(
    groups: Sequence[Group],
    forwards: Sequence[Forward],
    batches: Sequence[Batch | None],
    places: Sequence[tuple[int, int]],
) -> tuple[Group, ...] | None:
    new = list(forwards)
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for micro_batch, row in places:
        rows_of[micro_batch].append(row)
    for micro_batch, rows in rows_of.items():
        batch = batches[micro_batch]
        if batch is None:
            return None
        donors = sorted(set(range(batch.size)) - set(rows))
        if not donors:
            return None
        new[micro_batch] = replace_rows(forwards[micro_batch], batch, rows, donors)
    each = iter(new)
    return tuple(Group(forwards=tuple(next(each) for _ in group.forwards), rank=group.rank) for group in groups)


def _norm_without_suspects(search: _Search, parts: Sequence[Part]) -> float | None:
    """The total norm with other rows in the place of those that stand out; None if none does or it is not known."""
    suspects = [part.place for part in parts if part.stands_out]
    return _norm_with_others(search, suspects) if suspects else None


def _norm_with_others(search: _Search, places: Sequence[tuple[int, int]]) -> float | None:
    groups = _replaced(search.groups, search.forwards, search.batches, places)
    if groups is None:
        return None
    try:
        return search.player.play(groups).total_norm
    except Exception as error:
        search.unknown.append(f"rows: the model can't be replayed with other rows: {fault_text(error, 160)}")
        return None
