"""A digest of layers tells exactly what its rows hold."""

import math
from collections import Counter

import numpy as np
import pytest

from gradwatch.store import layer_digests, sketch
from gradwatch.store.digest_bytes import pack_layers, unpack_layers
from gradwatch.store.layer_digests import ABSENT, GROUP, MAX_KEYS, NOT_FINITE, LayerDigester
from gradwatch.store.sketch import ACCURACY


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
    monkeypatch.setattr(layer_digests, "SLICE", 4)
    monkeypatch.setattr(sketch, "SLICE", 4)
    monkeypatch.setattr(layer_digests, "MAX_KEYS", 100)
    monkeypatch.setattr(sketch, "MAX_TABLE", 200)
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
        "maxima": [max(codes[row : row + GROUP]) for row in rows[::GROUP]],
        "high": -high,
        "high_row": high_row,
        "bad": sum(bad),
        "absent": codes.count(ABSENT),
        "zeros": math.fsum(count for count in zeros if not math.isnan(count)),
        "zeros_known": sum(not math.isnan(count) for count in zeros),
        "sketch": sorted(bins.items()),
    }


@pytest.mark.parametrize("keys", [100, MAX_KEYS])
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_a_digest_of_rows_that_come_together_is_exactly_theirs(monkeypatch, rows, first, keys):
    """The first rows come one by one; the keys are counted once and often."""
    monkeypatch.setattr(layer_digests, "SLICE", 2)
    monkeypatch.setattr(sketch, "SLICE", 2)
    monkeypatch.setattr(layer_digests, "MAX_KEYS", keys)
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


def test_a_parameter_without_any_gradient_has_no_largest_norm():
    digester = LayerDigester(1, ("norm",))
    digester.extend({"norm": np.full((3, 1), np.nan, np.float32)})
    found = digester.finish()
    assert (found.high.tolist(), found.high_row.tolist(), found.absent.tolist()) == ([ABSENT], [-1], [3])
