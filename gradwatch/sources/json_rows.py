"""Reads JSON lines and JSON lists of ``{step, loss, grad_norm, ...}``, as LLaMA-Factory, TRL and many scripts write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport

MAX_BYTES = 2**31


def rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a file, nested ones with names joined by a slash; a last line that is cut off is left out.

    Raises:
        CannotImport: it can't be read, or holds something else.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CannotImport(f"{str(file)!r} has more than {MAX_BYTES} bytes.")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error
    found = _list(text, file) if text.lstrip().startswith("[") else _lines(text, file)
    if not found:
        raise CannotImport(f"{str(file)!r} holds no object.")
    return found


def _list(text: str, file: Path) -> list[dict[str, Any]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CannotImport(f"{str(file)!r} can't be read as JSON: {error}.") from error
    return [_flat(item) for item in whole if isinstance(item, dict)]


def _lines(text: str, file: Path) -> list[dict[str, Any]]:
    found, lines = [], [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number and number == len(lines) - 1:
                break  # it is being written, or its writer was killed
            raise CannotImport(f"{str(file)!r} can't be read as JSON lines: line {number + 1}: {error}.") from error
        if isinstance(item, dict):
            found.append(_flat(item))
    return found


def _flat(item: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, dict) and depth < 5:
            found |= _flat(value, f"{prefix}{key}/", depth + 1)
        else:
            found[f"{prefix}{key}"] = value
    return found
