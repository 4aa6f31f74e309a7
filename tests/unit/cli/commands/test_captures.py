"""`gradwatch captures`: lists what a run has kept, and deletes by step."""

import json
import math
import shutil

import pytest
import torch

from gradwatch import Run
from gradwatch.capture import Capture, write


@pytest.fixture
def run(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "good", folder)
    known = {"run": str(folder), "optimizer": "0", "groups": ()}
    write(
        Capture(step=7, why="nonfinite", total_norm=math.nan, weights={"w": torch.ones(9)}, **known),
        folder / "captures" / "step-000007",
    )
    write(
        Capture(
            step=9, why="spike", total_norm=8.0, limit=2.0, replayable=False, not_kept=("a b.C: \x1b[31mC()",), **known
        ),
        folder / "captures" / "step-000009",
    )
    return folder


def test_captures_are_listed(run, command):
    out = " ".join(command("captures", run).out.split())
    assert "step 7 nonfinite total norm NaN" in out.replace("nan", "NaN")
    assert "step 9 spike total norm 8" in out
    assert "no weights" in out
    assert "can't be replayed: a b.C:" in out
    assert "\x1b" not in out


def test_captures_as_json(run, command):
    first, second = json.loads(command("captures", run, "--json").out)
    assert (first["step"], first["why"], first["total_norm"], first["replayable"]) == (7, "nonfinite", "NaN", True)
    assert (second["limit"], second["has_weights"]) == (2.0, False)
    assert [info.step for info in Run(run).captures()] == [7, 9]


def test_captures_are_deleted_by_step(run, command):
    command("captures", run, "--delete", "7")
    assert [info.step for info in Run(run).captures()] == [9]
    assert not (run / "captures" / "step-000007").exists()


def test_a_step_that_has_no_capture_is_an_error_and_deletes_none(run, command):
    done = command("captures", run, "--delete", "7", "--delete", "8")
    assert done.code == 1
    assert "capture-not-found" in done.err
    assert len(Run(run).captures()) == 2


def test_a_run_without_captures_says_how_to_keep_some(runs, command):
    assert "gradwatch run --capture" in command("captures", runs / "good").out
    assert json.loads(command("captures", runs / "good", "--json").out) == []


def test_what_can_not_be_read_is_listed_and_deleted_by_step(run, command):
    (run / "captures" / "step-000009").rename(run / "captures" / ".step-000009.77.part")
    (run / "captures" / "step-000012").mkdir()
    told = command("captures", run)
    assert "step 9 unreadable" in " ".join(told.out.split())
    assert "step 12 unreadable" in " ".join(told.out.split())
    done = command("captures", run, "--json")
    assert [one["step"] for one in json.loads(done.out)] == [7]
    assert "is left out: It is not complete" in done.err
    assert command("captures", run, "--delete", "9", "--delete", "12").code == 0
    assert [one.name for one in (run / "captures").iterdir()] == ["step-000007"]
