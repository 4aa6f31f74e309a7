"""The commands and options that typer is told of."""

from pathlib import Path

import pytest

import gradwatch
from gradwatch.cli.signatures import EXCHANGE, JUDGE, MANY, READ, RECORD, app

PANELS = [RECORD, READ, JUDGE, MANY, EXCHANGE]

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def test_the_help_groups_the_commands(command):
    out = command("--help").out
    assert [out.index(f" {panel} ") for panel in PANELS] == sorted(out.index(f" {panel} ") for panel in PANELS)
    assert all(getattr(one, "rich_help_panel", None) in PANELS for one in app.registered_commands)


def test_every_command_is_in_the_help_and_on_its_page(command):
    page = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
    top = command("--help")
    assert len(COMMANDS) >= 12
    for name in COMMANDS:
        assert f" {name} " in top.out
        assert f"gradwatch {name}" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command, name):
    done = command(name, "-h")
    assert done.code == 0
    assert f"gradwatch {name}" in done.out
    assert command(name, "--help").out == done.out


def test_the_help_names_the_extra_that_a_picture_needs(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "needs the extra png" in command("report", "--help").out


def test_the_version_is_that_of_the_package(command):
    done = command("--version")
    assert (done.code, done.out) == (0, f"gradwatch {gradwatch.__version__}\n")
