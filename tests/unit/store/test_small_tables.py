"""The small tables of a store, read as they were written; damaged rows are left out and counted."""

import sqlite3

import pytest

from gradwatch.errors import StoreDamaged
from gradwatch.record import Event, ParameterInfo
from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.store import small_tables as module
from gradwatch.store.integrity import Integrity
from gradwatch.store.opening import Database
from gradwatch.store.schema import Layout
from gradwatch.store.small_tables import SmallTables, select

INFOS = tuple(ParameterInfo(name=name, shape=(2, 3)) for name in ("a", "b", "c"))
EVENT = Event(step=3, kind="spike", severity="warning", message="m", parameter="a")


@pytest.fixture
def folder(tmp_path):
    """A store with something in each small table."""
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({"model": "Net"}, {"0": ("SGD", {"lr": 0.1}), "1": ("AdamW", {})})
    writer.add_parameters("0", INFOS)
    writer.add_parameters("1", INFOS[:1])
    writer.append([], [EVENT])
    writer.end_attempt("closed")
    return tmp_path


class Opened:
    def __init__(self, folder):
        self.db = Database(folder / FILE_NAME)
        self.integrity = Integrity(self.db.layout)
        self.tables = SmallTables(self.db, self.integrity)
        self.meta = self.tables.meta()

    @property
    def damage(self):
        return self.integrity.left_out, {table: count for table, count in self.integrity.missing.items() if count}


@pytest.fixture
def read(folder):
    """Change the store by SQL, then open it."""
    opened = []

    def change(*statements):
        db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
        for statement in statements:
            db.execute(statement)
        db.close()
        opened.append(Opened(folder))
        return opened[-1]

    yield change
    for one in opened:
        one.db.close()


def test_everything_is_read_as_it_was_written(read):
    found = read()
    assert found.meta["model"] == "Net"
    assert found.tables.optimizers() == {"0": "SGD", "1": "AdamW"}
    assert (found.tables.settings("0"), found.tables.settings("1")) == ({"lr": 0.1}, {})
    assert found.tables.settings("nobody") == {}
    assert found.tables.parameters("0") == INFOS
    assert found.tables.parameters("1") == INFOS[:1]
    assert found.tables.parameters("nobody") == ()
    assert found.tables.events() == [EVENT]
    assert [attempt.reason for attempt in found.tables.attempts()] == ["closed"]
    assert found.tables.detector_state("0", "v") is None
    assert found.damage == (set(), {})


def test_what_the_store_counts_for_itself_is_no_fact_of_the_run(read):
    assert not {"rows", "row_crc_from"} & read().meta.keys()


@pytest.mark.parametrize(
    ("statement", "ask", "expected", "damage"),
    [
        pytest.param("update optimizer set class = 'X' where name = '0'", SmallTables.optimizers, {"1": "AdamW"},
            ({("optimizer", "0")}, {}), id="an optimizer"),
        pytest.param("delete from optimizer where name = '0'", SmallTables.optimizers, {"1": "AdamW"},
            (set(), {"optimizer": 1}), id="an optimizer that is gone"),
        pytest.param("update event set step = 9", SmallTables.events, [], ({("event", 1)}, {}), id="an event"),
        pytest.param("delete from event", SmallTables.events, [], (set(), {"event": 1}), id="an event that is gone"),
        pytest.param("update attempt set pid = 9", SmallTables.attempts, [], ({("attempt", 0)}, {}), id="an attempt"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_gone_is_counted_once(read, statement, ask, expected, damage):
    found = read(statement)
    assert ask(found.tables) == ask(found.tables) == expected
    assert found.damage == damage


@pytest.mark.parametrize("statement", ["delete from meta where key = 'rows'", "delete from meta"])
def test_numbers_of_rows_that_are_gone_are_damage(read, statement):
    """Without them nothing else tells of a lost row."""
    found = read(statement)
    assert found.damage == ({("meta", "rows")}, {})


def test_a_store_without_an_attempt_has_no_numbers_of_rows(tmp_path):
    StoreWriter(tmp_path).abandon()
    found = Opened(tmp_path)
    assert found.damage == (set(), {})
    found.db.close()


@pytest.mark.parametrize("state", ["'text'", "7", "x'00'"])
def test_a_state_of_detectors_that_is_another_or_no_bytes_is_damage(folder, read, state):
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {})
    writer.save_detector_state("0", 1, "v", [b"state"])
    writer.end_attempt("closed")
    assert read().tables.detector_state("0", "v") == (1, b"state")
    found = read(f"update detector_state set state = {state}")
    assert found.tables.detector_state("0", "v") is None
    assert found.damage == ({("detector_state", "0")}, {})


@pytest.mark.parametrize(
    ("statement", "names", "damaged"),
    [
        ("update parameter set name = 'x' where name = 'b'", ["a", "(damaged 1)", "c"], 1),
        ("delete from parameter where name = 'b' and optimizer = '0'", ["a", "(damaged 1)", "c"], 1),
        ("update parameter set shape = '[9]' where optimizer = '0'", [f"(damaged {at})" for at in range(3)], 3),
    ],
)
def test_a_damaged_parameter_keeps_its_place(read, statement, names, damaged):
    found = read(statement)
    assert [info.name for info in found.tables.parameters("0")] == names
    assert len({key for key in found.integrity.left_out if key[0] == "parameter"}) == damaged


def test_parameters_are_read_again_when_a_writer_has_added_some(folder, read):
    found = read()
    assert found.tables.parameters("0") == INFOS
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", (*INFOS, ParameterInfo(name="late", shape=())))
    writer.end_attempt("closed")
    assert [info.name for info in found.tables.parameters("0")] == ["a", "b", "c", "late"]


def test_more_optimizers_than_any_training_has_are_refused(read, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPTIMIZERS", 1)
    with pytest.raises(StoreDamaged, match="has 2 optimizers; expected at most 1"):
        read().tables.optimizers()


def test_columns_that_an_older_schema_lacks_are_null():
    class Old:
        layout = Layout(version=1, has_row_crc=False)

    assert select(Old, "step", ("loss", "clip_fault", "crc")) == 'step."loss", null, null'
    assert select(Old, "rank", ("norm",)) == "null"
