"""The kernel for CUDA devices, here in Triton's interpreter, against float64."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .launching import note_launches

PROGRAM = """
import sys
import numpy as np, torch
sys.path.insert(0, {folder!r})
from test_routes import CASES, oracle
from gradwatch.measure.fused_triton import COLUMNS, CHUNK, DTYPES, measure_triton
import gradwatch.measure.fused_triton as kernel

torch.manual_seed(0)
tensors = [t.contiguous() for t in CASES.values() if t.dtype in DTYPES]
for dtype in DTYPES:
    for size in (511, 1023, 1024, 1025, 2047, 2048, 2049, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5):
        values = torch.randn(size + 1)[1:].to(dtype)
        tensors.append(values)
        broken = values.clone()
        broken[0], broken[size - 1], broken[size // 2] = float("nan"), float("-inf"), 0.0
        tensors.append(broken)
    for scale in (1e-30, 1e30):  # squares that float32 can't hold are added in float64
        tensors.append((torch.randn(1025) * scale).to(dtype))
    tensors.append(torch.zeros(1025, dtype=dtype))
    if dtype != torch.bfloat16:  # the interpreter reads a subnormal bfloat16 as zero; a device shifts its bits
        alone = torch.zeros(1025, dtype=dtype)
        alone[1024] = torch.finfo(dtype).tiny / 4
        tensors.append(alone)
before = [t.clone() for t in tensors]
table = measure_triton(tensors)
assert table.dtype == torch.float64
expected = [[oracle(t)[stat] for stat in COLUMNS] for t in tensors]
np.testing.assert_allclose(table.numpy(), expected, rtol=2e-7)
for order in range(2):  # the plan of the first time serves the second
    np.testing.assert_array_equal(measure_triton(tensors).numpy(), table.numpy())
assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, tensors))
# many parts for the second launch to add
kernel.CHUNK, kernel.FEW_PARTS, kernel.MANY_PARTS = 2048, 1, 4
kernel._plans.cache_clear()
np.testing.assert_allclose(measure_triton(tensors).numpy(), expected, rtol=2e-7)
np.testing.assert_allclose(measure_triton([torch.zeros(0)]).numpy(), [[0, 0, 0, 0]])

# the whole way, as for a device: what Triton can't read goes by PyTorch's operators
import gradwatch.measure.routes as routes
from gradwatch.measure import Measurement, operators
routes.is_available, routes._triton = (lambda: False), kernel
parts = routes._on_accelerator
operators.on_cpu = None  # not to be called
routes._TRITON_DEVICES.add("cpu")
gradients = [t for t in CASES.values() if t.dtype != torch.float64]
found = Measurement(COLUMNS, len(gradients), tuple(parts(list(range(len(gradients))), gradients, COLUMNS)))
small = [i for i, t in enumerate(gradients) if kernel.can_read(t)]
assert len(small) > 20 and len(small) < len(gradients)
for stat, column in found.collect().items():
    np.testing.assert_allclose(column[small], [oracle(gradients[i])[stat] for i in small], rtol=1e-6, err_msg=stat)

# asked of all at once, the kernel reads the same ones as one by one
assert kernel.readable(range(len(gradients)), gradients).positions == small
chosen = [gradients[i] for i in small]
at_once = kernel.readable(range(len(chosen)), chosen)
assert at_once.positions == list(range(len(chosen)))
assert at_once.addresses.tolist() == [t.data_ptr() for t in chosen]
assert at_once.layout.sizes == [t.numel() for t in chosen] and at_once.layout.dtypes == [t.dtype for t in chosen]
assert kernel.readable(range(len(chosen)), [t.clone() for t in chosen]).layout is at_once.layout

# and all of a step in one launch for each dtype, whether some have no gradient or not
for spaced in (chosen, [None, *chosen, None]):
    found = routes.measure(spaced).collect()
    for stat, column in found.items():
        expected = [np.nan if t is None else oracle(t)[stat] for t in spaced]
        np.testing.assert_allclose(column, expected, rtol=1e-6, err_msg=stat)

# multiplied in place, each entry once, and nothing at all by 1
for dtype in DTYPES:
    shapes = (0, 1, 511, 512, 513, 1023, 1024, 1025, 3 * kernel.CHUNK + 5)
    base = [torch.randn(size + 3).to(dtype) for size in shapes]
    group = [one[at % 4 :] for at, one in enumerate(base)] + [torch.randn(5, 6).to(dtype).t()]
    strided = torch.randn(8, 8).to(dtype)[:, ::2]
    before, edges = [one.clone() for one in group], [one.clone() for one in base]
    versions = [one._version for one in group]
    kept = torch.full((), 1.0, dtype=torch.float64)
    assert routes.scale_in_one_launch([*group, strided], kept)[0] is strided
    assert all(map(torch.equal, group, before))
    assert [one._version for one in group] == [version + 1 for version in versions]
    left = routes.scale_in_one_launch([*group, strided], torch.tensor(0.3, dtype=torch.float64))
    assert len(left) == 1 and left[0] is strided
    expected = [(one.float() * torch.tensor(0.3)).to(dtype) for one in before]
    for mine, theirs in zip(group, expected):  # the interpreter cuts what a device rounds to bfloat16
        torch.testing.assert_close(mine, theirs, rtol=2**-7 if dtype == torch.bfloat16 else 0, atol=0)
    for at, (now, then) in enumerate(zip(base, edges)):  # what lies before a gradient in memory
        assert torch.equal(now[: at % 4], then[: at % 4])

# memory that is listed twice is left to PyTorch, which multiplies it twice; several empty gradients are none such
twice = [torch.ones(5), torch.zeros(0), torch.zeros(0), torch.ones(5)]
assert len(routes.scale_in_one_launch([*twice, twice[0]], torch.tensor(0.5))) == 5
assert len(routes.scale_in_one_launch(twice, torch.tensor(0.5))) == 0 and twice[3].tolist() == [0.5] * 5

# a coefficient that is not finite is one like another
for value in (float("nan"), float("inf"), 0.0, -2.0):
    row = torch.randn(600)
    expected = row * value
    assert not routes.scale_in_one_launch([row], torch.tensor([value]))
    torch.testing.assert_close(row, expected, rtol=0, atol=0, equal_nan=True)

# each stream has a plan of its own
plans = []
make = kernel._Plan
kernel._Plan = lambda *a: plans.append(1) or make(*a)
kernel._plans.cache_clear()
for number in (1, 2, 1, 2):
    kernel.stream_of = lambda device: number
    measure_triton([torch.ones(4)])
assert len(plans) == 2
kernel.stream_of, kernel._Plan = (lambda device: 0), make
kernel._plans.cache_clear()

# beyond 2**31 entries: the last chunks of a gradient whose other pages are never touched
import mmap, types
size = 2**31 + kernel.CHUNK // 2 + 5
pages = mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
huge = torch.frombuffer(pages, dtype=torch.float16)
huge[-kernel.CHUNK :] = torch.randn(kernel.CHUNK).half()
before, offset = huge[-kernel.CHUNK :].clone(), 2**31
plan = types.SimpleNamespace(
    chunks=1, dtype=torch.float16, addresses=lambda now: torch.tensor(now), sizes=torch.tensor([size]),
    tensor_of=torch.tensor([0]), offset_of=torch.tensor([offset]))
sums = torch.empty(1, 5, dtype=torch.float64)
kernel._launch(kernel._read, plan, [huge.data_ptr()], sums, kernel.READ_TILES)
np.testing.assert_allclose(sums[0, 0], float(huge[offset:].double().square().sum()), rtol=1e-6)
kernel._launch(kernel._scale, plan, [huge.data_ptr()], torch.tensor(0.5), kernel.SCALE_TILES)
read = size - offset
assert torch.equal(huge[-read:], before[-read:] * 0.5) and torch.equal(huge[-kernel.CHUNK : -read], before[:-read])

# a kernel that fails is left for good, and the numbers stay
def broken(*arguments):
    raise RuntimeError("a planted fault")
kernel.measure_triton = broken
ones = [torch.ones(4), torch.ones(9)]
for _ in range(2):
    part, = parts([0, 1], ones, ("norm",))
    assert part.values.tolist() == [[2.0, 3.0]]
assert routes._failed == {{"read gradients"}}
def broken_scale(*arguments):
    raise RuntimeError("another planted fault")
kernel.scale_triton = broken_scale
assert routes.scale_in_one_launch(ones, torch.tensor(0.5)) is ones
assert routes._failed == {{"read gradients", "scale gradients"}} and ones[0].tolist() == [1.0] * 4
print("agrees", len(tensors))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_agrees_with_float64():
    program = PROGRAM.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("agrees")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_it_launches_on_the_device_of_the_gradients_whichever_is_current(monkeypatch):
    from gradwatch.measure import fused_triton

    happened = note_launches(monkeypatch, fused_triton, "_read", "_add", "_scale")
    gradient = torch.ones(4)
    fused_triton.measure_triton([gradient])
    assert happened == [gradient, "launch", "launch", "as before"]
    happened.clear()
    fused_triton.scale_triton(fused_triton.readable([0], [gradient]), torch.tensor(0.5))
    assert happened == [gradient, "launch", "as before"]
