"""Packing keeps a digest, and bytes that are none are refused."""

import numpy as np
import pytest

from gradwatch.store.digest_bytes import pack, pack_layers, unpack, unpack_layers, unpack_steps
from gradwatch.store.layer_digests import NOT_FINITE, LayerDigester


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


def test_an_array_of_one_value_keeps_no_other_bytes():
    blob = pack({}, {"many": np.arange(5000.0), "one": np.full((8, 9), 3.0, np.float32), "none": np.empty(0)})
    _, arrays = unpack(blob)
    assert arrays["one"].tolist() == [[3.0] * 9] * 8
    assert arrays["one"].strides == (0, 0)
    assert len(arrays["one"].base) == 4
    assert arrays["none"].shape == (0,)
