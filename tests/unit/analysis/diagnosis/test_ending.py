"""How it ended, and whether there is enough to judge."""

import pytest

from gradwatch import Run
from gradwatch.sources.history import History, Point
from gradwatch.sources.writing import write
from gradwatch.store import StoreWriter
from gradwatch.testing import stream

from .made import calm, codes, run_of, the


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("exception RuntimeError", True),
        ("signal SIGTERM", True),
        ("exception KeyboardInterrupt", False),
        ("exit", False),
        ("exit 1", True),
        ("closed", False),
    ],
)
def test_a_training_that_died(tmp_path, reason, found):
    run = run_of(tmp_path, calm(), reason=reason)
    assert ("died" in codes(run)) == found
    summary = run.summary()
    assert summary.verdict == ("warning" if found else "healthy")
    if found:
        assert "after step 299; until then the gradients had no lasting fault" in summary.reason


@pytest.mark.parametrize(("reason", "has_traceback"), [("exception RuntimeError", True), ("signal SIGTERM", False)])
def test_only_an_exception_leaves_a_traceback_to_read(tmp_path, reason, has_traceback):
    found = the(run_of(tmp_path, calm(), reason=reason), "died")
    assert ("traceback" in found.remedy) == has_traceback
    assert ("outside the script" in found.cause) == (not has_traceback)


@pytest.mark.parametrize("steps", [60, 0])
def test_a_writer_that_is_gone_was_killed_also_before_its_first_step(tmp_path, steps):
    import subprocess
    import sys

    program = (
        "import os, sys; from pathlib import Path; from gradwatch.store import StoreWriter;"
        "from gradwatch.testing import stream, steady;"
        "w = StoreWriter(Path(sys.argv[1])); w.begin_attempt({}, {'0': ('SGD', {})});"
        f"w.append(stream(steady({steps}))); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    run = Run(tmp_path)
    assert not run.is_being_written()
    assert codes(run) == ["killed"]
    assert not steps or not run.summary().running


def test_a_run_whose_writer_lives_is_running(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(calm(5))
    run = Run(tmp_path)
    assert run.is_being_written()
    assert codes(run) == []
    assert run.summary().running
    writer.abandon()


@pytest.mark.parametrize(
    ("steps", "severity"), [(2, "warning"), (9, "warning"), (10, "info"), (39, "info"), (40, None)]
)
def test_a_run_that_is_too_short_to_judge(tmp_path, steps, severity):
    run = run_of(tmp_path, calm(300)[:steps])
    found = [finding.severity for finding in run.diagnosis() if finding.code == "too-short"]
    assert found == ([severity] if severity else [])
    assert run.summary().verdict == ("warning" if severity == "warning" else "healthy")
    assert ("too few to judge" in run.summary().reason) == (severity is not None)


def test_a_few_rows_that_leap_are_not_healthy(tmp_path):
    write(History([Point(i, 3.8e12 * 1.5**i, loss=11.3) for i in range(12)], "a file"), tmp_path / "run")
    found = the(Run(tmp_path / "run"), "too-short")
    assert found.severity == "warning"
    assert "rose 86.5 times" in found.what


def test_a_fault_of_gradwatch_is_no_fault_of_the_training(tmp_path):
    run = run_of(tmp_path, calm(), reason="fault")
    assert the(run, "recording-stopped").severity == "info"
    assert run.summary().verdict == "healthy"


def test_an_empty_run_has_no_finding_but_its_end(tmp_path):
    assert codes(run_of(tmp_path, stream([]))) == ["no-steps"]
