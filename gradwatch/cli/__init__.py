"""The command line: `signatures` has the options of each command, `commands` a module for the work of each."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

import typer

from gradwatch.cli import commands
from gradwatch.cli.signatures import app
from gradwatch.errors import GradwatchError

if TYPE_CHECKING:
    from gradwatch.cli.commands.run import Launch

__all__ = ["app", "main"]


def main() -> None:
    """Entry point. Our own errors print one line and exit with code 1."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    to_launch: list[Launch] = []
    try:
        app(obj=to_launch)
    except SystemExit as end:
        if end.code or not to_launch:
            raise
    except GradwatchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe, for example `head`, is gone: nothing more can be printed, not even at exit.
        sys.stdout = None
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    # A script runs outside of this handling: its exceptions and its streams are its own.
    for stream, errors in zip(streams, before, strict=True):
        stream.reconfigure(errors=errors)
    commands.run.launch(to_launch[0])
