"""The flight recorder for gradients.

>>> import gradwatch
>>> sorted(gradwatch.__all__)  # doctest: +NORMALIZE_WHITESPACE
['Event', 'GradwatchError', 'Recommendation', 'Replay', 'Run', 'RunSummary', 'StepRecord', 'Watch', 'attach',
 'clip', 'replay']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradwatch.analysis.display import Renderers, show_in_notebooks_with
from gradwatch.sinks.closing import close_with
from gradwatch.version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch import clip as clip
    from gradwatch.analysis.recommend import Recommendation as Recommendation
    from gradwatch.analysis.replays.result import Replay as Replay
    from gradwatch.analysis.run import Run as Run
    from gradwatch.analysis.summary import RunSummary as RunSummary
    from gradwatch.errors import GradwatchError as GradwatchError
    from gradwatch.record import Event as Event
    from gradwatch.record import StepRecord as StepRecord
    from gradwatch.recording.attach import attach as attach
    from gradwatch.recording.watch import Watch as Watch
    from gradwatch.replaying.replay import replay as replay
    from gradwatch.sinks.tracker import Closing

_HOMES = {
    "attach": "recording.attach",
    "Watch": "recording.watch",
    "replay": "replaying.replay",
    "Replay": "analysis.replays.result",
    "Run": "analysis.run",
    "RunSummary": "analysis.summary",
    "Recommendation": "analysis.recommend",
    "Event": "record",
    "StepRecord": "record",
    "GradwatchError": "errors",
}

__all__ = [
    "Event",
    "GradwatchError",
    "Recommendation",
    "Replay",
    "Run",
    "RunSummary",
    "StepRecord",
    "Watch",
    "attach",
    "clip",
    "replay",
]


def _notebook_html(summary: RunSummary) -> str:
    from gradwatch.views.notebook import render

    return render(summary)


def _page_html(run: Run, optimizer: str | None) -> str:
    from gradwatch.views.html import render_run

    return render_run(run, optimizer)


def _closing(run: Path) -> Closing:
    from gradwatch.analysis.run import Run
    from gradwatch.export.trackers import closing_of_run

    return closing_of_run(Run(run))


show_in_notebooks_with(Renderers(_notebook_html, _page_html))
close_with(_closing)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that reading a run needs no torch."""
    if name == "clip":
        return importlib.import_module("gradwatch.clip")
    if name not in _HOMES:
        raise AttributeError(f"module 'gradwatch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gradwatch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
