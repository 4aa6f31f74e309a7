"""Reads ``trainer_state.json``, which a Hugging Face Trainer writes with each checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources.history import History, Point
from gradwatch.sources.lines import whole_text
from gradwatch.sources.values import as_float, is_step


def read(file: Path) -> History:
    """Read ``grad_norm`` from its log: the norm before clipping, of the last of every ``logging_steps`` steps.

    A log without norms is read for its losses. A Trainer logs norms if max_grad_norm is above 0, since Transformers
    4.38.

    Raises:
        CannotImport: it is no such file, or it logs neither a norm nor a loss.
    """
    text = whole_text(file)
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CannotImport(f"{str(file)!r} can't be read as JSON: {error}.") from error
    log = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(log, list):
        raise CannotImport(
            f"{str(file)!r} holds neither a list log_history, as a trainer_state.json does, nor rows or series."
        )
    logged = [entry for entry in log if isinstance(entry, dict) and "step" in entry]
    has_norms = any(entry.get("grad_norm") is not None for entry in logged)
    entries = [entry for entry in logged if ("grad_norm" if has_norms else "loss") in entry]
    if not entries:
        raise CannotImport(f"{str(file)!r} logs neither grad_norm nor loss.")
    points = [_point(entry, file, has_norms=has_norms) for entry in entries]
    of_norms = ", norms are of the last step alone" if has_norms else ""
    return History(
        points,
        f"log_history of {file.name}",
        moment="before clipping",
        validation=_validation(log),
        notes=(f"losses are means over the steps since the last entry{of_norms}",),
    )


def _validation(log: list[Any]) -> list[tuple[int, float]]:
    """Steps and ``eval_loss``; what can't be read is left out."""
    logged = [entry for entry in log if isinstance(entry, dict) and is_step(entry.get("step"))]
    pairs = [(int(entry["step"]), as_float(entry.get("eval_loss"))) for entry in logged]
    return [(step, loss) for step, loss in pairs if loss is not None]


def _point(entry: dict[str, Any], file: Path, *, has_norms: bool) -> Point:
    step = entry["step"]
    if not is_step(step):
        raise CannotImport(f"{str(file)!r} holds {_shown(step)} as a step; expected a whole number below 2^53.")
    norm = _number(entry, "grad_norm", file)
    return Point(
        step=step,
        norm=math.nan if norm is None and has_norms else norm,
        loss=_number(entry, "loss", file),
        learning_rate=_number(entry, "learning_rate", file),
        reward=_number(entry, "reward", file),
    )


def _number(entry: dict[str, Any], key: str, file: Path) -> float | None:
    value = entry.get(key)
    number = as_float(value)
    if number is None and value is not None:
        raise CannotImport(f"{str(file)!r} holds {_shown(value)} as {key} of step {entry['step']}; expected a number.")
    return number


def _shown(value: object) -> str:
    """The beginning of a value, in quotes."""
    return repr(str(value)[:40])
