"""`gradwatch import`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.cli.output import screen
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument
from gradwatch.sources import read, write
from gradwatch.text import count

_MOMENTS = ("before clipping", "after clipping")


def import_history(
    paths: list[Path],
    norm: str | None,
    step: str | None,
    loss: str | None,
    optimizer_class: str,
    moment: str | None,
    pattern: str | None = None,
    of: str | None = None,
    config: Path | None = None,
    layers: str | None = None,
) -> None:
    """Make a run from the files of another tool; the last path is the folder of the run."""
    if len(paths) < 2:
        raise BadArgument("only one path was given; expected the files, then the folder of the new run.")
    if moment is not None and moment not in _MOMENTS:
        raise BadArgument(f"--moment is {moment!r}; expected 'before clipping' or 'after clipping'.")
    *files, folder = paths
    history = read(files, norm, step, loss, pattern, of, config, layers)
    made = write(history, folder, optimizer_class, moment)
    ink = screen().ink
    steps, events = count(made.steps, "step"), count(made.events, "event")
    print_lines(ink.safe(f"{steps} of {history.source} -> {made.run}, {events}"))
    for note in made.notes:
        print_lines(ink.safe(f"note: {note}"))
