"""Warnings that are logged once, even if their cause recurs."""

from __future__ import annotations

import logging

logger = logging.getLogger("gradwatch")


class Notices:
    """Remembers what was said."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning("%s", message)

    def not_clipped(self, why: str) -> None:
        """A policy was to clip and could not."""
        self.warn_once(f"gradwatch did not clip: {why} (clip-not-applied)")

    def not_skipped(self, why: str) -> None:
        """An update was to be left out and could not be."""
        self.warn_once(f"gradwatch did not skip: {why} (skip-not-applied)")
