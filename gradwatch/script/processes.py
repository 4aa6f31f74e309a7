"""Processes that a script starts with `multiprocessing`: each that trains records a run of its own.

A forked child inherits the hooks and notices that it is another process (`Discovery`). A spawned child is a new
interpreter without hooks, so its `run` is wrapped in one that puts them in. Processes that train together
(`torch.distributed`) record into the run of the script, as under `torchrun`.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from gradwatch.script.imports import after_import
from gradwatch.script.plan import RecordingPlan

if TYPE_CHECKING:
    from gradwatch.script.discover import Discovery

_LOADS_DATA = "torch.utils.data"  # its workers train nothing


def listen_to_processes(plan: RecordingPlan) -> Callable[[], None]:
    """Record in the processes that this one spawns; return what ends it."""
    original = BaseProcess.start

    @functools.wraps(original)
    def start(self: Any) -> None:
        if not _is_spawned(self) or _loads_data(self):
            original(self)
            return
        self.run = RecordedRun(functools.partial(type(self).run, self), plan)
        try:
            original(self)
        finally:
            del self.run

    BaseProcess.start = start  # type: ignore[method-assign]

    def stop() -> None:
        BaseProcess.start = original  # type: ignore[method-assign]

    return stop


@contextlib.contextmanager
def counted_processes() -> Iterator[list[str]]:
    """The names of the processes that this one starts meanwhile, but for those that load data."""
    original, started = BaseProcess.start, []

    @functools.wraps(original)
    def start(self: Any) -> None:
        if not _loads_data(self):
            started.append(self.name)
        original(self)

    BaseProcess.start = start  # type: ignore[method-assign]
    try:
        yield started
    finally:
        BaseProcess.start = original  # type: ignore[method-assign]


def _is_spawned(process: Any) -> bool:
    return (process._start_method or multiprocessing.get_start_method()) in ("spawn", "forkserver")


def _loads_data(process: Any) -> bool:
    return str(getattr(getattr(process, "_target", None), "__module__", "")).startswith(_LOADS_DATA)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What a spawned process runs, with the hooks in. It is pickled to get there."""

    run: Callable[[], None]
    plan: RecordingPlan

    def __call__(self) -> None:
        found: list[Discovery] = []
        after_import("torch", lambda: found.append(_discover(self.plan)))
        stop = listen_to_processes(self.plan)
        reason = "exit"
        try:
            self.run()
        except Exception as error:
            reason = f"exception {type(error).__name__}"
            raise
        finally:
            stop()
            for discovery in found:
                discovery.close(reason)


def _discover(plan: RecordingPlan) -> Discovery:
    from gradwatch.script.discover import Discovery

    return Discovery(plan, is_child=True)
