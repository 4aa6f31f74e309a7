"""`gradwatch config`: the defaults that the user has set, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from gradwatch.cli import group
from gradwatch.cli.defaults import FILE_NAME, PREFIX, Defaults, Option, options_of, read_defaults
from gradwatch.cli.printing import print_lines, screen
from gradwatch.views.encode import dumps

SECRETS = ("notify",)
"""Options whose value may hold a password or a token, and is not shown."""


def config(json: bool, everything: bool) -> None:
    """Print each option with its value and the place where it is set."""
    given = read_defaults(Path.cwd())
    found = settings(options_of(group()), given, os.environ)
    shown = [one for one in found if everything or one["from"] != "built in"]
    if json:
        typer.echo(dumps({"file": None if given.file is None else str(given.file), "settings": shown}))
        return
    ink = screen().ink
    if not shown:
        print_lines(f"no default is set; expected [tool.gradwatch.COMMAND] in {FILE_NAME}, or {PREFIX}_COMMAND_OPTION")
    for one in shown:
        print_lines(ink.safe(f"{one['command']} {one['option']} = {one['value']}  ({one['from']})"))


def settings(options: list[Option], given: Defaults, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The default of each option that counts: of the environment, else of the file, else the built-in one."""
    by_command = given.by_command(options)
    return [_setting(option, by_command.get(option.command, {}), given, environment) for option in options]


def _setting(
    option: Option, table: Mapping[str, Any], given: Defaults, environment: Mapping[str, str]
) -> dict[str, Any]:
    if environment.get(option.variable):
        value, source = environment[option.variable], option.variable
    elif option.name in table:
        value, source = str(table[option.name]), str(given.file)
    else:
        value, source = option.default, "built in"
    if option.name in SECRETS and value:
        value = "(set)"
    return {"command": option.command, "option": option.flag, "value": value, "from": source}
