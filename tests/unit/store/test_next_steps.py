"""Where a resumed run goes on is known without a look at its earlier rows, and right whatever happens to the store."""

import dataclasses
import json
import sqlite3

import pytest

from gradwatch.store import FILE_NAME, StoreReader, StoreWriter
from gradwatch.store.next_steps import NextSteps
from gradwatch.store.schema import NEXT_STEPS
from gradwatch.testing import steady, stream

DAMAGES = {
    "none": None,
    "the row is missing": f"delete from meta where key = '{NEXT_STEPS}'",
    "the row is damaged": f"update meta set value = replace(value, '40', '99') where key = '{NEXT_STEPS}'",
    "its checksum is damaged": f"update meta set crc = crc + 1 where key = '{NEXT_STEPS}'",
}


def records(steps, optimizer="0", first_step=0):
    return [dataclasses.replace(one, optimizer=optimizer) for one in stream(steady(steps), first_step=first_step)]


def begin(folder):
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {}), "1": ("SGD", {})})
    return writer


def change(folder, *statements):
    db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    for statement in statements:
        if statement:
            db.execute(statement)
    db.close()


def known(folder):
    db = sqlite3.connect(folder / FILE_NAME)
    ((value,),) = db.execute("select value from meta where key = ?", (NEXT_STEPS,)).fetchall()
    db.close()
    return json.loads(value)


def next_steps(folder):
    with StoreReader(folder) as reader:
        assert {name: reader.next_step(name) for name in reader.next_steps()} == reader.next_steps()
        return reader.next_steps()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("is_killed", [False, True])
def test_each_optimizer_goes_on_after_its_last_step(tmp_path, damage, is_killed):
    writer = begin(tmp_path)
    writer.append(records(40))
    writer.append(records(10, "1", 100))
    writer.append(records(5, "0", 7))  # back to a checkpoint
    if is_killed:
        writer.abandon()
    else:
        writer.end_attempt("closed")
    change(tmp_path, damage)
    if is_killed:
        change(tmp_path, "update attempt set pid = 2147483647")
    assert next_steps(tmp_path) == {"0": 40, "1": 110}
    again = begin(tmp_path)
    assert [again.next_step(name) for name in ("0", "1", "nobody")] == [40, 110, 0]
    assert known(tmp_path) == {"last_id": 55, "steps": {"0": 40, "1": 110}}
    again.append(records(3, "1", 110))
    again.end_attempt("closed")
    assert known(tmp_path) == {"last_id": 58, "steps": {"0": 40, "1": 113}}


def test_rows_that_another_version_wrote_are_looked_at(tmp_path):
    writer = begin(tmp_path)
    writer.append(records(40))
    before = known(tmp_path)
    writer.end_attempt("closed")
    assert before == {"last_id": 0, "steps": {}}
    for value in ({"last_id": 30, "steps": {"0": 30}}, {"last_id": 40, "steps": {"0": 40}}):
        writer = StoreWriter(tmp_path)
        writer.set_meta(NEXT_STEPS, json.dumps(value))
        writer.abandon()
        assert next_steps(tmp_path) == {"0": 40}


def test_a_damaged_row_after_the_known_ones_is_not_believed(tmp_path):
    writer = begin(tmp_path)
    writer.append(records(40))
    writer.abandon()
    change(tmp_path, f"update step set step = {2**52} where id = 7", "update step set loss = 7 where id = 40")
    assert next_steps(tmp_path) == {"0": 39}


def test_steps_that_are_lost_are_not_numbered_again(tmp_path):
    writer = begin(tmp_path)
    writer.append(records(40))
    writer.end_attempt("closed")
    change(tmp_path, "delete from step")
    assert next_steps(tmp_path) == {"0": 40}


def test_the_row_is_renewed_within_a_long_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.store.writer.EVERY", 20)
    writer = begin(tmp_path)
    found = []
    for first in range(0, 60, 8):
        writer.append(records(8, first_step=first))
        found.append(known(tmp_path)["last_id"])
    writer.abandon()
    assert found == [0, 0, 24, 24, 24, 48, 48, 48]


def test_a_failed_write_leaves_the_numbers_as_they_were(tmp_path):
    writer = begin(tmp_path)
    writer.append(records(4))
    with pytest.raises(sqlite3.IntegrityError):
        writer.append([dataclasses.replace(records(1)[0], step=9, wall_time=None)])
    assert writer.next_step("0") == 4
    writer.end_attempt("closed")


def test_reading_costs_the_same_at_any_length(tmp_path):
    """Counted in operations of SQLite, which no other process disturbs."""
    found = []
    for steps in (200, 4000):
        writer = begin(tmp_path / str(steps))
        writer.append(records(steps))
        writer.end_attempt("closed")
        with StoreReader(tmp_path / str(steps)) as reader:
            ticks = []
            reader._db._db.set_progress_handler(lambda ticks=ticks: ticks.append(1), 10)
            assert reader.next_step("0") == steps
            found.append(len(ticks))
    assert found[1] <= found[0] + 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "x",
        "[]",
        "null",
        "7",
        "{}",
        '{"last_id": 7}',
        '{"last_id": -1, "steps": {}}',
        '{"last_id": 1.5, "steps": {}}',
        '{"last_id": 3, "steps": []}',
        '{"last_id": 3, "steps": {"0": -1}}',
        '{"last_id": 3, "steps": {"0": "3"}}',
        f'{{"last_id": {2**60}, "steps": {{}}}}',
        "[" * 100_000,
    ],
)
def test_of_anything_else_nothing_is_known(value):
    assert NextSteps.parse(value) == NextSteps()


def test_it_reads_what_it_writes():
    one = NextSteps(last_id=12, steps={"0": 5, "a \u2028 name": 7})
    assert NextSteps.parse(one.format()) == one
