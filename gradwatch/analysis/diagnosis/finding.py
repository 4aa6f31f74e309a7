"""`Finding`: one fault of a training, in words for its user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from gradwatch.record import Severity
from gradwatch.text import number

Certainty: TypeAlias = Literal["shown", "likely", "possible"]

FINDING_KEYS = [
    "code",
    "severity",
    "certainty",
    "what",
    "optimizer",
    "parameters",
    "rank",
    "steps",
    "evidence",
    "cause",
    "remedy",
    "confirm",
    "capture",
]
"""The keys of a finding in the JSON contract, in its order."""

WHICH_THRESHOLD = " (`gradwatch recommend` gives a threshold)"
"""Stands behind "clip" in a remedy. `gradwatch recommend` itself leaves it out."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, as evidence.

    >>> str(Quantity(0.25, "share of steps")), str(Quantity(3, "steps")), str(Quantity(None, "loss"))
    ('0.25 (share of steps)', '3 (steps)', 'not known (loss)')
    """

    value: float | int | str | None
    unit: str

    def __str__(self) -> str:
        value = "not known" if self.value is None else self.value
        text = number(value, 4) if isinstance(value, float) else str(value)
        return f"{text} ({self.unit})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedStep:
    """A captured step that a finding is about.

    Attributes:
        step: its number.
        folder: of the capture.
        replayable: whether it can be replayed.
        replayed: what its replay found, in one sentence; None if it was not replayed.
    """

    step: int
    folder: str
    replayable: bool
    replayed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault of a training: what is wrong, where, the evidence, the cause, and the remedy.

    Attributes:
        code: a stable slug; `gradwatch explain CODE` prints its page.
        severity: of the consequence: critical (the training is lost, or nothing is trained), warning or info.
        certainty: shown (the record proves it), likely or possible.
        what: one sentence.
        optimizer: the optimizer's name; None: the whole run.
        parameters: names, the most relevant first; empty: the finding is not about single parameters.
        rank: the process of a distributed training in which it began; None: unknown, or not about ranks.
        steps: the first and the last step, by the optimizer's own counter; None: the finding is not about steps.
        evidence: numbers by name, with their units.
        cause: why it happens, as far as is known.
        remedy: what to change.
        confirm: how to verify the cause.
        capture: the captured step that the finding is about; None: no step of it was captured.
    """

    code: str
    severity: Severity
    certainty: Certainty
    what: str
    optimizer: str | None = None
    parameters: tuple[str, ...] = ()
    rank: int | None = None
    steps: tuple[int, int] | None = None
    evidence: Mapping[str, Quantity] = field(default_factory=dict)
    cause: str
    remedy: str
    confirm: str
    capture: CapturedStep | None = None

    def as_dict(self) -> dict[str, Any]:
        """The finding in the order of the JSON contract."""
        found: dict[str, Any] = {key: getattr(self, key) for key in FINDING_KEYS}
        found["parameters"] = list(self.parameters)
        found["steps"] = None if self.steps is None else list(self.steps)
        found["evidence"] = {name: {"value": _plain(q.value), "unit": q.unit} for name, q in self.evidence.items()}
        found["capture"] = None if self.capture is None else asdict(self.capture)
        return found


def _plain(value: float | int | str | None) -> float | int | str | None:
    """A number as Python's own type: NumPy's are subclasses of it that not every writer takes.

    >>> import numpy
    >>> _plain(numpy.float64(0.5)), _plain(numpy.float32(0.5)), _plain("5, 7"), _plain(None)
    (0.5, 0.5, '5, 7', None)
    """
    return value.item() if isinstance(value, np.generic) else value


def listed(names: tuple[str, ...] | list[str], most: int = 3) -> str:
    """Names in a sentence, the first few of them.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
    ('a', 'a and b', 'a, b, c and 2 more')
    """
    if len(names) <= 1:
        return "".join(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return f"{', '.join(names[:-1])} and {names[-1]}"
