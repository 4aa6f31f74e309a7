"""Trackers and notifications that the recorder's process feeds: what they get, also of a training that is killed."""

import os
import signal
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
run, file, address, link = sys.argv[1:]
watch = gradwatch.attach(
    model, optimizer, run, recorder="process", to=f"openmetrics:{file}", notify=address, notify_link=link
)
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
    with forked().start([tmp_path / "train.py", str(run), str(file), address, link]) as training:
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


def test_the_runs_of_wandb_stand_beside_that_of_the_script(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    import json

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
