"""What is packed for the page can be unpacked; halves and planes lose no more than they say."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.views.web.pack import byte_planes, embed, pack, to_bfloat16
from gradwatch.views.web.pyramid import ABSENT, NOT_FINITE


def unpacked(data):
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    assert (4 + length) % 8 == 0
    arrays = {}
    for name, kind, shape, offset in header["arrays"]:
        assert offset % 8 == 0
        size = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, kind, size, 4 + length + offset).reshape(shape)
    return header["about"], arrays


@given(st.lists(st.integers(0, 40), max_size=4), st.text(max_size=20))
def test_what_was_packed_can_be_unpacked(sizes, text):
    arrays = {f"a{i}": np.arange(size, dtype=[np.float32, np.int64][i % 2]) for i, size in enumerate(sizes)}
    about, found = unpacked(pack({"text": text}, arrays))
    assert about == {"text": text}
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in arrays.items()}


@given(st.floats(2.0**-120, 2.0**127, width=32))
def test_halving_keeps_a_value_to_a_quarter_percent(value):
    back = (to_bfloat16(np.float32([value])).astype(np.uint32) << 16).view(np.float32)[0]
    assert back == pytest.approx(value, rel=0.004)


def test_halving_keeps_what_stands_for_no_number():
    codes = to_bfloat16(np.float32([ABSENT, 0.0, NOT_FINITE, 1.0]))
    assert (codes.astype(np.uint32) << 16).view(np.float32).tolist() == [ABSENT, 0.0, NOT_FINITE, 1.0]


def test_planes_are_the_same_bytes_in_another_order():
    codes = np.arange(600, dtype=np.uint16).reshape(20, 30)
    data = byte_planes(codes).tobytes()
    high, low = (np.frombuffer(part, np.uint8).astype(int) for part in (data[:600], data[600:]))
    assert (256 * high + low).tolist() == list(range(600))


def test_an_embedded_page_carries_the_packed_bytes():
    import base64
    import zlib

    packed = pack({"a": [1]}, {"x": np.array([np.nan, np.inf])})
    assert zlib.decompress(base64.b64decode(embed(packed))) == packed


def test_the_largest_value_stays_finite():
    largest = np.finfo(np.float32).max
    back = (to_bfloat16(np.float32([largest, -largest])).astype(np.uint32) << 16).view(np.float32)
    assert np.isfinite(back).all()
    assert back[0] == pytest.approx(largest, rel=0.008)


def test_nan_stays_nan():
    back = (to_bfloat16(np.float32([np.nan])).astype(np.uint32) << 16).view(np.float32)
    assert np.isnan(back).all()
