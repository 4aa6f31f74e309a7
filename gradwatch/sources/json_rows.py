"""Reads JSON lines and JSON lists of ``{step, loss, grad_norm, ...}``, as LLaMA-Factory, TRL and many scripts write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources.lines import beginning, lines, whole_text

MAX_LIST_BYTES = 2**28
"""Of a JSON list, which is in memory as a whole; JSON lines may be of any length."""


def rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a file, nested ones with names joined by a slash; a last line that is cut off is left out.

    Raises:
        CannotImport: it can't be read, or holds something else.
    """
    found = _list(file) if is_list(file) else list(_objects(file))
    if not found:
        raise CannotImport(f"{str(file)!r} holds no object.")
    return found


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
    first, second = (*beginning(file).split(b"\n", 2)[:2], b"")[:2]
    try:
        return isinstance(json.loads(first), dict) and bool(second.strip())
    except (ValueError, RecursionError):
        return False


def _list(file: Path) -> list[dict[str, Any]]:
    text = whole_text(file, MAX_LIST_BYTES)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CannotImport(f"{str(file)!r} can't be read as JSON: {error}.") from error
    return [_flat(item) for item in whole if isinstance(item, dict)]


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    numbered = ((number, line) for number, line in enumerate(lines(file), 1) if line.strip())
    is_first = True
    for number, line in numbered:
        try:
            item = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            if not is_first and next(numbered, None) is None:
                return  # it is being written, or its writer was killed
            raise CannotImport(f"{str(file)!r} can't be read as JSON lines: line {number}: {error}.") from error
        is_first = False
        if isinstance(item, dict):
            yield _flat(item)


def _flat(item: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, dict) and depth < 5:
            found |= _flat(value, f"{prefix}{key}/", depth + 1)
        else:
            found[f"{prefix}{key}"] = value
    return found
