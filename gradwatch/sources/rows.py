"""Rows of named values, as JSON lines and offline files of trackers hold them, made into a history."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources import layers, parts
from gradwatch.sources.columns import Columns, choose, told
from gradwatch.sources.history import History, Point
from gradwatch.sources.names import is_of_held_out_data, pick
from gradwatch.sources.values import (
    BEFORE_TRAINING,
    as_float,
    is_rounded_to_zero,
    is_step,
    on_through_epochs,
    rounds_rates,
)
from gradwatch.sources.writing import repeated_notes

_OF_ALL = re.compile(r"\s*(\d+)\s*/\s*\d+\s*")  # a step as "10/438", as ms-swift writes it


def read(
    rows: Sequence[Mapping[str, Any]],
    file: Path,
    norm: str | None = None,
    step: str | None = None,
    loss: str | None = None,
    layers_prefix: str | None = None,
) -> History:
    """Pick the series and join the rows of a step, for a tool may log the loss and the norm apart.

    Raises:
        CannotImport: there is no series of norms, losses or rewards, or a value of one that was picked is no number.

    >>> rows = [{"step": 1, "loss": 2.0}, {"step": 1, "grad_norm": 0.5}]
    >>> [(point.step, point.norm, point.loss) for point in read(rows, Path("a.jsonl")).points]
    [(1, 0.5, 2.0)]
    """
    available = list(
        dict.fromkeys(name for row in rows for name, value in row.items() if value is not None and value != "")
    )
    computed = parts.sums(available)
    if computed:
        available += computed
        rows = [dict(row) | _sums(row, computed) for row in rows]
    columns = choose(available, repr(file.name), norm, step, loss, layers_prefix)
    if step is None:
        columns = replace(columns, step=_step_of_points(rows, columns, repr(file.name)))
    points: list[Point] = []
    repeated = set[int]()
    for optimizer, own in columns.by_optimizer():
        joined, again = _joined(rows, own, file)
        repeated |= again
        _carry_rewards(joined, own)
        found = (_point(at, each, own) for at, each in joined.items())
        points += [replace(point, optimizer=optimizer) for point in found if point is not None]
    return History(
        points,
        f"{columns.taken} of {file.name}",
        notes=(*told(available, columns), *repeated_notes(len(repeated)), *parts.notes(computed)),
        layers=columns.series.layers,
        validation=[(at, each["validation_loss"]) for at, each in joined.items() if "validation_loss" in each],
    )


def _sums(row: Mapping[str, Any], computed: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    return {name: parts.total(as_float(row.get(part)) for part in of) for name, of in computed.items()}


def _step_of_points(rows: Sequence[Mapping[str, Any]], columns: Columns, where: str) -> str | None:
    """The column of steps in the rows that count: a last row, a summary, may name its step otherwise."""
    held = [row for row in rows if any(row.get(name) is not None for name in columns.of_points)]
    return pick("step", list(dict.fromkeys(name for row in held for name in row)), None, where)


def _joined(
    rows: Sequence[Mapping[str, Any]], columns: Columns, file: Path
) -> tuple[dict[int, dict[str, float]], set[int]]:
    """The values of each step, from all its rows: by kind, and those of layers by column. The last of a kind counts.

    The steps are those that have a kind more than once.
    """
    repeated = set[int]()
    wanted = {kind: name for kind, name in columns.by_kind.items() if name is not None and kind != "step"}
    wanted |= {name: name for name in columns.series.columns}
    rounds = _rounds_rates(rows, columns)
    joined: dict[int, dict[str, float]] = {}
    for number, (step, row) in enumerate(zip(_steps(rows, columns, file), rows, strict=True)):
        if step is None:
            continue
        is_held_out = is_of_held_out_data(row)
        for kind, name in wanted.items():
            value = row.get(name)
            is_unknown = kind == "learning_rate" and (is_rounded_to_zero(value) or (rounds and as_float(value) == 0))
            is_unknown |= kind == "loss" and is_held_out
            is_unknown |= kind == "validation_loss" and as_float(_one(value, kind)) is None
            if value is not None and value != "" and not is_unknown:
                found = joined.setdefault(step, {})
                if kind in found:
                    repeated.add(step)
                found[kind] = _number(_one(value, kind), file, number, name)
    return joined, repeated


def _carry_rewards(joined: Mapping[int, dict[str, float]], columns: Columns) -> None:
    """Give each step that counts the last reward since the one before it: rewards may have steps of their own.

    >>> rows = [{"step": 1, "reward": 0.5}, {"step": 2, "grad_norm": 1.0}, {"step": 3, "grad_norm": 1.0}]
    >>> [point.reward for point in read(rows, Path("a.jsonl")).points]
    [0.5, None]
    """
    reward = None
    for step in sorted(joined):
        each = joined[step]
        reward = each.get("reward", reward)
        if reward is not None and _counts(each, columns):
            each["reward"], reward = reward, None


def _rounds_rates(rows: Sequence[Mapping[str, Any]], columns: Columns) -> bool:
    """Whether the rows show so few decimals that a learning rate of 0 is not known to be 0.

    A rate that is text shows its own decimals: there "0" is 0.
    """
    if columns.learning_rate is None or any(isinstance(row.get(columns.learning_rate), str) for row in rows):
        return False
    others = [name for name in (columns.norm, columns.loss) if name is not None]
    rates = [row.get(columns.learning_rate) for row in rows]
    return rounds_rates(rates, [row.get(name) for row in rows for name in others])


def _steps(rows: Sequence[Mapping[str, Any]], columns: Columns, file: Path) -> Iterator[int | None]:
    """The step of each row, counted on where a tool counts anew in each epoch; None: it has none, or is no step."""
    if columns.step is None:
        yield from range(len(rows))
        return
    wanted = [name for name in (columns.loss, columns.norm, *columns.series.columns) if name is not None]
    held = [row.get(columns.step) for row in rows]
    there = [
        None if step is None or as_float(step) == BEFORE_TRAINING else _step(step, file, row)
        for row, step in enumerate(held)
    ]
    epochs = [
        as_float(row.get("epoch")) if any(row.get(name) is not None for name in wanted) else None
        for row, step in zip(rows, there, strict=True)
        if step is not None
    ]
    counted = on_through_epochs([step for step in there if step is not None], epochs)
    yield from (None if step is None else next(counted) for step in there)


def _point(at: int, each: Mapping[str, float], columns: Columns) -> Point | None:
    """What is known of a step; None if it does not count."""
    if not _counts(each, columns):
        return None
    return Point(
        step=at,
        norm=_norm(each, columns),
        loss=each.get("loss"),
        learning_rate=each.get("learning_rate"),
        reward=each.get("reward"),
        layers=_of_layers(each, columns),
    )


def _counts(each: Mapping[str, float], columns: Columns) -> bool:
    """Whether a step has a norm; where no step has one, whether it has a loss, or else a reward."""
    if columns.has_norms:
        return _norm(each, columns) is not None
    return ("reward" if columns.loss is None else "loss") in each


def _of_layers(each: Mapping[str, float], columns: Columns) -> tuple[float | None, ...]:
    return tuple(each.get(name) for name in columns.series.columns)


def _norm(each: Mapping[str, float], columns: Columns) -> float | None:
    return layers.total(_of_layers(each, columns)) if columns.norm is None else each.get("norm")


def _step(value: Any, file: Path, row: int) -> int:
    of_all = _OF_ALL.fullmatch(value) if isinstance(value, str) else None
    number = as_float(of_all[1] if of_all else value)
    if number is None or number != number // 1 or not is_step(int(number)):
        raise CannotImport(
            f"{str(file)!r} holds {str(value)[:40]!r} as the step of row {row + 1}; expected one from 0 on, below 2^53."
        )
    return int(number)


def _one(value: Any, kind: str) -> Any:
    """The number in a list of one, and the first of the learning rates of several groups."""
    return value[0] if isinstance(value, list) and value and (len(value) == 1 or kind == "learning_rate") else value


def _number(value: Any, file: Path, row: int, name: str) -> float:
    number = None if isinstance(value, bool) else as_float(value)
    if number is None:
        raise CannotImport(f"{str(file)!r} holds {str(value)[:40]!r} in row {row + 1} of {name!r}; expected a number.")
    return number
