"""Reads JSON lines and JSON lists of ``{step, loss, grad_norm, ...}``, as LLaMA-Factory, TRL and many scripts write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources.lines import beginning, first_two_lines, lines, whole_text
from gradwatch.text import count

MOST_BROKEN = 0.1
"""Of the lines that were read: with more broken lines a file holds something else than JSON lines."""


def rows(file: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The objects of a file, nested ones with names joined by a slash, and notes about lines that were left out.

    A last line that is cut off is left out without a note: it is being written, or its writer was killed.

    Raises:
        CannotImport: it can't be read, or holds something else.
    """
    found, notes = (_list(file), ()) if is_list(file) else _objects(file)
    if not found:
        raise CannotImport(f"{str(file)!r} holds no object.")
    return found, notes


def rows_within(file: Path) -> list[dict[str, Any]]:
    """The rows in an object: of the only list of objects that it holds, or of its objects whose names are steps.

    Scripts write ``{"args": ..., "history": [{"step": 0, ...}, ...]}``, and pandas ``{"0": {"loss": ...}, ...}``.
    Empty if it is neither.

    Raises:
        CannotImport: the file can't be read.
    """
    try:
        whole = json.loads(whole_text(file))
    except (ValueError, RecursionError):
        return []
    if not isinstance(whole, dict) or "log_history" in whole:  # of the Trainer, whose rows mean something else
        return []
    if whole and all(name.isdecimal() and isinstance(item, dict) for name, item in whole.items()):
        return [{"step": int(name)} | _flat(item) for name, item in whole.items()]
    lists = [value for value in whole.values() if isinstance(value, list) and value and _are_objects(value)]
    return [_flat(item) for item in lists[0]] if len(lists) == 1 else []


def _are_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def is_list(file: Path) -> bool:
    """Whether a file holds a JSON list at its top.

    Raises:
        CannotImport: it can't be read.
    """
    return beginning(file).lstrip().startswith(b"[")


def is_lines(file: Path) -> bool:
    """Whether a file holds more than one JSON object, each on its line.

    Raises:
        CannotImport: it can't be read.
    """
    first, second = first_two_lines(file)
    try:
        return isinstance(json.loads(first), dict) and bool(second.strip())
    except (ValueError, RecursionError):
        return False


def _list(file: Path) -> list[dict[str, Any]]:
    text = whole_text(file)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CannotImport(f"{str(file)!r} can't be read as JSON: {error}.") from error
    return [_flat(item) for item in whole if isinstance(item, dict)]


def _objects(file: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The objects of lines. Few lines may be broken: a training that was killed and resumed cuts one in the middle."""
    found: list[dict[str, Any]] = []
    broken: list[tuple[int, Exception]] = []
    read, number = 0, 0
    for number, line in _numbered(file):
        try:
            item = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            broken.append((number, error))
            if read:
                continue
            break
        read += 1
        if isinstance(item, dict):
            found.append(_flat(item))
    if read and broken and broken[-1][0] == number:
        broken.pop()  # it is being written, or its writer was killed
    if not broken:
        return found, ()
    first, why = broken[0]
    if len(broken) > MOST_BROKEN * read:
        raise CannotImport(f"{str(file)!r} can't be read as JSON lines: line {first}: {why}.") from why
    return found, (f"{count(len(broken), 'line')} left out that can't be read as JSON, the first is line {first}",)


def _numbered(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, without the NULs that fill a file whose machine went down."""
    for number, line in enumerate(lines(file), 1):
        text = line.strip(b" \t\r\0")
        if text:
            yield number, text


def _flat(item: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, dict) and depth < 5:
            found |= _flat(value, f"{prefix}{key}/", depth + 1)
        else:
            found[f"{prefix}{key}"] = value
    return found
