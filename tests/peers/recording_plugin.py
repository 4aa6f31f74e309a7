"""A pytest plugin for the tests of peers: it writes down how each test ended, and may record what each test trains.

The environment has GRADWATCH_PEERS_REPORT, the file to write, and, if trainings are to be recorded,
GRADWATCH_PEERS_RUNS, the folder to record into.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

REPORT = Path(os.environ.get("GRADWATCH_PEERS_REPORT", os.devnull))  # pytest looks for doctests here, too
RUNS = os.environ.get("GRADWATCH_PEERS_RUNS")

_outcomes: dict[str, str] = {}
_skipped: dict[str, str] = {}
_steps: dict[str, int] = {}
_recording = pytest.StashKey[Any]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Record a test from its fixtures on."""
    if RUNS is None:
        return (yield)
    from gradwatch.script.discover import Discovery
    from gradwatch.script.plan import RecordingPlan

    discovery = Discovery(RecordingPlan(run=Path(RUNS) / str(len(_steps))))
    item.stash[_recording] = discovery
    try:
        return (yield)
    finally:
        _end(item)
        _steps[item.nodeid] = discovery.steps


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """End the recording with the test: a fixture of Lightning fails a test that leaves a thread."""
    try:
        return (yield)
    finally:
        _end(item)


def _end(item: pytest.Item) -> None:
    discovery = item.stash.get(_recording, None)
    if discovery is not None:
        item.stash[_recording] = None
        discovery.close("the test ended")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        kind = "" if crash is None else f" {crash.message.split(':')[0].splitlines()[0]}"
        _outcomes[report.nodeid] = f"{report.outcome}{kind}"
        if report.skipped and isinstance(report.longrepr, tuple):
            _skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ").splitlines()[0]


def pytest_sessionfinish() -> None:
    REPORT.write_text(json.dumps({"outcomes": _outcomes, "skipped": _skipped, "steps": sum(_steps.values())}))
