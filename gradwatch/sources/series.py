"""Reads JSON objects that hold a list of values for each series, instead of a row for each step.

Sacred's ``info.json`` as PyMARL fills it has ``{"loss": [...], "loss_T": [steps], ...}``, Sacred's ``metrics.json`` has
``{"loss": {"steps": [...], "values": [...]}, ...}``, and scripts dump ``{"loss": [...], "grad_norm": [...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradwatch.sources.lines import whole_text
from gradwatch.sources.logged import Value, of_values
from gradwatch.sources.values import as_float

STEPS_OF = "_T"  # ends the name of the steps of a series in PyMARL's files
STEPS = ("step", "steps", "global_step", "iteration", "iterations", "iters")
"""Names of the list that holds the steps of all others."""


def rows(file: Path) -> list[dict[str, Any]]:
    """A row for each step; empty if the file holds no object of series.

    Raises:
        CannotImport: the file can't be read.
    """
    try:
        whole = json.loads(whole_text(file))
    except (ValueError, RecursionError):
        return []
    return of_values(_values(whole)) if isinstance(whole, dict) else []


def _values(whole: Mapping[str, Any]) -> Iterator[Value]:
    lists = {name: value for name, value in whole.items() if isinstance(value, list)}
    shared = next((lists[name] for name in STEPS if name in lists), None)
    for name, value in whole.items():
        steps: Any
        values: Any
        if isinstance(value, dict) and value and all(key.isdecimal() for key in value):  # as pandas writes a column
            steps, values = [int(key) for key in value], list(value.values())
        elif isinstance(value, dict):
            steps, values = value.get("steps"), value.get("values")
        elif f"{name}{STEPS_OF}" in lists:
            steps, values = lists[f"{name}{STEPS_OF}"], value
        elif name in lists and name not in STEPS and not name.endswith(STEPS_OF):
            steps, values = shared if shared is not None else list(range(len(value))), value
        else:
            continue
        if isinstance(steps, list) and isinstance(values, list) and len(steps) == len(values):
            yield from _series(name, steps, values)


def _series(name: str, steps: list[Any], values: list[Any]) -> Iterator[Value]:
    numbers = [_number(value) for value in values]
    if any(number is not None for number in numbers):
        for step, number in zip(steps, numbers, strict=True):
            yield Value(name=name, step=step, value=number)


def _number(value: Any) -> float | None:
    """A number, also as jsonpickle writes one of NumPy's; None if it is none.

    >>> _number(1.5), _number({"dtype": "float64", "py/object": "numpy.float64", "value": 0.5}), _number([1])
    (1.5, 0.5, None)
    """
    if isinstance(value, dict):
        value = value.get("value")
    return None if isinstance(value, bool | str) else as_float(value)
