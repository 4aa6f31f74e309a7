"""A sketch of norms gives their quantiles within its accuracy."""

import numpy as np
import pytest

from gradwatch.store import sketch
from gradwatch.store.digest_bytes import pack_layers, unpack_layers
from gradwatch.store.layer_digests import LayerDigester
from gradwatch.store.sketch import ACCURACY, Sketch, bins_of, middles


@pytest.mark.parametrize("scale", [1e-40, 1e-3, 1.0, 1e30])
def test_a_quantile_of_a_sketch_is_within_its_accuracy_of_the_true_one(scale):
    rng = np.random.default_rng(0)
    norms = (scale * np.exp(rng.normal(size=(5000, 3)))).astype(np.float32)
    digester = LayerDigester(3, ("norm",))
    digester.extend({"norm": norms})
    norms_sketch = digester.finish().sketch
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        exact = np.quantile(norms.astype(float), share, axis=0)
        tolerance = ACCURACY if scale > 1e-37 else 0.02  # denormal numbers have fewer digits
        assert np.allclose(norms_sketch.quantile(share, 3), exact, rtol=tolerance + 1e-6, atol=0)


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
    monkeypatch.setattr(sketch, "MAX_TABLE", 0)
    by_keys = Sketch.merged(sketches)
    for name in ("parameter", "bin", "count"):
        assert getattr(in_table, name).tolist() == getattr(by_keys, name).tolist(), name
    assert Sketch.merged([]).count.tolist() == []
