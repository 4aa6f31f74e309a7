"""The command line: `signatures` has the options of each command, `commands` a module for the work of each."""

from __future__ import annotations

import copy
import errno
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gradwatch.cli import commands
from gradwatch.cli.defaults import PREFIX, from_environment, options_of, read_defaults, unknown_variables
from gradwatch.cli.signatures import app
from gradwatch.errors import BadArgument, CannotPrint, GradwatchError

if TYPE_CHECKING:
    from gradwatch.cli.commands.run import Launch

__all__ = ["app", "group", "main"]


_WITHOUT_PYARROW = {"captures", "check", "compare", "events", "ls", "recommend", "report", "watch"}
"""Commands that only read and print: they need no pyarrow, which pandas would import (30 MB, 60 ms)."""

_NOT_ONLY_PRINT = {"mcp", "run", "view"}
"""Commands that do their work also where nobody reads what they print."""

_NOT_WRITTEN = {errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC}
"""Errors of writing to a file that was open already."""

_ASKS_FOR_HELP = {"-h", "--help", "--version"}


def group() -> Any:
    """All commands, as the library under typer knows them."""
    return typer.main.get_command(app)


def _app_for(names: list[str]) -> typer.Typer:
    """The application of the command that stands first on the command line; of all if none does.

    Typer reads the signature of every command that an application has.
    """
    named = [one for one in app.registered_commands if [one.name or getattr(one.callback, "__name__", "")] == names]
    if not named:
        return app
    found = copy.copy(app)
    found.registered_commands = named
    return found


def _default_map() -> dict[str, dict[str, Any]]:
    if _ASKS_FOR_HELP.intersection(sys.argv[1:2]) or {"-h", "--help"}.intersection(sys.argv[2:3]):
        return {}  # a wrong setting must not keep the user from reading which are right
    given = read_defaults(_current_folder())
    if not given.table and not any(name.startswith(PREFIX) for name in os.environ):
        return {}
    options = options_of(group())
    unknown = unknown_variables(options, os.environ)
    # A training is not refused for the name of a setting; a check of CI with a misspelled bound is.
    found = given.by_command(options, unknown if sys.argv[1:2] == ["run"] else None)
    if os.environ.get("RANK", "0") == "0" and "_GRADWATCH_COMPLETE" not in os.environ:
        for one in unknown:
            _say(f"gradwatch: {one} (unknown-setting)")
    for command, values in from_environment(options, os.environ).items():
        found[command] = found.get(command, {}) | values
    return found


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise BadArgument("The current folder no longer exists. Change into one that does, with `cd`.") from error


def _say(line: str) -> None:
    """Print a line on stderr, folded on a terminal."""
    from gradwatch.cli.printing import (
        print_lines,  # with rich, which no script under `gradwatch run` should find imported
    )

    print_lines(line, err=True)


class _Closed(io.TextIOBase):
    """Stands for a closed standard output, to which Python and rich would print in silence."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "standard output is closed")


def main() -> None:
    """Entry point. Our own errors print one line and exit with code 1."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    if _WITHOUT_PYARROW.intersection(sys.argv[1:2]):
        sys.modules.setdefault("pyarrow", None)  # type: ignore[arg-type]  # so that it can't be imported in this process
    closed = _Closed() if sys.stdout is None and not _NOT_ONLY_PRINT.intersection(sys.argv[1:2]) else None
    sys.stdout = closed or sys.stdout
    to_launch = _run_command()
    # A script runs outside of this handling: its exceptions and its streams are its own.
    for stream, errors in zip(streams, before, strict=True):
        stream.reconfigure(errors=errors)
    commands.run.launch(to_launch)


def _run_command() -> Launch:
    """Run the command and end the process, unless the command leaves a script to launch."""
    to_launch: list[Launch] = []
    try:
        _app_for(sys.argv[1:2])(obj=to_launch, default_map=_default_map())
    except SystemExit as end:
        if end.code or not to_launch:
            raise
    except GradwatchError as error:
        _say(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe, for example `head`, is gone: nothing more can be printed, not even at exit.
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NOT_WRITTEN or error.filename is not None:
            raise
        sys.stdout = None  # what it still holds would fail again at exit
        refused = CannotPrint(f"The output can't be written: {error.strerror}.")
        _say(f"error: {refused}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    return to_launch[0]
