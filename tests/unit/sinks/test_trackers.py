"""Each tracker's own reader gives back what the store holds."""

import json
import math
import re

import pytest

from gradwatch import Run
from gradwatch.analysis.run import Run as FullRun
from gradwatch.errors import CannotExport
from gradwatch.export.trackers import closing_of_run, send_run
from gradwatch.sinks.openmetrics import OpenMetricsFile
from gradwatch.sinks.targets import parse_target
from gradwatch.testing import replaced, steady, stream, write_run

STEPS = 300


@pytest.fixture
def run(tmp_path):
    """A run with a spike, an infinity and a NaN at its end."""
    norms = replaced(steady(STEPS), {150: 60.0, STEPS - 2: math.inf, STEPS - 1: math.nan})
    losses = [1.0 / (1 + step) for step in range(STEPS)]
    return Run(write_run(tmp_path / "the-run", stream(norms, losses=losses, max_norm=1.5), "AdamW", {"lr": 0.1}))


def windows(run):
    """The windows as the store has them: a hundredth of the run so far, the first and the last step of each."""
    found, begin = [], 0
    for step in range(STEPS):
        if step - begin + 1 >= max(1, step // 100):
            found.append((begin, step))
            begin = step + 1
    return found if begin == STEPS else [*found, (begin, STEPS - 1)]


def expected(run):
    """The series by name and by the last step of each window, from the frame alone."""
    frame = run.steps()
    parts = {last: frame.loc[first:last] for first, last in windows(run)}
    return {
        "total_norm": {last: part["total_norm"].iloc[-1] for last, part in parts.items()},
        "total_norm_max": {last: part["total_norm"].max(skipna=False) for last, part in parts.items()},
        "loss": {last: part["loss"].mean() for last, part in parts.items()},
        "clip_coef": {last: part["clip_coef"].min(skipna=False) for last, part in parts.items()},
        "clipped_fraction": {last: part["clipped"].mean() for last, part in parts.items()},
        "learning_rate": {last: part["learning_rate"].iloc[-1] for last, part in parts.items()},
        "max_norm": dict.fromkeys(parts, 1.5),
        "nonfinite": {last: part["nonfinite"].max() for last, part in parts.items()},
    }


def assert_equal(found, wanted, inf=math.inf):
    assert found.keys() == wanted.keys()
    for step, value in wanted.items():
        assert found[step] == pytest.approx(inf if value == math.inf else value, nan_ok=True), step


# -------------------------------------------------------------------------------------------- wandb


def test_wandb_offline_holds_the_series_the_alerts_and_the_verdict(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    from gradwatch.sources.wandb_file import _messages

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert send_run(run, parse_target("wandb:some-project")) == STEPS
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = [wandb_internal_pb2.Record.FromString(message) for message in _messages(file)]
    rows = [
        {"/".join(item.nested_key) or item.key: _number(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    for name, wanted in expected(run).items():
        found = {int(row["gradwatch/step"]): row[f"gradwatch/{name}"] for row in rows}
        assert_equal(found, wanted)
    (own,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert (own.project, own.display_name) == ("some-project", "the-run-gradwatch")
    alerts = [record.alert for record in records if record.WhichOneof("record_type") == "alert"]
    told = [event for event in run.events() if event.severity != "info"]
    assert [alert.text for alert in alerts] == [event.message for event in told]
    summary = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["gradwatch/verdict"] == run.summary().verdict
    assert summary["gradwatch/fault"] == run.summary().findings[0].code


def _number(text):
    value = json.loads(text)
    return float(value) if isinstance(value, str) else value


# ------------------------------------------------------------------------------------------- mlflow


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


# ------------------------------------------------------------------------------------------ trackio


def test_trackio_holds_the_series_and_the_verdict(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read at import
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    assert send_run(run, parse_target("trackio:p")) == STEPS
    rows = SQLiteStorage.get_logs("p", "the-run")
    for name, wanted in expected(run).items():
        found = {int(row["step"]): float(row[f"gradwatch/{name}"]) for row in rows if f"gradwatch/{name}" in row}
        assert_equal(found, wanted)
    (verdict,) = [row["gradwatch/verdict"] for row in rows if "gradwatch/verdict" in row]
    assert verdict == run.summary().verdict
    told = [event.message for event in run.events() if event.severity != "info"]
    assert sorted(alert["text"] for alert in SQLiteStorage.get_alerts("p")) == sorted(told)


# -------------------------------------------------------------------------------------- openmetrics


def samples(text):
    """The samples of an exposition by name and labels (OpenMetrics 1.0, sections 4 and 5)."""
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    pattern = r'(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (NaN|[+-]Inf|[-\d.e+]+)'
    found = {}
    for line in lines:
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(pattern, line).groups()
            found[name, tuple(re.findall(r'\w+="((?:[^"\\]|\\.)*)"', labels))] = float(value.replace("Inf", "inf"))
    return found


def test_the_metrics_file_has_the_numbers_of_the_last_step(run, tmp_path):
    file = tmp_path / "metrics" / "run.prom"
    send_run(run, parse_target(f"openmetrics:{file}"))
    found, last = samples(file.read_text()), run.steps().iloc[-1]
    key = ("the-run", "0")
    assert found["gradwatch_step", key] == STEPS - 1
    assert found["gradwatch_last_step_timestamp_seconds", key] == pytest.approx(last["wall_time"])
    assert math.isnan(found["gradwatch_total_norm", key])
    assert found["gradwatch_loss", key] == last["loss"]
    assert found["gradwatch_max_norm", key] == 1.5
    assert found["gradwatch_running", ("the-run",)] == 0
    counted = {name[1][1:]: value for name, value in found.items() if name[0] == "gradwatch_events_total"}
    assert sum(counted.values()) == len(run.events())
    assert [file.name for file in file.parent.iterdir()] == ["run.prom"]


def test_the_metrics_file_is_there_at_once_and_says_that_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.sinks.openmetrics.EVERY", 0.0)
    from gradwatch.sinks.tracker import RunFacts

    tracker = OpenMetricsFile(tmp_path / "x.prom")
    tracker.open(RunFacts(path=tmp_path / 'a "quoted"\\ run'))
    assert samples((tmp_path / "x.prom").read_text()) == {("gradwatch_running", (r"a \"quoted\"\\ run",)): 1}
    for record in stream([1.0, 5.0, 2.0]):
        tracker.show(record)
    tracker.rest()
    found = samples((tmp_path / "x.prom").read_text())
    assert [found[f"gradwatch_{name}", (r"a \"quoted\"\\ run", "0")] for name in ("total_norm", "total_norm_max")] == [
        2,
        5,
    ]


# ------------------------------------------------------------------------------- tensorboard, faults


def test_event_files_hold_what_the_mirror_writes(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send_run(run, parse_target(f"tensorboard:{tmp_path / 'logs'}"))
    reader = EventAccumulator(str(tmp_path / "logs"), size_guidance={"scalars": 0})
    reader.Reload()
    wanted = expected(run)
    for name in ("total_norm", "loss", "clip_coef"):
        found = {point.step: point.value for point in reader.Scalars(f"gradwatch/{name}")}
        assert_equal({step: pytest.approx(value, rel=1e-6, nan_ok=True) for step, value in found.items()}, wanted[name])


def test_a_tracker_that_fails_is_one_clear_error(run, tmp_path, command):
    (tmp_path / "file").write_text("x")
    done = command("export", run.path, "--to", f"openmetrics:{tmp_path / 'file' / 'x.prom'}")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: openmetrics failed with NotADirectoryError after 0 steps. (cannot-export)\n" or (
        "(cannot-export)" in done.err
    )
    with pytest.raises(CannotExport):
        send_run(run, parse_target(f"openmetrics:{tmp_path / 'file' / 'x.prom'}"))


def test_export_says_how_much_it_sent_and_a_wrong_target_is_refused(run, tmp_path, command):
    done = command("export", run.path, "--to", f"openmetrics:{tmp_path / 'x.prom'}")
    assert (done.code, done.out) == (0, "sent 300 steps to openmetrics\n")
    assert "(bad-argument)" in command("export", run.path, "--to", "nowhere").err
    assert "(bad-argument)" in command("export", run.path).err


def test_a_run_without_a_step_can_be_sent(tmp_path):
    empty = FullRun(write_run(tmp_path / "empty", []))
    assert send_run(empty, parse_target(f"openmetrics:{tmp_path / 'x.prom'}")) == 0
    assert closing_of_run(empty) == {"steps": 0}
