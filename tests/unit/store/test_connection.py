"""The connection that writes: opened once, whole transactions, and errors with a slug."""

import ctypes
import ctypes.util
import gc
import sqlite3
import threading

import pytest

from gradwatch.errors import NotARun, StoreNotWritable
from gradwatch.store import FILE_NAME
from gradwatch.store import connection as module
from gradwatch.store.connection import WritingConnection
from gradwatch.store.schema import PAGE_SIZE

INSERT = ("meta", ("key", "value", "crc", "row_crc"), [("a", "1", 0, 0)])


@pytest.fixture
def opened(tmp_path):
    connection = WritingConnection(tmp_path / FILE_NAME)
    yield connection
    connection.close()


def rows(path):
    with sqlite3.connect(path) as db:
        found = db.execute("select key, value from meta where key = 'a'").fetchall()
    db.close()
    return found


def test_a_folder_that_is_not_there_is_made(tmp_path):
    connection = WritingConnection(tmp_path / "a" / "b" / FILE_NAME)
    assert connection.is_in_place()
    assert connection.journal_mode == "wal"
    connection.close_alone()
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == [FILE_NAME]


def test_an_empty_file_becomes_a_store(tmp_path):
    (tmp_path / FILE_NAME).touch()
    connection = WritingConnection(tmp_path / FILE_NAME)
    assert connection.row("select count(*) from step") == (0,)
    connection.close()


@pytest.mark.parametrize("content", [b"no database", b"\x00" * 5000])
def test_another_file_is_refused_and_stays_as_it_is(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(NotARun):
        WritingConnection(tmp_path / FILE_NAME)
    assert (tmp_path / FILE_NAME).read_bytes() == content


@pytest.mark.parametrize("blocked", ["a file in the place of the folder", "\0"])
def test_a_folder_that_can_not_be_made_is_one_clear_error(tmp_path, blocked):
    if "\0" not in blocked:
        (tmp_path / blocked).touch()
    with pytest.raises(StoreNotWritable, match="can't be made"):
        WritingConnection(tmp_path / blocked / "run" / FILE_NAME)


def test_on_a_network_file_system_there_is_no_write_ahead_log(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "on_network_file_system", lambda folder: True)
    connection = WritingConnection(tmp_path / FILE_NAME)
    assert connection.journal_mode == "truncate"
    connection.close_alone()


def test_a_transaction_is_written_whole_or_not_at_all(opened):
    with pytest.raises(ZeroDivisionError), opened.transaction():
        opened.insert(*INSERT)
        raise ZeroDivisionError
    assert rows(opened.path) == []
    with opened.transaction():
        opened.insert(*INSERT)
    assert rows(opened.path) == [("a", "1")]


def test_a_transaction_that_fails_to_begin_leaves_the_lock_free(opened):
    opened.execute("pragma busy_timeout = 0")
    other = sqlite3.connect(opened.path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(StoreNotWritable, match="locked"), opened.reporting(), opened.transaction():
        opened.insert(*INSERT)
    other.execute("rollback")
    other.close()
    with opened.transaction():
        opened.insert(*INSERT)
    assert rows(opened.path) == [("a", "1")]


def test_threads_write_one_after_the_other(opened):
    def write(number):
        for at in range(20):
            with opened.transaction():
                (count,) = opened.row("select count(*) from meta where key like 'n%'")
                opened.insert("meta", ("key", "value"), [(f"n{number}.{at}", str(count))])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = sorted(int(value) for (value,) in opened.execute("select value from meta where key like 'n%'"))
    assert counts == list(range(80))


def test_a_file_that_was_removed_or_replaced_is_no_longer_in_place(opened):
    assert opened.is_in_place()
    aside = opened.path.with_name("aside")
    opened.path.rename(aside)
    assert not opened.is_in_place()
    opened.path.write_bytes(aside.read_bytes())
    assert not opened.is_in_place()
    opened.path.unlink()
    aside.rename(opened.path)
    assert opened.is_in_place()


def test_a_reader_keeps_the_log_beside_the_file(opened):
    with opened.transaction():
        opened.insert(*INSERT)
    reader = sqlite3.connect(opened.path)
    reader.execute("begin")
    reader.execute("select * from meta").fetchall()
    opened.close_alone()
    reader.close()
    assert rows(opened.path) == [("a", "1")]


def test_a_writer_keeps_eight_pages_in_memory(tmp_path):
    """SQLite alone would take a block of 20 at the beginning (SQLITE_DEFAULT_PCACHE_INITSZ)."""
    name = ctypes.util.find_library("sqlite3")
    used = ctypes.CDLL(name).sqlite3_memory_used if name else None
    if used is not None:
        used.restype = ctypes.c_int64
        gc.collect()  # connections of other tests
    others = used() if used is not None else 0
    connection = WritingConnection(tmp_path / "run" / "gradwatch.sqlite3")
    assert connection.row("pragma cache_size") == (-8 * PAGE_SIZE // 1024,)
    if used is None or used() == others:
        pytest.skip("another library is loaded than the one that is found")
    with connection.transaction():
        for number in range(100):
            connection.insert("meta", ("key", "value"), [(str(number), "x" * PAGE_SIZE)])
    assert 8 * PAGE_SIZE < used() - others < 16 * PAGE_SIZE
    connection.close()
