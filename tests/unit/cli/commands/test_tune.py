"""`gradwatch tune`: what it is asked, what it prints. The search is tested in tests/unit/script/test_tune.py."""

import json
from pathlib import Path

import pytest

from gradwatch.errors import BadArgument
from gradwatch.script.tune import Trial, Tuning

FOUND = Tuning(
    trials=(Trial(max_norm=1.0, steps=40, made=40, loss=0.5, error=None, clipped_fraction=0.1),),
    best=1.0,
    low=1.0,
    high=1.0,
    matters=True,
    verdict="clip at 1",
)


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """The arguments of each search, which finds what `FOUND` says."""
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    asked = []

    def search(*arguments):
        asked.append(arguments)
        begin = arguments[5]
        begin(1.0, 10)
        begin(4.0, 40)
        return FOUND

    monkeypatch.setattr("gradwatch.cli.commands.tune.search", search)
    return asked


def test_the_verdict_goes_to_stdout_and_the_progress_to_stderr(searched, command):
    done = command("tune", "--steps", "40", "--budget", "4", "train.py", "--lr", "3e-4")
    assert (done.code, done.out.splitlines()[0]) == (0, "● clip at 1")
    (arguments,) = searched
    assert arguments[:5] == (["train.py", "--lr", "3e-4"], False, Path("runs/tune-train"), 40, 4.0)


def test_the_json_has_every_trial(searched, command):
    found = json.loads(command("tune", "--json", "--run", "x", "--judge-by", "loss (.*)", "train.py").out)
    assert (found["verdict"], len(found["trials"])) == ("clip at 1", 1)
    assert searched[0][2] == Path("x")
    assert searched[0][6] == "loss (.*)"


def test_ctrl_c_says_how_to_go_on(searched, command, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradwatch.cli.commands.tune.search", interrupted)
    done = command("tune", "train.py")
    assert done.code == 130
    assert "stopped; the same command continues with the runs in runs/tune-train" in done.err


def test_a_budget_that_is_too_small_is_refused(tmp_path, command, monkeypatch):
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    done = command("tune", "--budget", "1", "train.py")
    assert done.code == 1
    assert f"({BadArgument.slug})" in done.err
