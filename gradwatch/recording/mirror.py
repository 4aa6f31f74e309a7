"""A second destination for every record, for example event files. A fault in it ends only the mirror."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from gradwatch.record import StepRecord

logger = logging.getLogger("gradwatch")


class Mirror(Protocol):
    """Is shown every record that was written."""

    def add(self, record: StepRecord) -> None: ...
    def close(self) -> None: ...


class GuardedMirror:
    """Shows records to a mirror, if there is one, until it fails."""

    def __init__(self, mirror: Mirror | None) -> None:
        self._mirror = mirror

    def show(self, records: Iterable[StepRecord]) -> None:
        if self._mirror is None:
            return
        try:
            for record in records:
                self._mirror.add(record)
        except Exception as error:
            logger.warning("gradwatch no longer writes event files: %s (mirror-stopped)", error)
            self._mirror = None

    def close(self) -> None:
        if self._mirror is None:
            return
        try:
            self._mirror.close()
        except Exception as error:
            logger.warning("gradwatch could not write all event files: %s (mirror-stopped)", error)
        self._mirror = None


def event_files(run: Path, several: bool) -> Mirror | None:
    """Event files beside the store, of one or several optimizers; without them the run is recorded all the same."""
    from gradwatch.sinks.event_files import EventFiles

    try:
        return EventFiles(run, several)
    except (ImportError, OSError) as error:
        logger.warning("gradwatch writes no event files: %s (mirror-stopped)", error)
        return None
