"""MLflow's client gives back what the store holds."""

import math

import pytest

from gradwatch.export.trackers import send_run
from gradwatch.sinks.targets import parse_target

from .support import STEPS, assert_equal, expected, windows


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_mlflow_holds_the_series_the_events_and_the_verdict(run, tmp_path, monkeypatch, kind):
    pytest.importorskip("mlflow")
    if kind == "sqlite":
        pytest.importorskip("alembic")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{tmp_path}/mlflow.db" if kind == "sqlite" else f"{tmp_path.as_uri()}/mlruns"
    assert send_run(run, parse_target(f"mlflow:{uri}")) == STEPS
    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("gradwatch").experiment_id])
    assert found.info.run_name == "the-run"
    assert found.info.status == "FINISHED"
    largest = 1.7976931348623157e308  # what MLflow's databases keep for an infinity
    for name, wanted in expected(run).items():
        history = client.get_metric_history(found.info.run_id, f"gradwatch/{name}")
        if name == "total_norm_max":
            frame = run.steps()["total_norm"]
            peaks = {(frame.loc[a:b].idxmax() if b < STEPS - 1 else STEPS - 1): wanted[b] for a, b in windows(run)}
            assert {metric.step for metric in history} == set(peaks)
            continue
        values = {metric.step: metric.value for metric in history}
        assert_equal(values, wanted, inf=largest if kind == "sqlite" else math.inf)
    told = [event for event in run.events() if event.severity != "info"]
    assert sum(tag.startswith("gradwatch.event.") for tag in found.data.tags) == len(told)
    assert found.data.tags["gradwatch.verdict"] == run.summary().verdict
