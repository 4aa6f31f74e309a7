"""The verdicts for a list of runs, computed in the background and cached until the store changes.

A verdict needs the whole diagnosis of its run: about 0.3 s for 1,000 steps of 1,000 parameters. A list of many runs is
therefore answered at once with the known verdicts, and says which are still being computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gradwatch.analysis.listing import numbers_of
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import summarize
from gradwatch.errors import EmptyRun, GradwatchError
from gradwatch.views.web.view import written

PATIENCE = 1.0  # seconds that an answer waits for verdicts
RECHECK_SECONDS = 5.0  # after these a run that was being written is looked at again: its process may be gone

Glance: TypeAlias = dict[str, Any]
Stamp: TypeAlias = tuple[tuple[int, int], ...]
_UNKNOWN: Mapping[str, Any] = {
    "verdict": None,
    "running": False,
    "optimizers": [],
    "error": None,
    "numbers": None,
    "settings": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    stamp: Stamp
    glance: Glance
    at: float  # time.monotonic


class Glances:
    """The glances at runs. Threads may share it. One thread computes, and it ends when nothing is left to do.

    Args:
        look: makes the glance at a store.
    """

    def __init__(self, look: Callable[[Path], Glance] | None = None) -> None:
        self._look = look or glance_at
        self._kept: dict[Path, _Kept] = {}
        self._waiting: dict[Path, None] = {}  # in the order in which they are computed
        self._changed = threading.Condition()
        self._is_working = False

    def of(self, paths: Iterable[Path], patience: float = PATIENCE) -> dict[Path, Glance]:
        """A glance at each store: as of now, or as of an earlier state or unknown and then with ``pending``.

        Waits up to ``patience`` seconds for those that are not up to date; the store written last comes first.
        """
        stamps, lost = _stamps(paths)
        with self._changed:
            stale = [path for path, stamp in stamps.items() if not self._is_current(path, stamp)]
            stale.sort(key=lambda path: -_newest(stamps[path]))
            self._waiting = dict.fromkeys([*stale, *self._waiting])
            if self._waiting and not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, daemon=True, name="gradwatch-verdicts").start()
            self._changed.wait_for(lambda: not any(path in self._waiting for path in stale), patience)
            return lost | {path: self._answer(path, stamp) for path, stamp in stamps.items()}

    def _is_current(self, path: Path, stamp: Stamp) -> bool:
        kept = self._kept.get(path)
        if kept is None or kept.stamp != stamp:
            return False
        return not kept.glance["running"] or time.monotonic() - kept.at < RECHECK_SECONDS

    def _answer(self, path: Path, stamp: Stamp) -> Glance:
        kept = self._kept.get(path)
        glance = dict(_UNKNOWN) if kept is None else kept.glance
        return glance | {"written": _newest(stamp) / 1e9, "pending": path in self._waiting}

    def _work(self) -> None:
        while True:
            with self._changed:
                path = next(iter(self._waiting), None)
                if path is None:
                    self._is_working = False
                    return
            try:
                stamp = written(path)
                kept = _Kept(stamp=stamp, glance=self._look(path), at=time.monotonic())
            except Exception as error:  # the run was deleted meanwhile; the thread must go on with the others
                kept = _Kept(stamp=(), glance=_failed(error), at=time.monotonic())
            with self._changed:
                self._kept[path] = kept
                self._waiting.pop(path, None)
                self._changed.notify_all()


def glance_at(path: Path) -> Glance:
    """State, verdict, a few numbers and the optimizer's settings of a run, or the reason why it can't be read.

    They are those of the optimizer with the gravest finding. Verdict and numbers are None before the first step.
    """
    try:
        run = Run(path)
        glance = dict(_UNKNOWN) | {"running": run.is_being_written(), "optimizers": list(run.optimizers)}
        try:
            summary = summarize(run, layers=False)
        except EmptyRun:
            return glance
        told = {"verdict": summary.verdict, "numbers": numbers_of(summary)}
        return glance | told | {"settings": run.settings(summary.optimizer)}
    except Exception as error:  # one broken run must not hide the others
        return _failed(error)


def _failed(error: Exception) -> Glance:
    text = str(error) if isinstance(error, GradwatchError | OSError) else f"{type(error).__name__}: {error}"
    return dict(_UNKNOWN) | {"error": text}


def _stamps(paths: Iterable[Path]) -> tuple[dict[Path, Stamp], dict[Path, Glance]]:
    """The state of each store, and a glance that says why for those that can't be looked at."""
    stamps: dict[Path, Stamp] = {}
    lost: dict[Path, Glance] = {}
    for path in paths:
        try:
            stamp, reason = written(path), "the run was deleted"
        except OSError as error:
            stamp, reason = (), str(error)
        if stamp:
            stamps[path] = stamp
        else:
            lost[path] = dict(_UNKNOWN) | {"error": reason, "written": 0.0, "pending": False}
    return stamps, lost


def _newest(stamp: Stamp) -> int:
    """When the store was written last, in nanoseconds."""
    return max(nanoseconds for nanoseconds, _ in stamp)
