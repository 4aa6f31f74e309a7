"""The steps, the events or a layer statistic of a run as one CSV or Parquet file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gradwatch.analysis.history import is_imported
from gradwatch.analysis.run import Run
from gradwatch.errors import CannotExport
from gradwatch.record import EVENT_KEYS

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_table(run: Run, file: Path, what: str = "steps") -> int:
    """Write ``what`` ("steps", "events" or a statistic of the layers) and return the number of rows.

    Raises:
        BadArgument: there is no such statistic.
        CannotExport: the file's ending is unknown, a package is missing, or the file can't be written.
    """
    frame = _frame(run, what)
    has_index = what != "events"
    try:
        if file.suffix == ".csv":
            without_formulas(frame).to_csv(file, index=has_index)
        elif file.suffix == ".parquet":
            frame.to_parquet(file, index=has_index)
        else:
            raise CannotExport(f"{str(file)!r} ends in {file.suffix!r}; expected .csv or .parquet.")
    except ImportError as error:
        raise CannotExport("Parquet needs the package pyarrow: `pip install gradwatch[parquet]`.") from error
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error
    return len(frame)


def _frame(run: Run, what: str) -> pd.DataFrame:
    if what == "steps":
        return without_unknown_clipping(run.steps(), run.meta())
    if what == "events":
        return pd.DataFrame([event.as_dict() for event in run.events()], columns=EVENT_KEYS)
    return run.layers(what)


def without_unknown_clipping(frame: pd.DataFrame, meta: Mapping[str, str]) -> pd.DataFrame:
    """The steps of a run, without clipping if it is an imported history: none tells of it."""
    if not is_imported(meta):
        return frame
    unknown = [name for name in ("clip_coef", "cut_fraction", "clipped_fraction") if name in frame]
    without = frame.assign(clipped=pd.array([None] * len(frame), "boolean"))
    without[unknown] = math.nan
    return without


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before texts that a spreadsheet would run as a formula: names may come from strangers.

    >>> without_formulas(pd.DataFrame({"=cmd": ["@x", "y"], "n": [-1, 2]})).to_dict("list")
    {"'=cmd": ["'@x", 'y'], 'n': [-1, 2]}
    """

    def harmless(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value

    texts = {name: frame[name].map(harmless) for name in frame.columns if frame[name].dtype.kind not in "biuf"}
    return frame.assign(**texts).rename(columns=harmless)
