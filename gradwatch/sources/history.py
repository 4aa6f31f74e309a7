"""A history that another tool recorded, as the readers of its formats give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ONLY = "0"
"""The optimizer of a history that tells of no other."""


@dataclass(frozen=True, slots=True)
class Point:
    """The values logged at one step; None is not known."""

    step: int
    norm: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    reward: float | None = None  # of a policy that is trained by it
    wall_time: float = 0.0  # seconds since the epoch; 0: not known
    layers: tuple[float | None, ...] = ()  # norms of `History.layers`; None was not logged
    optimizer: str = ONLY


@dataclass(frozen=True, slots=True)
class History:
    """What a file holds.

    Attributes:
        points: in any order.
        source: the file, and the part of it that was read, in words.
        moment: when norms were taken: "before clipping", "after clipping" or "unknown"; of a history without norms that
            does not count.
        notes: sentences for the user.
        optimizer: class of the optimizer, as a config beside the history tells; empty: not known.
        optimizer_from: what tells it, in words.
        learning_rate: that the optimizer began with, as a config tells; None: not known, or the points have it.
        config: the settings of the training by their dotted names.
        layers: the names of the parameters whose norms the points have.
        validation: steps, and the loss on data that the training did not learn from.
    """

    points: Sequence[Point]
    source: str
    moment: str = "unknown"
    notes: Sequence[str] = field(default_factory=tuple)
    optimizer: str = ""
    optimizer_from: str = ""
    layers: tuple[str, ...] = ()
    learning_rate: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    validation: Sequence[tuple[int, float]] = ()
