"""Reads tables: CSV and Parquet with a column of norms, including the exports of W&B."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from gradwatch.errors import CannotImport
from gradwatch.sources import layers
from gradwatch.sources.history import History, Point, as_float, first_line, is_step, pick


def read(file: Path, norm: str | None = None, step: str | None = None, loss: str | None = None) -> History:
    """Read a table with a row for each step. An empty cell was not logged. Without a column of steps, rows are counted.

    Raises:
        CannotImport: the file can't be read, a column is missing, or a cell is no number.
    """
    frame = _frame(file)
    columns = [str(column) for column in frame.columns]
    frame.columns = pd.Index(columns)
    where = repr(file.name)
    of_layers = layers.find([name for name in columns if name != norm])
    norm_name, of_total = layers.pick_total(
        [name for name in columns if name not in of_layers.columns], norm, of_layers, where
    )
    names = {
        "norm": norm_name,
        "step": pick("step", columns, step, where),
        "loss": pick("loss", columns, loss, where),
        "learning_rate": pick("learning_rate", columns, None, where),
    }
    series = {kind: _numbers(frame, name, file) for kind, name in names.items() if name is not None}
    steps = series.get("step", list(range(len(frame))))
    each_layer = [_numbers(frame, name, file) for name in of_layers.columns]
    points = []
    for row in range(len(frame)):
        norms = tuple(column[row] for column in each_layer)
        value = layers.total(norms) if norm_name is None else series["norm"][row]
        if value is None:
            continue
        points.append(
            Point(
                step=_step(steps[row], file, row),
                norm=value,
                loss=series["loss"][row] if "loss" in series else None,
                learning_rate=series["learning_rate"][row] if "learning_rate" in series else None,
                layers=norms,
            )
        )
    notes: tuple[str, ...] = () if names["step"] else ("there is no column of steps, so the rows are counted",)
    notes += ((of_layers.note,) if of_layers.layers else ()) + of_total
    taken = "the norms of layers" if norm_name is None else f"column {norm_name!r}"
    return History(points, f"{taken} of {file.name}", notes=notes, layers=of_layers.layers)


def _frame(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        # As text, because pandas would read an empty cell and one that says NaN alike.
        return pd.read_csv(file, dtype=str, keep_default_na=False)
    except ImportError as error:
        raise CannotImport("Parquet needs the package pyarrow: `pip install gradwatch[parquet]`.") from error
    except Exception as error:  # parsers raise many types
        raise CannotImport(f"{str(file)!r} can't be read as a table: {first_line(error)}.") from error


def _numbers(frame: pd.DataFrame, name: str, file: Path) -> list[float | None]:
    """The numbers in a column, None for an empty cell."""
    found: list[float | None] = []
    is_text = frame[name].dtype == object or str(frame[name].dtype).startswith("str")
    for row, cell in enumerate(frame[name].tolist()):
        is_empty = cell is None or cell is pd.NA or (is_text and not str(cell).strip())
        number = None if is_empty else as_float(cell)
        if number is None and not is_empty:
            raise CannotImport(
                f"{str(file)!r} holds {str(cell)[:40]!r} in row {row + 1} of column {name!r}; expected a number."
            )
        found.append(number)
    return found


def _step(value: float | None, file: Path, row: int) -> int:
    if value is None or not re.fullmatch(r"\d+(\.0*)?", f"{value:.6f}") or not is_step(int(value)):
        raise CannotImport(f"{str(file)!r} holds {value!r} as the step of row {row + 1}; expected a whole number.")
    return int(value)
