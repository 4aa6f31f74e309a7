"""SQLite files of others: read, bounded, and never changed."""

import sqlite3

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources import databases as module
from gradwatch.sources.databases import Database

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n"


def made(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    return path


@pytest.fixture
def file(tmp_path):
    return made(
        tmp_path / 'odd "name" #1%41?.db',
        'create table "a""b" (x integer, "y z" text)',
        'insert into "a""b" values (1, \'one\'), (2, null)',
        "create view seen as select 1",
    )


def test_tables_and_columns_are_known_by_their_names(file):
    with Database(file) as db:
        assert db.tables == {'a"b': {"x", "y z"}}
        assert db.has('a"b')
        assert db.has('a"b', "x", "y z")
        assert not db.has('a"b', "x", "other")
        assert not db.has("seen")
        assert db.name == file.name


def test_rows_are_those_of_the_query(file):
    with Database(file) as db:
        assert db.rows('select * from "a""b" order by x') == [(1, "one"), (2, None)]
        assert db.rows('select x from "a""b" where x > ?', 1) == [(2,)]
        assert db.rows('select x from "a""b" where x > 9') == []


@pytest.mark.parametrize(
    "statement", ["delete from 'a\"b'", "create table c (x)", "attach ':memory:' as other", "pragma user_version = 7"]
)
def test_nothing_can_be_written(file, statement):
    before = file.read_bytes()
    with Database(file) as db:
        try:
            db.rows(statement)
        except CannotImport:
            refused = True
        else:
            refused = False
    assert refused or statement.startswith("pragma")
    assert file.read_bytes() == before
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_an_endless_query_ends(file, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPERATIONS", 3 * module.TICK)
    with Database(file) as db, pytest.raises(CannotImport, match="interrupted"):
        db.rows(ENDLESS)


@pytest.mark.parametrize("content", [b"no database at all, but text", b"SQLite format 3\0" + b"\xff" * 4000])
def test_another_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(CannotImport, match="can't be read as a database of SQLite"):
        Database(path)


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(CannotImport):
        Database(tmp_path / "none.db")
    assert not list(tmp_path.iterdir())


def test_an_empty_file_has_no_tables(tmp_path):
    (tmp_path / "a.db").touch()
    with Database(tmp_path / "a.db") as db:
        assert db.tables == {}


def test_text_that_is_no_text_is_one_clear_error(tmp_path):
    path = made(tmp_path / "a.db", "create table t (x text)", "insert into t values (cast(x'ff' as text))")
    with Database(path) as db, pytest.raises(CannotImport):
        db.rows("select x from t")


def test_a_query_that_can_not_be_run_is_one_clear_error(file):
    with Database(file) as db, pytest.raises(CannotImport, match="no such table"):
        db.rows("select * from other")
