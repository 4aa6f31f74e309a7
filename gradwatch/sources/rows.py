"""Rows of named values, as JSON lines and offline files of trackers hold them, made into a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources import layers
from gradwatch.sources.columns import Columns, choose, told
from gradwatch.sources.history import History, Point, as_float, is_step, repeated_notes


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
        CannotImport: there is no series of norms, or a value of one that was picked is no number.

    >>> rows = [{"step": 1, "loss": 2.0}, {"step": 1, "grad_norm": 0.5}]
    >>> [(point.step, point.norm, point.loss) for point in read(rows, Path("a.jsonl")).points]
    [(1, 0.5, 2.0)]
    """
    available = list(dict.fromkeys(name for row in rows for name in row))
    columns = choose(available, repr(file.name), norm, step, loss, layers_prefix)
    joined, repeated = _joined(rows, columns, file)
    points = [point for at, each in joined.items() if (point := _point(at, each, columns)) is not None]
    taken = "the norms of layers" if columns.norm is None else repr(columns.norm)
    return History(
        points,
        f"{taken} of {file.name}",
        notes=(*told(available, columns), *repeated_notes(repeated)),
        layers=columns.series.layers,
    )


def _joined(rows: Sequence[Mapping[str, Any]], columns: Columns, file: Path) -> tuple[dict[int, dict[str, float]], int]:
    """The values of each step, from all its rows: by kind, and those of layers by column. The last of a kind counts.

    The number tells how many steps have a kind more than once.
    """
    repeated = set()
    wanted = {kind: name for kind, name in columns.by_kind.items() if name is not None and kind != "step"}
    wanted |= {name: name for name in columns.series.columns}
    joined: dict[int, dict[str, float]] = {}
    for number, row in enumerate(rows):
        at = number if columns.step is None else row.get(columns.step)
        if at is None:
            continue
        step = _step(at, file, number)
        for kind, name in wanted.items():
            value = row.get(name)
            if value is not None and value != "":
                found = joined.setdefault(step, {})
                if kind in found:
                    repeated.add(step)
                found[kind] = _number(value, file, number, name)
    return joined, len(repeated)


def _point(at: int, each: Mapping[str, float], columns: Columns) -> Point | None:
    """What is known of a step; None if that is no norm."""
    of_layers = tuple(each.get(name) for name in columns.series.columns)
    norm = layers.total(of_layers) if columns.norm is None else each.get("norm")
    if norm is None:
        return None
    return Point(step=at, norm=norm, loss=each.get("loss"), learning_rate=each.get("learning_rate"), layers=of_layers)


def _step(value: Any, file: Path, row: int) -> int:
    number = as_float(value)
    if number is None or number != number // 1 or not is_step(int(number)):
        raise CannotImport(
            f"{str(file)!r} holds {str(value)[:40]!r} as the step of row {row + 1}; expected a whole number."
        )
    return int(number)


def _number(value: Any, file: Path, row: int, name: str) -> float:
    number = None if isinstance(value, bool) else as_float(value)
    if number is None:
        raise CannotImport(f"{str(file)!r} holds {str(value)[:40]!r} in row {row + 1} of {name!r}; expected a number.")
    return number
