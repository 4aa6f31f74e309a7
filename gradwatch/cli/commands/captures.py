"""`gradwatch captures`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.capture import CaptureSurvey, capture_folders, delete, survey
from gradwatch.capture.listing import step_of, unfinished_folders
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
    found = survey(run)
    if steps:
        _delete(run, found, steps)
    elif json:
        print_json([info.as_dict() for info in found.captures])
        for one in found.unreadable:
            print_lines(f"gradwatch: {printable(f'{one.folder} is left out: {one.why}')}", err=True)
        if found.left_out:
            print_lines(f"gradwatch: {found.left_out} more captures are left out", err=True)
    else:
        print_view(capture_list(found, screen()))


def _delete(run: Path, found: CaptureSurvey, steps: list[int]) -> None:
    by_folder = {folder: step_of(folder) for folder in [*capture_folders(run), *unfinished_folders(run)]}
    by_folder |= {info.folder: info.step for info in found.captures}
    wanted = [folder for folder, step in by_folder.items() if step in steps]
    missing = sorted(set(steps) - {by_folder[folder] for folder in wanted})
    if missing:
        raise CaptureNotFound(f"No capture of step {', '.join(map(str, missing))} exists.")
    for folder in wanted:
        delete(folder)
        print_lines(f"deleted {folder}", err=True)
