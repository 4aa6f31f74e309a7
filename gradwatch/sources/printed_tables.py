"""Reads the tables of two columns that the loggers of OpenAI baselines, guided-diffusion and Stable-Baselines3 print.

    -----------------------
    | grad_norm | 0.348    |
    | loss      | 0.384    |
    | step      | 3.3e+03  |
    -----------------------

Each table is a row of values. Some loggers print several pairs in a line, with ``||`` between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradwatch.sources.lines import printed_lines
from gradwatch.sources.names import NAMES, UNSURE_NORMS, is_called
from gradwatch.sources.values import as_float

DIGITS = 3  # that these loggers print of a number
_RULE = re.compile(r"[\s|]*[-=+]{5,}[-=+|\s]*")
_LINES = str.maketrans(dict.fromkeys("│┃║", "|") | dict.fromkeys("─━═┌┬┐├┼┤└┴┘╭╮╰╯┏┓┗┛╔╗╚╝╟╢╠╣", "-"))


def rows(file: Path, norm: str | None = None) -> list[dict[str, Any]]:
    """The tables of a file as rows of named values; empty if no table has a gradient norm, a loss or a reward.

    Args:
        file: text.
        norm: the name of the norm; None: one of the usual names.

    Raises:
        CannotImport: the file can't be read.
    """
    found = list(_tables(file))
    named = (norm,) if norm is not None else (*NAMES["norm"], *UNSURE_NORMS, *NAMES["loss"], *NAMES["reward"])
    if not any(is_called(name, named) for row in found for name in row):
        return []
    return _with_whole_steps(found)


def _tables(file: Path) -> Iterator[dict[str, Any]]:
    """A row for each table. A rule ends one, and so does a name that it has already."""
    row: dict[str, Any] = {}
    section = ""
    for line in printed_lines(file):
        text = line.translate(_LINES)
        if _RULE.fullmatch(text):
            if row:
                yield row
            row, section = {}, ""
            continue
        for own, value in _pairs(text):
            if not value and own.endswith("/"):
                section = own
                continue
            name = section + own
            if name in row:
                yield row
                row = {}
            row[name] = value
    if row:
        yield row


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """The names and values of a line such as ``| loss | 0.4 || step | 7 |``.

    >>> list(_pairs("| loss      | 0.384    || step | 3.3e+03 |")), list(_pairs("| train/ |  |")), list(_pairs("a | b"))
    ([('loss', '0.384'), ('step', '3.3e+03')], [('train/', '')], [])
    """
    inner = text.strip()
    if len(inner) < 2 or inner[0] != "|" or inner[-1] != "|":
        return
    for part in inner[1:-1].split("||"):
        cells = [cell.strip() for cell in part.split("|")]
        if len(cells) == 2 and cells[0]:
            yield cells[0], cells[1]


def _with_whole_steps(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with steps that are rounded to three digits counted on from those before, as far as they agree."""
    whole: list[dict[str, Any]] = []
    before, distance = None, 0
    for row in found:
        shown = as_float(row.get("step"))
        if shown is None:
            whole.append(row)
            continue
        step = int(shown)
        if before is not None:
            counted = before + distance
            is_rounded = "e" in str(row["step"])
            if is_rounded and distance > 0 and float(f"{counted:.{DIGITS}g}") == shown:
                step = counted
            elif not is_rounded:
                distance = step - before
        before = step
        whole.append(row | {"step": step})
    return whole
