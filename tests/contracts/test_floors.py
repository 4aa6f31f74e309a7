"""The programs a user starts first do start, whichever versions are installed.

`make test-lowest` runs this with the oldest versions that pyproject.toml allows. Each program is a process of its own:
a training, the command line and TensorBoard's server.
"""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request

import pytest

SCRIPT = """
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(30):
    loss = model(torch.ones(4, 3)).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
"""


def gradwatch(*arguments, cwd):
    command = [sys.executable, "-m", "gradwatch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which a script was trained and recorded."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "train.py").write_text(SCRIPT)
    done = gradwatch("run", "--run", "runs/first", "--tensorboard", "train.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["report", "runs/first"],
        ["report", "runs/first", "--html", "report.html"],
        ["events", "runs/first"],
        ["recommend", "runs/first"],
        ["compare", "runs/first", "runs/first"],
        ["export", "runs/first", "steps.csv"],
        ["export", "runs/first", "--tensorboard", "logs"],
        ["doctor", "train.py"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_command_starts(work, arguments):
    done = gradwatch(*arguments, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_training_was_recorded(work):
    found = json.loads(gradwatch("report", "runs/first", "--json", cwd=work).stdout)
    assert (found["steps"], found["clipping"]["threshold"]) == (30, 1.0)


def test_tensorboard_starts_and_serves_the_tab(work):
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", "0", "--host", "127.0.0.1"]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, cwd=work, env=env, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(120, server.kill)
    watchdog.start()
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"at (http://\S+?)/? ", line):
                break
        else:
            pytest.fail("TensorBoard did not start:\n" + "".join(said))
        with urllib.request.urlopen(found[1] + "/data/plugin/gradwatch/runs", timeout=60) as answer:
            assert "first" in answer.read().decode()
    finally:
        watchdog.cancel()
        server.kill()
        server.wait()
