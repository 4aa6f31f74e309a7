"""Printing views, apart from `output` so that a command that opens no run starts without pandas."""

from __future__ import annotations

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from gradwatch.views.console.screen import Screen


def console() -> Console:
    """Standard output, without rich's own highlighting of numbers and paths."""
    return Console(highlight=False, soft_wrap=False)


def screen() -> Screen:
    """What standard output can show."""
    return Screen.of(console())


def print_lines(text: str, *, err: bool = False) -> None:
    """Print lines, folded between words on a terminal; elsewhere each stays whole, for programs that read it.

    Args:
        text: the lines.
        err: to standard error instead of standard output.
    """
    out = Console(highlight=False, stderr=err)
    for line in text.splitlines() or [""]:
        if out.is_terminal:
            for part in Screen.of(out).fold(Text(line)):
                out.print(part)
        else:
            typer.echo(line, err=err)


def print_view(view: RenderableType) -> None:
    """Print to standard output; lines of a view that are too long for the terminal are folded between words."""
    out = console()
    if isinstance(view, Group) and all(isinstance(line, Text) for line in view.renderables):
        on = Screen.of(out)
        view = Group(*(part for line in view.renderables if isinstance(line, Text) for part in on.fold(line)))
    out.print(view)
