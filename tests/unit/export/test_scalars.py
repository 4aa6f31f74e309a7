"""The scalars of a run as event files."""

from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.errors import CannotExport
from gradwatch.export.scalars import write_scalars
from gradwatch.sources import read
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run


def test_another_program_reads_the_spike_that_was_written(tmp_path):
    run = Run(write_run(tmp_path / "run", stream(replaced(steady(300), {200: 50.0}))))
    assert write_scalars(run, tmp_path / "logs") == 300
    history = read([tmp_path / "logs"], norm="gradwatch/total_norm_max")
    assert max(point.norm for point in history.points) == 50.0


def test_the_steps_of_all_optimizers_are_counted(tmp_path):
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"a": ("SGD", {}), "b": ("SGD", {})})
    for name, steps in (("a", 4), ("b", 3)):
        writer.append([replace(record, optimizer=name, layers=None, weights=None) for record in stream([1.0] * steps)])
    writer.end_attempt("closed")
    assert write_scalars(Run(tmp_path / "run"), tmp_path / "logs") == 7


def test_a_folder_that_can_not_be_written_is_said(tmp_path):
    run = Run(write_run(tmp_path / "run", stream(steady(5))))
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotExport, match="can't be written"):
        write_scalars(run, tmp_path / "file")
