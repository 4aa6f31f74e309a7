"""Compacting: smaller, equal row for row, and nothing lost wherever it ends."""

import os
import signal
import sqlite3
import stat
import time

import pytest

from gradwatch import Run
from gradwatch.errors import NotARun, RunInUse, RunNotFound, StoreDamaged, StoreNotWritable
from gradwatch.store import FILE_NAME, StoreWriter, compacting
from gradwatch.store.compacting import compact
from gradwatch.testing import replaced, steady, stream, write_run


def rows_of(path):
    """Every row of every table, read without gradwatch."""
    db = sqlite3.connect(path)
    try:
        names = sorted(name for (name,) in db.execute("select name from sqlite_master where type = 'table'"))
        return {name: [repr(row) for row in db.execute(f'select * from "{name}"')] for name in names}
    finally:
        db.close()


def write(folder):
    write_run(folder, stream(replaced(steady(900), {500: 90.0, 899: float("nan")}), max_norm=1.0))


@pytest.fixture
def run(tmp_path, made_once):
    return made_once(write, tmp_path / "run")


def test_it_is_smaller_and_equal_row_for_row(run):
    file = run / FILE_NAME
    before, summary = rows_of(file), Run(run).summary()
    size = file.stat().st_size
    file.chmod(0o640)
    done = compact(run)
    assert rows_of(file) == before
    assert done.rows == sum(map(len, before.values()))
    assert (done.before, done.after) == (size, file.stat().st_size)
    assert done.after < 0.9 * size
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(run) == [FILE_NAME]
    again = Run(run).summary()
    assert (again.steps, again.verdict, repr(again.total_norm)) == (
        summary.steps,
        summary.verdict,
        repr(summary.total_norm),
    )
    assert Run(run).damaged_rows == 0


def test_a_second_time_changes_nothing(run):
    compact(run)
    before = (run / FILE_NAME).read_bytes()
    done = compact(run)
    assert done.before == done.after
    assert (run / FILE_NAME).read_bytes() == before


def test_a_training_can_go_on_afterwards(run):
    compact(run)
    writer = StoreWriter(run)
    assert writer.begin_attempt({}, {}) == 900
    writer.end_attempt("closed")
    assert Run(run).summary().attempts == 2


def test_the_log_of_a_killed_writer_is_taken_in(tmp_path, run):
    child = os.fork()
    if not child:
        writer = StoreWriter(run)
        writer.begin_attempt({"left": "in the log"}, {})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (run / f"{FILE_NAME}-wal").exists()
    compact(run)
    assert os.listdir(run) == [FILE_NAME]
    assert Run(run).meta()["left"] == "in the log"


def test_tables_of_a_user_stay(run):
    db = sqlite3.connect(run / FILE_NAME)
    with db:
        db.execute("create table mine (a, b)")
        db.execute("insert into mine values (1, -0.0), (1.0, x'00ff'), (null, 'é')")
    db.close()
    before = rows_of(run / FILE_NAME)
    compact(run)
    assert rows_of(run / FILE_NAME) == before


def test_a_live_run_is_refused(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    with pytest.raises(RunInUse, match="being recorded"):
        compact(tmp_path)
    writer.end_attempt("closed")


def test_a_store_that_another_program_writes_is_refused(run):
    db = sqlite3.connect(run / FILE_NAME)
    db.execute("begin immediate")
    before = (run / FILE_NAME).read_bytes()
    with pytest.raises(RunInUse, match="another program"):
        compact(run)
    db.rollback()
    assert (run / FILE_NAME).read_bytes() == before


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunNotFound):
        compact(tmp_path)
    (tmp_path / FILE_NAME).write_text("no store")
    with pytest.raises(NotARun):
        compact(tmp_path)


def test_a_damaged_store_stays_as_it_is(run):
    file = run / FILE_NAME
    content = bytearray(file.read_bytes())
    for page in range(6 * 16384, len(content) - 16384, 3 * 16384):
        content[page : page + 200] = b"\xff" * 200
    file.write_bytes(content)
    with pytest.raises((StoreDamaged, StoreNotWritable)):
        compact(run)
    assert file.read_bytes() == content
    assert os.listdir(run) == [FILE_NAME]


def test_a_new_file_that_differs_is_thrown_away(run, monkeypatch):
    written = compacting._write_smallest

    def changed(db, new):
        written(db, new)
        other = sqlite3.connect(new)
        with other:
            other.execute("update step set total_norm = 7 where id = 450")
        other.close()

    monkeypatch.setattr(compacting, "_write_smallest", changed)
    before = (run / FILE_NAME).read_bytes()
    with pytest.raises(StoreDamaged, match="row 450 of table 'step' differs"):
        compact(run)
    assert (run / FILE_NAME).read_bytes() == before
    assert os.listdir(run) == [FILE_NAME]


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12])
def test_a_kill_at_any_moment_loses_nothing(run, delay):
    before = rows_of(run / FILE_NAME)
    child = os.fork()
    if not child:
        compact(run)
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert rows_of(run / FILE_NAME) == before
    assert Run(run).damaged_rows == 0
    compact(run)
    assert rows_of(run / FILE_NAME) == before
    assert os.listdir(run) == [FILE_NAME]


@pytest.mark.parametrize("name", ["_write_smallest", "_compare", "_put_in_place"])
def test_an_exception_at_any_moment_loses_nothing(run, monkeypatch, name):
    before = (run / FILE_NAME).read_bytes()

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(compacting, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        compact(run)
    assert (run / FILE_NAME).read_bytes() == before
    assert os.listdir(run) == [FILE_NAME]


def test_a_full_disk_loses_nothing(run, monkeypatch):
    def full(db, new):
        new.write_bytes(b"half")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(compacting, "_write_smallest", full)
    before = (run / FILE_NAME).read_bytes()
    with pytest.raises(StoreNotWritable, match="full"):
        compact(run)
    assert (run / FILE_NAME).read_bytes() == before
    assert os.listdir(run) == [FILE_NAME]
