"""Keeps the state of detectors in the store, so that a resumed run need not process every earlier step again.

A snapshot names its detectors and the last record that they had seen. Without one that fits, the
detectors see all records of the store again.
"""

from __future__ import annotations

import contextlib
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradwatch.detect import Detector
from gradwatch.detect.state import dump, fingerprint, pieces
from gradwatch.errors import StoreNotWritable
from gradwatch.record import Event, StepRecord
from gradwatch.store import StoreWriter

if TYPE_CHECKING:
    from gradwatch.store import StoreReader

logger = logging.getLogger("gradwatch")

EVERY = 15.0  # seconds between two snapshots; a run that was killed looks again at the steps since the last
SHARE = 0.001  # of the recorder's time that snapshots may take; one of 1,000 parameters has 3.5 MB


def version_of(fresh: Sequence[Detector]) -> str:
    """Tell these detectors, which have seen nothing yet, from those of other code or for another optimizer."""
    return f"{fingerprint()}-{zlib.crc32(dump(fresh)):08x}"


def unseen_records(
    path: Path, optimizer: str, detectors: Sequence[Detector], note: Callable[[Iterable[Event]], None]
) -> Iterator[StepRecord]:
    """Give fresh detectors their state in the store, and return the records that they have not seen.

    Records that are written meanwhile come last. ``note`` is given the events that go with the state.
    """
    from gradwatch.store import StoreReader

    with StoreReader(path) as reader:
        after = _restore(reader, optimizer, detectors)
        if after:
            note(event for event in reader.events() if event.optimizer == optimizer)
        yield from reader.records(optimizer, after=after)


def _restore(reader: StoreReader, optimizer: str, detectors: Sequence[Detector]) -> int:
    """Return the id of the last record that they have seen; 0 for none."""
    try:
        from gradwatch.detect.restoring import load

        found = reader.detector_state(optimizer, version_of(detectors))
        if found is None:
            return 0
        last_id, state = found
        load(detectors, state)
    except Exception as error:  # whatever stands there, the detectors can begin anew
        logger.debug("no state of detectors was taken over: %s", error)
        return 0
    return last_id


class Snapshots:
    """Writes the state of all detectors now and then, and at the end.

    It is made in the training thread before the first step, and reads the code of the detectors there: later there
    may be no file descriptor left to do so.
    """

    def __init__(self, writer: StoreWriter) -> None:
        with contextlib.suppress(OSError):
            fingerprint()
        self._writer = writer
        self._versions: dict[str, str] = {}
        self._next = time.monotonic() + EVERY
        self._saved_at = 0

    def admit(self, optimizer: str, fresh: Sequence[Detector]) -> None:
        """Remember of what version the detectors of one more optimizer are."""
        try:
            self._versions[optimizer] = version_of(fresh)
        except (TypeError, OSError) as error:
            logger.debug("no snapshots of these detectors: %s", error)

    def save(self, detectors: Mapping[str, Sequence[Detector]], last_id: int, *, closing: bool = False) -> None:
        """Save, if it is time, the state of detectors that have seen all records up to ``last_id``."""
        began = time.monotonic()
        if last_id == self._saved_at or (began < self._next and not closing):
            return
        try:
            for optimizer, those in detectors.items():
                if optimizer in self._versions:
                    self._writer.save_detector_state(optimizer, last_id, self._versions[optimizer], pieces(those))
            self._saved_at = last_id
        except (StoreNotWritable, TypeError) as error:
            logger.debug("the state of detectors was not saved", exc_info=error)
        now = time.monotonic()
        self._next = now + max(EVERY, (now - began) / SHARE)
