"""A reader changes nothing, whatever state the files are in and whoever writes meanwhile."""

import dataclasses
import shutil
import sqlite3
import subprocess
import sys

import pytest

from gradwatch import Run
from gradwatch.record import ParameterInfo
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter
from gradwatch.testing import steady, stream, write_run

from .batches import listing


def test_a_closed_run_is_one_file(tmp_path):
    write_run(tmp_path, stream(steady(10)))
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_reading_creates_and_changes_nothing(tmp_path):
    write_run(tmp_path, stream(steady(400)))
    before = listing(tmp_path)
    run = Run(tmp_path)
    run.summary(), run.recommend(), run.events(), run.layers("zeros")
    assert listing(tmp_path) == before


def test_a_store_whose_log_is_gone_is_read_without_making_one(tmp_path):
    """As a writer leaves it that could not switch the log off."""
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream([1.0] * 20))
    writer.abandon()
    before = listing(tmp_path)
    assert [name for name, _ in before] == [FILE_NAME]
    run = Run(tmp_path)
    assert len(run.steps()) == 20
    assert listing(tmp_path) == before


def crashed(tmp_path):
    """A run whose writer was killed: the log holds what the file does not yet."""
    code = (
        "import os, sys; from pathlib import Path; from gradwatch.store import StoreWriter;"
        "from gradwatch.testing import stream;"
        "w = StoreWriter(Path(sys.argv[1])); w.begin_attempt({}, {'0': ('SGD', {})});"
        "r = stream([1.0] * 20); w.add_parameters('0', r[0].layers.parameters); w.append(r); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size > 0
    return tmp_path


def test_a_crashed_run_is_read_whole_and_left_as_it_was(tmp_path):
    crashed(tmp_path)
    before = [name for name, _ in listing(tmp_path)]
    assert len(Run(tmp_path).steps()) == 20
    assert [name for name, _ in listing(tmp_path)] == before


def test_a_journal_left_by_a_killed_writer_is_rolled_back_in_a_copy(tmp_path):
    """As on a network file system, where there is no write-ahead log."""
    code = (
        "import os, sys; from pathlib import Path; from gradwatch.store import StoreWriter, connection, rows;"
        "from gradwatch.testing import stream; connection.on_network_file_system = lambda folder: True;"
        "s = StoreWriter(Path(sys.argv[1])); s.begin_attempt({}, {'0': ('SGD', {})});"
        "r = stream([1.0] * 2000); s.add_parameters('0', r[0].layers.parameters); s.append(r[:20]);"
        "s._file.db.execute('pragma cache_size = 1'); written = s._file.transaction(); written.__enter__();"
        "made = rows.step_rows(r[20:], 100)['step'];"
        "s._file.insert('step', rows.STEP_ROW_COLUMNS['step'], made); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / f"{FILE_NAME}-journal").stat().st_size > 0
    before = listing(tmp_path)
    assert len(Run(tmp_path).steps()) == 20
    assert listing(tmp_path) == before


def test_a_copied_log_without_its_shared_memory_is_read_in_a_copy(tmp_path):
    crashed(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b")
    before = listing(tmp_path / "b")
    assert len(Run(tmp_path / "b").steps()) == 20
    assert listing(tmp_path / "b") == before


def test_a_run_is_read_while_it_is_written(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    batch = stream(steady(30))
    writer.add_parameters("0", batch[0].layers.parameters)
    reader = Run(tmp_path)
    for i in range(0, 30, 10):
        writer.append(batch[i : i + 10])
        assert len(reader.steps()) == i + 10
        assert len(reader.layers("norm")) == i + 10
    writer.end_attempt("closed")
    assert len(reader.steps()) == 30
    assert len(Run(tmp_path).steps()) == 30


def test_a_read_only_folder_can_be_read(tmp_path):
    folder = crashed(tmp_path / "run")
    folder.chmod(0o555)
    try:
        assert len(Run(folder).steps()) == 20
    finally:
        folder.chmod(0o755)


def test_records_are_read_in_pieces_that_miss_nothing(tmp_path):
    records = stream(steady(23))
    write_run(tmp_path, records)
    with StoreReader(tmp_path) as reader:
        for chunk in (1, 7, 23, 500):
            assert [r.step for r in reader.records("0", chunk)] == list(range(23))


def test_records_that_are_written_meanwhile_are_read_too(tmp_path):
    records = stream(steady(100))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {}), "1": ("SGD", {})})
    writer.append(records[:30])
    with StoreReader(tmp_path) as reader:
        found = reader.records("0")
        seen = [next(found).step for _ in range(30)]
        writer.append([dataclasses.replace(record, optimizer="1") for record in records[:50]])
        writer.append(records[30:])
        assert seen + [record.step for record in found] == list(range(100))
        assert [record.step for record in reader.records("0", after=30)] == list(range(30, 100))
    writer.end_attempt("closed")


def test_the_parameters_of_one_optimizer_alone_are_those_read_with_all_others(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    for name in ("a", "b", "c"):
        writer.add_optimizer(name, "SGD", {})
        writer.add_parameters(name, [ParameterInfo(name=f"{name}.{i}", shape=(i,)) for i in range(4)])
    writer.end_attempt("closed")
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("update parameter set shape = '[9]' where optimizer = 'b' and position = 2")
        db.execute("update parameter set position = 4000 where optimizer = 'c' and position = 3")
    db.close()
    with StoreReader(tmp_path) as reader, StoreReader(tmp_path) as other:
        for name in ("a", "b", "c", "nothing"):
            assert reader.parameters_alone(name) == other.parameters(name)
        assert reader.damaged_rows == other.damaged_rows > 0
        assert [info.name for info in reader.parameters_alone("b")] == ["b.0", "b.1", "(damaged 2)", "b.3"]


@pytest.mark.parametrize("table", ["optimizer", "parameter", "step"])
def test_an_optimizer_is_known_by_any_row_of_it(tmp_path, table):
    """Whichever rows a damaged disk has left."""
    records = stream(steady(3))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", records[0].layers.parameters)
    writer.append(records)
    assert writer.knows("0")
    assert not writer.knows("1")
    writer.end_attempt("closed")
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        for other in {"optimizer", "parameter", "step"} - {table}:
            db.execute(f"delete from {other}")
    db.close()
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    assert writer.knows("0")
    assert not writer.knows("1")
    writer.end_attempt("closed")
