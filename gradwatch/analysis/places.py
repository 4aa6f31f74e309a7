"""Finding runs: the stores below a folder, and the run that a path refers to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gradwatch.errors import RunNotFound
from gradwatch.store import FILE_NAME

MOST_NAMED = 8  # runs in a message


def find_stores(folders: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """The name and the store of every run below the folders. Links that lead out of a folder are not followed."""
    for prefix, folder in folders.items():
        root = folder.resolve()
        for parent, _, files in os.walk(root):
            if FILE_NAME not in files:
                continue
            path = Path(parent, FILE_NAME)
            if not os.path.islink(path) or _leads_below(path, root):  # noqa: PTH114 - of a thousand, faster
                below = parent[len(os.fspath(root)) :].replace(os.sep, "/").strip("/")
                yield "/".join(part for part in (prefix, below) if part not in ("", ".")) or ".", path


def _leads_below(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # it leads nowhere or in a circle
        return False


def is_run(path: Path) -> bool:
    """Whether a path is a store, or a folder that holds one."""
    return path.is_file() or (path / FILE_NAME).exists()


def runs_below(folder: Path) -> list[Path]:
    """The folders of the runs below a folder, by name; a run that is given itself is the only one.

    >>> [run.name for run in runs_below(example_run)], [run.name for run in runs_below(example_run.parent)]
    (['example'], ['example'])
    """
    if is_run(folder):
        return [folder]
    return sorted(folder / name for name, _ in find_stores({"": folder})) if folder.is_dir() else []


def the_run(path: Path) -> Path:
    """The run that a path means: the run itself, or the only one below it.

    Raises:
        RunNotFound: several runs lie below; the message names them.
    """
    if is_run(path) or not path.is_dir():
        return path
    found = runs_below(path)
    if len(found) == 1:
        return found[0]
    if not found:
        return path  # the reader says what is wrong
    named = ", ".join(map(str, found[:MOST_NAMED]))
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise RunNotFound(f"{str(path)!r} holds {len(found)} runs; expected one of {named}{more}.")
