"""trackio: a run of gradwatch's own in a local project."""

from __future__ import annotations

from typing import Any

from gradwatch.record import Event
from gradwatch.sinks.event_files import PREFIX
from gradwatch.sinks.series import WindowTracker, known, title
from gradwatch.sinks.tracker import Closing, RunFacts
from gradwatch.sinks.windows import Point

PROJECT = "gradwatch"


class TrackioRun(WindowTracker):
    """Logs to trackio, which prints lines about its project to standard output.

    Args:
        project: of trackio.
    """

    label = "trackio"

    def __init__(self, project: str | None = None) -> None:
        super().__init__()
        self._project = project or PROJECT
        self._run: Any = None

    def open(self, facts: RunFacts) -> None:
        """Begin a run with the config."""
        super().open(facts)
        import trackio

        config = {"gradwatch_run": str(facts.path), **facts.config}
        self._run = trackio.init(
            project=self._project, name=facts.name, config=config, embed=False, auto_log_gpu=False, auto_log_cpu=False
        )

    def send(self, point: Point) -> None:
        """Log a point at its last step."""
        self._run.log(self.names(point), step=point.last.step)

    def alert(self, event: Event) -> None:
        """Raise an alert."""
        import trackio

        level = trackio.AlertLevel.ERROR if event.severity == "critical" else trackio.AlertLevel.WARN
        self._run.alert(title=f"{PREFIX}: {title(event)}", text=event.message, level=level, step=event.step)

    def finish(self, closing: Closing) -> None:
        """Log the verdict and end the run."""
        self._run.log(dict(known(closing)))
        self._run.finish()
