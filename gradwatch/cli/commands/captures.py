"""`gradwatch captures`."""

from __future__ import annotations

from pathlib import Path

import typer

from gradwatch.capture import CaptureInfo, delete, list_captures
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.errors import CaptureNotFound
from gradwatch.views.console.captures import capture_list


def captures(path: Path | None, json: bool, steps: list[int]) -> None:
    """List the captures of a run, or delete those of some steps.

    Raises:
        CaptureNotFound: no capture of one of these steps exists.
    """
    found = list_captures(open_run(path).path)
    if steps:
        _delete(found, steps)
    elif json:
        print_json([info.as_dict() for info in found])
    else:
        print_view(capture_list(found, screen()))


def _delete(found: list[CaptureInfo], steps: list[int]) -> None:
    wanted = [info for info in found if info.step in steps]
    missing = sorted(set(steps) - {info.step for info in wanted})
    if missing:
        raise CaptureNotFound(f"No capture of step {', '.join(map(str, missing))} exists.")
    for info in wanted:
        delete(info.folder)
        typer.echo(f"deleted {info.folder}", err=True)
