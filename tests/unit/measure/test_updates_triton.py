"""The kernel that reads updates on CUDA, here in Triton's interpreter, against the compiled pass and float64."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .launching import note_launches

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

HEAD = """
import math, sys
import numpy as np, torch
from torch import nn
sys.path.insert(0, {folder!r})
import updating as cases
from gradwatch.measure import moved, routes, sampling, updates as module, updates_triton as kernel
from gradwatch.measure import updates_kept, updates_numbers, updates_operators, updates_pointers
from gradwatch.measure.updates import measure_updates

routes._TRITON_DEVICES.add("cpu")
by_compiled, of_host, launches, read_updates = module.reads_updates, moved.is_remote, [], kernel.read_updates

def counted(table, like, dtypes, *, is_adam):
    launches.append(len(table))
    return read_updates(table, like, dtypes, is_adam=is_adam)

kernel.read_updates = counted
module.reads_updates = lambda: False

def decide_by(is_remote):
    for each in (moved, updates_kept, updates_numbers, updates_operators, updates_pointers):
        each.is_remote = is_remote

def is_device_number(value):
    return isinstance(value, torch.Tensor) and value.numel() == 1 and not isinstance(value, nn.Parameter)

def launched(optimizer, weights, most=None):
    launches.clear()
    found = measure_updates(optimizer, weights, most).collect()
    return found, sum(launches)

def compiled(optimizer, weights, most=None):
    module.reads_updates = by_compiled
    found = measure_updates(optimizer, weights, most).collect()
    module.reads_updates = lambda: False
    return found

def operators(optimizer, weights, most=None):
    routes._TRITON_DEVICES.remove("cpu")
    found = measure_updates(optimizer, weights, most).collect()
    routes._TRITON_DEVICES.add("cpu")
    return found

def alike(mine, theirs, rtol=1e-6, atol=0.0):
    for stat, values in theirs.items():
        room = atol if stat == "weight_norm" else 0.0
        np.testing.assert_allclose(mine[stat], values, rtol=rtol, atol=room, err_msg=stat)

def stepped(kind, weights, *, gradients=torch.randn, steps=2, **options):
    optimizer = kind(weights, **({{"lr": 0.05}} | options))
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.empty_like(weight).copy_(gradients(weight.shape))
        optimizer.step()
    return optimizer

torch.manual_seed(0)
"""

FORMULAS = """
# every optimizer and setting that the other routes are tested with, against copies of the weights in float64
for kind, options in cases.CASES[::{every}]:
    cases.check_steps(kind, options, steps=2)
    # the same with the number of steps, and the rate where it is a tensor, left on the device
    decide_by(is_device_number)
    cases.check_steps(kind, options, steps=2)
    decide_by(of_host)
assert sum(launches) == len(cases.CASES[::{every}]) * 2 * 2 * len(cases.SHAPES)

# groups of their own settings, and betas that leave nothing to correct
def groups(weights):
    return [
        {{"params": weights[:2], "lr": torch.tensor(0.01), "weight_decay": 0.3}},
        {{"params": weights[2:3], "lr": 0.2, "betas": (0.0, 0.9)}},
        {{"params": weights[3:], "weight_decay": 0.0, "amsgrad": True}},
    ]

for remote in (of_host, is_device_number):
    decide_by(remote)
    cases.check_steps(torch.optim.AdamW, {{"weight_decay": 0.1}}, groups=groups)

# a decay on the device, which the kernel does not read
cases.check_steps(torch.optim.AdamW, {{"weight_decay": torch.tensor(0.1)}})
decide_by(of_host)
print("agrees")
"""

ENTRIES = """
# the same entries as the compiled pass reads, whole and sampled, at any address
for dtype, kind in [(d, k) for d in (torch.float32, torch.bfloat16) for k in (torch.optim.AdamW, torch.optim.SGD)]:
    shapes = [(), (1,), (63,), (64,), (65,), (2047,), (2048,), (2049,), (300, 200), (129, 517)]
    data = [torch.randn(math.prod(shape) + 3).to(dtype) for shape in shapes]
    weights = [nn.Parameter(one[at % 3 + 1 :][: math.prod(shape)].view(shape)) for at, (one, shape) in
               enumerate(zip(data, shapes))]
    weights.append(nn.Parameter(torch.randn(4, 3, 5, 6).to(dtype).to(memory_format=torch.channels_last)))
    optimizer = stepped(kind, weights, weight_decay=0.1, **({{"momentum": 0.9}} if kind is torch.optim.SGD else {{}}))
    before = [w.detach().clone() for w in weights]
    for most in (None, 4096, 700):
        mine, read = launched(optimizer, [None, *weights], most)
        assert read == len(weights)
        alike(mine, compiled(optimizer, [None, *weights], most))
    assert all(map(torch.equal, before, weights))
    # many programs' sums, added in turns
    kernel.CHUNK, kernel.BLOCK, kernel.PARTS = 512, 256, 4
    kernel._plan.cache_clear()
    alike(launched(optimizer, weights, 4096)[0], compiled(optimizer, weights, 4096))
    kernel.CHUNK, kernel.BLOCK, kernel.PARTS = 2048, 512, 128
    kernel._plan.cache_clear()

# float16, which the compiled pass does not read
weights = [nn.Parameter(torch.randn(shape).half()) for shape in ((), (65,), (300, 200))]
optimizer = stepped(torch.optim.Adam, weights, eps=1e-3)
mine, read = launched(optimizer, weights, 4096)
assert read == 3
alike(mine, operators(optimizer, weights, 4096))

# two dtypes: a launch each; what the kernel can't read goes by the operators, and all numbers are there
mixed = [nn.Parameter(torch.randn(40)), nn.Parameter(torch.randn(50).bfloat16()), nn.Parameter(torch.randn(6, 5).T),
         nn.Parameter(torch.randn(30).double()), nn.Parameter(torch.randn(0, 3)),
         nn.Parameter(torch.randn(8, 8)[:, ::2])]
optimizer = stepped(torch.optim.Adam, mixed)
mixed[2].grad = mixed[2].grad.contiguous()  # unlike its weight
mine, _ = launched(optimizer, mixed)
assert launches == [1, 1], launches
alike(mine, operators(optimizer, mixed))

# what float32 can't hold, and what is not a number
def spoiled(value, position):
    def make(shape):
        values = torch.randn(shape)
        values.view(-1)[position] = value
        return values
    return make

for dtype in (torch.float32, torch.bfloat16):
    for kind in (torch.optim.Adam, torch.optim.SGD):
        for make in (torch.zeros, lambda s: 1e-30 * torch.randn(s), lambda s: 1e-15 * torch.randn(s),
                     lambda s: 1e15 * torch.randn(s), lambda s: 1e25 * torch.randn(s),
                     *(spoiled(v, p) for v in (math.nan, math.inf, -math.inf, 1e19, 3e38) for p in (0, 2999))):
            weights = [nn.Parameter(torch.randn(3000).to(dtype)), nn.Parameter(torch.randn(3000).to(dtype))]
            optimizer = stepped(kind, weights, steps=1, gradients=make)
            with np.errstate(all="ignore"):
                mine, read = launched(optimizer, weights)
                assert read == 2
                # the weights before a huge update are a difference of huge numbers
                after = float(torch.cat([w.detach().double() for w in weights]).norm())
                room = 1e-6 * after if math.isfinite(after) else 0.0
                alike(mine, compiled(optimizer, weights), rtol=1e-5, atol=room)

# one entry alone, in a parameter of zeros
weights = [nn.Parameter(torch.zeros(5000))]
weights[0].grad = torch.zeros(5000)
weights[0].grad[4999] = 2.0
optimizer = torch.optim.Adam(weights, lr=0.5)
optimizer.step()
found, _ = launched(optimizer, weights)
assert abs(found["update_norm"][0] - 0.5) < 1e-6 and abs(found["second_moment_norm"][0] - 2) < 1e-6

# beyond 2**31 entries: a few runs of a weight whose other pages are never touched
import mmap
size = 2**32 + 500
pages = mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
huge = torch.frombuffer(pages, dtype=torch.bfloat16)
chosen = sampling.sampling_of((size,), 128)
assert (chosen.runs - 1) * chosen.stride > 2**31
for run in range(chosen.runs):
    huge[run * chosen.stride :][: chosen.length] = 1 + run
large = nn.Parameter(huge)
large.grad = huge.detach()
sgd = torch.optim.SGD([large], lr=0.5)
mine, read = launched(sgd, [large], 128)
assert read == 1 and mine["update_norm"][0] > 0
alike(mine, compiled(sgd, [large], 128))

# the table of a step like the last is not sent again, and another is
sent = []
to_device, kernel._to_device = kernel._to_device, lambda *a: sent.append(1) or to_device(*a)
kernel._plan.cache_clear()
launched(optimizer, weights)
first = len(sent)
launched(optimizer, weights)
assert len(sent) == first
optimizer.param_groups[0]["lr"] = 0.25
found, _ = launched(optimizer, weights)
assert len(sent) == first + 1 and abs(found["update_norm"][0] - 0.25) < 1e-6

# settings on the device that the kernel does not read
decide_by(is_device_number)
optimizer.state[weights[0]]["step"] = torch.tensor(1.0, dtype=torch.float64)
assert launched(optimizer, weights)[1] == 0
decide_by(of_host)

# a kernel that fails is left for good, and the numbers stay
def broken(*arguments, **options):
    raise RuntimeError("a planted fault")
kernel.read_updates = broken
for _ in range(2):
    found, _ = launched(optimizer, weights)
    assert abs(found["update_norm"][0] - 0.25) < 1e-6
assert routes._failed == {{"read updates"}} and not module.reads_updates_at_once(torch.device("cpu"))
print("agrees")
"""


MIXED = """
# tensors of one parameter that differ in dtype, against the compiled pass on the same values in float32
def wide(optimizer, weights, options):
    copies = [nn.Parameter(w.detach().float()) for w in weights]
    for copy, weight in zip(copies, weights):
        copy.grad = weight.grad.float()
    twin = type(optimizer)(copies, **options)
    for copy, weight in zip(copies, weights):
        twin.state[copy] = {{name: value.float() for name, value in optimizer.state[weight].items()}}
    return twin, copies

def differing(kind, options, dtypes):
    of_weight, of_gradient, of_moment, of_square = dtypes
    weights = [nn.Parameter(torch.randn(shape).to(of_weight)) for shape in ((), (65,), (40, 40))]
    optimizer = kind(weights, **options)
    for weight in weights:
        weight.grad_dtype = of_gradient
        weight.grad = torch.randn(weight.shape).to(of_gradient)
        moment, square = torch.randn(weight.shape).to(of_moment), torch.rand(weight.shape).to(of_square)
        if kind is torch.optim.SGD:
            optimizer.state[weight] = {{"momentum_buffer": moment}} if options["momentum"] else {{}}
        else:
            optimizer.state[weight] = {{"step": torch.tensor(3.0), "exp_avg": moment, "exp_avg_sq": square}}
            if options["amsgrad"]:
                optimizer.state[weight]["max_exp_avg_sq"] = square * 2
    return optimizer, weights

single, brain, half = torch.float32, torch.bfloat16, torch.float16
ADAM = dict(lr=0.05, weight_decay=0.1, amsgrad=False)
for kind, options in [(torch.optim.AdamW, ADAM), (torch.optim.Adam, ADAM | dict(amsgrad=True)),
                      (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
                      (torch.optim.SGD, dict(lr=0.1, momentum=0.0))]:
    for dtypes in [(brain, brain, single, single), (single, brain, half, single)]:
        optimizer, weights = differing(kind, options, dtypes)
        twin, copies = wide(optimizer, weights, options)
        for most in (None, 500):
            mine, read = launched(optimizer, [None, *weights], most)
            assert read == len(launches) * 3 == 3
            alike(mine, compiled(twin, [None, *copies], most))

# a launch for each set of dtypes
optimizer, weights = differing(torch.optim.AdamW, ADAM, (brain, brain, single, single))
other, more = differing(torch.optim.AdamW, ADAM, (half, single, single, half))
optimizer.add_param_group({{"params": more}})
optimizer.state.update(other.state)
mine, read = launched(optimizer, [*weights, *more])
assert launches == [3, 3] and read == 6
twin, copies = wide(optimizer, [*weights, *more], ADAM)
alike(mine, compiled(twin, copies))

# second moments of two dtypes, and one that the kernel does not read, go by the operators
options = ADAM | dict(amsgrad=True)
optimizer, weights = differing(torch.optim.AdamW, options, (brain, brain, single, single))
state = optimizer.state[weights[1]]
state["max_exp_avg_sq"] = state["max_exp_avg_sq"].bfloat16()
optimizer.state[weights[0]]["exp_avg"] = optimizer.state[weights[0]]["exp_avg"].double()
mine, read = launched(optimizer, weights)
assert read == 1
twin, copies = wide(optimizer, weights, options)
alike(mine, compiled(twin, copies), rtol=1e-5)
print("agrees")
"""


def run_in_interpreter(program, **values):
    program = (HEAD + program).format(folder=str(Path(__file__).parent), **values)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("agrees")


@needs_triton
@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_the_kernel_reads_the_change_of_the_weights(every):
    run_in_interpreter(FORMULAS, every=every)


AGAIN = """
import copy
# the launch of the step before is kept; what differs now is in its numbers, or it is not used
def changed(optimizer, weights, change):
    for weight in weights:
        weight.grad = torch.randn_like(weight)  # elsewhere in memory
    if change is not None:
        change()
    optimizer.step()
    mine, read = launched(optimizer, weights, 4096)
    alike(mine, compiled(optimizer, weights, 4096))
    return read

def set_groups(optimizer, **options):
    for group in optimizer.param_groups:
        group.update(options)

for kind, options in ((torch.optim.AdamW, {{}}), (torch.optim.SGD, {{}}), (torch.optim.SGD, dict(momentum=0.9))):
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (70,), (40, 60))]
    optimizer = kind([dict(params=weights[:1]), dict(params=weights[1:], weight_decay=0.2)], lr=0.1, **options)
    taken = module._in_one_launch
    slow = []
    module._in_one_launch = lambda *given: slow.append(1) or taken(*given)
    def is_kept(change=None, read=3):
        slow.clear()
        assert changed(optimizer, weights, change) == read
        return not slow
    assert not is_kept() and is_kept() and is_kept(lambda: set_groups(optimizer, lr=0.02, weight_decay=0.3))
    for name in ("betas", "eps") if kind is torch.optim.AdamW else ():
        assert is_kept(lambda: set_groups(optimizer, **{{name: (0.5, 0.7) if name == "betas" else 1e-3}}))
    if kind is torch.optim.AdamW:  # each counts for itself
        assert is_kept(lambda: optimizer.state[weights[0]].update(step=torch.tensor(9.0)))
    # other memory, and other entries of it
    has_state = kind is torch.optim.AdamW or bool(options)
    assert is_kept(lambda: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))) != has_state
    assert is_kept()
    weights[1].data = torch.randn(70)
    assert not is_kept() and is_kept()
    weights[0].data = torch.randn(4, 3).T  # with moments that are laid out otherwise
    assert not is_kept(read=2 if has_state else 3)
    module._in_one_launch = taken

# the number of steps and the rate on the device
weights = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (70,))]
optimizer = torch.optim.AdamW(weights, lr=torch.tensor(0.1), foreach=False)
for step in range(4):
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    theirs = compiled(optimizer, weights, 4096)
    decide_by(is_device_number)
    mine, read = launched(optimizer, weights, 4096)
    decide_by(of_host)
    assert read == 2
    alike(mine, theirs, rtol=2e-6)
    optimizer.param_groups[0]["lr"].mul_(0.5)
print("agrees")
"""


@needs_triton
@pytest.mark.parametrize(
    "program", [pytest.param(ENTRIES, marks=pytest.mark.slow), MIXED, AGAIN], ids=["entries", "mixed", "again"]
)
def test_the_kernel_agrees_with_the_compiled_pass(program):
    from gradwatch.measure.fused import reads_updates

    if not reads_updates():
        pytest.skip("the compiled part was not built")
    run_in_interpreter(program)


@needs_triton
def test_it_launches_on_the_device_of_the_weights_whichever_is_current(monkeypatch):
    from gradwatch.measure import updates, updates_triton

    happened = note_launches(monkeypatch, updates_triton, "_read", "_add")
    monkeypatch.setattr(updates, "reads_updates", lambda: False)
    monkeypatch.setattr(updates, "_kernel", lambda device: updates_triton)
    weights = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(3).bfloat16())]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    updates.measure_updates(optimizer, weights)
    assert happened == [weights[0], "launch", "launch", "as before", weights[1], "launch", "launch", "as before"]
