"""The closing facts of a run for its trackers, without a dependency of recording on the analysis.

Analysis comes after recording, and imports pandas. `gradwatch/__init__.py`, the last stage and the first that Python
runs, registers the function here; it imports the analysis when it is called, once a recording with trackers has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch.sinks.tracker import Closing  # it needs numpy, and this module is imported with the package

logger = logging.getLogger("gradwatch")

_judges: list[Callable[[Path], Closing]] = []  # at most one


def close_with(judge: Callable[[Path], Closing]) -> None:
    """Register the function that sums up a run; the last one registered is used."""
    _judges[:] = [judge]


def closing_of(run: Path) -> Closing:
    """The verdict of a run and a few numbers; empty where that is not known."""
    try:
        return _judges[0](run) if _judges else {}
    except Exception as error:
        logger.debug("the run was not summed up", exc_info=error)
        return {}
