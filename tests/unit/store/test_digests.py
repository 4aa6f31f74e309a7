"""Digests tell of their rows what a reader would find in them, exactly but for quantiles."""

import math
import sqlite3
import zlib
from collections import Counter

import numpy as np
import pytest

from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter, digests, step_table
from gradwatch.store.digests import (
    ABSENT,
    ACCURACY,
    NOT_FINITE,
    LayerDigester,
    Sketch,
    bins_of,
    middles,
    pack,
    pack_layers,
    unpack,
    unpack_layers,
    unpack_steps,
)
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


# ------------------------------------------------------------------------------------- the sketch


@pytest.mark.parametrize("scale", [1e-40, 1e-3, 1.0, 1e30])
def test_a_quantile_of_a_sketch_is_within_its_accuracy_of_the_true_one(scale):
    rng = np.random.default_rng(0)
    norms = (scale * np.exp(rng.normal(size=(5000, 3)))).astype(np.float32)
    digester = LayerDigester(3, ("norm",))
    digester.extend({"norm": norms})
    sketch = digester.finish().sketch
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        exact = np.quantile(norms.astype(float), share, axis=0)
        tolerance = ACCURACY if scale > 1e-37 else 0.02  # denormal numbers have fewer digits
        assert np.allclose(sketch.quantile(share, 3), exact, rtol=tolerance + 1e-6, atol=0)


def test_bins_hold_zero_the_least_and_the_largest_norm():
    norms = np.array([0.0, np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max], np.float32)
    bins = bins_of(norms)
    assert ((bins >= -(2**15)) & (bins < 2**15)).all()
    assert np.allclose(middles(bins), norms.astype(float), rtol=ACCURACY + 1e-9, atol=0)


def test_the_middle_of_the_largest_totals_is_finite():
    """Total norms are float64."""
    totals = np.array([1e300, 1e308, 1.7e308])
    assert np.allclose(middles(bins_of(totals)), totals, rtol=ACCURACY + 1e-9, atol=0)


def test_the_quantile_of_no_norm_is_not_known():
    none = Sketch.of_keys(np.empty(0, np.int64))
    assert np.isnan(none.quantile(0.5, 2)).all()
    assert np.isnan(Sketch.merged([none, none]).quantile(0.5, 1)).all()


# ------------------------------------------------------------------------------- digests of layers


def test_a_digest_of_layers_tells_what_its_rows_hold_and_survives_packing():
    norm = np.float32([[1, np.nan, np.nan], [9, 2, np.nan], [3, 2, 5]])
    nonfinite = np.float32([[0, 4, np.nan], [0, 0, np.nan], [0, 0, 0]])
    zeros = np.float32([[1, 0, np.nan], [2, 0, np.nan], [3, 0, 4]])
    digester = LayerDigester(3, ("norm", "nonfinite", "zeros"))
    digester.extend({"norm": norm, "nonfinite": nonfinite, "zeros": zeros})
    found = unpack_layers(pack_layers(digester.finish()))
    assert found.rows == 3
    assert found.maxima["norm"].tolist() == [[9.0, NOT_FINITE, 5.0]]
    assert found.maxima["nonfinite"].tolist() == [[0.0, 4.0, 0.0]]
    assert found.high.tolist() == [9.0, 2.0, 5.0]
    assert found.high_row.tolist() == [1, 1, 2]
    assert found.bad.tolist() == [0, 1, 0]
    assert found.absent.tolist() == [0, 0, 2]
    assert found.zeros.tolist() == [6.0, 0.0, 4.0]
    assert found.zeros_known.tolist() == [3, 3, 1]
    assert found.sketch.count.sum() == 6


def test_a_parameter_without_any_gradient_has_no_largest_norm():
    digester = LayerDigester(1, ("norm",))
    digester.extend({"norm": np.full((3, 1), np.nan, np.float32)})
    found = digester.finish()
    assert (found.high.tolist(), found.high_row.tolist(), found.absent.tolist()) == ([ABSENT], [-1], [3])


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{}",
        b'{"arrays": 3}\n',
        b'{"arrays": {"a": ["<f4", [4], 16]}}\n1234',
        b'{"arrays": {"a": ["<f4", [1000000000, 8], 4]}}\n1234',
        b'{"arrays": {"a": ["O", [1], 8]}}\n12345678',
        b'{"arrays": {"a": ["<f4", [-1], 4]}}\n1234',
        pack({"rows": 1}, {"high": np.zeros(2, np.float32)}),
    ],
)
def test_bytes_that_are_no_digest_are_refused(blob):
    with pytest.raises(ValueError, match=r"\w"):
        unpack_layers(blob)
    with pytest.raises(ValueError, match=r"\w"):
        unpack_steps(blob)


def test_packing_keeps_arrays_of_every_shape():
    arrays = {"none": np.empty((0, 3), np.float32), "one": np.array([2.5]), "same": np.full((4, 2), 7, np.int32)}
    _, found = unpack(pack({}, arrays))
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


# ----------------------------------------------------------------------------------- in the store


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


@pytest.mark.parametrize("parameters", [1, 4, 7, 9])
def test_a_digest_of_many_parameters_is_made_in_slices(monkeypatch, parameters):
    """Slices of four, whose keys are counted often, make the digest of all at once."""
    random = np.random.default_rng(parameters)
    norm = random.lognormal(0, 3, (200, parameters)).astype(np.float32)
    norm[random.random(norm.shape) < 0.1] = np.nan
    nonfinite = np.where(np.isnan(norm), np.float32(random.integers(0, 2, norm.shape)), 0).astype(np.float32)
    tables = {"norm": norm, "nonfinite": nonfinite, "zeros": np.floor(norm)}

    def digest():
        digester = LayerDigester(parameters, list(tables))
        digester.extend(tables)
        return pack_layers(digester.finish())

    at_once = digest()
    monkeypatch.setattr(digests, "SLICE", 4)
    monkeypatch.setattr(digests, "MAX_KEYS", 100)
    monkeypatch.setattr(digests, "MAX_TABLE", 200)
    assert digest() == at_once
    found = unpack_layers(at_once)
    expected = np.nanquantile(norm.astype(float), 0.5, axis=0)
    np.testing.assert_allclose(found.sketch.quantile(0.5, parameters), expected, rtol=0.011)


def digest_by_hand(tables, parameter):
    """What a digest tells of one parameter, with Python's own numbers, value by value."""
    rows = range(len(tables["norm"]))
    norm, nonfinite, zeros = ([float(row[parameter]) for row in tables[stat]] for stat in tables)
    bad = [nonfinite[row] > 0 for row in rows]
    codes = [NOT_FINITE if bad[row] else ABSENT if math.isnan(norm[row]) else norm[row] for row in rows]
    finite = [(-codes[row], row) for row in rows if 0 <= codes[row] < NOT_FINITE]
    high, high_row = min(finite, default=(-ABSENT, -1))
    gamma = math.log((1 + ACCURACY) / (1 - ACCURACY))
    bins = Counter(math.ceil(math.log(-code) / gamma) if code else -(2**15) for code, _ in finite)
    return {
        "maxima": [max(codes[row : row + digests.GROUP]) for row in rows[:: digests.GROUP]],
        "high": -high,
        "high_row": high_row,
        "bad": sum(bad),
        "absent": codes.count(ABSENT),
        "zeros": math.fsum(count for count in zeros if not math.isnan(count)),
        "zeros_known": sum(not math.isnan(count) for count in zeros),
        "sketch": sorted(bins.items()),
    }


@pytest.mark.parametrize("keys", [100, digests.MAX_KEYS])
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_a_digest_of_rows_that_come_together_is_exactly_theirs(monkeypatch, rows, first, keys):
    """The first rows come one by one; the keys are counted once and often."""
    monkeypatch.setattr(digests, "SLICE", 2)
    monkeypatch.setattr(digests, "MAX_KEYS", keys)
    random = np.random.default_rng(rows)
    norm = random.lognormal(0, 3, (first + rows, 5)).astype(np.float32)
    norm[random.random(norm.shape) < 0.1] = np.nan
    norm[random.random(norm.shape) < 0.1] = 0
    norm[:, 4] = np.nan
    nonfinite = np.where(np.isnan(norm), np.float32(random.integers(0, 2, norm.shape)), 0).astype(np.float32)
    tables = {"norm": norm, "nonfinite": nonfinite, "zeros": np.floor(norm)}
    digester = LayerDigester(5, list(tables))
    for row in range(first):
        digester.add([table[row] for table in tables.values()])
    digester.extend({stat: table[first:] for stat, table in tables.items()})
    found = digester.finish()
    assert found.rows == first + rows
    for parameter in range(5):
        own = found.sketch.parameter == parameter
        told = {
            "maxima": found.maxima["norm"][:, parameter].tolist(),
            **{name: getattr(found, name)[parameter] for name in ("high", "high_row", "bad", "absent")},
            **{name: getattr(found, name)[parameter] for name in ("zeros", "zeros_known")},
            "sketch": list(zip(found.sketch.bin[own].tolist(), found.sketch.count[own].tolist(), strict=True)),
        }
        assert told == digest_by_hand(tables, parameter)


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


def test_many_sketches_merge_as_one():
    rng = np.random.default_rng(0)
    tables = [np.exp(rng.normal(size=(50, 2))).astype(np.float32) for _ in range(100)]
    sketches = []
    for table in tables:
        digester = LayerDigester(2, ("norm",))
        digester.extend({"norm": table})
        sketches.append(digester.finish().sketch)
    merged = Sketch.merged(sketches)
    assert merged.count.sum() == 100 * 50 * 2
    exact = np.quantile(np.concatenate(tables).astype(float), 0.9, axis=0)
    assert np.allclose(merged.quantile(0.9, 2), exact, rtol=ACCURACY, atol=0)


def test_sketches_merge_alike_in_a_table_and_by_their_keys(monkeypatch):
    rng = np.random.default_rng(1)
    sketches = []
    for at in range(40):
        norms = np.exp(9 * rng.normal(size=(64, 3))).astype(np.float32)
        norms[rng.random(norms.shape) < 0.2] = 0
        norms[:, at % 3] = np.nan  # a sketch without a norm of that parameter
        digester = LayerDigester(3, ("norm",))
        digester.extend({"norm": norms})
        sketches.append(unpack_layers(pack_layers(digester.finish())).sketch)
    in_table = Sketch.merged(sketches)
    monkeypatch.setattr(digests, "MAX_TABLE", 0)
    by_keys = Sketch.merged(sketches)
    for name in ("parameter", "bin", "count"):
        assert getattr(in_table, name).tolist() == getattr(by_keys, name).tolist(), name
    assert Sketch.merged([]).count.tolist() == []


@pytest.mark.parametrize("parts", [[[1.0] * 3, [1.0]], [[1.0] * 3, [2.0] * 2], [[np.nan] * 2, [np.nan]], [[1.0, 2.0]]])
def test_a_joined_column_holds_what_its_parts_hold(parts):
    column = digests.JoinedColumn(2)
    for part in parts:
        values = np.array(part)
        column.extend(np.broadcast_to(values[0], len(part)) if len(set(part)) == 1 and len(part) > 1 else values)
    np.testing.assert_array_equal(column.whole(), np.concatenate(parts))
    is_one = len({repr(value) for part in parts for value in part}) == 1
    assert digests.is_of_one_value(column.whole()) == is_one


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
    monkeypatch.setattr(digests, "GROUP", 16)
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
    monkeypatch.setattr(digests, "GROUP", 16)
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


def test_an_array_of_one_value_keeps_no_other_bytes():
    blob = digests.pack({}, {"many": np.arange(5000.0), "one": np.full((8, 9), 3.0, np.float32), "none": np.empty(0)})
    _, arrays = digests.unpack(blob)
    assert arrays["one"].tolist() == [[3.0] * 9] * 8
    assert arrays["one"].strides == (0, 0)
    assert len(arrays["one"].base) == 4
    assert arrays["none"].shape == (0,)


def test_a_column_that_outgrows_its_room_is_seldom_copied():
    column, copies = digests.JoinedColumn(10), set()
    for part in range(1000):
        column.extend(np.arange(10.0) + part)
        copies.add(len(column.whole().base))
    assert len(copies) <= 12
    np.testing.assert_array_equal(column.whole(), (np.arange(1000)[:, None] + np.arange(10.0)).ravel())


def test_a_column_is_put_where_it_is_wanted_while_it_fits():
    room = np.zeros(4, np.int64)
    column = digests.JoinedColumn(4, room)
    column.extend(np.array([3, 5, 7]))
    assert np.shares_memory(column.whole(), room)
    column.extend(np.array([9, 11]))
    assert column.whole().tolist() == [3, 5, 7, 9, 11]


def test_a_digest_tells_which_tables_its_steps_have_rows_of(tmp_path):
    write(tmp_path, batches(300))
    with StoreReader(tmp_path) as reader:
        by_rows = reader._steps.parts_written()
        assert reader._steps._parts_written is None
        reader.step_arrays()
        assert reader._steps._parts_written is not None
        assert reader._steps.parts_written() == by_rows == PARTS["layer"]
