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


PROGRAM = """
import torch
from gradwatch.measure import fused, measure
torch.set_num_threads({threads})
assert torch.set_flush_denormal(True)
values = torch.full(({size},), 6e-8, dtype=torch.float16)
expected = float(values[0].double()) * {size} ** 0.5
found = measure([values]).collect()
assert abs(found["norm"][0] / expected - 1) < 1e-6, (found["norm"], expected)
assert found["zeros"].tolist() == [0], found
assert float(torch.tensor(1e-40) * 1) == 0.0, "the mode of the script was not restored"
"""


@compiled
@pytest.mark.parametrize(("threads", "size"), [(1, 100), (2, 400_000)])
def test_subnormal_numbers_are_read_where_the_script_flushes_them_to_zero(threads, size):
    """A float16 below 6e-5 is subnormal and still a gradient: an optimizer with float32 state sees it."""
    program = PROGRAM.format(threads=threads, size=size)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
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
