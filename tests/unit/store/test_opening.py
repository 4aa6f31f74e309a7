"""What is refused when a store is opened, and that nothing beside it is changed."""

import os
import shutil
import sqlite3
import threading

import pytest

from gradwatch.errors import NotARun, RunNotFound, StoreDamaged, StoreTooNew
from gradwatch.store import FILE_NAME
from gradwatch.store.opening import Database, check_file, damaged, find_fault
from gradwatch.store.schema import SCHEMA_VERSION, Layout
from gradwatch.testing import stream, write_run

ENTRIES = "select type, name, tbl_name, rootpage, sql from sqlite_master"


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", stream([1.0, 2.0, 3.0]))


def execute(folder, *statements):
    db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()
    return folder


def entries_of(folder):
    db = sqlite3.connect(folder / FILE_NAME)
    try:
        return db.execute(ENTRIES).fetchall(), db.execute("pragma page_count").fetchone()[0]
    finally:
        db.close()


def layout(version=SCHEMA_VERSION, has_row_crc=True):
    return Layout(version=version, has_row_crc=has_row_crc)


# ------------------------------------------------------------------------------ the declared tables


def test_the_tables_of_a_store_are_right(run):
    assert find_fault(layout(), *entries_of(run)) is None


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("drop table event", "missing"),
        ("create trigger t after insert on step begin select 1; end", "trigger"),
        ("create index i on parameter (name)", "table 'parameter' has the index"),
    ],
)
def test_a_changed_declaration_is_told(run, statement, says):
    assert says in find_fault(layout(), *entries_of(execute(run, statement)))


def test_a_table_of_another_form_is_told(run):
    execute(run, "drop table weight", "create table weight (id integer primary key, weight_norm blob)")
    assert "table 'weight' is not that of schema" in find_fault(layout(), *entries_of(run))


@pytest.mark.parametrize(
    "statement",
    [
        "create table mine (a)",
        "create view myview as select step from step",
        "create index mine on step (loss)",
    ],
)
def test_what_a_user_added_does_no_harm(run, statement):
    assert find_fault(layout(), *entries_of(execute(run, statement))) is None
    database = Database(run / FILE_NAME)
    assert database.rows("select count(*) from step") == [(3,)]
    database.close()


def test_a_view_under_the_name_of_a_table_is_told(run):
    execute(run, "drop table event", "create view event as select 1 as id")
    assert "view 'event'" in find_fault(layout(), *entries_of(run))


@pytest.mark.parametrize("version", [0, -1])
def test_a_schema_that_never_was(run, version):
    assert "no tables of schema" in find_fault(layout(version, False), *entries_of(run))


@pytest.mark.parametrize(
    ("roots", "is_fault"),
    [("as they are", False), ("all on one page", True), ("outside of the file", True), ("on the first page", True)],
)
def test_pages_at_which_tables_begin(run, roots, is_fault):
    entries, pages = entries_of(run)
    page = {"as they are": None, "all on one page": 2, "outside of the file": pages + 1, "on the first page": 1}[roots]
    changed = [(*entry[:3], page or entry[3], entry[4]) for entry in entries]
    assert (find_fault(layout(), changed, pages) is not None) is is_fault


def test_a_table_that_is_there_twice_is_told(run):
    entries, pages = entries_of(run)
    assert "twice" in find_fault(layout(), [*entries, entries[-1]], pages)


# ---------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"no database at all", NotARun), (b"", StoreDamaged | NotARun), (b"SQLite format 3\0" + bytes(84), StoreDamaged)],
)
def test_files_that_are_no_store(tmp_path, content, error):
    (tmp_path / FILE_NAME).write_bytes(content)
    kinds = error.__args__ if hasattr(error, "__args__") else error
    with pytest.raises(kinds):
        Database(tmp_path / FILE_NAME)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(NotARun, match="is an empty file"):
        Database(tmp_path / FILE_NAME)


def test_a_database_of_another_program(tmp_path):
    execute(tmp_path, "create table t (a)")
    with pytest.raises(NotARun, match="gradwatch did not write it"):
        Database(tmp_path / FILE_NAME)


def test_a_newer_store_says_how_to_read_it(run):
    execute(run, f"pragma user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreTooNew, match="Upgrade"):
        Database(run / FILE_NAME)


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(RunNotFound, match="There is no run"):
        check_file(tmp_path / "nowhere" / FILE_NAME)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(StoreDamaged, match="not a regular file"):
        Database(tmp_path / FILE_NAME)


def test_a_cut_off_store_is_damaged(run):
    file = run / FILE_NAME
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StoreDamaged):
        Database(file).rows("select * from step")


@pytest.mark.parametrize(
    ("message", "says"),
    [("database is locked", "another program"), ("interrupted", "circle"), ("malformed", "restore it from a copy")],
)
def test_the_error_says_what_is_wrong(tmp_path, message, says):
    assert says in str(damaged(tmp_path, sqlite3.OperationalError(message)))


# ------------------------------------------------------------------------------------- only reading


@pytest.mark.parametrize(
    "statement",
    [
        "delete from step",
        "insert into meta (key, value) values ('a', 'b')",
        "create table t (a)",
        "attach 'other.db' as other",
        "select load_extension('x')",
        "pragma journal_mode = delete",
    ],
)
def test_sqlite_may_do_nothing_but_read(run, statement):
    database = Database(run / FILE_NAME)
    before = (run / FILE_NAME).read_bytes()
    with pytest.raises(StoreDamaged):
        database.rows(statement)
    database.close()
    assert (run / FILE_NAME).read_bytes() == before


def test_a_query_without_end_is_ended(run):
    database = Database(run / FILE_NAME)
    many = " cross join ".join(f"step as s{i} cross join parameter as p{i}" for i in range(12))
    with pytest.raises(StoreDamaged, match="circle"):
        database.rows(f"select count(*) from {many}")
    database.close()


def test_a_query_may_take_longer_once_the_file_has_grown(run, monkeypatch):
    monkeypatch.setattr("gradwatch.store.opening.BASE_OPERATIONS", 0)
    database = Database(run / FILE_NAME)
    long = f"select count(*) from {' cross join '.join(f'step as s{i}' for i in range(12))}"
    with pytest.raises(StoreDamaged, match="circle"):
        database.rows(long)
    execute(run, "insert into meta (key, value) values ('more', hex(zeroblob(2000000)))")
    assert database.rows(long) == [(3**12,)]
    database.close()


def test_the_folder_stays_as_it_is_though_a_log_lies_beside_the_file(run, tmp_path):
    """A writer that was killed leaves a log; it is read, and stays."""
    db = sqlite3.connect(run / FILE_NAME, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma wal_autocheckpoint = 0")
    db.execute("update meta set value = 'seen' where key = 'model'")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(run / name, copy / name)
    db.close()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    database = Database(copy / FILE_NAME)
    assert database.rows("select value from meta where key = 'model'") == [("seen",)]
    database.close()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_what_is_read_in_one_moment_does_not_see_a_writer(run):
    execute(run, "pragma journal_mode = wal")
    writer = sqlite3.connect(run / FILE_NAME, isolation_level=None)
    writer.execute("update meta set value = 'before' where key = 'model'")
    database = Database(run / FILE_NAME)
    query = "select value from meta where key = 'model'"
    with database.one_moment():
        assert database.rows(query) == [("before",)]
        writer.execute("update meta set value = 'after' where key = 'model'")
        assert database.rows(query) == [("before",)]
    assert database.rows(query) == [("after",)]
    writer.close()
    database.close()


def test_a_journal_that_a_writer_takes_away_meanwhile_is_no_damage(run):
    journal = run / f"{FILE_NAME}-journal"
    ended = threading.Event()

    def come_and_go():
        while not ended.is_set():
            journal.write_bytes(b"none of a journal")
            journal.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            Database(run / FILE_NAME).close()
    finally:
        ended.set()
        thread.join()


def test_more_memory_than_there_is_means_damage(tmp_path):
    """A flipped bit in the length of a blob makes SQLite ask for it."""
    error = damaged(tmp_path / FILE_NAME, MemoryError())
    assert isinstance(error, StoreDamaged)
    assert "more memory than there is" in str(error)
