"""Gradients that are no plain tensors: measured as what they stand for, or left out with a warning."""

import logging
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.masked import masked_tensor
from torch.testing._internal.two_tensor import TwoTensor

from gradwatch.measure import count_above, entries, fused, measure
from gradwatch.measure.entries import entries_of

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of prototypes

VALUES = [3.0, -4.0, 0.0, 12.0]


class OnlyFunctions(torch.Tensor):
    """A subclass that holds its entries as any tensor does."""


class Quantised(torch.Tensor):
    """A wrapper subclass as quantising libraries write them: integers and a scale, with `dequantize`."""

    @staticmethod
    def __new__(cls, integers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=torch.float32)

    def __init__(self, integers, scale):
        self.integers, self.scale = integers, scale

    def dequantize(self):
        return self.integers * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(func)


class Closed(Quantised):
    """A wrapper subclass that answers nothing."""

    def dequantize(self):
        raise NotImplementedError


def dense(values=VALUES):
    return torch.tensor(values)


def inference(values=VALUES):
    with torch.inference_mode():
        return torch.tensor(values)


KINDS = {
    "a plain tensor": (dense, VALUES),
    "a subclass that overrides functions": (lambda: dense().as_subclass(OnlyFunctions), VALUES),
    "a parameter": (lambda: torch.nn.Parameter(dense()), VALUES),
    "a tensor of two": (lambda: TwoTensor(dense(), dense()), VALUES),
    "masked: what is not masked": (
        lambda: masked_tensor(
            torch.tensor([3.0, -4.0, 99.0, 0.0, 12.0]), torch.tensor([True, True, False, True, True])
        ),
        VALUES,
    ),
    "quantised by a library": (lambda: Quantised(torch.tensor([6, -8, 0, 24]), 0.5), VALUES),
    "quantised by torch": (lambda: torch.quantize_per_tensor(dense(), 1.0, 0, torch.qint8), VALUES),
    "nested": (lambda: torch.nested.nested_tensor([dense([3.0]), dense([-4.0, 0.0, 12.0])]), VALUES),
    "nested, jagged": (
        lambda: torch.nested.nested_tensor([dense([3.0]), dense([-4.0, 0.0, 12.0])], layout=torch.jagged),
        VALUES,
    ),
    "zeros without memory": (lambda: torch._efficientzerotensor(4), [0.0] * 4),
    "sparse COO": (
        lambda: torch.sparse_coo_tensor(torch.tensor([[0, 0, 2]]), dense([1.0, 2.0, -4.0]), (5,)),
        [3.0, -4.0],
    ),
    "sparse CSR": (lambda: torch.diag(torch.tensor([3.0, -4.0, 12.0])).to_sparse_csr(), [3.0, -4.0, 12.0]),
    "sparse CSC": (lambda: torch.diag(torch.tensor([3.0, -4.0, 12.0])).to_sparse_csc(), [3.0, -4.0, 12.0]),
    "sparse BSR": (lambda: torch.diag(torch.tensor([3.0, -4.0])).to_sparse_bsr((2, 2)), [3.0, 0.0, 0.0, -4.0]),
    "a conjugate view": (lambda: torch.tensor([3 + 4j, 0 - 12j]).conj(), [3.0, 4.0, 0.0, -12.0]),
    "a negative view": (lambda: torch.tensor([1 + 3j, 1 - 4j, 1 + 0j, 1 + 12j]).conj().imag, VALUES),
    "made in inference mode": (inference, VALUES),
    "float8": (lambda: dense().to(torch.float8_e5m2), VALUES),
    "empty": (lambda: dense([]), []),
    "without memory and empty": (lambda: torch._efficientzerotensor(0), []),
    "with a NaN": (lambda: TwoTensor(dense([1.0, math.nan]), dense([1.0, math.nan])), [1.0, math.nan]),
    "with an infinity": (lambda: dense([1.0, math.inf]).as_subclass(OnlyFunctions), [1.0, math.inf]),
    "huge": (lambda: dense([1e30, 1e30]).as_subclass(OnlyFunctions), [1e30, 1e30]),
}


@pytest.fixture(params=["compiled", "PyTorch"])
def route(request, monkeypatch):
    if request.param == "PyTorch":
        monkeypatch.setattr("gradwatch.measure.routes.is_available", lambda: False)
    elif not fused.is_available():
        pytest.skip("the compiled pass was not built: there was no compiler")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("route")
def test_it_is_measured_as_what_it_stands_for(name):
    make, values = KINDS[name]
    x = np.array(values, np.float64)
    found = {stat: column[1] for stat, column in measure([torch.ones(2), make(), None]).collect().items()}
    assert found == pytest.approx(
        {
            "norm": math.hypot(*x) if len(x) else 0.0,
            "abs_max": float(np.abs(x).max(initial=0.0)),
            "nonfinite": float((~np.isfinite(x)).sum()),
            "zeros": float((x == 0).sum()),
        },
        rel=1e-6,
        nan_ok=True,
    )


def closed():
    return Closed(torch.tensor([1, 2]), 1.0)


def freed():
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


def fake():
    with FakeTensorMode():
        return torch.ones(3)


@pytest.mark.parametrize("make", [closed, fake], ids=["answers nothing", "fake"])
@pytest.mark.usefixtures("route")
def test_what_can_not_be_read_is_left_out_and_reported_once(make, caplog, monkeypatch):
    monkeypatch.setattr(entries, "_reported", set())
    with caplog.at_level(logging.WARNING, logger="gradwatch"):
        for _ in range(3):
            found = measure([torch.tensor([3.0, 4.0]), make()]).collect()
    assert found["norm"][0] == 5.0
    assert np.isnan(found["norm"][1])
    (message,) = [r.getMessage() for r in caplog.records if "gradient-not-read" in r.getMessage()]
    assert type(make()).__name__ in message


@pytest.mark.skipif(not fused.is_available(), reason="the compiled pass was not built")
@pytest.mark.parametrize("name", [*KINDS, "freed"])
def test_no_address_is_read_that_is_not_that_of_the_entries(name):
    gradient = freed() if name == "freed" else KINDS[name][0]()
    found = fused.readable([gradient])
    plain = type(gradient) in (torch.Tensor, torch.nn.Parameter)
    if found.positions and len(KINDS[name][1]):
        assert plain
        assert found.addresses[0] == gradient.data_ptr() != 0
    assert entries_of(gradient) is None or type(entries_of(gradient)) in entries.PLAIN


def test_entries_over_a_limit_are_counted_in_every_kind():
    for name, (make, values) in KINDS.items():
        if name != "with a NaN":
            assert [int(count) for count in count_above([make()], 3.5)] == [sum(abs(v) > 3.5 for v in values)], name
