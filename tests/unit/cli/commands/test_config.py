"""Where a default comes from: the environment, the file, or the program."""

import json

import pytest

from gradwatch.cli.commands.config import settings
from gradwatch.cli.defaults import Defaults, Option

LAYERS = Option(command="report", name="layers", flag="--layers", variable="GRADWATCH_REPORT_LAYERS", default="8")
NOTIFY = Option(command="watch", name="notify", flag="--notify", variable="GRADWATCH_WATCH_NOTIFY", default="")


def found(table=None, environment=None, options=(LAYERS,)):
    return settings(list(options), Defaults(file=None, table=table), environment or {})


@pytest.mark.parametrize(
    ("table", "environment", "value", "source"),
    [
        pytest.param(None, {}, "8", "built in", id="nothing is set"),
        pytest.param({"report": {"layers": 5}}, {}, "5", "None", id="of the command"),
        pytest.param({"layers": 6}, {}, "6", "None", id="of all commands"),
        pytest.param(
            {"report": {"layers": 5}}, {LAYERS.variable: "3"}, "3", LAYERS.variable, id="the environment first"
        ),
        pytest.param(None, {LAYERS.variable: ""}, "8", "built in", id="an empty variable is none"),
    ],
)
def test_the_nearest_default_counts(table, environment, value, source):
    (one,) = found(table, environment)
    assert one == {"command": "report", "option": "--layers", "value": value, "from": source}


def test_a_secret_is_not_shown():
    (one,) = found(environment={NOTIFY.variable: "https://user:password@host"}, options=[NOTIFY])
    assert one["value"] == "(set)"
    (one,) = found(options=[NOTIFY])
    assert one["value"] == ""


def test_the_command_shows_the_file_and_what_it_sets(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no default is set" in command("config").out
    (tmp_path / "pyproject.toml").write_text("[tool.gradwatch.report]\nlayers = 5\n")
    assert command("config").out == f"report --layers = 5  ({tmp_path / 'pyproject.toml'})\n"
    said = json.loads(command("config", "--json").out)
    assert said["file"] == str(tmp_path / "pyproject.toml")
    assert [one["value"] for one in said["settings"]] == ["5"]
