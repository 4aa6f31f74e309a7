"""Checksums, compared with a plain implementation of what docs/store.md says of them."""

import json
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.store.checksums import (
    LATER_STEP_NUMBERS,
    STEP_NUMBERS,
    STEP_TEXTS,
    blobs_crc,
    match_blobs,
    row_crc,
    row_crcs,
    step_crc,
    step_crcs,
    values_crc,
)

NUMBERS = st.none() | st.floats() | st.integers(0, 2**53)
TEXTS = st.none() | st.text(max_size=8)
ALL_NUMBERS = (*STEP_NUMBERS, *LATER_STEP_NUMBERS)
ROWS = st.fixed_dictionaries(dict.fromkeys(ALL_NUMBERS, NUMBERS) | dict.fromkeys(STEP_TEXTS, TEXTS))


def plain_numbers(row, names):
    data = b""
    for name in names:
        value = math.nan if row[name] is None else float(row[name]) + 0.0
        data += np.array(math.nan if math.isnan(value) else value, "<f8").tobytes()
    return data


def plain_step_crc(row):
    """As another program would write it: float64 with one NaN, no negative zero, then texts, then later numbers."""
    data = plain_numbers(row, STEP_NUMBERS)
    texts = [b"" if row[name] is None else row[name].encode("utf-8", "replace") for name in STEP_TEXTS]
    later = plain_numbers(row, LATER_STEP_NUMBERS)
    is_null = later == plain_numbers(dict.fromkeys(LATER_STEP_NUMBERS), LATER_STEP_NUMBERS)
    return zlib.crc32(data + b"\x1f".join(texts) + (b"" if is_null else later))


def without_nan(value):
    """The value as SQLite keeps it."""
    return None if isinstance(value, float) and math.isnan(value) else value


@given(ROWS)
def test_the_checksum_of_a_step(row):
    assert step_crc(row) == plain_step_crc(row)


@given(st.lists(ROWS, max_size=4))
def test_many_steps_have_the_checksums_of_each(rows):
    rows = [{name: without_nan(value) for name, value in row.items()} for row in rows]
    columns = {name: [row[name] for row in rows] for name in (*ALL_NUMBERS, *STEP_TEXTS)}
    assert step_crcs(columns).tolist() == [step_crc(row) for row in rows]


@pytest.mark.parametrize("name", [*ALL_NUMBERS, *STEP_TEXTS])
def test_every_column_of_a_step_counts(name):
    row = dict.fromkeys(ALL_NUMBERS, 1.0) | dict.fromkeys(STEP_TEXTS, "a")
    assert step_crc(row) != step_crc(row | {name: "b" if name in STEP_TEXTS else 2.0})


def test_a_step_without_later_numbers_has_the_checksum_of_an_older_schema():
    row = dict.fromkeys(STEP_NUMBERS, 1.0) | dict.fromkeys(STEP_TEXTS, "a") | dict.fromkeys(LATER_STEP_NUMBERS)
    data = plain_numbers(row, STEP_NUMBERS) + b"a\x1fa\x1fa\x1fa"
    assert step_crc(row) == zlib.crc32(data)


def test_zero_has_one_sign_and_nan_one_payload():
    row = dict.fromkeys(ALL_NUMBERS, 0.0) | dict.fromkeys(STEP_TEXTS)
    assert step_crc(row) == step_crc(row | {"loss": -0.0})
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    assert step_crc(row | {"loss": odd}) == step_crc(row | {"loss": math.nan}) == step_crc(row | {"loss": None})


@given(st.lists(st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_infinity=False) | st.text(), max_size=5))
def test_the_checksum_of_a_small_row_is_over_compact_json(values):
    plain = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
    assert values_crc(values) == zlib.crc32(json.dumps(plain, separators=(",", ":")).encode("ascii"))


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.lists(st.none() | st.binary(max_size=12), max_size=4))
def test_blobs_have_a_checksum_each_that_begins_with_the_place(number, step, blobs):
    seed = (number * 2654435761 + step) % 2**32
    expected = [0 if blob is None else zlib.crc32(blob, seed) for blob in blobs]
    assert blobs_crc(number, step, blobs) == b"".join(value.to_bytes(4, "little") for value in expected)


def test_blobs_match_at_their_id_and_step_alone():
    blob = np.arange(3, dtype="<f4").tobytes()
    crc = blobs_crc(7, 5, [None, blob])
    assert match_blobs([7], [5], [blob], [crc], 1).all()
    for number, step, data, at in [(8, 5, blob, 1), (7, 6, blob, 1), (7, 5, blob[:-4], 1), (7, 5, blob, 0)]:
        assert not match_blobs([number], [step], [data], [crc], at).any()
    assert not match_blobs([7], [5], [blob], [crc[:4]], 1).any(), "a checksum that is too short matches nothing"
    assert match_blobs([], [], [], [], 0).shape == (0,)


@given(st.sampled_from(["step", "event", "meta"]), st.integers(0, 2**53), st.integers(0, 2**32 - 1))
def test_a_row_is_bound_to_its_table_and_its_id(table, number, crc):
    plain = zlib.crc32(struct.pack("<qI", number, crc), zlib.crc32(table.encode()))
    assert row_crc(table, number, crc) == plain
    assert row_crcs(table, [number], [crc]).tolist() == [plain]
    assert row_crc(f"{table}s", number, crc) != plain


@given(st.integers(0, 2**53), st.binary(min_size=4, max_size=16))
def test_a_row_of_blobs_is_bound_by_its_bytes(number, crc):
    plain = zlib.crc32(crc, zlib.crc32(struct.pack("<q", number), zlib.crc32(b"layer")))
    assert row_crc("layer", number, crc) == plain
    assert row_crcs("layer", [number], [crc]).tolist() == [plain]


def test_no_rows_have_no_checksums():
    assert row_crcs("step", [], []).tolist() == []
