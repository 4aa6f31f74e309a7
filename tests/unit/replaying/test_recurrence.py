"""Equal bit for bit, close, of one norm, or another gradient."""

import math

import pytest
import torch

from gradwatch.replaying.recurrence import compare

G = torch.Generator().manual_seed(0)
W = torch.randn(100, generator=G)
NAN = torch.where(torch.arange(100) == 5, torch.nan, W)


@pytest.mark.parametrize(
    ("captured", "replayed", "recurs"),
    [
        pytest.param(W, W.clone(), "bitwise", id="equal"),
        pytest.param(NAN, NAN.clone(), "bitwise", id="NaN in one place"),
        pytest.param(W, W * (1 + 2e-6), "close", id="another order of additions"),
        pytest.param(NAN, NAN * (1 + 2e-6), "close", id="the same with a NaN"),
        pytest.param(W, W * 0.9, "norm", id="a tenth is missing"),
        pytest.param(W, W * 0.5, "no", id="half is missing"),
        pytest.param(NAN, W, "no", id="no NaN any more"),
        pytest.param(W, NAN, "no", id="a NaN that was not there"),
        pytest.param(NAN, NAN.flip(0), "norm", id="NaN elsewhere"),
        pytest.param(W, W.half(), "close", id="another type"),
    ],
)
def test_kinds(captured, replayed, recurs):
    found = compare({"w": captured}, {"w": replayed})
    assert found.recurs == recurs


def test_the_unexplained_part_is_a_number():
    found = compare({"w": W}, {"w": W * 0.84})
    assert found.unexplained == pytest.approx(0.16, rel=1e-5)
    assert (found.recurs, found.differing) == ("norm", ("w",))


def test_units_are_those_of_the_largest_entry():
    one = torch.tensor([2.0, 1e-30])
    assert compare({"w": one}, {"w": torch.tensor([2.0, 3e-30])}).max_ulp < 1e-20
    assert compare({"w": one}, {"w": torch.tensor([2.0 + 2**-22, 1e-30])}).max_ulp == pytest.approx(1.0)


def test_a_parameter_that_the_replay_does_not_reach():
    assert compare({"a": W, "b": W}, {"a": W}).recurs == "no"
    assert compare({"a": W, "b": torch.zeros(3)}, {"a": W}).recurs == "bitwise"


@pytest.mark.parametrize("shape", [(0,), (1,)])
def test_zeros_and_nothing(shape):
    zero = torch.zeros(shape)
    assert compare({"w": zero}, {"w": zero}).recurs == "bitwise"


def test_no_gradients_were_kept():
    assert compare({}, {"w": W}).recurs is None
    assert compare({"w": W}, {"w": torch.zeros(3)}).recurs is None


def test_infinities():
    inf = torch.where(torch.arange(100) == 5, math.inf, W)
    assert compare({"w": inf}, {"w": inf.clone()}).recurs == "bitwise"
    assert compare({"w": inf}, {"w": -inf}).recurs == "norm"


def test_sparse_gradients():
    def sparse(values, indices=(0, 2)):
        return torch.sparse_coo_tensor([list(indices)], values, (4,), check_invariants=True)

    g = {"w": sparse([1.0, 2.0])}
    assert compare(g, {"w": sparse([1.0, 2.0])}).recurs == "bitwise"
    assert compare(g, {"w": sparse([0.5, 2.0, 0.5], (0, 2, 0))}).recurs == "bitwise"
    assert compare(g, {"w": torch.tensor([1.0, 0.0, 2.0, 0.0])}).recurs == "bitwise"
    assert compare(g, {"w": sparse([5.0, 9.0], (1, 3))}).recurs == "no"
    assert compare(g, {}).recurs == "no"
    assert compare({"w": sparse([float("nan"), 2.0])}, {"w": sparse([float("nan"), 2.0])}).recurs == "bitwise"
    assert compare({"w": sparse([float("nan"), 2.0])}, g).recurs == "no"
