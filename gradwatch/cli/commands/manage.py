"""`gradwatch rm`, `mv`, `compact`, `note` and `tag`: actions on a whole run, except one that is being recorded."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from gradwatch.analysis.notes import FILE_NAME as NOTES_NAME
from gradwatch.analysis.notes import Notes, read_notes, with_tags, write_notes
from gradwatch.analysis.places import is_run, the_run
from gradwatch.capture import capture_folders
from gradwatch.capture import delete as delete_capture
from gradwatch.capture.listing import FOLDER as CAPTURES
from gradwatch.capture.listing import unfinished_folders
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument, NotARun, RunInUse, RunNotFound, StoreDamaged, StoreNotWritable, StoreTooNew
from gradwatch.store import FILE_NAME, StoreReader
from gradwatch.store.compacting import SUFFIX as COMPACTED
from gradwatch.store.compacting import compact as compact_store
from gradwatch.text import count, file_size

_SUFFIXES = ("", "-wal", "-shm", "-journal", COMPACTED, f"{COMPACTED}-journal", f"{COMPACTED}.best")


def rm(paths: Sequence[Path], yes: bool) -> None:
    """Delete the stores and captures of runs, and their folders if nothing else is in them.

    Raises:
        BadArgument: the user has not confirmed it, or a path is a link, so that the run lies elsewhere.
        RunNotFound, RunInUse: one of them is no run, or is being recorded; then all stay.
        StoreNotWritable: a file can't be deleted.
    """
    runs = list({path.resolve(): _ended_run(path) for path in paths}.values())
    links = [run for run in runs if run.is_symlink()]
    if links:
        raise BadArgument(f"{str(links[0])!r} is a link to {str(links[0].resolve())!r}; expected the run itself.")
    if not yes:
        if not sys.stdin.isatty():
            asked = f"can't ask before deleting {count(len(runs), 'run')} without a terminal"
            raise BadArgument(f"{asked}; expected --yes.")
        if not typer.confirm(f"Delete {', '.join(map(str, runs))}?"):
            return
    for run in runs:
        left = _delete(run)
        print_lines(f"deleted {run}" + (f"; {count(left, 'other file')} in it kept" if left else ""))


def mv(path: Path, target: Path) -> None:
    """Rename the folder of a run, or move it into a folder that is there.

    Raises:
        RunNotFound, RunInUse: there is no run to move, or it is being recorded.
        BadArgument: something stands at the target, or the target lies in the run.
        StoreNotWritable: the folder can't be moved.
    """
    run = _ended_run(path)
    # Absolute, because the current folder can't be moved as ".". A link is moved as a link.
    source = run.resolve() if run.name in ("", "..") else run.parent.resolve() / run.name
    if target.is_dir() and not is_run(target):
        target /= source.name
    if target.exists() or target.is_symlink():
        raise BadArgument(f"{str(target)!r} exists already; expected a new name, or a folder that is not a run.")
    if target.resolve().is_relative_to(source.resolve()):
        raise BadArgument(
            f"{str(target)!r} lies in {str(run)!r}, which can't be moved into itself; expected a new name."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    except (OSError, shutil.Error) as error:
        raise StoreNotWritable(f"{str(run)!r} can't be moved to {str(target)!r}: {error}.") from error
    print_lines(f"{run} is now {target}")


def compact(paths: Sequence[Path]) -> None:
    """Make the stores of runs smaller, with every row in them as it was.

    Raises:
        RunNotFound, RunInUse: one of them is no run, or is being recorded; then all stay.
        StoreDamaged, StoreNotWritable: a store can't be compacted, and stays as it is.
    """
    for run in [_ended_run(path) for path in paths]:
        done = compact_store(run)
        sizes = f"{file_size(done.before)} -> {file_size(done.after)}"
        print_lines(f"{run}: {sizes}, {count(done.rows, 'row')} compared")


def note(path: Path, text: str | None) -> None:
    """Write the note of a run, or print it; an empty text removes it."""
    run = _run(path)
    before = read_notes(run)
    if text is None:
        print_lines(before.note)
    else:
        write_notes(run, Notes(note=text, tags=before.tags))


def tag(path: Path, tags: Sequence[str], remove: bool) -> None:
    """Add tags to a run or remove them, and print those that it has."""
    run = _run(path)
    found = with_tags(read_notes(run), **{"remove" if remove else "add": tags})
    if tags:
        write_notes(run, found)
    print_lines(" ".join(found.tags))


def _run(path: Path) -> Path:
    """The folder of a run.

    Raises:
        RunNotFound: there is none, or several below.
    """
    run = the_run(path)
    run = run.parent if run.is_file() else run
    if not (run / FILE_NAME).is_file():
        raise RunNotFound(f"There is no run at {str(path)!r}. Give the folder of a recorded run.")
    return run


def _ended_run(path: Path) -> Path:
    """The folder of a run that no process writes to. A damaged one has to be deletable too."""
    if not (path / FILE_NAME).is_file():
        raise RunNotFound(f"There is no run at {str(path)!r}. Give the folder of a recorded run itself.")
    with contextlib.suppress(StoreDamaged, StoreTooNew, NotARun), StoreReader(path) as reader:
        if reader.is_being_written():
            raise RunInUse(f"{str(path)!r} is being recorded. End its training first.")
    return path


def _delete(run: Path) -> int:
    """Delete what gradwatch wrote there; return how many other files stay."""
    try:
        for suffix in _SUFFIXES:
            (run / (FILE_NAME + suffix)).unlink(missing_ok=True)
        (run / NOTES_NAME).unlink(missing_ok=True)
        if not (run / CAPTURES).is_symlink():
            for folder in [*capture_folders(run), *unfinished_folders(run)]:
                delete_capture(folder)
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            (run / CAPTURES).rmdir()
        left = sum(1 for _ in run.iterdir())
        if not left:
            run.rmdir()
    except OSError as error:
        raise StoreNotWritable(f"{str(run)!r} can't be deleted: {error}.") from error
    return left
