"""Rows of named values, as JSON lines and offline files of trackers hold them, made into a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources import layers
from gradwatch.sources.history import History, Point, as_float, is_step, pick

MOST_NAMED = 12  # columns that a note lists


def read(
    rows: Sequence[Mapping[str, Any]],
    file: Path,
    norm: str | None = None,
    step: str | None = None,
    loss: str | None = None,
) -> History:
    """Pick the series and join the rows of a step, for a tool may log the loss and the norm apart.

    Raises:
        CannotImport: there is no series of norms, or a value of one that was picked is no number.

    >>> rows = [{"step": 1, "loss": 2.0}, {"step": 1, "grad_norm": 0.5}]
    >>> [(point.step, point.norm, point.loss) for point in read(rows, Path("a.jsonl")).points]
    [(1, 0.5, 2.0)]
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    where = repr(file.name)
    series = layers.find([name for name in columns if name != norm])
    norm_name, of_total = layers.pick_total(
        [name for name in columns if name not in series.columns], norm, series, where
    )
    names = {
        "norm": norm_name,
        "step": pick("step", columns, step, where),
        "loss": pick("loss", columns, loss, where),
        "learning_rate": pick("learning_rate", columns, None, where),
    }
    joined: dict[int, dict[str, float]] = {}
    wanted = {kind: name for kind, name in names.items() if name is not None and kind != "step"}
    wanted |= {name: name for name in series.columns}
    for number, row in enumerate(rows):
        at = number if names["step"] is None else row.get(names["step"])
        if at is None:
            continue
        whole = _step(at, file, number)
        for kind, name in wanted.items():
            value = row.get(name)
            if value is not None and value != "":
                joined.setdefault(whole, {})[kind] = _number(value, file, number, name)
    points = [point for at, each in joined.items() if (point := _point(at, each, series, norm_name)) is not None]
    taken = "the norms of layers" if norm_name is None else repr(norm_name)
    said = [*notes(columns, names, series.columns), *([series.note] if series.layers else []), *of_total]
    return History(points, f"{taken} of {file.name}", notes=tuple(said), layers=series.layers)


def _point(at: int, each: Mapping[str, float], series: layers.LayerSeries, norm_name: str | None) -> Point | None:
    """What is known of a step; None if that is no norm."""
    of_layers = tuple(each.get(name) for name in series.columns)
    norm = layers.total(of_layers) if norm_name is None else each.get("norm")
    if norm is None:
        return None
    return Point(step=at, norm=norm, loss=each.get("loss"), learning_rate=each.get("learning_rate"), layers=of_layers)


def notes(columns: Sequence[str], names: Mapping[str, str | None], also: Sequence[str] = ()) -> list[str]:
    """What was taken, what was not found and what was left out, a sentence each."""
    words = {"norm": "the gradient norm", "step": "the step", "loss": "the loss", "learning_rate": "the learning rate"}
    taken = [f"{name!r} as {words[kind]}" for kind, name in names.items() if name is not None]
    missing = [words[kind] for kind, name in names.items() if name is None]
    others = [name for name in columns if name not in names.values() and name not in also]
    said = [f"taken: {', '.join(taken)}; --norm, --step and --loss choose others"]
    if names["step"] is None:
        said.append("there is no column of steps, so the rows are counted")
    if missing:
        said.append(f"not found: {', '.join(missing)}")
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        said.append(f"left out: {', '.join(map(repr, others[:MOST_NAMED]))}{more}")
    return said


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
