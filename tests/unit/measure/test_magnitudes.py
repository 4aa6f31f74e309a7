"""The entries of gradients by magnitude, against logarithms by numpy."""

import numpy as np
import pytest
import torch

from gradwatch.measure import fused, measure_magnitudes
from gradwatch.measure import magnitudes as module
from gradwatch.record import MAGNITUDE_BINS, MAGNITUDE_EXPONENTS, MOST_COUNTED


@pytest.fixture(
    autouse=True,
    params=[
        pytest.param(True, marks=pytest.mark.skipif(not fused.counts_magnitudes(), reason="it was not built")),
        False,
    ],
    ids=["compiled", "operators"],
)
def is_compiled(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(module, "counts_magnitudes", lambda: False)
    return request.param


EDGES = [0.0, *(2.0**exponent for exponent in MAGNITUDE_EXPONENTS), np.inf]


def expected(entries):
    """By numpy's histogram of the magnitudes in float64, in which every float32 is exact."""
    values = np.abs(np.asarray(entries, np.float64).ravel())
    finite = values[np.isfinite(values) & (values > 0)]
    with np.errstate(divide="ignore"):
        logs, edges = np.log2(finite), np.log2(np.float64([5e-324, *EDGES[1:-1], np.finfo(np.float64).max]))
    edges[0], edges[-1] = -1075, 1025
    counts = np.histogram(logs, edges)[0]
    return [*counts, (values == 0).sum(), np.isinf(values).sum(), np.isnan(values).sum()]


def counted(*gradients, scale=None):
    found = measure_magnitudes(gradients, scale).collect()
    assert tuple(found) == MAGNITUDE_BINS
    return np.stack(list(found.values()), axis=1)


def spread(count=5000, seed=0, low=-60, high=40):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.choice([-1, 1], count) * 2 ** rng.uniform(low, high, count)).astype(np.float32))


SPECIAL = torch.tensor(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0**-24, 65504.0, 65536.0, 3e38, 1e-45, 2.0**-126]
)


@pytest.mark.parametrize(
    "gradient",
    [
        spread(),
        spread().reshape(50, 100).T,
        spread().double(),
        spread(low=-20, high=12).half(),
        spread(low=-30, high=12).half(),  # with subnormal numbers and zeros
        spread().bfloat16(),
        SPECIAL,
        SPECIAL.double(),
        torch.tensor([1e300, -1e-300, 5e-324, np.nan, np.inf, 0.0], dtype=torch.float64),
        torch.zeros(7),
        torch.ones(()),
        torch.ones(1).expand(3),
        torch.randn(4, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)),
    ],
)
def test_the_counts_are_those_of_a_histogram_of_logarithms(gradient):
    entries = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    if gradient.dim() == 1 and gradient.stride(0) == 0:
        entries = gradient[:1]  # one entry, told three times
    assert counted(gradient)[0].tolist() == expected(entries.double().numpy())


def test_the_largest_number_below_a_power_of_two_is_in_the_bin_below():
    below = [np.nextafter(np.float32(2.0**e), np.float32(0)) for e in MAGNITUDE_EXPONENTS]
    at = [np.float32(2.0**e) for e in MAGNITUDE_EXPONENTS]
    assert counted(torch.tensor(np.array(below)))[0, :32].tolist() == [1] * 31 + [0]
    assert counted(torch.tensor(np.array(at)))[0, :32].tolist() == [0] + [1] * 31


def test_an_empty_gradient_counts_nothing_and_an_absent_one_is_not_known():
    table = counted(torch.empty(0, 3), None, torch.tensor([1.0]))
    assert table[0].sum() == 0
    assert np.isnan(table[1]).all()
    assert table[2].sum() == 1
    assert np.isnan(counted(None)).all()


def test_a_sparse_gradient_counts_what_it_stores():
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], [0.25, 0.25, 4.0], (9,))
    assert counted(sparse)[0].tolist() == expected([0.5, 4.0])


def test_a_gradient_that_can_not_be_read_counts_as_none():
    assert np.isnan(counted(torch.ones(3, dtype=torch.int64))).all()


def test_scaled_gradients_are_divided_first():
    gradient = spread(low=-20, high=10)
    scale = torch.tensor(65536.0)
    assert counted(gradient * scale, scale=scale)[0].tolist() == expected(gradient.numpy())


def test_dtypes_and_absent_gradients_may_be_mixed():
    kinds = [torch.float64, torch.bfloat16, None, torch.float16, torch.float32]
    gradients = [None if kind is None else spread(1000, seed=3, low=-20, high=12).to(kind) for kind in kinds]
    for row, gradient in zip(counted(*gradients), gradients, strict=True):
        if gradient is None:
            assert np.isnan(row).all()
        else:
            assert row.tolist() == expected(gradient.double().numpy())


def test_the_compiled_pass_counts_plain_gradients_alone(is_compiled, monkeypatch):
    monkeypatch.setattr(module, "_counts", lambda *_: pytest.fail("by PyTorch's operators"))
    plain = [torch.ones(5), torch.ones(300, 700).T, torch.ones(4, dtype=torch.float64)]
    if not is_compiled:
        pytest.skip("it is about the compiled pass")
    assert np.nansum(counted(*plain), axis=1).tolist()[::2] == [5, 4]
    with pytest.raises(pytest.fail.Exception):
        counted(torch.ones(6)[::2])


@pytest.mark.parametrize("scale", [3.0, 65536.0, 0.0, np.inf, np.nan])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_both_ways_divide_by_a_scale_alike(dtype, scale, monkeypatch):
    gradient = torch.cat([spread(low=-24, high=15), SPECIAL, torch.tensor([2.0**e for e in MAGNITUDE_EXPONENTS])])
    tables = [counted(gradient.to(dtype), scale=torch.tensor(scale))]
    monkeypatch.setattr(module, "counts_magnitudes", lambda: False)
    tables.append(counted(gradient.to(dtype), scale=torch.tensor(scale)))
    assert np.array_equal(*tables)


@pytest.mark.parametrize("shape", [(700, 999), (1024, 1024), (3, 400_000)])
@pytest.mark.parametrize("transposed", [False, True])
def test_of_a_long_gradient_an_even_sample_is_counted(shape, transposed):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    shares = counted(gradient.T if transposed else gradient)[0]
    whole = np.array(expected(gradient.numpy()))
    assert 0.9 * module.READ < shares.sum() <= MOST_COUNTED
    assert np.abs(shares / shares.sum() - whole / whole.sum()).max() < 0.01


@pytest.mark.parametrize("rows", [[500, 500], [600, 300, 100], [999, 1, 0]])
def test_counts_of_parts_of_a_long_gradient_add_up_to_a_sample_of_the_whole(rows):
    """However the rows are cut, each entry has the same chance: a part of a tenth has a tenth of the counts."""
    levels = torch.arange(1000.0).div(250).floor().exp2().repeat_interleave(300).view(1000, 300)
    whole = {0: (1000, 300)}
    found = [measure_magnitudes([part], None, whole).table()[:, 0] for part in levels.split(rows)]
    expected = counted(levels)[0]
    assert np.abs(np.sum(found, axis=0) - expected).max() <= 2 * len(rows)
    assert [part.sum() for part in found] == pytest.approx([expected.sum() * n / 1000 for n in rows], abs=2)


def test_each_column_of_a_matrix_is_in_its_sample():
    """A stride with a factor in common with the number of columns would miss most of them."""
    matrix = torch.zeros(2000, 1024)
    matrix[:, 5] = 1.0
    shares = counted(matrix)[0]
    assert shares[MAGNITUDE_BINS.index("2^0")] / shares.sum() == pytest.approx(1 / 1024, rel=0.2)


def test_many_gradients_share_the_entries_that_are_read():
    gradients = [torch.ones(50_000) for _ in range(20)] + [torch.ones(3)]
    sizes = counted(*gradients).sum(axis=1)
    assert sizes.sum() <= module.READ
    assert sizes[-1] == 3
    assert sizes[:-1].min() > 0.5 * module.READ / 20  # a stride is a whole number


def test_of_very_many_gradients_some_entries_are_read_of_each():
    sizes = counted(*[torch.ones(1000)] * 400).sum(axis=1)
    assert ((sizes > 0.5 * module.LEAST) & (sizes <= module.LEAST)).all()


def test_nothing_waits_for_a_device():
    """A tensor of the meta device has no values that could be waited for."""
    found = measure_magnitudes([torch.empty(100, 300, device="meta"), torch.empty(0, device="meta")])
    assert found.parts[0].values.shape == (len(MAGNITUDE_BINS), 2)
