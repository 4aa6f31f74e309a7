"""Stores that someone made by hand: refused with a slug or read without what no store holds, within a second."""

import os
import socket
import sqlite3
import stat
import sys
import time

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.errors import GradwatchError
from gradwatch.record import RANK_STATS, SEVERITIES, STATS, WEIGHT_STATS, Event
from gradwatch.store import FILE_NAME, StoreReader
from gradwatch.store.limits import LARGEST, LATEST, MAX_MISSING
from gradwatch.store.schema import CURRENT, SCHEMA_VERSION, declared
from gradwatch.testing import replaced, steady, stream, write_run

from .handmade import KEYS, VALUES, copied, forge, opened

SECOND = 1.0  # of the processor, for the machine may have other work
STEPS = 12
ODD = (None, b"\0", "", "9" * 40, -1, 2**63 - 1, -(2**63), 1e308, 0.5, "\x1b[2J" * 10_000)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A store as we write it, with an event."""
    records = stream(replaced(steady(STEPS), {9: float("nan")}), max_norm=1.0, losses=[1.0] * STEPS)
    folder = write_run(tmp_path_factory.mktemp("own") / "run", records)
    assert everything(folder)[0]["event"]
    return folder


@pytest.fixture
def run(own, tmp_path):
    """A copy of it that may be changed."""
    return copied(own, tmp_path / "run")


def everything(folder):
    """All that a reader gives of a store, by table."""
    with StoreReader(folder) as reader:
        found = {
            "meta": reader.meta(),
            "attempt": reader.attempts(),
            "optimizer": {name: (kind, reader.settings(name)) for name, kind in reader.optimizers().items()},
            "parameter": reader.parameters("0"),
            "event": reader.events(),
            "step": reader.step_columns(),
            "records": list(reader.records("0")),
            "state": reader.detector_state("0", "1"),
            "next": reader.next_step("0"),
            "written": reader.is_being_written(),
        }
        for stat_name in (*STATS, *WEIGHT_STATS):
            found[stat_name] = reader.layer_table(stat_name, "0")
        for stat_name in RANK_STATS:
            found[stat_name] = reader.rank_table(stat_name, "0")
        return found, reader.damaged_rows


def slug_of(folder):
    """The slug with which a store is refused; None if it is read. Neither takes a second."""
    began = time.process_time()
    try:
        everything(folder)
        Run(folder).events()
    except GradwatchError as error:
        return error.slug
    finally:
        assert time.process_time() - began < SECOND
    return None


def script(folder, statements):
    with opened(folder) as db:
        db.executescript(statements)


def rewrite_schema(folder, statement, *values):
    """Change table sqlite_master itself."""
    with opened(folder) as db:
        db.execute("pragma writable_schema = on")
        db.execute(statement, values)


# ------------------------------------------------------------------------- tables that are not ours

ENDLESS = "with recursive c(x) as (select 1 union all select x + 1 from c) select x as id, 0 as step from c"
HUGE = "with recursive c(x) as (select 1 union all select x + 1 from c limit 100000000) select x as id from c"
STRUCTURES = {
    "an endless view": "alter table {table} rename to other; create view {table} as " + ENDLESS,
    "a huge view": "alter table {table} rename to other; create view {table} as " + HUGE,
    "a view of the table": "alter table {table} rename to other; create view {table} as select * from other",
    "no table": "drop table {table}",
    "a generated column": "alter table {table} add column extra generated always as (zeroblob(1000000000)) virtual",
    "a trigger": "create trigger t after insert on {table} begin delete from meta; end",
    "another column": "alter table {table} add column extra",
    "a check": "create table other as select * from {table}; drop table {table};"
    " create table {table} (id integer primary key check (id > 0))",
    "the name in capitals": "alter table {table} rename to other; alter table other rename to {capitals}",
}


@pytest.mark.parametrize("table", declared(CURRENT))
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_table_of_another_form_is_refused(run, table, structure):
    try:
        script(run, STRUCTURES[structure].format(table=table, capitals=table.upper()))
    except sqlite3.OperationalError as error:
        pytest.skip(f"SQLite makes no such table: {error}")
    assert slug_of(run) == "store-damaged"


@pytest.mark.parametrize("table", declared(CURRENT))
@pytest.mark.parametrize(
    "assignment",
    [
        "sql = replace(sql, 'integer', 'text')",
        "sql = replace(sql, ' text', ' blob')",
        "sql = replace(sql, 'crc', 'sum')",
        "sql = replace(sql, ')', ') strict')",
        "rootpage = (select max(rootpage) from sqlite_master where name != '{table}')",
        "rootpage = 1",
        "rootpage = 1000000",
        "rootpage = -1",
        "rootpage = null",
        "type = 'view', rootpage = 0",
        "tbl_name = 'step2'",
        "sql = 'create virtual table {table} using fts5(id)', rootpage = 0",
        "sql = null",
        "sql = x'00ff'",
    ],
)
def test_a_changed_schema_is_refused(run, table, assignment):
    with opened(run) as db:
        before = db.execute("select * from sqlite_master where name = ?", (table,)).fetchone()
    rewrite_schema(run, f"update sqlite_master set {assignment.format(table=table)} where name = '{table}'")
    # Parsed with the writable schema of the statement before, which a new connection does not have.
    raw = sqlite3.connect(f"file:{run / FILE_NAME}?immutable=1", uri=True)
    try:
        is_changed = raw.execute("select * from sqlite_master where name = ?", (table,)).fetchone() != before
    except sqlite3.DatabaseError:
        is_changed = True
    finally:
        raw.close()
    assert slug_of(run) == ("store-damaged" if is_changed else None)


@pytest.mark.parametrize(
    "statement",
    [
        "create view mine as " + ENDLESS,
        "create table mine (a, b generated always as (zeroblob(1000000000)) virtual)",
        "create index mine on step (total_norm) where loss > 0",
        "create index mine on event (abs(step))",
        "create table mine (a integer primary key autoincrement)",
    ],
)
def test_what_lies_beside_the_tables_is_not_read(run, own, statement):
    script(run, statement)
    assert slug_of(run) is None
    assert repr(everything(run)) == repr(everything(own))


@pytest.mark.parametrize(
    ("pragma", "slug"),
    [
        (f"user_version = {SCHEMA_VERSION + 1}", "store-too-new"),
        ("user_version = 2147483647", "store-too-new"),
        ("user_version = 0", "store-damaged"),
        ("user_version = -1", "store-damaged"),
        ("user_version = 1", "store-damaged"),
        ("user_version = 4", "store-damaged"),
        ("application_id = 0", "not-a-run"),
        ("application_id = -1", "not-a-run"),
        ("page_size = 512", None),
        ("page_size = 65536", None),
        ("auto_vacuum = full", None),
        ("journal_mode = wal", None),
    ],
)
def test_settings_of_the_file(run, pragma, slug):
    with opened(run) as db:
        db.execute(f"pragma {pragma}")
        db.execute("vacuum")
    assert slug_of(run) == slug


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_another_encoding_of_texts(run, own, tmp_path, encoding):
    other = tmp_path / "other"
    other.mkdir()
    source = sqlite3.connect(run / FILE_NAME)
    with opened(other) as db:
        db.execute(f"pragma encoding = '{encoding}'")
        db.executescript("\n".join(source.iterdump()))
        for name in ("application_id", "user_version"):
            db.execute(f"pragma {name} = {source.execute(f'pragma {name}').fetchone()[0]}")
    source.close()
    assert repr(everything(other)) == repr(everything(own))


# --------------------------------------------------------------------- files that are not regular


def make(path, kind):
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        listener = socket.socket(socket.AF_UNIX)
        here = os.open(path.parent, os.O_RDONLY)  # the path is too long for a socket
        try:
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)
            listener.close()
    elif kind == "an endless device":
        path.symlink_to("/dev/zero")
    elif kind == "a link to itself":
        path.symlink_to(path)
    elif kind == "a terabyte of nothing":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == "a gigabyte of nothing after a header":
        path.write_bytes(b"SQLite format 3\0" + bytes(84))
        os.truncate(path, 2**30)
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))


KINDS = ("a pipe", "a folder", "a socket", "an endless device", "a link to itself", "a terabyte of nothing", "noise")


@pytest.mark.skipif(sys.platform != "linux", reason="makes files that other systems have not")
@pytest.mark.parametrize("kind", [*KINDS, "a gigabyte of nothing after a header"])
def test_something_else_in_the_place_of_the_file_is_refused(run, kind):
    (run / FILE_NAME).unlink()
    make(run / FILE_NAME, kind)
    assert slug_of(run) in ("store-damaged", "not-a-run", "run-not-found")


@pytest.mark.skipif(sys.platform != "linux", reason="makes files that other systems have not")
@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_something_else_in_the_place_of_a_log_is_refused(run, suffix, kind):
    make(run / (FILE_NAME + suffix), kind)
    before = stat.S_IFMT((run / (FILE_NAME + suffix)).lstat().st_mode)
    assert slug_of(run) == "store-damaged"
    assert stat.S_IFMT((run / (FILE_NAME + suffix)).lstat().st_mode) == before


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_of_noise_changes_nothing(run, own, suffix):
    """SQLite reads no frame whose checksum is wrong."""
    make(run / (FILE_NAME + suffix), "noise")
    assert repr(everything(run)) == repr(everything(own))


@pytest.mark.skipif(sys.platform != "linux", reason="makes files that other systems have not")
@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_the_place_of_the_shared_memory(run, kind):
    """It is read only beside a log."""
    with opened(run) as db:
        db.execute("pragma journal_mode = wal")
    make(run / f"{FILE_NAME}-wal", "noise")
    make(run / f"{FILE_NAME}-shm", kind)
    assert slug_of(run) in (None, "store-damaged")


# ----------------------------------------------------------- values that no store holds, well sealed

COLUMNS = [(table, column) for table, columns in VALUES.items() for column in dict.fromkeys((*KEYS[table], *columns))]


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=".".join)
def test_an_odd_value_is_valid_or_left_out(own, tmp_path, table, column):
    """Whatever the value, its row has the right checksums, as a stranger can make them."""
    for at, value in enumerate(ODD):
        folder = copied(own, tmp_path / str(at))
        key = KEYS[table][-1]
        which = f"{key} is (select max({key}) from {table})"
        try:
            forge(folder, f'update {table} set "{column}" = ? where {which}', value)
        except sqlite3.IntegrityError:
            continue  # null where the schema has none
        if slug_of(folder) is None:
            assert_valid(everything(folder)[0])


def assert_valid(found):
    assert all(type(key) is type(value) is str for key, value in found["meta"].items())
    assert all(attempt.attempt >= 0 and abs(attempt.started) <= LATEST for attempt in found["attempt"])
    assert all(isinstance(settings, dict) for _, settings in found["optimizer"].values())
    assert all(type(info.name) is str and min(info.shape, default=0) >= 0 for info in found["parameter"])
    for event in found["event"]:
        assert isinstance(event, Event)
        assert event.severity in SEVERITIES
        assert 0 <= event.step <= LARGEST
    for record in found["records"]:
        assert 0 <= record.step <= LARGEST
        assert abs(record.wall_time) <= LATEST
    assert all(type(norm) is float for norm in found["step"]["total_norm"])
    for name in (*STATS, *WEIGHT_STATS, *RANK_STATS):
        ids, values = found[name]
        assert (len(ids), values.dtype) == (len(values), np.float32)


TEXTS = {
    ("optimizer", "settings"): ["[" * 100_000, "[]", "NaN", '{"lr": 1e999}', '{"lr": ' + "9" * 400 + "}", "null", ""],
    ("parameter", "shape"): ["[-1]", "[1.5]", "[[1]]", "{}", '"x"', "[9007199254740993]", "[" * 100_000, "[1e400]"],
    ("event", "severity"): ["catastrophic", "INFO", " critical", "critical\0"],
    ("event", "nan"): ["message", "observed,observed", ",", "limit,step"],
    ("step", "nan"): ["loss", "id", "total_norm,", "skipped", "x" * 100_000],
    ("step", "learning_rates"): ["{}", "[null]", "[1e400]", "[" + "9" * 400 + "]", '["0.1"]', "[" * 100_000],
    ("meta", "value"): ["9" * 400, "-1", '{"step": 9007199254740992}', '{"event": 1e300}', "[" * 100_000],
}


@pytest.mark.parametrize(("table", "column"), TEXTS, ids=".".join)
def test_an_odd_text_is_valid_or_left_out(own, tmp_path, table, column):
    for at, text in enumerate(TEXTS[table, column]):
        for number, which in enumerate(["true", "rowid = 1"] if table != "parameter" else ["true"]):
            folder = copied(own, tmp_path / f"{at}.{number}")
            forge(folder, f'update {table} set "{column}" = ? where {which}', text)
            if slug_of(folder) is None:
                assert_valid(everything(folder)[0])


@pytest.mark.parametrize("size", [0, 1, 3, 4, 4000, 40_000_000])
def test_blobs_of_another_length(run, size):
    forge(run, "update layer set norm = zeroblob(?) where id = 5", size)
    assert slug_of(run) in (None, "store-damaged")


STEERING = ["rows", "next_steps", "sealed_from", "row_crc_from", "every", "total_steps", "world_size"]


@pytest.mark.parametrize("key", STEERING)
@pytest.mark.parametrize("value", ["9007199254740992", "0", "x", "", '{"step": 9007199254740992, "event": 1000000000}'])
def test_facts_that_steer_the_reading(run, key, value):
    forge(run, "insert or replace into meta (key, value) values (?, ?)", key, value)
    assert slug_of(run) in (None, "store-damaged", "empty-run")


def test_many_steps_without_a_right_checksum(run):
    """Each would be looked at in its turn, with a look at the whole table."""
    with opened(run) as db:
        db.execute("pragma synchronous = off")
        db.execute("begin")
        db.execute("delete from meta where key = 'next_steps'")
        db.execute("update step set crc = 0 where id > 3")
        names = [name for _, name, *_ in db.execute("pragma table_info(step)") if name not in ("id", "step")]
        selected = ", ".join(names)
        db.execute(
            "with recursive c(x) as (select 1 union all select x + 1 from c limit 20000)"
            f" insert into step (id, step, {selected}) select 100 + x, 100 + x, {selected} from c, step where id = 9"
        )
        db.execute("commit")
    with StoreReader(run) as reader:
        began = time.process_time()
        assert reader.next_step("0") == 3
        assert time.process_time() - began < SECOND


@pytest.mark.parametrize("key", ["rows", "sealed_from"])
def test_a_claim_of_rows_that_never_were_is_counted_and_takes_no_time(run, key):
    value = '{"step": 9007199254740992, "event": 9007199254740992, "meta": 9007199254740992}'
    forge(run, "insert or replace into meta (key, value) values (?, ?)", key, value)
    assert slug_of(run) is None
    _, damaged = everything(run)
    assert damaged == (3 * MAX_MISSING if key == "rows" else damaged)
    summary = Run(run).summary()
    assert summary.steps == STEPS
