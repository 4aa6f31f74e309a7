"""Writes a bad step into the run, in one process or in all that train together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from gradwatch.capture import Capture, CaptureOptions, Why, capture_folders, write
from gradwatch.capture.listing import part_folder
from gradwatch.recording.capture.judging import Judged
from gradwatch.recording.capture.keeping import NoRoom, check_disk, make_capture, place_for
from gradwatch.recording.capture.ledger import Ledger
from gradwatch.recording.capture.team import CaptureTeam, Place
from gradwatch.text import number

logger = logging.getLogger("gradwatch")


class Keeper:
    """Keeps steps in the folder of one run. Rank 0 decides, and each rank writes its part beside that of rank 0."""

    def __init__(self, run: Path, options: CaptureOptions, team: CaptureTeam | None) -> None:
        self._run, self._options, self._team = run, options, team

    def keep(self, ledger: Ledger, gradients: Sequence[Tensor | None], judged: Judged) -> None:
        """Write a step that was judged bad if it may still be kept, and say what was kept or why not."""
        step = ledger.tracker.step
        try:
            if self._team is not None and self._team.rank > 0:
                self._keep_part(self._team, ledger, gradients, judged)
                return
            capture, folder = self._decide(ledger, gradients, judged)
            if folder is None:
                return
            write(capture, folder)
        except (NoRoom, OSError) as error:
            logger.warning("gradwatch did not capture step %d (%s): %s (not-captured)", step, judged.why, error)
            return
        logger.warning(
            "gradwatch kept step %d (%s, total norm %s) in %r%s (step-captured)",
            step,
            judged.why,
            number(judged.total_norm),
            str(folder),
            "" if capture.replayable else f"; it can't be replayed: {'; '.join(capture.not_kept)}",
        )

    def _decide(
        self, ledger: Ledger, gradients: Sequence[Tensor | None], judged: Judged
    ) -> tuple[Capture, Path | None]:
        """The capture and its folder, None if the step is not kept; the other ranks hear of it in any case."""
        place = None
        capture = make_capture(ledger, gradients, self._options, run=self._run, judged=judged)
        try:
            if not self._may_keep(judged.why):
                return capture, None
            folder = place_for(capture, self._run, self._options)
            place = Place(folder=str(folder), step=capture.step)
            return capture, folder
        finally:
            if self._team is not None and ledger.parallel is not None:
                self._team.announce(ledger.moment, place)

    def _keep_part(self, team: CaptureTeam, ledger: Ledger, gradients: Sequence[Tensor | None], judged: Judged) -> None:
        """Write the part of this process, if rank 0 keeps the step."""
        place = team.place(ledger.moment)
        if place is not None:
            capture = make_capture(ledger, gradients, self._options, run=self._run, judged=judged)
            check_disk(capture, self._run, self._options)
            write(replace(capture, step=place.step), part_folder(Path(place.folder), team.rank))

    def _may_keep(self, why: Why) -> bool:
        """Whether such a step may still be kept; the last place is for one that is not finite."""
        reserved = why != "nonfinite" and "nonfinite" in self._options.on and self._options.most > 1
        return len(capture_folders(self._run)) < self._options.most - reserved
