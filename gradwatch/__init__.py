"""The flight recorder for gradients.

>>> import gradwatch
>>> sorted(gradwatch.__all__)
['Event', 'GradwatchError', 'Recommendation', 'Run', 'RunSummary', 'StepRecord', 'Watch', 'attach', 'clip']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradwatch import clip as clip
    from gradwatch.errors import GradwatchError as GradwatchError
    from gradwatch.recommend import Recommendation as Recommendation
    from gradwatch.record import Event as Event
    from gradwatch.record import StepRecord as StepRecord
    from gradwatch.run import Run as Run
    from gradwatch.summary import RunSummary as RunSummary
    from gradwatch.watch import Watch as Watch
    from gradwatch.watch import attach as attach

__version__ = "0.1.0"

_HOMES = {
    "attach": "watch",
    "Watch": "watch",
    "Run": "run",
    "RunSummary": "summary",
    "Recommendation": "recommend",
    "Event": "record",
    "StepRecord": "record",
    "GradwatchError": "errors",
}

__all__ = [
    "Event",
    "GradwatchError",
    "Recommendation",
    "Run",
    "RunSummary",
    "StepRecord",
    "Watch",
    "attach",
    "clip",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that reading a run needs no torch."""
    if name == "clip":
        return importlib.import_module("gradwatch.clip")
    if name not in _HOMES:
        raise AttributeError(f"module 'gradwatch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gradwatch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
