"""A script runs until it calls the captured model. Whole commands: cli/commands/test_replay.py."""

from pathlib import Path

import pytest

from ...prepared import forked

SCRIPT = """
import sys, torch
from torch import nn
model = nn.Sequential(nn.Linear(3, 2))
other = nn.Linear(3, 2)
print("begun", sys.argv[1:])
other(torch.ones(1, 3))
{body}
print("not reached")
"""

PROGRAM = """
import sys
from gradwatch.errors import CannotReplay
from gradwatch.script.capture_model import find_model
from gradwatch.script.launch import prepare
program, _ = prepare(["train.py", "--lr", "3"], None, False)
try:
    called = find_model(program, [{"0.weight": (2, 3), "0.bias": (2,)}], quiet="quiet" in sys.argv)
    print("found", type(called.model).__name__, len(called.args), sorted(called.kwargs))
except CannotReplay as error:
    print("error", error)
"""


def run(folder: Path, body: str, *arguments: str):
    (folder / "train.py").write_text(SCRIPT.format(body=body))
    done = forked().run(["-c", PROGRAM, *arguments], folder)
    done.check_returncode()
    return done


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("model(torch.ones(1, 3))", id="first call"),
        pytest.param(
            "with torch.no_grad(): model(torch.ones(1, 3))\nmodel(torch.ones(1, 3))", id="not the one without gradients"
        ),
        pytest.param(
            "try: model(torch.ones(1, 3))\nexcept BaseException: pass\nmodel(torch.ones(1, 3))", id="catches everything"
        ),
        pytest.param("with torch.no_grad(): model(torch.ones(1, 3))\nsys.exit(3)", id="only without gradients"),
    ],
)
def test_the_model_is_found(tmp_path, body):
    done = run(tmp_path, body)
    assert done.stdout.splitlines() == ["begun ['--lr', '3']", "found Sequential 1 []"]


def test_what_the_script_prints_goes_to_stderr(tmp_path):
    done = run(tmp_path, "model(torch.ones(1, 3))", "quiet")
    assert done.stdout.splitlines() == ["found Sequential 1 []"]
    assert "begun" in done.stderr


def test_it_is_never_called(tmp_path):
    assert "error 'train.py' never called a model" in run(tmp_path, "").stdout
    assert "It ended with ZeroDivisionError" in run(tmp_path, "1 / 0").stdout


def test_what_it_attaches_is_recorded_elsewhere(tmp_path):
    body = """
import gradwatch
with gradwatch.attach(model, torch.optim.SGD(model.parameters(), 0.1), "runs/first"):
    model(torch.ones(1, 3)).sum().backward()
"""
    done = run(tmp_path, body)
    assert "found Sequential" in done.stdout
    assert not (tmp_path / "runs").exists()
