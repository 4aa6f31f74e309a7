"""Reads tables: CSV and Parquet with a column of norms or losses, including the exports of W&B."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from gradwatch.errors import CannotImport
from gradwatch.sources import layers, parts
from gradwatch.sources.columns import Columns, choose, told
from gradwatch.sources.history import History, Point
from gradwatch.sources.lines import beginning, encoding_of, first_two_lines, refuse_long_lines
from gradwatch.sources.names import NAMES, OF_DATA, is_called, is_of_held_out_data
from gradwatch.sources.values import (
    BEFORE_TRAINING,
    as_float,
    first_line,
    is_rounded_to_zero,
    is_step,
    on_through_epochs,
    rounds_rates,
)
from gradwatch.text import count

NOT_THERE = {"", "none", "null", "na", "n/a", "#n/a", "<na>", "-"}
"""What programs write into a cell without a value, in lower case. NaN is a value."""


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
    table = _parquet(file) if file.suffix == ".parquet" else _csv(file)
    computed = parts.sums(table.names)
    table = _with_sums(table, computed)
    columns = choose(list(table.names), repr(file.name), norm, step, loss, layers_prefix)
    possible = {columns.norm, columns.loss, columns.reward, *columns.rivals.values()} - {None, norm, loss}
    numbers = {name: _numbers(table, name, file) for name in possible if name is not None}
    empty = [name for name, found in numbers.items() if all(number is None for number in found)]
    if empty:
        filled = [name for name in table.names if name not in empty]
        try:
            columns = choose(filled, repr(file.name), norm, step, loss, layers_prefix)
        except CannotImport:
            if columns.judges_rivals:  # the loss of one rival alone is not the training's
                raise
    found = {name: _points(table, own, file, numbers) for name, own in columns.by_optimizer()}
    points = {row: point for own in found.values() for row, point in own.items()}
    return History(
        [replace(point, optimizer=name) for name, own in found.items() for point in own.values()],
        f"{columns.taken} of {file.name}",
        notes=(*told(list(table.names), columns), *_left_out(table, columns, len(points)), *parts.notes(computed)),
        layers=columns.series.layers,
        validation=list(_validation(table, columns, points)),
    )


def is_table(file: Path) -> bool:
    """Whether text begins as a table does: with names, of a loss or a norm among them, and a row of numbers.

    Raises:
        CannotImport: the file can't be read.
    """
    both = first_two_lines(file)
    mark = _separator(both[0])
    first, second = (line.decode("utf-8", "replace").split(mark) for line in both)
    names = [name.strip() for name in first]
    has_series = any(is_called(name, (*NAMES["loss"], *NAMES["norm"])) for name in names)
    has_words = all(re.fullmatch(r"[A-Za-z_][\w/.()@%-]{0,99}", name) for name in names)
    return len(names) == len(second) > 1 and has_series and has_words and as_float(second[0]) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A table whose columns become Python values when they are asked for.

    Attributes:
        names: of the columns.
        rows: how many there are.
        cells: the values of a column by its name; None or empty text was not logged.
        hides_nan: whether its writer makes no difference between NaN and a value that was not logged.
    """

    names: tuple[str, ...]
    rows: int
    cells: Callable[[str], list[Any]]
    hides_nan: bool = False


def _with_sums(table: _Table, computed: Mapping[str, Sequence[str]]) -> _Table:
    """The table, and beside its columns the sums of some."""

    def cells(name: str) -> list[Any]:
        if name not in computed:
            return table.cells(name)
        each = ([None if _is_empty(cell) else as_float(cell) for cell in table.cells(part)] for part in computed[name])
        return [parts.total(values) for values in zip(*each, strict=True)]

    return replace(table, names=(*table.names, *computed), cells=cells)


def _left_out(table: _Table, columns: Columns, taken: int) -> Iterator[str]:
    """A sentence if rows do not count."""
    missing = table.rows - taken
    if missing:
        hidden = (
            "; pandas writes NaN to Parquet as an empty cell, so a NaN may be among them" if table.hides_nan else ""
        )
        what = "norm" if columns.has_norms else "loss" if columns.loss or columns.judges_rivals else "reward"
        yield f"{count(missing, 'row')} without a {what} left out{hidden}"


def _points(table: _Table, columns: Columns, file: Path, numbers: Mapping[str, list[float | None]]) -> dict[int, Point]:
    """A point for each row that has a norm, by row; where none has one, that has a loss, or else a reward."""
    found = dict(_rows(table, columns, file, numbers))
    if columns.step is None or "epoch" not in table.names:
        return found
    epochs = [as_float(cell) for cell in table.cells("epoch")]
    steps = on_through_epochs([point.step for point in found.values()], [epochs[row] for row in found])
    return {row: replace(point, step=step) for step, (row, point) in zip(steps, found.items(), strict=True)}


def _validation(table: _Table, columns: Columns, points: dict[int, Point]) -> Iterator[tuple[int, float]]:
    """The losses of validations, each at the step of the last row that counts; what is no number is left out."""
    if columns.validation_loss is None:
        return
    step: int | None = None
    for row, cell in enumerate(table.cells(columns.validation_loss)):
        step = points[row].step if row in points else step
        loss = None if _is_empty(cell) else as_float(cell)
        if step is not None and loss is not None:
            yield step, loss


def _rows(
    table: _Table, columns: Columns, file: Path, numbers: Mapping[str, list[float | None]]
) -> Iterator[tuple[int, Point]]:
    """The rows that count, with their numbers; ``numbers`` are those of the columns that were read already."""
    of = {
        kind: numbers[name] if name in numbers else _numbers(table, name, file, are_rates=kind == "learning_rate")
        for kind, name in columns.by_kind.items()
        if name is not None and kind != "validation_loss"
    }
    nothing: list[float | None] = [None] * table.rows
    rates = of.get("learning_rate", nothing)
    if rounds_rates(rates, (*of.get("norm", ()), *of.get("loss", ()))):
        rates = [None if rate == 0 else rate for rate in rates]
    steps = of.get("step", list(range(table.rows)))
    losses, rewards = (of.get(kind, nothing) for kind in ("loss", "reward"))
    losses = [None if held_out else loss for loss, held_out in zip(losses, _held_out(table), strict=True)]
    each_layer = [_numbers(table, name, file) for name in columns.series.columns]
    layer_norms = list(zip(*each_layer, strict=True)) or [()] * table.rows
    totals = of["norm"] if columns.norm is not None else [layers.total(norms) for norms in layer_norms]
    deciding = totals if columns.has_norms else rewards if columns.loss is None else losses
    each = zip(steps, totals, losses, rates, rewards, layer_norms, strict=True)
    last: float | None = None  # reward since the last row that counts: rewards may have rows of their own
    for row, (step, norm, loss, rate, reward, norms) in enumerate(each):
        last = last if reward is None else reward
        if deciding[row] is not None and step != BEFORE_TRAINING:
            at = _step(step, file, row)
            yield row, Point(step=at, norm=norm, loss=loss, learning_rate=rate, reward=last, layers=norms)
            last = None


def _held_out(table: _Table) -> list[bool]:
    """Of each row, whether it says that it is of data that is not trained on."""
    names = [name for name in OF_DATA if name in table.names]
    if not names:
        return [False] * table.rows
    cells = zip(*(table.cells(name) for name in names), strict=True)
    return [is_of_held_out_data(dict(zip(names, each, strict=True))) for each in cells]


def _parquet(file: Path) -> _Table:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise CannotImport("Parquet needs the package pyarrow: `pip install gradwatch[parquet]`.") from error
    try:
        # Not by pandas, which would read a cell that was not logged as NaN.
        table = parquet.ParquetFile(file).read()
    except Exception as error:  # pyarrow raises many types
        raise _unreadable(file, error) from error
    names = tuple(dict.fromkeys(table.column_names))
    return _Table(
        names=names,
        rows=table.num_rows,
        cells=lambda name: table.column(table.column_names.index(name)).to_pylist(),
        hides_nan=b"pandas" in (table.schema.metadata or {}),
    )


def _csv(file: Path) -> _Table:
    refuse_long_lines(file)
    # As text, because pandas would read an empty cell and one that says NaN alike. Without `index_col`, pandas takes
    # the first column for an index where rows are longer than the head, and each column gets its neighbour's values.
    mark = _separator(beginning(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                file,
                sep=mark,
                encoding=encoding_of(file),
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skipinitialspace=True,
            )
    except pd.errors.ParserWarning as error:
        raise CannotImport(
            f"{str(file)!r} has a row that is longer than its first line, which names the columns."
        ) from error
    except Exception as error:  # parsers raise many types
        raise _unreadable(file, error) from error
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    frame = _without_gaps(frame)
    if mark != ",":  # then a comma is that of a decimal fraction
        frame = frame.apply(lambda cells: cells.str.replace(",", "."))
    return _Table(names=tuple(frame.columns), rows=len(frame), cells=lambda name: frame[name].tolist())


def _without_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the names of the columns where a resumed training wrote them again, and without padding of NULs.

    A file has such padding where the machine, or its file server, went down.
    """
    if not len(frame) or not len(frame.columns):
        return frame
    first = frame.iloc[:, 0]
    doubtful = (first.str.strip() == frame.columns[0]) | first.str.startswith("\0")
    kept = [
        not (is_doubtful and (cells[0].startswith("\0") or [cell.strip() for cell in cells] == [*frame.columns]))
        for is_doubtful, cells in zip(doubtful, frame.itertuples(index=False, name=None), strict=True)
    ]
    return frame if all(kept) else frame[kept]


def _separator(head: bytes) -> str:
    r"""What is between the names of the columns: a comma, else a tab or a semicolon.

    >>> [_separator(head) for head in (b"step,loss;a", b"step;loss", b"step\tloss", b"norm")]
    [',', ';', '\t', ',']
    """
    names = head.split(b"\n", 1)[0].decode("utf-8", "replace")
    return next((mark for mark in ",\t;" if mark in names), ",")


def _unreadable(file: Path, error: Exception) -> CannotImport:
    return CannotImport(f"{str(file)!r} can't be read as a table: {first_line(error)}.")


def _numbers(table: _Table, name: str, file: Path, *, are_rates: bool = False) -> list[float | None]:
    """The numbers in a column, None for an empty cell and for a learning rate that is rounded to 0."""
    found: list[float | None] = []
    for row, cell in enumerate(table.cells(name)):
        is_empty = _is_empty(cell) or (are_rates and is_rounded_to_zero(cell))
        number = None if is_empty else as_float(cell)
        if number is None and not is_empty:
            raise CannotImport(
                f"{str(file)!r} holds {str(cell)[:40]!r} in row {row + 1} of column {name!r}; expected a number."
            )
        found.append(number)
    return found


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in NOT_THERE)


def _step(value: float | None, file: Path, row: int) -> int:
    if value is None or not re.fullmatch(r"\d+(\.0*)?", f"{value:.6f}") or not is_step(int(value)):
        raise CannotImport(
            f"{str(file)!r} holds {value!r} as the step of row {row + 1}; expected one from 0 on, below 2^53."
        )
    return int(value)
