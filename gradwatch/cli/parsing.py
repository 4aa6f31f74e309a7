"""How a command line is parsed: the classes of typer that gradwatch's commands are of."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gradwatch.cli import defaults
from gradwatch.cli.plain_values import take_as_they_are
from gradwatch.errors import BadArgument

_FOLDERS = {"files", "folder", "paths", "run", "runs", "target"}
"""Parameters that are paths of runs, or of folders that hold or will hold them."""


def _without_value(params: list[Any]) -> list[Any]:
    """Let the help of options that take no value show none; newer versions of typer print their type, bool."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def _usage_of(argument: Any) -> str:
    """An argument in the usage: in brackets if it may be left out, with dots if it may be repeated."""
    name = str(argument.metavar)
    if not argument.required:
        name = f"[{name.removesuffix('...')}]"
    return name if argument.nargs == 1 or "..." in name else f"{name}..."


class Group(TyperGroup):
    """All commands, with the options that stand before one."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _without_value(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands before the name of the command."""
        take_as_they_are(self.get_params(ctx))
        return super().parse_args(ctx, args)


class Command(TyperCommand):
    """A command that prints on stderr the defaults that it takes from the user's configuration."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options."""
        return _without_value(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the options and arguments of the usage line; newer versions of typer put braces around some."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [self.options_metavar or "", *map(_usage_of, arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; an error about a default names the place where it is set."""
        take_as_they_are(self.get_params(ctx))
        self._check_folders(ctx, args)
        try:
            rest = super().parse_args(ctx, args)
            _check_script(ctx)
            return rest
        except typer.BadParameter as error:
            place = None if error.param is None else defaults.place_of(ctx, error.param, os.environ)
            if place is not None:
                error.message = f"{error.message} (set in {place})"
            raise

    def _check_folders(self, ctx: Any, args: list[str]) -> None:
        """Refuse an empty path, often a variable that is not set: as a path it is the current folder.

        Raises:
            BadArgument: a folder is an empty string.
        """
        if "" not in args and not any(arg.startswith("--") and arg.endswith("=") for arg in args):
            return
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.get_params(ctx):
            value = given.get(param.name) if param.name in _FOLDERS else None
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                is_option = param.param_type_name == "option"
                name = param.opts[0] if is_option else str(param.metavar).removeprefix("FILE... ").removesuffix("...")
                leave_out = ", or leave the option out" if is_option else ""
                raise BadArgument(f"{name} is empty; expected the path of a folder{leave_out}.")

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        used = defaults.used_defaults(ctx, os.environ)
        if used and os.environ.get("RANK", "0") == "0":  # under torchrun only one process prints them
            typer.echo(f"gradwatch: {', '.join(used)}", err=True)
        return super().invoke(ctx)


def _check_script(ctx: Any) -> None:
    """Raise if a mistyped option stands where SCRIPT is expected: these commands let unknown options pass."""
    given = next(iter(ctx.params.get("arguments") or ()), "")
    if not given.startswith("-") or Path(given).exists():
        return
    options = [name for param in ctx.command.params for name in param.opts if name.startswith("--")]
    near = difflib.get_close_matches(given.partition("=")[0], options)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise typer.BadParameter(f"There is no option and no script {given!r}.{hint}", ctx=ctx, param_hint="SCRIPT")
