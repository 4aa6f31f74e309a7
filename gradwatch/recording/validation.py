"""The losses of validations that the script logs, kept as one entry of the table meta."""

from __future__ import annotations

import json
import time

from gradwatch.record import VALIDATION_KEY

MOST = 1000  # validations


class ValidationLosses:
    """The losses of one recording, by step. Beyond `MOST` every second one is dropped."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._key = ""

    def add(self, step: int, loss: float) -> dict[str, str]:
        """Take one more, and return the entry for meta that replaces the one before."""
        self._key = self._key or f"{VALIDATION_KEY}{time.time():.0f}"
        if len(self._points) >= MOST:
            self._points = self._points[::2]
        self._points.append((step, loss))
        return {self._key: json.dumps(self._points)}
