"""Weights & Biases: a run of gradwatch's own beside the script's, because a second writer would disturb its steps."""

from __future__ import annotations

import os
import sys
from typing import Any

from gradwatch.record import Event
from gradwatch.sinks.event_files import PREFIX
from gradwatch.sinks.series import WindowTracker, known, title
from gradwatch.sinks.tracker import Closing, RunFacts
from gradwatch.sinks.windows import Point


def script_run() -> dict[str, Any]:
    """Project and group of the script's own run; empty if it has none."""
    own = getattr(sys.modules.get("wandb"), "run", None)
    return {} if own is None else {"project": own.project, "group": own.name}


class WandbRun(WindowTracker):
    """Logs to W&B, also offline (``WANDB_MODE=offline``). The step of a series is ``gradwatch/step``.

    Args:
        project: of W&B; by default that of the script's own run, else W&B's default.
    """

    label = "wandb"

    def __init__(self, project: str | None = None) -> None:
        super().__init__()
        self._project = project
        self._beside: dict[str, Any] | None = None
        self._run: Any = None

    def stand_beside(self, **script_run: Any) -> None:
        """Say what `script_run` is in the script's process, because this is another."""
        self._beside = script_run

    def open(self, facts: RunFacts) -> None:
        """Begin a run; it stands in the group of the script's own run."""
        super().open(facts)
        if self._beside is not None:
            os.environ.pop("WANDB_SERVICE", None)  # of the script's process, with which it ends
        import wandb

        own = script_run() if self._beside is None else self._beside
        self._run = wandb.init(
            project=self._project or own.get("project"),
            group=own.get("group"),
            name=f"{facts.name}-gradwatch",
            job_type="gradwatch",
            config={"gradwatch_run": str(facts.path), **facts.config},
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True
            ),
        )
        self._run.define_metric(f"{PREFIX}/*", step_metric=f"{PREFIX}/step")

    def send(self, point: Point) -> None:
        """Log a point at its last step."""
        self._run.log({f"{PREFIX}/step": point.last.step, f"{PREFIX}/peak_step": point.peak.step} | self.names(point))

    def alert(self, event: Event) -> None:
        """Raise an alert."""
        level = "ERROR" if event.severity == "critical" else "WARN"
        self._run.alert(title=f"{PREFIX}: {title(event)}", text=event.message, level=level)

    def finish(self, closing: Closing) -> None:
        """Write the verdict into the run's summary and end the run."""
        self._run.summary.update(dict(known(closing)))
        self._run.finish()
