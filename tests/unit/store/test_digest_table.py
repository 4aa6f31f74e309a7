"""Table digest: what is intact is read, and nothing else."""

import numpy as np
import pytest

from gradwatch.store import StoreWriter, digests
from gradwatch.store.digest_table import digested_layers, digested_steps
from gradwatch.testing import PARAMETERS, steady, stream

ROWS = 128


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of three digests of a run of one optimizer."""
    monkeypatch.setattr(digests, "ROWS", ROWS)
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", PARAMETERS)
    records = stream(steady(3 * ROWS + 5))
    for start in range(0, len(records), 50):
        writer.append(records[start : start + 50])
    writer.end_attempt("closed")
    return tmp_path


def ends(found):
    return [number for number, *_ in found]


def test_each_digest_covers_the_rows_since_the_one_before(opened):
    db, integrity = opened()
    found = list(digested_steps(db, integrity))
    numbers = np.concatenate([columns["id"] for _, columns, _ in found])
    assert numbers.tolist() == list(range(1, ends(found)[-1] + 1))
    assert [columns["id"][-1] for _, columns, _ in found] == ends(found)
    assert len(found) == 3
    assert ends(digested_layers(db, integrity, "0")) == ends(found)


def test_one_optimizer_or_all(opened):
    db, integrity = opened()
    assert ends(digested_steps(db, integrity, "0")) == ends(digested_steps(db, integrity))
    assert list(digested_steps(db, integrity, "nobody")) == []
    assert list(digested_layers(db, integrity, "nobody")) == []


@pytest.mark.parametrize(
    "damage",
    [
        "update digest set steps = zeroblob(length(steps)) where last_id = {second}",
        "update digest set steps = 'text' where last_id = {second}",
        "update digest set steps_crc = 0 where last_id = {second}",
        "update digest set optimizer = '1' where last_id = {second}",
        "update digest set row_crc = 0 where last_id = {second}",
        "delete from digest where last_id = {second}",
    ],
)
def test_a_digest_that_is_not_as_it_was_written_is_left_out_uncounted(opened, damage):
    db, integrity = opened()
    first, second, third = ends(digested_steps(db, integrity))
    db, integrity = opened(damage.format(second=second))
    assert ends(digested_steps(db, integrity, "0")) == [first, third]
    assert integrity.left_out == set()


def test_damage_to_the_steps_leaves_the_layers(opened):
    db, integrity = opened()
    all_of_them = ends(digested_steps(db, integrity))
    db, integrity = opened("update digest set steps = zeroblob(1)")
    assert list(digested_steps(db, integrity)) == []
    assert ends(digested_layers(db, integrity, "0")) == all_of_them


def test_a_store_from_before_there_were_digests_has_none(opened):
    db, integrity = opened()
    db.layout = db.layout._replace(version=5)
    assert list(digested_steps(db, integrity)) == []
    assert list(digested_layers(db, integrity, "0")) == []
