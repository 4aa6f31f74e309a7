"""The command line is parsed, and its help written, as users know it from other programs."""

import re

import pytest

from gradwatch.cli.signatures import app
from gradwatch.testing import stream, write_run

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_the_help_shows_no_value_for_what_takes_none(command, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = command(*filter(None, [name]), "--help").out.splitlines()
    assert [line for line in lines if re.search("bool|boolean", line, re.IGNORECASE)] == []


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("run", "[OPTIONS] SCRIPT [ARGS]..."),
        ("report", "[OPTIONS] [RUN]"),
        ("recommend", "[OPTIONS] [RUN]..."),
        ("check", "[OPTIONS] [RUN]..."),
        ("export", "[OPTIONS] RUN... [TO]"),
        ("compare", "[OPTIONS] RUN..."),
        ("tag", "[OPTIONS] RUN [TAG]..."),
    ],
)
def test_the_usage_is_written_as_other_programs_do(command, name, usage):
    (line,) = (line for line in command(name, "--help").out.splitlines() if "Usage:" in line)
    assert line.rstrip().endswith(f"gradwatch {name} {usage}")


@pytest.mark.parametrize("given", [["--run", ""], ["--run="]])
def test_an_empty_folder_to_record_into_is_refused(command, given):
    """It often is a variable that is not set, and as a path the current folder."""
    done = command("run", *given, "train.py")
    assert done.code == 1
    assert "--run is empty" in done.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["import", "a.csv", ""], "RUN"),
        (["mv", "runs/a", ""], "TO"),
        (["rm", ""], "RUN"),
        (["note", "", "text"], "RUN"),
        (["demo", "--runs", ""], "--runs"),
        (["report", ""], "RUN"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(command, tmp_path, monkeypatch, arguments, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("step,loss,grad_norm\n1,2.0,1.0\n2,1.5,2.0\n")
    done = command(*arguments)
    assert done.code == 1
    assert f"{name} is empty; expected the path of a folder" in done.err
    assert "(bad-argument)" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_an_empty_text_is_none_of_a_path(command, tmp_path):
    run = write_run(tmp_path / "run", stream([1.0] * 5))
    assert command("note", run, "kept").code == 0
    assert command("note", run, "").code == 0
    assert command("note", run).out.strip() == ""


def test_a_mistyped_option_is_no_script(command):
    done = command("run", "--stepps", "3", "train.py")
    assert done.code == 2
    assert "Did you mean --steps" in " ".join(done.err.split())
