"""The reader of a run: attempts, resume points, and names."""

import sqlite3

import pytest

from gradwatch import Run
from gradwatch.analysis.history import ResumePoint, RunReader, newest
from gradwatch.errors import BadArgument, RunNotFound
from gradwatch.store import FILE_NAME
from gradwatch.testing import steady, stream, write_run


def resumed(folder, *first_steps):
    """A run of 10 steps, continued from each of these steps with 5 more."""
    records = stream(steady(10))
    for attempt, first in enumerate(first_steps, 1):
        records += stream(steady(5, level=2.0), attempt=attempt, first_step=first)
    return write_run(folder, records)


def test_resume_points_name_the_attempt_its_first_step_and_the_last_before(tmp_path):
    reader = RunReader(resumed(tmp_path, 8, 20))
    expected = [ResumePoint(attempt=1, step=8, last=9), ResumePoint(attempt=2, step=20, last=12)]
    assert reader.resume_points() == expected
    assert reader.seams() == expected
    assert Run(tmp_path).summary().seams == Run(tmp_path).summary().resume_points == tuple(expected)


def test_a_run_in_one_go_has_no_resume_point(tmp_path):
    assert RunReader(write_run(tmp_path, stream(steady(10)))).resume_points() == []


def test_the_later_attempt_stands(tmp_path):
    steps = RunReader(resumed(tmp_path, 8)).steps()
    assert steps.index.tolist() == list(range(13))
    assert (steps.loc[8:, "total_norm"] > 1.5).all()
    assert (steps.loc[:7, "total_norm"] < 1.5).all()


def test_an_unknown_optimizer_or_statistic_is_refused(tmp_path):
    reader = RunReader(write_run(tmp_path, stream(steady(3))))
    assert reader.optimizer() == "0"
    for call in (lambda: reader.optimizer("critic"), lambda: reader.layers("median"), lambda: reader.ranks("median")):
        with pytest.raises(BadArgument):
            call()


def test_the_newest_run_is_the_one_written_last(tmp_path):
    with pytest.raises(RunNotFound):
        newest(tmp_path)
    write_run(tmp_path / "a", stream(steady(3)))
    assert newest(tmp_path) == tmp_path / "a"


def test_a_run_without_an_intact_optimizer_has_empty_tables(tmp_path):
    write_run(tmp_path, stream(steady(10)))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    for table in ("optimizer", "step", "layer"):
        db.execute(f"delete from {table}")
    db.commit()
    db.close()
    run = Run(tmp_path)
    assert run.layers("norm").empty
    assert run.layers("norm").index.name == "step"
