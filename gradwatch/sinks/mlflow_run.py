"""MLflow: a run of gradwatch's own, written by the client, so that the script's active run stays as it is."""

from __future__ import annotations

from typing import Any

from gradwatch.record import Event
from gradwatch.sinks.event_files import PREFIX
from gradwatch.sinks.series import WindowTracker, known, title
from gradwatch.sinks.tracker import Closing, RunFacts
from gradwatch.sinks.windows import Point

EXPERIMENT = "gradwatch"
LONGEST_TAG = 4000  # characters; MLflow allows 5000


class MlflowRun(WindowTracker):
    """Logs to MLflow. A metric has the step that its value is of: ``total_norm_max`` that of the largest norm.

    MLflow's databases keep an infinity as the largest number.

    Args:
        uri: of the tracking server; by default MLflow's own, for example from ``MLFLOW_TRACKING_URI``.
    """

    label = "mlflow"

    def __init__(self, uri: str | None = None) -> None:
        super().__init__()
        self._uri = uri
        self._client: Any = None
        self._run = ""
        self._events = 0

    def open(self, facts: RunFacts) -> None:
        """Begin a run in the experiment `EXPERIMENT`, with the config as its parameters."""
        super().open(facts)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self._uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = self._client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
        run = self._client.create_run(number, run_name=facts.name, tags={f"{PREFIX}.run": str(facts.path)})
        self._run = run.info.run_id
        settings = [Param(name, str(value)[:LONGEST_TAG]) for name, value in facts.config.items()]
        for begin in range(0, len(settings), 100):
            self._client.log_batch(self._run, params=settings[begin : begin + 100])

    def send(self, point: Point) -> None:
        """Log a point in one call."""
        from mlflow.entities import Metric

        metrics = []
        for name, value in self.names(point).items():
            record = point.peak if name.endswith("total_norm_max") else point.last
            metrics.append(Metric(name, value, int(1000 * record.wall_time), record.step))
        self._client.log_batch(self._run, metrics=metrics)

    def alert(self, event: Event) -> None:
        """Keep the event as a tag."""
        self._events += 1
        text = f"{event.severity} {title(event)}: {event.message}"
        self._client.set_tag(self._run, f"{PREFIX}.event.{self._events}", text[:LONGEST_TAG])

    def finish(self, closing: Closing) -> None:
        """Keep the verdict as tags and end the run."""
        for name, value in known(closing).items():
            self._client.set_tag(self._run, name.replace("/", "."), str(value)[:LONGEST_TAG])
        self._client.set_terminated(self._run)
