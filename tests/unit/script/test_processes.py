"""Processes that a script spawns are given the hooks on their way. Whole scripts: end_to_end/test_run.py."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from gradwatch.script.plan import RecordingPlan, run_of_this_process
from gradwatch.script.processes import RecordedRun, counted_processes, listen_to_processes

PLAN = RecordingPlan(run=Path("/nowhere/x"), max_norm=1.0, steps=3)


def work() -> None:
    """What a process is to do."""


@pytest.fixture
def started(monkeypatch):
    """The `run` that each process would have started with, without any being started."""
    runs: list[Any] = []
    monkeypatch.setattr(BaseProcess, "start", lambda self: runs.append(vars(self).get("run")))
    return runs


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_spawned_process_is_wrapped_while_it_starts(started, method):
    stop = listen_to_processes(PLAN)
    process = multiprocessing.get_context(method).Process(target=work)
    process.start()
    stop()
    (run,) = started
    assert isinstance(run, RecordedRun)
    assert run.plan == PLAN
    assert "run" not in vars(process), "the parent's object is as it was"


def test_a_forked_process_has_the_hooks_already(started):
    stop = listen_to_processes(PLAN)
    multiprocessing.get_context("fork").Process(target=work).start()
    stop()
    assert started == [None]


def test_processes_that_load_data_are_left_alone(started):
    from torch.utils.data._utils.worker import _worker_loop

    stop = listen_to_processes(PLAN)
    multiprocessing.get_context("spawn").Process(target=_worker_loop).start()
    stop()
    assert started == [None]


def test_a_start_that_fails_leaves_the_process_as_it_was(monkeypatch):
    def fail(self: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(BaseProcess, "start", fail)
    stop = listen_to_processes(PLAN)
    process = multiprocessing.get_context("spawn").Process(target=work)
    with pytest.raises(OSError, match="no more processes"):
        process.start()
    stop()
    assert "run" not in vars(process)


def test_it_can_be_ended():
    before = BaseProcess.start
    stop = listen_to_processes(PLAN)
    assert BaseProcess.start is not before
    stop()
    assert BaseProcess.start is before


def test_what_a_process_runs_can_be_pickled():
    again = pickle.loads(pickle.dumps(RecordedRun(functools.partial(work), PLAN)))
    assert again.plan == PLAN


def test_the_run_of_a_child_has_its_number(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_identity", (2, 1))
    assert run_of_this_process(Path("/runs/x")) == Path("/runs/x-process-2-1")
    assert run_of_this_process(Path("/runs/x"), is_bare_fork=True) == Path(f"/runs/x-process-{os.getpid()}")


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_does_its_work_and_the_hooks_are_taken_out(fails):
    before, done = BaseProcess.start, []

    def run() -> None:
        done.append("torch" in sys.modules)
        if fails:
            raise ValueError("mine")

    if fails:
        with pytest.raises(ValueError, match="mine"):
            RecordedRun(run, PLAN)()
    else:
        RecordedRun(run, PLAN)()
    assert len(done) == 1
    assert BaseProcess.start is before


def test_the_processes_that_are_started_are_counted_and_not_those_that_load_data(started):
    process = multiprocessing.get_context("spawn").Process
    with counted_processes() as names:
        process(target=work, name="a").start()
        process(target=torch.utils.data._utils.worker._worker_loop).start()
        multiprocessing.get_context("forkserver").Process(target=work, name="b").start()
    process(target=work, name="after").start()
    assert names == ["a", "b"]
    assert len(started) == 4
