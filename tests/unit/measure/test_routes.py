"""Statistics against float64 numpy, over everything that a gradient can be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwatch.measure import count_above, fused, measure, norms, total


@pytest.fixture(params=["compiled", "PyTorch"], scope="module", autouse=True)
def route(request):
    """Every test here runs on both routes."""
    if request.param == "PyTorch":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gradwatch.measure.routes.is_available", lambda: False)
            yield request.param
    elif fused.is_available():
        yield request.param
    else:
        pytest.skip("the compiled part was not built: there was no compiler")


CASES = {
    "ones": torch.ones(11, 20),
    "a scalar": torch.tensor(-2.0),
    "zeros": torch.zeros(7),
    "empty": torch.zeros(0),
    "one element": torch.tensor([3.0]),
    "1e30, whose squares overflow": torch.full((220,), 1e30),
    "1e-25, whose squares underflow": torch.full((220,), 1e-25),
    "the smallest float32": torch.full((3,), 1e-45),
    "float64 of 1e200": torch.full((10,), 1e200, dtype=torch.float64),
    "bfloat16 ones": torch.ones(220, dtype=torch.bfloat16),
    "bfloat16 of 1e30": torch.full((220,), 1e30, dtype=torch.bfloat16),
    "float16 of 6e4, whose norm overflows float16": torch.full((220,), 6e4, dtype=torch.float16),
    "float16 of 1e-4": torch.full((220,), 1e-4, dtype=torch.float16),
    "not contiguous": torch.arange(24.0).reshape(4, 6).T[::2],
    "one NaN": torch.tensor([1.0, math.nan, 3.0]),
    "one infinity": torch.tensor([1.0, -math.inf, 3.0, 0.0]),
    "NaN and infinity": torch.tensor([math.nan, math.inf, 0.0]),
    "half zeros": torch.tensor([0.0, -0.0, 5.0, 1.0]),
    "large and small in one": torch.cat([torch.full((2000,), 1e-25), torch.full((2000,), 1e30)]),
    "float16 denormals": torch.full((30,), 6e-8, dtype=torch.float16),
    "float16 infinity and NaN": torch.tensor([math.inf, 1.0, math.nan], dtype=torch.float16),
    "bfloat16 infinity": torch.tensor([math.inf, 0.0, -2.0], dtype=torch.bfloat16),
    "float64 of 1e-200": torch.full((10,), 1e-200, dtype=torch.float64),
    "float64 with NaN": torch.tensor([1.0, math.nan, 0.0], dtype=torch.float64),
    "channels last": torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
    "transposed": torch.randn(7, 3).T,
    "expanded": torch.ones(1, 5).expand(4, 5),
    "a slice": torch.arange(20.0)[3:17],
}
EVERY_DTYPE = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
@pytest.mark.parametrize("size", [255, 256, 257, 1023, 1024, 1025, 32_768, 32_769, 65_535, 65_536, 65_537, 300_001])
def test_every_size_around_a_block_agrees_with_float64(dtype, size):
    """One NaN, one infinity and one zero, each at an end of a block or of the tensor."""
    torch.manual_seed(size)
    values = torch.randn(size + 1)[1:].to(dtype)  # does not begin where memory was aligned
    found = {stat: column[0] for stat, column in measure([values]).collect().items()}
    assert found == pytest.approx(oracle(values), rel=1e-6)
    values[0], values[size - 1], values[size // 2] = math.nan, -math.inf, 0.0
    found = {stat: column[0] for stat, column in measure([values]).collect().items()}
    assert found == pytest.approx(oracle(values), rel=1e-6, nan_ok=True)


def test_equal_entries_are_summed_without_bias():
    """Rounding goes the same way in every block there."""
    for value in (0.1, 0.3, 1 / 3, 1.1):
        tensor = torch.full((500_000,), value)
        found = measure([tensor]).collect()["norm"][0]
        assert found == pytest.approx(oracle(tensor)["norm"], rel=1e-6), value


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_result_does_not_depend_on_threads(threads):
    torch.manual_seed(0)
    tensors = [torch.randn(n) for n in (10, 400_000, 70_000, 3)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = measure(tensors).collect()
        torch.set_num_threads(threads)
        found = measure(tensors).collect()
    finally:
        torch.set_num_threads(before)
    for stat, column in found.items():
        np.testing.assert_allclose(column, alone[stat], rtol=1e-7)


def oracle(tensor: torch.Tensor) -> dict[str, float]:
    x = tensor.double().numpy().ravel()
    scale = np.abs(x).max(initial=0.0)
    scaled = x / scale if 0 < scale < math.inf else x
    norm = np.linalg.norm(scaled) * (scale if 0 < scale < math.inf else 1.0)
    return {
        "norm": float(norm),
        "abs_max": float(np.abs(x).max(initial=0.0)),
        "nonfinite": float((~np.isfinite(x)).sum()),
        "zeros": float((x == 0).sum()),
    }


@pytest.mark.parametrize("name", CASES)
def test_every_statistic_agrees_with_float64(name):
    found = {stat: column[0] for stat, column in measure([CASES[name]]).collect().items()}
    assert found == pytest.approx(oracle(CASES[name]), rel=1e-6, nan_ok=True)


def test_all_together_are_as_each_alone():
    """Mixed dtypes in one call, with absent gradients between."""
    tensors = [None, *CASES.values(), None]
    found = measure(tensors).collect()
    for stat, column in found.items():
        expected = [math.nan if t is None else oracle(t)[stat] for t in tensors]
        np.testing.assert_allclose(column, expected, rtol=1e-6, err_msg=stat)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 100, 1023, 1024, 1025, 9000, 32_768, 32_769]), max_size=24), st.data())
def test_gradients_that_are_read_together_stay_apart(sizes, data):
    torch.manual_seed(len(sizes))
    tensors = [torch.randn(size) for size in sizes]
    for tensor in tensors:
        if len(tensor) and data.draw(st.booleans()):
            tensor[data.draw(st.sampled_from([0, -1]))] = data.draw(st.sampled_from([math.nan, -math.inf, 0.0, 1e30]))
    found = measure(tensors).collect()
    for stat, column in found.items():
        np.testing.assert_allclose(column, [oracle(t)[stat] for t in tensors], rtol=1e-6, err_msg=stat)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(width=32, allow_subnormal=True))
)
def test_any_float32_gradient_agrees_with_float64(array):
    tensor = torch.from_numpy(array.copy())
    found = {stat: column[0] for stat, column in measure([tensor]).collect().items()}
    assert found == pytest.approx(oracle(tensor), rel=1e-6, nan_ok=True)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_are_coalesced():
    """Trap 16: the norm of the values of an uncoalesced gradient is wrong."""
    sparse = torch.sparse_coo_tensor([[0, 0, 2]], [[1.0], [2.0], [4.0]], (5, 1))
    found = measure([sparse]).collect()
    assert found["norm"][0] == pytest.approx(5.0)  # (1 + 2)^2 + 4^2


def test_complex_gradients_count_as_pairs_of_reals():
    gradient = torch.tensor([3 + 4j, 0j])
    found = measure([gradient]).collect()
    assert found["norm"][0] == pytest.approx(torch.linalg.vector_norm(gradient).item())
    assert found["zeros"][0] == 2


def test_no_gradient_at_all():
    assert measure([]).collect()["norm"].tolist() == []
    assert np.isnan(measure([None, None]).collect()["norm"]).all()


def test_only_what_is_asked_for_is_measured():
    assert list(measure([torch.ones(2)], ("zeros", "norm")).collect()) == ["norm", "zeros"]
    assert list(norms([torch.ones(2)]).collect()) == ["norm"]


def test_the_default_device_does_not_matter():
    tensors = [torch.randn(10), torch.randn(40_000), torch.randn(1025)]
    expected = measure(tensors).collect()
    with torch.device("meta"):
        found = measure(tensors).collect()
    for stat, column in expected.items():
        assert found[stat].tolist() == column.tolist(), stat


def test_nothing_is_changed():
    gradient = torch.tensor([1.0, math.nan, 1e30])
    before, version = gradient.clone(), gradient._version
    measure([gradient])
    assert torch.equal(gradient.nan_to_num(), before.nan_to_num())
    assert gradient._version == version


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 4.0], [1e300, 1e300], [1e-300, 1e-300], [math.inf, 1.0]])
def test_total_is_the_root_of_the_sum_of_squares(values):
    expected = math.hypot(*values)
    assert total(np.array(values)) == pytest.approx(expected)


def test_count_above():
    gradients = [torch.tensor([1.0, -2.0, math.inf, math.nan]), torch.zeros(0), torch.tensor(-3.0)]
    assert [int(count) for count in count_above(gradients, 1.5)] == [3]
    assert count_above([], 1.5) == []


def test_each_device_has_one_count_above():
    gradients = [torch.ones(2), torch.ones(2, device="meta"), torch.ones(1)]
    assert [str(count.device) for count in count_above(gradients, 0.5)] == ["cpu", "meta"]
