"""An offline file of W&B holds what the store holds."""

import json

import pytest

from gradwatch.export.trackers import send_run
from gradwatch.sinks.targets import parse_target

from .support import STEPS, assert_equal, expected


def test_wandb_offline_holds_the_series_the_alerts_and_the_verdict(run, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    from gradwatch.sources.wandb_file import _messages

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert send_run(run, parse_target("wandb:some-project")) == STEPS
    wandb.teardown()  # the process that writes the file may lag behind the end of the run
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
