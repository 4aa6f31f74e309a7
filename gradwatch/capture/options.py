"""Options of capturing: which steps to keep, and how much space they may take."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.capture.record import WHYS, Why
from gradwatch.errors import BadArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """Options for the ``capture`` argument of `gradwatch.attach`.

    Attributes:
        on: the kinds of bad steps to keep: some of "nonfinite", "spike" and "explosion".
        most: largest number of captures of a run. gradwatch keeps the first bad steps, and reserves the last place
            for a non-finite step.
        max_bytes: largest size of all captures of the run together.
        min_free_bytes: space on the disk that a capture leaves free.
        max_held_bytes: largest size of the inputs and output gradients held while gradients accumulate; a step
            that needs more can't be replayed.
        weights: whether to keep the weights and the gradients too. Captures without them are small, but a replay
            then needs the weights from elsewhere.

    Raises:
        BadArgument: a value is invalid.

    >>> CaptureOptions(most=1).on
    ('nonfinite', 'spike', 'explosion')
    """

    on: tuple[Why, ...] = WHYS
    most: int = 3
    max_bytes: int = 2 * 2**30
    min_free_bytes: int = 2**30
    max_held_bytes: int = 2**30
    weights: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.on, str) or not self.on or set(self.on) - set(WHYS):
            raise BadArgument(f"on is {self.on!r}; expected some of {', '.join(WHYS)}.")
        if self.most < 1 or min(self.max_bytes, self.max_held_bytes) < 1 or self.min_free_bytes < 0:
            raise BadArgument(
                f"most is {self.most!r}, max_bytes {self.max_bytes!r}, max_held_bytes {self.max_held_bytes!r} and"
                f" min_free_bytes {self.min_free_bytes!r}; expected at least 1, 1, 1 and 0."
            )
