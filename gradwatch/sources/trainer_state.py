"""`trainer_state.json`, which a Hugging Face Trainer writes with each checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources.history import History, Point


def read(file: Path) -> History:
    """The ``grad_norm`` of its log: the norm before clipping, of the last step of every ``logging_steps``.

    Raises:
        CannotImport: it is no such file, or no norm was logged.
    """
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CannotImport(f"{str(file)!r} can't be read as JSON: {error}.") from error
    log = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(log, list):
        raise CannotImport(f"{str(file)!r} has no list log_history; expected a trainer_state.json of a Trainer.")
    entries = [entry for entry in log if isinstance(entry, dict) and "grad_norm" in entry and "step" in entry]
    if not entries:
        raise CannotImport(
            f"{str(file)!r} logs no grad_norm. A Trainer logs it where max_grad_norm is above 0, from Transformers 4.38"
            " on."
        )
    points = [_point(entry, file) for entry in entries]
    return History(
        points,
        f"log_history of {file.name}",
        moment="before clipping",
        notes=("losses are means over the steps since the last entry, norms are of the last step alone",),
    )


def _point(entry: dict[str, Any], file: Path) -> Point:
    step = entry["step"]
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise CannotImport(f"{str(file)!r} holds {step!r} as a step; expected a whole number.")
    norm = _number(entry, "grad_norm", file)
    return Point(
        step=step,
        norm=math.nan if norm is None else norm,
        loss=_number(entry, "loss", file),
        learning_rate=_number(entry, "learning_rate", file),
    )


def _number(entry: dict[str, Any], key: str, file: Path) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CannotImport(
            f"{str(file)!r} holds {str(value)[:40]!r} as {key} of step {entry['step']}; expected a number."
        ) from None
