"""Statistics against float64 numpy, over everything that a gradient can be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwatch.measure import count_above, measure, norms, total

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
}


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


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(width=32, allow_subnormal=True))
)
def test_any_float32_gradient_agrees_with_float64(array):
    tensor = torch.from_numpy(array.copy())
    found = {stat: column[0] for stat, column in measure([tensor]).collect().items()}
    assert found == pytest.approx(oracle(tensor), rel=1e-5, nan_ok=True)


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
    assert [int(c) for c in count_above([torch.tensor([1.0, -2.0, math.inf, math.nan]), torch.zeros(0)], 1.5)] == [2, 0]
