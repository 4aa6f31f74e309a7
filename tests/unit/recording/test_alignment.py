"""What moved and along which directions, against numpy in float64, parameter by parameter."""

import math

import numpy as np
import pytest
import torch

from gradwatch.measure.fused import compares_steps
from gradwatch.record import SAMPLED_STATS
from gradwatch.recording import alignment
from gradwatch.recording.alignment import Entries, alignments, can_count_off, compared


def parameter(size, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = torch.nn.Parameter((torch.randn(size, generator=generator) * scale).to(dtype))
    made.grad = (torch.randn(size, generator=generator) * scale).to(dtype)
    return made


def adam(parameters):
    optimizer = torch.optim.Adam(parameters, 1e-2)
    optimizer.step()
    return optimizer


def oracle(entries, old, new, weight, optimizer):
    """`SAMPLED_STATS` of one parameter."""

    def flat(tensor):
        taken = tensor.detach().reshape(-1)[entries.offset :: entries.stride]
        return taken.double().numpy()

    def cosine(a, b):
        with np.errstate(all="ignore"):
            return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    before = old.reshape(-1).double().numpy()
    moved = float(np.mean(before != new.reshape(-1).double().numpy()))
    gradient, momentum = flat(weight.grad), flat(optimizer.state[weight]["exp_avg"])
    return [moved, cosine(gradient, momentum), cosine(gradient, before)]


def by_operators(entries, olds, weights, optimizer):
    news = [e.of(w.detach()) for e, w in zip(entries, weights, strict=True)]
    return alignments(entries, olds, news, weights, optimizer).table()


def by_compiled_pass(entries, olds, weights, optimizer):
    """The norm of the change as a fourth row."""
    positions, table = compared(entries, olds, [w.detach() for w in weights], weights, optimizer)
    assert positions == list(range(len(weights)))
    return table


@pytest.fixture(
    params=[
        by_operators,
        pytest.param(by_compiled_pass, marks=pytest.mark.skipif(not compares_steps(), reason="it was not built")),
    ]
)
def way(request):
    return request.param


def compare(way, weights, entries, rtol=1e-12):
    olds = [e.of(w.detach()).clone() for e, w in zip(entries, weights, strict=True)]
    optimizer = adam(weights)
    found = way(entries, olds, weights, optimizer)
    expected = []
    for one, old, weight in zip(entries, olds, weights, strict=True):
        new = one.of(weight.detach())
        change = scaled_norm((old.double() - new.double()).numpy()) * math.sqrt(weight.numel() / max(1, new.numel()))
        expected.append([*oracle(one, old, new, weight, optimizer), change])
    for name, row, of_oracle in zip((*SAMPLED_STATS, "change"), found, np.transpose(expected), strict=False):
        np.testing.assert_allclose(row, of_oracle, rtol=rtol, atol=1e-12, err_msg=name)


def scaled_norm(entries):
    """In float64 also where the squares don't fit."""
    largest = np.abs(entries).max(initial=0.0)
    return largest * np.linalg.norm(entries / largest) if 0 < largest < np.inf else np.linalg.norm(entries)


WHOLE = Entries(stride=1, offset=0)


def test_every_parameter_has_its_own_numbers(way):
    weights = [parameter((n, 3), seed=n) for n in range(1, 40)]
    compare(way, weights, [WHOLE] * len(weights))


def test_samples_of_long_parameters(way):
    weights = [parameter(1000, seed=1), parameter((30, 50), seed=2)]
    compare(way, weights, [Entries(stride=7, offset=3), Entries(stride=11, offset=0)])


def test_more_entries_than_are_read_at_once(way, monkeypatch):
    monkeypatch.setattr(alignment, "BATCH_ON_HOST", 100)
    weights = [parameter(n, seed=n) for n in (1, 99, 1, 300, 40, 255, 256, 257, 1000)]
    compare(way, weights, [WHOLE] * len(weights))


def test_dtypes_may_be_mixed(way):
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.bfloat16, torch.float32]
    weights = [parameter(50, dtype, seed=at) for at, dtype in enumerate(dtypes)]
    compare(way, weights, [WHOLE] * len(weights))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_that_float32_can_not_hold(way, scale):
    weights = [parameter(64, scale=scale), parameter(64)]
    compare(way, weights, [WHOLE, WHOLE], rtol=1e-6)


def test_zero_nan_and_infinity_stay_with_their_parameter(way):
    weights = [parameter(8, seed=at) for at in range(5)]
    weights[0].grad.zero_()
    weights[1].grad[3] = math.nan
    weights[2].grad[3] = math.inf
    weights[3].data[5] = -math.inf
    compare(way, weights, [WHOLE] * 5)


def test_gradients_and_momenta_of_another_dtype_than_the_weights(way):
    weights = [parameter(300, torch.float16, seed=1), parameter(300, torch.bfloat16, seed=2)]
    entries = [WHOLE, Entries(stride=3, offset=1)]
    olds = [e.of(w.detach()).clone() for e, w in zip(entries, weights, strict=True)]
    optimizer = adam(weights)
    for weight in weights:
        optimizer.state[weight]["exp_avg"] = parameter(300, torch.float64, seed=3).data
    found = way(entries, olds, weights, optimizer)
    for at, (one, old, weight) in enumerate(zip(entries, olds, weights, strict=True)):
        expected = oracle(one, old, one.of(weight.detach()), weight, optimizer)
        np.testing.assert_allclose(found[:3, at], expected, rtol=1e-12)


compiled = pytest.mark.skipif(not compares_steps(), reason="the compiled pass was not built")


@compiled
@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e-310])
def test_squares_that_float64_can_not_hold_are_scaled(scale):
    """The cosines are those of the same entries at a scale of 1."""
    tables = []
    for factor in (scale, 1.0):
        of_scale = [parameter(600, torch.float64, seed=3)]
        of_scale[0].data *= factor
        of_scale[0].grad *= factor
        old = [of_scale[0].detach().clone()]
        optimizer = torch.optim.SGD(of_scale, 0.5, momentum=0.9)
        optimizer.step()
        tables.append(by_compiled_pass([WHOLE], old, of_scale, optimizer))
    rtol = 1e-12 if scale > 1e-300 else 1e-2  # subnormal numbers have few digits
    np.testing.assert_allclose(tables[0][:3], tables[1][:3], rtol=rtol)
    np.testing.assert_allclose(tables[0][3] / scale, tables[1][3], rtol=rtol)


@compiled
def test_every_float16_is_read_as_it_is_where_the_script_flushes_subnormal_numbers():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)[::5]
    every = every[every.isfinite()]
    weights = [torch.nn.Parameter(one) for one in every.split(1)]
    optimizer = torch.optim.SGD(weights, 0.1)
    try:
        torch.set_flush_denormal(True)
        table = by_compiled_pass([WHOLE] * len(weights), [w.detach() * 0 for w in weights], weights, optimizer)
    finally:
        torch.set_flush_denormal(False)
    assert table[3].tolist() == every.double().abs().tolist()


@compiled
@pytest.mark.parametrize("count", [1, 5, 256, 70_000])
def test_threads_change_nothing(count):
    weights = [parameter(count, seed=seed) for seed in range(3)]
    old = [w.detach().clone() for w in weights]
    optimizer, before, tables = adam(weights), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tables.append(by_compiled_pass([WHOLE] * 3, old, weights, optimizer).tolist())
    finally:
        torch.set_num_threads(before)
    assert tables[0] == tables[1]


@compiled
def test_the_compiled_pass_leaves_what_it_can_not_read_as_it_is():
    """Gaps, sparse gradients, other layouts, views that negate, complex numbers."""
    weights = [torch.nn.Parameter(torch.ones(4, 6)) for _ in range(6)]
    for weight in weights:
        weight.grad = torch.ones(4, 6)
    weights[1].grad = torch.ones(6, 4).T
    weights[2].grad = torch.eye(4, 6).to_sparse()
    weights[3].data = torch.ones(4, 12)[:, ::2]
    weights[4].data = torch.ones(4, 6, dtype=torch.complex64).conj().imag
    weights.append(torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)))
    olds = [w.detach().clone() for w in weights]
    optimizer = torch.optim.SGD(weights, 0.1)
    positions, table = compared([WHOLE] * 7, olds, [w.detach() for w in weights], weights, optimizer)
    assert positions == [0, 5]
    assert table.shape == (4, 2)


@compiled
def test_an_empty_parameter_has_no_angles_and_has_not_changed():
    weight = parameter(0)
    table = by_compiled_pass([WHOLE], [weight.detach().clone()], [weight], torch.optim.SGD([weight], 0.1))
    assert np.isnan(table[:3, 0]).all()
    assert table[3, 0] == 0.0


def test_a_parameter_without_gradient_or_momentum_is_nan_and_an_empty_one_unknown():
    weights = [parameter(6, seed=1), parameter(6, seed=2), parameter(0), parameter(6, seed=3)]
    weights[1].grad = None
    olds = [w.detach().clone() for w in weights]
    optimizer = torch.optim.SGD(weights, 0.1)
    optimizer.step()
    found = alignments([WHOLE] * 4, olds, [w.detach() for w in weights], weights, optimizer).collect()
    moved, of_momentum, of_weight = found.values()
    assert moved.tolist()[:2] == [1.0, 0.0]
    assert math.isnan(moved[2])
    assert np.isnan(of_momentum).all()
    assert np.isnan(of_weight).tolist() == [False, True, True, False]


@pytest.mark.parametrize("momentum_alike", [True, False])
def test_entries_are_counted_off_in_memory_where_the_tensors_are_laid_out_as_the_weight_is(momentum_alike):
    weight = torch.nn.Parameter(parameter((40, 30)).detach().T)
    weight.grad = parameter((40, 30), seed=1).detach().T
    optimizer = adam([weight])
    if not momentum_alike:
        optimizer.state[weight]["exp_avg"] = torch.randn(30, 40)
    entries = Entries(stride=3, offset=1)
    old = entries.of(weight.detach()).clone()
    found = alignments([entries], [old], [entries.of(weight.detach())], [weight], optimizer).table()

    def in_memory(tensor):
        return tensor.detach().T.reshape(-1)[1::3].double().numpy()

    gradient, momentum = in_memory(weight.grad), in_memory(optimizer.state[weight]["exp_avg"])
    cosine = gradient @ momentum / np.linalg.norm(gradient) / np.linalg.norm(momentum)
    assert found[1, 0] == pytest.approx(cosine if momentum_alike else math.nan, rel=1e-6, nan_ok=True)
    of_weight = gradient @ old.double().numpy() / np.linalg.norm(gradient) / np.linalg.norm(old.double().numpy())
    assert found[2, 0] == pytest.approx(of_weight, rel=1e-6)


def test_no_parameters_at_all():
    optimizer = torch.optim.SGD([parameter(2)], 0.1)
    assert all(len(column) == 0 for column in alignments([], [], [], [], optimizer).collect().values())


def test_a_state_like_no_other_gives_nothing(caplog):
    weight = parameter(4)
    optimizer = adam([weight])
    optimizer.state[weight]["exp_avg"] = torch.ones(4).to_sparse().coalesce()
    found = alignments([WHOLE], [weight.detach().clone()], [weight.detach()], [weight], optimizer)
    assert found is not None  # a momentum in another layout is not known
    assert math.isnan(list(found.collect().values())[1][0])
    assert alignments([WHOLE], [weight.detach()], [object()], [weight], optimizer) is None


def test_what_fills_its_memory_once():
    assert can_count_off(torch.zeros(3, 4))
    assert can_count_off(torch.zeros(3, 4).T)
    assert not can_count_off(torch.zeros(3, 4)[:, ::2])
    assert not can_count_off(torch.zeros(1, 4).expand(3, 4))
    assert not can_count_off(torch.zeros(3).to_sparse())


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_momentum_that_lies_otherwise_in_memory_is_not_compared(fused):
    """A fused step pairs its entries with those of the gradient by memory, and their indices say something else."""
    weight = parameter((2, 3, 4, 5))
    optimizer = torch.optim.Adam([weight], 1e-2, fused=fused)
    optimizer.step()
    state = optimizer.state[weight]
    state["exp_avg"] = state["exp_avg"].contiguous(memory_format=torch.channels_last)
    old = weight.detach().clone()
    moved, momentum, weights = by_operators([WHOLE], [old], [weight], optimizer)[:, 0]
    _, of_momentum, of_weights = oracle(WHOLE, old, weight.detach(), weight, optimizer)
    assert moved == 0
    assert weights == pytest.approx(of_weights)
    assert math.isnan(momentum) if fused else momentum == pytest.approx(of_momentum)
