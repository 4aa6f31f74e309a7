"""Callbacks for training frameworks. Each translates a framework's hooks into calls of a watch.

Import the module of your framework: `gradwatch.integrations.lightning`, `.transformers`,
`.accelerate` or `.keras`.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from gradwatch.errors import UnsupportedVersion


def require(least: dict[str, tuple[int, int]]) -> None:
    """Check that one of these packages is installed, in at least the version given.

    Args:
        least: the lowest version (major, minor) of each package; the first that is installed counts.

    Raises:
        UnsupportedVersion: none is installed, or the installed one is older.

    >>> require({"pytest": (7, 0)})
    >>> require({"pytest": (999, 0)})
    Traceback (most recent call last):
    gradwatch.errors.UnsupportedVersion: pytest ... is installed; gradwatch needs 999.0 or newer. ...
    """
    for package, needed in least.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < needed:
            wanted = ".".join(map(str, needed))
            raise UnsupportedVersion(
                f"{package} {installed} is installed; gradwatch needs {wanted} or newer."
                f" Upgrade it: `pip install -U {package}`. Or call gradwatch.attach with the model and the optimizer,"
                " or use `gradwatch run`."
            )
        return
    name = next(iter(least))
    raise UnsupportedVersion(f"{name} is not installed: `pip install {name}`.")


def folder_for(run: Path | None, beside: Path, first_step: int) -> Path:
    """Return the folder to record into: the one asked for, else ``gradwatch`` in the framework's own folder.

    There, a training from the start gets a new folder, ``gradwatch-2`` and so on; a training from a
    checkpoint continues the latest.

    Args:
        run: the folder asked for, or None.
        beside: the framework's own folder.
        first_step: 0 for a training from the start.
    """
    if run is not None:
        return run
    folder, number = beside / "gradwatch", 1
    while (beside / f"gradwatch-{number + 1}").exists():
        number += 1
    last = folder if number == 1 else beside / f"gradwatch-{number}"
    if first_step > 0 or not last.exists():
        return last
    return beside / f"gradwatch-{number + 1}"
