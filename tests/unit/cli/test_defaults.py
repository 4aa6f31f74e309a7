"""Defaults from pyproject.toml and GRADWATCH_* variables: which counts, which is refused, and where it is said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradwatch.cli import group
from gradwatch.cli.defaults import Defaults, from_environment, options_of, read_defaults


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that is the current one; write its pyproject.toml."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "pyproject.toml").write_text(text)
        return tmp_path

    return write


def test_the_nearest_file_counts(project):
    folder = project("[tool.gradwatch]\nlayers = 3\n")
    (folder / "a" / "b").mkdir(parents=True)
    found = read_defaults(folder / "a" / "b")
    assert (found.file, found.table) == (folder / "pyproject.toml", {"layers": 3})
    (folder / "a" / "pyproject.toml").write_text("[project]\n")
    assert read_defaults(folder / "a" / "b").table == {}


def test_no_file_is_no_default(tmp_path):
    assert not read_defaults(tmp_path).table


def test_the_table_of_a_command_overrides_the_general_one():
    options = options_of(group())
    found = Defaults(table={"check": {"json": False}, "json": True}).by_command(options)
    assert found["check"] == {"json": False}
    assert found["report"] == {"json": True}
    assert "demo" not in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tool.gradwatch]\nlayer = 3\n", "tool.gradwatch.layer"),
        ("[tool.gradwatch.report]\nevery = 3\n", "tool.gradwatch.report.every"),
        ("[tool.gradwatch.reports]\nlayers = 3\n", "tool.gradwatch.reports"),
        ("[tool]\ngradwatch = 3\n", "expected a table"),
        ("[tool.gradwatch\n", "can't be read"),
        ("[tool.gradwatch]\ncheck = 3\n", "sets tool.gradwatch.check to 3; expected a table."),
        ("[tool.gradwatch.check]\nmin-step = 3\n", "did you mean 'check.min-steps'? (bad-argument)"),
    ],
)
def test_a_file_with_a_fault_is_one_clear_error(project, command, runs, text, says):
    project(text)
    done = command("report", runs / "good")
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert done.err.endswith("(bad-argument)\n")
    assert done.err.count("\n") == 1


def test_a_wrong_key_stops_no_training_and_is_said_once(project, tmp_path):
    folder = project(
        "[tool.gradwatch]\nlayer = 3\n[tool.gradwatch.run]\nevrey = 2\nsteps = 1\n[tool.gradwatch.x]\ny = 1\n"
    )
    (folder / "train.py").write_text("print('trained')\n")
    command = [sys.executable, "-m", "gradwatch", "run", "train.py"]
    env = os.environ | {"GRADWATCH_RUN_EVREY": "2", "GRADWATCH_FUSED": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    said = [line for line in done.stderr.splitlines() if line.endswith("(unknown-setting)")]
    assert (
        said[0] == "gradwatch: GRADWATCH_RUN_EVREY is no setting; did you mean 'GRADWATCH_RUN_EVERY'? (unknown-setting)"
    )
    assert [line.split()[1] for line in said[1:]] == [
        "tool.gradwatch.layer",
        "tool.gradwatch.run.evrey",
        "tool.gradwatch.x",
    ]
    assert "did you mean 'run.every'?" in said[2]


def test_an_unknown_variable_is_said_by_every_command_and_changes_nothing(command, runs, monkeypatch):
    monkeypatch.setenv("GRADWATCH_CHECK_MIN_STEP", "9000")
    monkeypatch.setenv("GRADWATCH_FUSED", "1")
    done = command("check", runs / "good")
    assert done.code == 0
    assert done.err.startswith("gradwatch: GRADWATCH_CHECK_MIN_STEP is no setting; did you mean 'GRADWATCH_CHECK_MIN")
    assert done.err.count("\n") == 1
    monkeypatch.setenv("RANK", "1")
    assert command("check", runs / "good").err == ""


def test_a_broken_file_of_another_tool_is_left_alone(project, command, runs):
    project("[tool.other\n")
    assert command("check", runs / "good").code == 0


def test_a_default_is_used_and_said(project, command, runs):
    project("[tool.gradwatch]\njson = true\n[tool.gradwatch.check]\nmin-steps = 801\n")
    done = command("check", runs / "good")
    assert (done.code, json.loads(done.out)["healthy"]) == (3, False)
    assert done.err == "gradwatch: --json from pyproject.toml, --min-steps from pyproject.toml\n"


def test_a_variable_overrides_the_file_and_the_command_line_overrides_both(project, command, runs, monkeypatch):
    project("[tool.gradwatch.check]\nmin-steps = 801\n")
    monkeypatch.setenv("GRADWATCH_CHECK_MIN_STEPS", "3")
    done = command("check", runs / "good")
    assert (done.code, done.err) == (0, "gradwatch: --min-steps from GRADWATCH_CHECK_MIN_STEPS\n")
    done = command("check", runs / "good", "--min-steps", "802")
    assert (done.code, done.err) == (3, "")


def test_a_variable_with_a_wrong_value_names_the_option(command, runs, monkeypatch):
    monkeypatch.setenv("GRADWATCH_CHECK_MIN_STEPS", "many")
    done = command("check", runs / "good")
    assert done.code == 2
    assert "--min-steps" in done.err


def test_an_option_that_may_be_repeated_is_split_at_spaces(command, runs, monkeypatch):
    monkeypatch.setenv("GRADWATCH_CHECK_FAIL_ON", "dead explosion")
    assert "explosion" in command("check", runs / "bad").out
    options = options_of(group())
    assert from_environment(options, {"GRADWATCH_CHECK_FAIL_ON": ""}) == {}


def test_config_lists_what_is_set_and_where(project, command, monkeypatch):
    folder = project("[tool.gradwatch.run]\nevery = 4\nsteps = 9\n")
    monkeypatch.setenv("GRADWATCH_RUN_EVERY", "2")
    done = command("config")
    file = folder / "pyproject.toml"
    assert done.out.splitlines() == [f"run --steps = 9  ({file})", "run --every = 2  (GRADWATCH_RUN_EVERY)"]
    found = json.loads(command("config", "--json").out)
    assert found["file"] == str(file)
    assert {one["option"]: one["value"] for one in found["settings"]} == {"--every": "2", "--steps": "9"}
    everything = json.loads(command("config", "--json", "--all").out)["settings"]
    assert len(everything) > 40
    assert {"command": "report", "option": "--layers", "value": "12", "from": "built in"} in everything


def test_config_says_how_to_set_one_if_none_is(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "[tool.gradwatch.COMMAND]" in command("config").out


def test_completion_completes_commands():
    program = shutil.which("gradwatch", path=str(Path(sys.executable).parent))
    assert program is not None
    asked = {"_GRADWATCH_COMPLETE": "complete_bash", "COMP_WORDS": "gradwatch re", "COMP_CWORD": "1"}
    done = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"report", "recommend"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "variable", "place"),
    [
        ('[tool.gradwatch.check]\nmin-steps = "many"\n', "", "pyproject.toml"),
        ("[tool.gradwatch.check]\nmin-steps = 3\n", "many", "GRADWATCH_CHECK_MIN_STEPS"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_place(project, command, runs, monkeypatch, text, variable, place):
    project(text)
    monkeypatch.setenv("GRADWATCH_CHECK_MIN_STEPS", variable)
    monkeypatch.setenv("COLUMNS", "200")
    done = command("check", runs / "good")
    assert (done.code, done.out) == (2, "")
    assert "Invalid value for '--min-steps'" in done.err
    assert f"(set in {place})" in done.err
    done = command("check", runs / "good", "--min-steps", "x")
    assert done.code == 2
    assert "set in" not in done.err


def test_one_value_of_an_option_that_may_be_repeated_needs_no_list(project, command, runs):
    project('[tool.gradwatch.check]\nfail-on = "drift"\n')
    assert command("check", runs / "bad").out == "healthy\n"


def test_help_and_version_are_printed_beside_a_wrong_setting(project, command):
    project("[tool.gradwatch]\nlayer = 3\n")
    assert command("--version").out.startswith("gradwatch ")
    for arguments in (["-h"], ["check", "--help"]):
        assert command(*arguments).code == 0
    assert command("config").code == 1
