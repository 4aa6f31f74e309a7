"""`gradwatch captures`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradwatch.capture import CaptureInfo, UnreadableCapture, delete, list_captures, unreadable_captures
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.cli.printing import print_lines
from gradwatch.errors import CaptureNotFound
from gradwatch.text import printable
from gradwatch.views.console.captures import capture_list


def captures(path: Path | None, json: bool, steps: list[int]) -> None:
    """List the captures of a run, or delete those of some steps.

    Raises:
        CaptureNotFound: no capture of one of these steps exists.
    """
    run = open_run(path).path
    found, unreadable = list_captures(run), unreadable_captures(run)
    if steps:
        _delete([*found, *unreadable], steps)
    elif json:
        print_json([info.as_dict() for info in found])
        for one in unreadable:
            print_lines(f"gradwatch: {printable(f'{one.folder} is left out: {one.why}')}", err=True)
    else:
        print_view(capture_list(found, screen(), unreadable))


def _delete(found: Sequence[CaptureInfo | UnreadableCapture], steps: list[int]) -> None:
    wanted = [info for info in found if info.step in steps]
    missing = sorted(set(steps) - {info.step for info in wanted})
    if missing:
        raise CaptureNotFound(f"No capture of step {', '.join(map(str, missing))} exists.")
    for info in wanted:
        delete(info.folder)
        print_lines(f"deleted {info.folder}", err=True)
