"""The compiled pass itself: what it takes, and the modes of the processor."""

import math
import subprocess
import sys

import pytest
import torch

from gradwatch.measure import fused, measure

compiled = pytest.mark.skipif(not fused.is_available(), reason="the compiled pass was not built")


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        pytest.param(torch.ones(3, 4), True, id="contiguous"),
        pytest.param(torch.ones(3, 4).T, True, id="transposed"),
        pytest.param(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last), True, id="channels last"),
        pytest.param(torch.ones(3, 1, 4)[:, 0], True, id="a dimension of one"),
        pytest.param(torch.ones(3, 4)[:, ::2], False, id="gaps"),
        pytest.param(torch.ones(1, 4).expand(3, 4), False, id="expanded"),
        pytest.param(torch.ones(4)[1:3], True, id="a slice"),
        pytest.param(torch.ones(()), True, id="a scalar"),
        pytest.param(torch.ones(0), True, id="empty"),
        pytest.param(torch.ones(3, dtype=torch.complex64), False, id="complex"),
        pytest.param(torch.ones(3, dtype=torch.int32), False, id="integers"),
        pytest.param(torch.ones(3, device="meta"), False, id="another device"),
        pytest.param(None, False, id="absent"),
    ],
)
def test_what_the_compiled_pass_takes(gradient, expected):
    assert fused.readable([gradient]).positions == ([0] if expected else [])


WAYS = [pytest.param(True, id="in one call"), pytest.param(False, id="asked one thing after another")]


def use(in_one_call, monkeypatch):
    if not in_one_call:
        monkeypatch.setattr(fused, "_describe_call", lambda: None)
    elif fused._describe_call() is None:
        pytest.skip("not with this PyTorch, or the compiled part was not built")


@compiled
def test_this_pytorch_describes_tensors_in_one_call_if_it_says_so():
    assert (fused._describe_call() is not None) == hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


@pytest.mark.parametrize("in_one_call", WAYS)
def test_tensors_are_described_as_pytorch_says_of_each(in_one_call, monkeypatch):
    use(in_one_call, monkeypatch)
    base = torch.arange(24.0)
    tensors = [torch.ones(shape, dtype=dtype) for shape in ((), (3,), (2, 1, 5), (0, 4)) for dtype in fused.DTYPES]
    tensors += [base[3:7], base.view(4, 6)[1:3], base.view(4, 6)[:, :1][:1], torch.ones(3, 1, 4)[:, 0]]
    tensors += [torch.nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True) * 2, -torch.ones(2)]
    found = fused.described(tensors)
    assert found is not None
    assert found.is_on_host
    assert found.addresses.tolist() == [t.data_ptr() for t in tensors]
    assert found.sizes.tolist() == [t.numel() for t in tensors]
    assert [fused.DTYPES[one] for one in found.types] == [t.dtype for t in tensors]


class Own(torch.Tensor):
    """A class of a script, whose memory may hold anything."""


@pytest.mark.parametrize("in_one_call", WAYS)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "unusual",
    [
        pytest.param(torch.ones(3, 4)[:, ::2], id="gaps"),
        pytest.param(torch.ones(3, 4).T, id="transposed"),
        pytest.param(torch.ones(1, 4).expand(3, 4), id="expanded"),
        pytest.param(torch.ones(3, dtype=torch.complex64), id="complex"),
        pytest.param(torch.ones(3, dtype=torch.int32), id="integers"),
        pytest.param(torch.ones(3).to(torch.float8_e4m3fn), id="8 bits"),
        pytest.param(torch.ones(3, device="meta"), id="another device"),
        pytest.param(torch.eye(3).to_sparse(), id="sparse"),
        pytest.param(torch.eye(3).to_sparse_csr(), id="sparse rows"),
        pytest.param(torch._efficientzerotensor((3,)), id="a zero tensor"),
        pytest.param(torch.ones(3).as_subclass(Own), id="a subclass"),
        pytest.param(None, id="absent"),
    ],
)
def test_nothing_is_described_where_one_tensor_is_unusual(unusual, place, in_one_call, monkeypatch):
    use(in_one_call, monkeypatch)
    tensors = [torch.ones(2), torch.ones(3)]
    assert fused.described(tensors) is not None
    tensors.insert(place, unusual)
    assert fused.described(tensors) is None


def test_nothing_is_described_of_no_tensors():
    assert fused.described([]) is None


@pytest.mark.parametrize("in_one_call", WAYS)
def test_the_pass_gets_the_same_of_usual_gradients_as_of_each_by_itself(in_one_call, monkeypatch):
    use(in_one_call, monkeypatch)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    pair = [nested, torch.ones(2)]
    assert fused.readable(pair) == fused._readable_among(pair)
    gradients = [None, torch.ones(2), torch.ones(3, 4, dtype=torch.float64), None, torch.ones(0), torch.ones(1)]
    assert fused.readable(gradients) == fused._readable_among(gradients)
    unusual = [*gradients, torch.ones(3, 4).T, torch.ones(3, 4)[:, ::2]]
    assert fused.readable(unusual).positions == [1, 2, 4, 5, 6]


PROGRAM = """
import torch
from gradwatch.measure import fused, measure
assert torch.set_flush_denormal(True)
for threads, size in ((1, 100), (2, 400_000)):
    torch.set_num_threads(threads)
    values = torch.full((size,), 6e-8, dtype=torch.float16)
    expected = float(values[0].double()) * size ** 0.5
    found = measure([values]).collect()
    assert abs(found["norm"][0] / expected - 1) < 1e-6, (size, found["norm"], expected)
    assert found["zeros"].tolist() == [0], (size, found)
    assert float(torch.tensor(1e-40) * 1) == 0.0, "the mode of the script was not restored"
"""


@compiled
def test_subnormal_numbers_are_read_where_the_script_flushes_them_to_zero():
    """A float16 below 6e-5 is subnormal and still a gradient: an optimizer with float32 state sees it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@compiled
def test_the_library_can_be_switched_off():
    program = "from gradwatch.measure import fused; print(fused.is_available())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"GRADWATCH_FUSED": "0"}, check=True
    )
    assert done.stdout.strip() == "False"


@compiled
def test_many_gradients_of_every_type_come_out_in_their_order():
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
    gradients = [torch.full((n + 1,), float(n), dtype=dtypes[n % 4]) for n in range(40)]
    found = measure(gradients).collect()
    assert found["norm"].tolist() == pytest.approx([n * math.sqrt(n + 1) for n in range(40)], rel=1e-6)
