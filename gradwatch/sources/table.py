"""Reads tables: CSV and Parquet with a column of norms, including the exports of W&B."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from gradwatch.errors import CannotImport
from gradwatch.sources import layers
from gradwatch.sources.columns import Columns, choose, told
from gradwatch.sources.history import History, Point, as_float, first_line, is_step
from gradwatch.sources.lines import refuse_long_lines


def read(
    file: Path,
    norm: str | None = None,
    step: str | None = None,
    loss: str | None = None,
    layers_prefix: str | None = None,
) -> History:
    """Read a table with a row for each step. An empty cell was not logged. Without a column of steps, rows are counted.

    Raises:
        CannotImport: the file can't be read, a column is missing, or a cell is no number.
    """
    frame = _frame(file)
    frame.columns = pd.Index([str(column) for column in frame.columns])
    columns = choose(list(frame.columns), repr(file.name), norm, step, loss, layers_prefix)
    taken = "the norms of layers" if columns.norm is None else f"column {columns.norm!r}"
    return History(
        list(_points(frame, columns, file)),
        f"{taken} of {file.name}",
        notes=tuple(told(list(frame.columns), columns)),
        layers=columns.series.layers,
    )


def _points(frame: pd.DataFrame, columns: Columns, file: Path) -> Iterator[Point]:
    """A point for each row that has a norm."""
    of = {kind: _numbers(frame, name, file) for kind, name in columns.by_kind.items() if name is not None}
    nothing: list[float | None] = [None] * len(frame)
    steps = of.get("step", list(range(len(frame))))
    losses, rates = of.get("loss", nothing), of.get("learning_rate", nothing)
    each_layer = [_numbers(frame, name, file) for name in columns.series.columns]
    layer_norms = list(zip(*each_layer, strict=True)) or [()] * len(frame)
    totals = of["norm"] if columns.norm is not None else [layers.total(norms) for norms in layer_norms]
    for row, (step, norm, loss, rate, norms) in enumerate(zip(steps, totals, losses, rates, layer_norms, strict=True)):
        if norm is not None:
            yield Point(step=_step(step, file, row), norm=norm, loss=loss, learning_rate=rate, layers=norms)


def _frame(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        return _csv(file)
    except CannotImport:
        raise
    except ImportError as error:
        raise CannotImport("Parquet needs the package pyarrow: `pip install gradwatch[parquet]`.") from error
    except pd.errors.ParserWarning as error:
        raise CannotImport(
            f"{str(file)!r} has a row that is longer than its first line, which names the columns."
        ) from error
    except Exception as error:  # parsers raise many types
        raise CannotImport(f"{str(file)!r} can't be read as a table: {first_line(error)}.") from error


def _csv(file: Path) -> pd.DataFrame:
    refuse_long_lines(file)
    # As text, because pandas would read an empty cell and one that says NaN alike. Without `index_col`, pandas takes
    # the first column for an index where rows are longer than the head, and each column gets its neighbour's values.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(file, dtype=str, keep_default_na=False, index_col=False)


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
