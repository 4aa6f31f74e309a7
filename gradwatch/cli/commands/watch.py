"""`gradwatch watch`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.cli.output import console
from gradwatch.views.console.watch import follow


def watch(path: Path | None, every: float) -> None:
    """Draw the report of a run again and again."""
    follow(path, console(), every)
