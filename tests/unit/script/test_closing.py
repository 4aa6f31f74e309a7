"""What `gradwatch run` says at its end is what the stores hold."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from gradwatch.script.closing import MOST_LINES, Recorded, closing_lines, recorded_since
from gradwatch.store import FILE_NAME, StoreWriter, descriptors
from gradwatch.testing import stream, write_run


def lines(run: Path, started: float = 0.0) -> list[str]:
    return closing_lines(Path("runs") / run.name, run, started, "it was late")


def test_the_steps_of_one_optimizer(tmp_path):
    write_run(tmp_path / "x", stream([1.0] * 7))
    assert lines(tmp_path / "x") == ["recorded 7 steps; gradwatch report runs/x"]


def test_a_store_that_was_given_up_is_not_read_in_this_process(tmp_path, monkeypatch):
    store = write_run(tmp_path / "x", stream([1.0] * 7)) / FILE_NAME
    monkeypatch.setattr(descriptors, "_abandoned", {store})
    assert lines(tmp_path / "x") == [
        "the recording ended early; gradwatch report runs/x shows what was written until then"
    ]


def test_one_step(tmp_path):
    write_run(tmp_path / "x", stream([1.0]))
    assert lines(tmp_path / "x") == ["recorded 1 step; gradwatch report runs/x"]


def test_the_steps_of_several_optimizers_are_counted_together(tmp_path):
    writer = StoreWriter(tmp_path / "x")
    writer.begin_attempt({}, {"g": ("SGD", {}), "d": ("SGD", {})})
    for name, count in (("g", 3), ("d", 5)):
        records = [
            dataclasses.replace(record, optimizer=name, layers=None, weights=None) for record in stream([1.0] * count)
        ]
        writer.append(records, [])
    writer.end_attempt("closed")
    assert lines(tmp_path / "x") == ["recorded 8 steps of 2 optimizers; gradwatch report runs/x"]


def test_of_a_resumed_run_only_the_steps_of_this_attempt_count(tmp_path):
    write_run(tmp_path / "x", stream([1.0] * 4))
    started = time.time()
    write_run(tmp_path / "x", stream([1.0] * 3, first_step=4, attempt=1))
    assert recorded_since(tmp_path / "x", started) == Recorded(steps=3, optimizers=1)


def test_what_another_script_adds_to_the_folder_afterwards_is_not_counted(tmp_path):
    write_run(tmp_path / "x", stream([1.0] * 4))
    opened = time.time()
    write_run(tmp_path / "x", stream([1.0] * 3, first_step=4, attempt=1))
    write_run(tmp_path / "x", stream([1.0] * 5, first_step=7, attempt=2))
    said = closing_lines(Path("runs/x"), tmp_path / "x", opened - 60, "it was late", opened)
    assert said == ["recorded 3 steps; gradwatch report runs/x"]


def test_a_script_that_was_refused_the_folder_counts_nothing_of_the_one_that_has_it(tmp_path):
    started = time.time()
    write_run(tmp_path / "x", stream([1.0] * 4))
    said = closing_lines(Path("runs/x"), tmp_path / "x", started, "it is in use", failed=True)
    assert said == ["nothing was recorded: it is in use"]


def test_a_run_that_only_others_wrote_to_is_not_this_ones(tmp_path):
    write_run(tmp_path / "x", stream([1.0] * 4))
    assert lines(tmp_path / "x", time.time() + 1) == ["nothing was recorded: it was late"]


def test_a_run_without_a_step(tmp_path):
    write_run(tmp_path / "x", [])
    assert lines(tmp_path / "x") == ["nothing was recorded: it was late"]


@pytest.mark.parametrize("content", [None, "not a store"])
def test_a_run_that_can_not_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "gradwatch.db").write_text(content)
    assert lines(tmp_path / "x") == ["nothing was recorded: it was late"]


def test_processes_that_recorded_have_a_line_each(tmp_path):
    write_run(tmp_path / "x", stream([1.0] * 2))
    write_run(tmp_path / "x-process-1", stream([1.0] * 3))
    write_run(tmp_path / "x-process-2", [])
    write_run(tmp_path / "y-process-1", stream([1.0] * 3))
    assert lines(tmp_path / "x") == [
        "recorded 2 steps; gradwatch report runs/x",
        "recorded 3 steps in process 1; gradwatch report runs/x-process-1",
        "recorded nothing in process 2: it made no step or was killed at once",
    ]


def test_many_processes_are_counted(tmp_path):
    for number in range(10, 10 + MOST_LINES + 3):
        write_run(tmp_path / f"x-process-{number}", stream([1.0]))
    found = lines(tmp_path / "x")
    assert len(found) == MOST_LINES + 1
    assert found[-1] == "and 3 more runs runs/x-process-*"


def test_a_name_with_signs_of_a_pattern_is_taken_as_it_is(tmp_path):
    write_run(tmp_path / "x[1]-process-1", stream([1.0]))
    write_run(tmp_path / "x1-process-1", stream([1.0]))
    assert lines(tmp_path / "x[1]") == ["recorded 1 step in process 1; gradwatch report runs/x[1]-process-1"]
