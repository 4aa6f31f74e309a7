"""The line that `gradwatch run` prints at the end: how many steps the store holds, and how to look at them."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradwatch.errors import GradwatchError
from gradwatch.script.plan import PROCESS
from gradwatch.store import FILE_NAME, StoreReader
from gradwatch.store.descriptors import is_abandoned

MOST_LINES = 4  # for processes that the script started; a line counts the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The steps that a store holds, and of how many optimizers they are."""

    steps: int
    optimizers: int

    def __str__(self) -> str:
        """For people.

        >>> str(Recorded(steps=60, optimizers=1)), str(Recorded(steps=1, optimizers=1))
        ('recorded 60 steps', 'recorded 1 step')
        >>> str(Recorded(steps=60, optimizers=2))
        'recorded 60 steps of 2 optimizers'
        """
        of = f" of {self.optimizers} optimizers" if self.optimizers > 1 else ""
        return f"recorded {self.steps} step{'' if self.steps == 1 else 's'}{of}"


def recorded_since(run: Path, started: float, most: int | None = None) -> Recorded | None:
    """Count the steps of the first ``most`` attempts that began at ``started`` or later, in seconds since the epoch.

    None if there is no such attempt or the run can't be read.
    """
    try:
        with StoreReader(run) as reader:
            attempts = [one.attempt for one in reader.attempts() if one.started >= started][:most]
            steps = [int(np.isin(reader.step_ids(name)[:, 2], attempts).sum()) for name in reader.optimizers()]
    except (GradwatchError, OSError):
        return None
    return Recorded(steps=sum(steps), optimizers=sum(count > 0 for count in steps)) if attempts else None


def closing_lines(
    shown: Path, run: Path, started: float, why_nothing: str, opened: float | None = None, *, failed: bool = False
) -> list[str]:
    """Say what a script recorded in its own process and in those that it started.

    Args:
        shown: the run as the user wrote it, relative to the user's directory.
        run: the same, absolute.
        started: when the script began, in seconds since the epoch.
        why_nothing: the reason if nothing was recorded.
        opened: when this process opened the run, in which no other one can begin an attempt until it is closed. None:
            it did not, and a process that it started may have.
        failed: this process wanted to record and could not: what the run got since is another script's.
    """
    own = _own_lines(shown, run, started, opened, failed=failed)
    others = _lines_of_processes(shown, run, started)
    lines = own + others[:MOST_LINES]
    if len(others) > MOST_LINES:
        lines.append(f"and {len(others) - MOST_LINES} more runs {shown}{PROCESS}*")
    return lines or [f"nothing was recorded: {why_nothing}"]


def _own_lines(shown: Path, run: Path, started: float, opened: float | None, *, failed: bool) -> list[str]:
    """What this process recorded; nothing if it made no step."""
    if is_abandoned(run / FILE_NAME):
        return [f"the recording ended early; gradwatch report {shown} shows what was written until then"]
    if failed:
        return []
    own = recorded_since(run, started) if opened is None else recorded_since(run, opened, most=1)
    return [f"{own}; gradwatch report {shown}"] if own is not None and own.steps else []


def _lines_of_processes(shown: Path, run: Path, started: float) -> list[str]:
    """What each process that the script started recorded in a run of its own."""
    lines = []
    for folder in sorted(run.parent.glob(f"{glob.escape(run.name)}{PROCESS}*")):
        number = folder.name.removeprefix(f"{run.name}{PROCESS}")
        recorded = recorded_since(folder, started)
        if recorded is not None and recorded.steps:
            lines.append(f"{recorded} in process {number}; gradwatch report {shown.with_name(folder.name)}")
        elif recorded is not None:
            lines.append(f"recorded nothing in process {number}: it made no step or was killed at once")
    return lines
