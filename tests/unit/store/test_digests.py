"""Digests tell of their rows what a reader would find in them, exactly but for quantiles."""

import math
import sqlite3
import zlib

import numpy as np
import pytest

from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter, digest_bytes, digests, layer_digests, step_table
from gradwatch.store.schema import PARTS

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Digests of 128 rows, used from the first row on."""
    monkeypatch.setattr(digests, "ROWS", 128)
    monkeypatch.setattr(step_table, "MANY_ROWS", 1)


def infos(count=3):
    return tuple(ParameterInfo(name=name, shape=(4,)) for name in NAMES[:count])


def record(step, optimizer="0", **more):
    rng = np.random.default_rng(step)
    norms = np.exp(rng.normal(size=3)).astype(np.float32)
    counts = np.zeros(3, np.float32)
    if step % 7 == 3:
        norms[1], counts[1] = np.nan, 2
    if step % 5 == 1:
        norms[2] = counts[2] = np.nan
    layers = LayerStats(parameters=infos(), norm=norms, abs_max=norms / 2, nonfinite=counts, zeros=counts)
    known = {"loss": None if step % 11 == 0 else math.nan if step % 13 == 0 else 1.0 / (step + 1), "layers": layers}
    return StepRecord(
        **{"step": step, "optimizer": optimizer, "wall_time": float(step), "total_norm": 2.0, "clip_coef": 1.0}
        | known
        | more
    )


def write(folder, batches, optimizers=("0",), end=True):
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {name: ("SGD", {}) for name in optimizers})
    for name in optimizers:
        writer.add_parameters(name, infos())
    for batch in batches:
        writer.append(batch)
    if end:
        writer.end_attempt("closed")
    return writer


def batches(steps, size=50, **more):
    records = [record(step, **more) for step in range(steps)]
    return [records[at : at + size] for at in range(0, steps, size)]


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        a, b = left[name], right[name]
        if a.dtype == object:
            assert a.tolist() == b.tolist(), name
        else:
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name


def from_rows(folder, monkeypatch):
    with monkeypatch.context() as patch, StoreReader(folder) as reader:
        patch.setattr(step_table, "MANY_ROWS", 10**9)
        return reader.step_arrays()


def test_steps_from_digests_are_those_of_the_rows(tmp_path, monkeypatch):
    write(tmp_path, batches(300, learning_rates=(0.1, 0.2), clip_fault="x"))
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("0")] == [128, 256]
        found = reader.step_arrays()
        assert reader.damaged_rows == 0
    same(found, from_rows(tmp_path, monkeypatch))


def test_optimizers_that_take_turns_have_digests_of_their_own(tmp_path, monkeypatch):
    turns = [record(step, name) for step in range(200) for name in ("g", "d")]
    write(tmp_path, [turns[at : at + 33] for at in range(0, 400, 33)], ("g", "d"))
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("d")] == [256]
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))
        assert reader.step_ids("d")[:, 0].tolist() == list(range(2, 401, 2))
        of_one = reader.step_arrays("d")
        assert of_one["id"].tolist() == list(range(2, 401, 2))
        assert set(of_one["optimizer"]) == {"d"}


def test_the_rows_of_an_optimizer_that_is_gone_are_let_go_of_and_read_from_the_table(tmp_path, monkeypatch):
    writer = write(tmp_path, batches(100), end=False)
    writer.forget("0")
    assert not writer._digesters._of
    writer.append([record(step) for step in range(100, 300)])
    writer.end_attempt("closed")
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("0")] == [228]
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


def test_a_later_attempt_begins_with_a_digest_of_its_own(tmp_path, monkeypatch):
    write(tmp_path, batches(200))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([record(step, attempt=1) for step in range(150, 300)])
    writer.end_attempt("closed")
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("0")] == [128, 328]
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


def test_rows_that_the_disk_did_not_take_are_in_no_digest(tmp_path, monkeypatch):
    from gradwatch.errors import StoreNotWritable

    writer = write(tmp_path, batches(100), end=False)
    real = writer._file.insert

    def full(*_arguments, **_more):
        raise sqlite3.OperationalError("database or disk is full")

    writer._file.insert = full
    with pytest.raises(StoreNotWritable):
        writer.append([record(step) for step in range(100, 150)])
    writer._file.insert = real
    writer.append([record(step) for step in range(100, 300)])
    writer.end_attempt("closed")
    with StoreReader(tmp_path) as reader:
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


@pytest.mark.parametrize("column", ["steps", "layers", "steps_crc", "crc", "row_crc", "optimizer"])
def test_a_damaged_digest_is_not_used_and_the_rows_are_read(tmp_path, monkeypatch, column):
    write(tmp_path, batches(300))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    ((value,),) = db.execute(f"select {column} from digest where last_id = 128")
    other = {bytes: lambda b: b[:-1] + b"\x99", int: lambda n: n ^ 1, str: lambda s: s + "x"}[type(value)](value)
    db.execute(f"update digest set {column} = ? where last_id = 128", (other,))
    db.commit()
    db.close()
    with StoreReader(tmp_path) as reader:
        both = (
            {number for number, _ in reader.digested_steps("0")},
            {number for number, _ in reader.digested_layers("0")},
        )
        assert both == ({256} if column != "layers" else {128, 256}, {256} if column != "steps" else {128, 256})
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


def test_a_row_lost_beside_digests_is_counted(tmp_path):
    write(tmp_path, batches(300))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("delete from step where id in (280, 281)")
    db.execute("update step set total_norm = 3 where id = 290")
    db.commit()
    db.close()
    with StoreReader(tmp_path) as reader:
        assert len(reader.step_arrays()["id"]) == 297
        assert reader.damaged_rows == 3


def test_rows_without_layers_or_with_others_leave_a_digest_without_layers(tmp_path):
    rows = [record(step, **({"layers": None} if step == 60 else {})) for step in range(256)]
    write(tmp_path, [rows])
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("0")] == [128, 256]
        assert [number for number, _ in reader.digested_layers("0")] == [256]


def test_layers_of_a_very_large_model_are_not_digested(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MAX_PARAMETERS", 2)
    write(tmp_path, batches(128))
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("0")] == [128]
        assert list(reader.digested_layers("0")) == []


def test_the_checksum_of_a_digest_is_that_of_its_blobs(tmp_path):
    write(tmp_path, batches(128))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    ((steps, steps_crc, layers, layers_crc),) = db.execute("select steps, steps_crc, layers, layers_crc from digest")
    db.close()
    assert (zlib.crc32(steps), zlib.crc32(layers)) == (steps_crc, layers_crc)


def test_the_last_rows_of_a_long_run_have_a_digest_once_it_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MANY_ROWS", 200)
    for folder, steps, ends in (("long", 300, [128, 256, 300]), ("short", 199, [128])):
        write(tmp_path / folder, batches(steps))
        with StoreReader(tmp_path / folder) as reader:
            assert [number for number, _ in reader.digested_steps("0")] == ends
            assert [number for number, _ in reader.digested_layers("0")] == ends
            same(reader.step_arrays(), from_rows(tmp_path / folder, monkeypatch))
            assert reader.damaged_rows == 0


def test_each_attempt_at_a_long_run_digests_its_last_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MANY_ROWS", 100)
    write(tmp_path, batches(150))
    write(tmp_path, [[record(step, attempt=1) for step in range(140, 290)]])
    with StoreReader(tmp_path) as reader:
        assert [number for number, _ in reader.digested_steps("0")] == [128, 150, 278, 300]
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


@pytest.fixture
def wide(monkeypatch):
    """Three parameters make a wide model, whose digests are written every 32 rows."""
    monkeypatch.setattr(digest_bytes, "GROUP", 16)
    monkeypatch.setattr(layer_digests, "GROUP", 16)
    monkeypatch.setattr(digests, "WIDE", 2)
    monkeypatch.setattr(digests, "EARLY_ROWS", 32)


def spans(folder, optimizer="0"):
    """Of each digest the ids of its rows, from the steps; those of the layers are as many."""
    with StoreReader(folder) as reader:
        found = [columns["id"].tolist() for _, columns in reader.digested_steps(optimizer)]
        layers = list(reader.digested_layers(optimizer))
    assert [(rows[-1], len(rows)) for rows in found] == [(last, digest.rows) for last, digest in layers]
    return found


@pytest.mark.parametrize(
    ("steps", "ends"), [(31, []), (32, [32]), (127, [96]), (128, [128]), (159, [128]), (290, [128, 256, 288])]
)
@pytest.mark.parametrize("size", [1, 50, 1000])
def test_a_digest_of_a_wide_model_grows_as_rows_come(tmp_path, monkeypatch, wide, steps, ends, size):
    write(tmp_path, batches(steps, size), end=False)  # the process was killed
    found = spans(tmp_path)
    assert [rows[-1] for rows in found] == ends
    assert [at for rows in found for at in rows] == list(range(1, max(ends, default=0) + 1))
    with StoreReader(tmp_path) as reader:
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))
        assert reader.damaged_rows == 0


def test_a_digest_that_grew_is_that_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(digest_bytes, "GROUP", 16)
    monkeypatch.setattr(layer_digests, "GROUP", 16)
    blobs = []
    for early in (10**9, 32):
        monkeypatch.setattr(digests, "WIDE", 2)
        monkeypatch.setattr(digests, "EARLY_ROWS", early)
        write(tmp_path / str(early), batches(256))
        db = sqlite3.connect(tmp_path / str(early) / FILE_NAME)
        blobs.append(db.execute("select * from digest order by last_id").fetchall())
        db.close()
    assert blobs[0] == blobs[1]
    assert len(blobs[0]) == 2


def test_rows_that_were_not_written_leave_the_digest_of_those_before(tmp_path, monkeypatch, wide):
    writer = write(tmp_path, batches(40), end=False)
    fault = sqlite3.connect(tmp_path / FILE_NAME)
    fault.execute("create trigger t before insert on digest begin select raise(abort, 'the disk is full'); end")
    lost = [record(step) for step in range(40, 70)]
    with pytest.raises(sqlite3.IntegrityError):
        writer.append(lost)
    fault.execute("drop trigger t")
    fault.close()
    assert spans(tmp_path) == [list(range(1, 33))]
    writer.append(lost)
    writer.append([record(step) for step in range(70, 300)])
    assert [(rows[0], rows[-1]) for rows in spans(tmp_path)] == [(1, 32), (41, 168), (169, 296)]
    writer.end_attempt("closed")
    with StoreReader(tmp_path) as reader:
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))
        assert reader.damaged_rows == 0


def test_an_attempt_after_a_killed_one_leaves_its_digests(tmp_path, monkeypatch, wide):
    write(tmp_path, batches(100), end=False)
    write(tmp_path, [[record(step, attempt=1) for step in range(90, 180)]])
    assert [(rows[0], rows[-1]) for rows in spans(tmp_path)] == [(1, 96), (101, 164)]
    with StoreReader(tmp_path) as reader:
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


def test_the_digests_of_two_wide_optimizers_grow_apart(tmp_path, monkeypatch, wide):
    turns = [[record(step, name) for name in ("0", "1")] for step in range(70)]
    write(tmp_path, turns, ("0", "1"), end=False)
    assert spans(tmp_path) == [list(range(1, 128, 2))]
    assert spans(tmp_path, "1") == [list(range(2, 129, 2))]
    with StoreReader(tmp_path) as reader:
        same(reader.step_arrays(), from_rows(tmp_path, monkeypatch))


def test_the_last_rows_of_a_wide_model_have_a_digest_once_it_has_ended(tmp_path, monkeypatch, wide):
    monkeypatch.setattr(digests, "MANY_ENTRIES", 210)
    for steps, ends in ((69, [64]), (70, [70]), (64, [64])):
        write(tmp_path / str(steps), batches(steps))
        assert [rows[-1] for rows in spans(tmp_path / str(steps))] == ends


def test_a_digest_tells_which_tables_its_steps_have_rows_of(tmp_path):
    write(tmp_path, batches(300))
    with StoreReader(tmp_path) as reader:
        by_rows = reader._steps.parts_written()
        assert reader._steps._parts_written is None
        reader.step_arrays()
        assert reader._steps._parts_written is not None
        assert reader._steps.parts_written() == by_rows == PARTS["layer"]
