"""A store is created whole or not at all, and belongs to one process."""

import json
import os
import socket
import sqlite3
import subprocess
import sys

import pytest

from gradwatch.errors import RunInUse
from gradwatch.store.creation import count_rows, create, next_id, on_network_file_system, refuse_if_in_use
from gradwatch.store.limits import MAX_MISSING
from gradwatch.store.opening import Database
from gradwatch.store.processes import process_start
from gradwatch.store.rows import STEP_ROW_COLUMNS, step_rows
from gradwatch.store.schema import ATTEMPT_COLUMNS, CURRENT, FILE_NAME
from gradwatch.testing import steady, stream


@pytest.fixture
def empty(tmp_path):
    """An empty store, opened."""
    assert create(tmp_path / FILE_NAME)
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    yield db
    db.close()


def put_steps(db, first, count):
    rows = step_rows(stream(steady(count)), first)["step"]
    names, marks = ", ".join(STEP_ROW_COLUMNS["step"]), ", ".join("?" * len(rows[0]))
    db.executemany(f"insert into step ({names}) values ({marks})", rows)


# ------------------------------------------------------------------------------------------ creation


def test_a_new_store_has_the_current_layout_and_nothing_in_it(tmp_path):
    path = tmp_path / FILE_NAME
    assert create(path)
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]
    db = Database(path)
    assert db.layout == CURRENT
    assert db.rows("select count(*) from step") == [(0,)]
    db.close()


def test_the_second_who_comes_gets_the_store_of_the_first(tmp_path):
    path = tmp_path / FILE_NAME
    assert create(path)
    before = path.read_bytes()
    assert not create(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_an_empty_file_is_no_store_and_gives_way(tmp_path):
    path = tmp_path / FILE_NAME
    path.touch()
    assert create(path)
    assert path.stat().st_size > 0


def test_what_a_killed_process_left_aside_does_no_harm(tmp_path):
    (tmp_path / f"{FILE_NAME}.{os.getpid()}.new").write_bytes(b"half a store")
    assert create(tmp_path / FILE_NAME)
    assert len(list(tmp_path.iterdir())) == 1


def test_of_many_processes_one_creates_the_store(tmp_path):
    path = tmp_path / FILE_NAME
    code = f"from pathlib import Path; from gradwatch.store.creation import create; print(create(Path({str(path)!r})))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(process.communicate()[0].strip() for process in processes)
    assert said == ["False", "False", "True"]


# ------------------------------------------------------------------------------------------- numbers


def test_the_first_id_is_1_and_the_next_follows_the_last(empty):
    assert next_id(empty) == 1
    put_steps(empty, 1, 3)
    assert next_id(empty) == 4


def test_a_damaged_id_far_beyond_the_others_is_not_followed(empty):
    put_steps(empty, 1, 3)
    empty.execute("update step set id = ? where id = 3", (5 * MAX_MISSING,))
    assert next_id(empty) == 3
    put_steps(empty, 10, 1)
    empty.execute("update step set id = 12 where id = 10")
    empty.execute("delete from step where id > 100")
    assert next_id(empty) == 13, "one nearby may be right: no id is used twice"


def test_rows_are_counted(empty):
    empty.execute("insert into meta (key, value) values ('a', 'b')")
    counts = json.loads(count_rows(empty, 7))
    assert counts == dict.fromkeys(("attempt", "optimizer", "parameter", "detector_state", "event"), 0) | {
        "meta": 1,
        "step": 7,
    }


# ------------------------------------------------------------------------------------------ in use


def begin(db, number, pid, host=None, process=None, ended=None):
    values = (number, 0, 1.7e9, ended, None, pid, host or socket.gethostname(), process, 0)
    db.execute(f"insert into attempt ({', '.join(ATTEMPT_COLUMNS)}) values ({', '.join('?' * 9)})", values)


@pytest.fixture
def other():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def test_a_store_of_another_live_process_is_refused(empty, tmp_path, other):
    begin(empty, 0, other, process=process_start(other))
    with pytest.raises(RunInUse, match=f"is being written by process {other}"):
        refuse_if_in_use(empty, tmp_path / FILE_NAME)


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param({}, id="another process under the number"),
        pytest.param({"process": None, "host": "elsewhere"}, id="on another machine"),
        pytest.param({"process": None, "ended": 1.8e9}, id="it has ended"),
    ],
)
def test_a_store_that_is_free_is_not_refused(empty, tmp_path, other, attempt):
    begin(empty, 0, other, **({"process": "1"} | attempt))
    refuse_if_in_use(empty, tmp_path / FILE_NAME)


def test_neither_is_one_that_nobody_or_this_process_writes(empty, tmp_path):
    refuse_if_in_use(empty, tmp_path / FILE_NAME)
    begin(empty, 0, os.getpid())
    refuse_if_in_use(empty, tmp_path / FILE_NAME)


def test_the_last_attempt_counts(empty, tmp_path, other):
    begin(empty, 0, other, process=process_start(other))
    begin(empty, 1, 2**31 - 1)
    refuse_if_in_use(empty, tmp_path / FILE_NAME)


def test_a_folder_on_a_disk_is_on_no_network(tmp_path):
    assert not on_network_file_system(tmp_path)
