"""Trackers and notifications that the recorder's process feeds: what they get, also of a training that is killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

import gradwatch

from ...prepared import forked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")

PATIENCE = 60.0  # seconds, on a machine that has much else to do

TRAIN = """
import math, os, signal, sys, torch, gradwatch
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run, to, *notify = sys.argv[1:]
notified = {"notify": notify[0], "notify_link": notify[1]} if notify else {}
watch = gradwatch.attach(model, optimizer, run, recorder="process", to=to, **notified)
for step in range(30):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().mean().backward()
    if step == 20:
        model.weight.grad[0, 0] = math.nan
    optimizer.step()
os.kill(os.getpid(), signal.SIGKILL)
"""


def train(run, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, run, config={"lr": 0.1}, **options):
        for _ in range(30):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()


def test_a_tracker_gets_from_the_process_what_it_gets_from_the_thread(tmp_path):
    found = {}
    for recorder in ("thread", "process"):
        (tmp_path / recorder).mkdir()
        file = tmp_path / f"{recorder}.prom"
        train(tmp_path / recorder / "run", recorder=recorder, to=f"openmetrics:{file}")
        found[recorder] = [line for line in file.read_text().splitlines() if "timestamp" not in line]
    assert 'gradwatch_step{run="run",optimizer="0"} 29' in found["thread"]
    assert found["process"] == found["thread"]


def test_a_training_that_is_killed_sends_its_fault_and_its_end_and_keeps_no_secret(server, tmp_path):
    bodies, address = server
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    run, file, link = tmp_path / "run", tmp_path / "run.prom", "https://example.org/board"
    with forked().start([tmp_path / "train.py", str(run), f"openmetrics:{file}", address, link]) as training:
        assert training.wait(PATIENCE) == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE
    while len(bodies) < 2 or 'gradwatch_running{run="run"} 0' not in file.read_text():
        assert time.monotonic() < deadline, (bodies, file.read_text())
        time.sleep(0.05)
    assert [body["title"].split(" at ")[0] for body in bodies] == ["run: nonfinite", "run: killed"]
    assert "The last recorded step is 29." in bodies[1]["message"]
    assert {body["message"].splitlines()[-1] for body in bodies} == {link}
    assert 'gradwatch_step{run="run",optimizer="0"} 29' in file.read_text()
    for one in run.iterdir():
        assert b"hunter2" not in one.read_bytes()


def in_wandb(folder):
    """The steps, the verdict and the fault of the runs that have ended."""
    from wandb.proto import wandb_internal_pb2

    from gradwatch.sources.wandb_file import _messages

    steps, found, ended = [], {}, False
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        for message in _messages(file):
            record = wandb_internal_pb2.Record.FromString(message)
            values = {"/".join(one.nested_key) or one.key: one.value_json for one in record.history.item}
            steps += [int(values["gradwatch/step"])] if "gradwatch/step" in values else []
            found |= {"/".join(one.nested_key) or one.key: one.value_json for one in record.summary.update}
            ended = ended or record.WhichOneof("record_type") == "exit"
    return (steps, json.loads(found["gradwatch/verdict"]), json.loads(found["gradwatch/ended"])) if ended else None


def in_mlflow(folder):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=f"{folder.as_uri()}/mlruns")
    try:
        experiment = client.get_experiment_by_name("gradwatch")
        runs = client.search_runs([experiment.experiment_id]) if experiment is not None else []
    except MlflowException:  # it is being written
        return None
    for one in runs:
        if one.info.status == "FINISHED":
            steps = [point.step for point in client.get_metric_history(one.info.run_id, "gradwatch/total_norm")]
            return steps, one.data.tags["gradwatch.verdict"], one.data.tags["gradwatch.ended"]
    return None


def in_trackio(folder):
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("project", "run")
    steps = [int(row["step"]) for row in rows if "gradwatch/total_norm" in row]
    found = [(row["gradwatch/verdict"], row["gradwatch/ended"]) for row in rows if "gradwatch/verdict" in row]
    return (steps, *found[0]) if found else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "read", "where"),
    [
        ("wandb", in_wandb, "wandb:project"),
        ("mlflow", in_mlflow, "mlflow:{folder}/mlruns"),
        ("trackio", in_trackio, "trackio:project"),
    ],
)
def test_the_package_itself_holds_every_step_of_a_training_that_is_killed(
    tmp_path, monkeypatch, request, kind, read, where
):
    pytest.importorskip(kind)
    if kind == "trackio":
        request.getfixturevalue("trackio_folder")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "MLFLOW_ALLOW_FILE_STORE": "true"}.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    to = where.format(folder=tmp_path.as_uri())
    done = subprocess.run(
        [sys.executable, tmp_path / "train.py", tmp_path / "run", to], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 2 * PATIENCE
    while (found := read(tmp_path)) is None:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    steps, verdict, ended = found
    assert sorted(steps) == list(range(30))
    assert (verdict, ended) == ("critical", "killed")


def test_the_runs_of_wandb_stand_beside_that_of_the_script(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    from gradwatch.sinks.targets import Destinations, trackers_of_plain
    from gradwatch.sinks.tracker import RunFacts

    begun = {}

    class Run:
        project, name = "project of the script", "name of the script's run"

        def define_metric(self, *_, **__):
            pass

    monkeypatch.setattr(wandb, "run", Run())
    plain = json.loads(json.dumps(Destinations.of("wandb").plain()))
    monkeypatch.setattr(wandb, "run", None)  # as in another process
    monkeypatch.setattr(wandb, "init", lambda **settings: begun.update(settings) or Run())
    monkeypatch.setenv("WANDB_SERVICE", "of the script's process")
    (tracker,) = trackers_of_plain(plain)
    tracker.open(RunFacts(path=tmp_path / "run"))
    assert (begun["project"], begun["group"]) == ("project of the script", "name of the script's run")
    assert "WANDB_SERVICE" not in os.environ
