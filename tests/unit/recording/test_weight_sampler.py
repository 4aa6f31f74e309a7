"""Sampling the weights: norms of what a step changed, with little memory."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.measure import updates
from gradwatch.recording import weight_sampler
from gradwatch.recording.weight_sampler import COPIED, COPIED_ONE_IN, WeightSampler, entries_to_copy


def sampled(parameters, change, step=0):
    """The norms of the weights and of the change, as the sampler has them, and copies of the weights before."""
    sampler = WeightSampler(every=1)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    sample = sampler.before(step, None, parameters, optimizer)
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        change()
    change_made = sampler.after(sample, parameters, optimizer)
    weights, updates = change_made.weights, change_made.changes
    return weights.collect()["norm"], updates.collect()["norm"], before, sample


def test_a_small_model_is_copied_whole_and_its_norms_are_exact():
    torch.manual_seed(0)
    parameters = [torch.randn(30, 20), torch.randn(7), torch.randn(()), torch.randn(0, 4)]

    def change():
        for p in parameters:
            p.mul_(0.9)

    weights, updates, before, _ = sampled(parameters, change)

    for weight, update, old in zip(weights, updates, before, strict=True):
        assert weight == pytest.approx(float(old.double().norm()), rel=1e-6)
        assert update == pytest.approx(0.1 * float(old.double().norm()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_large_model_keeps_a_sample_whose_norms_are_within_two_percent(dtype):
    torch.manual_seed(0)
    parameters = [
        torch.randn(1500, 1024).to(dtype),
        torch.randn(1024).to(dtype),
        torch.randn(700, 900).to(dtype).t(),
        torch.randn(64, 128, 3, 3).to(dtype).to(memory_format=torch.channels_last),
    ]

    def change():
        for p in parameters:
            p.add_(torch.randn(p.shape) * 0.1)

    weights, updates, before, sample = sampled(parameters, change)

    entries = sum(p.numel() for p in parameters)
    assert sum(c.numel() for c in sample.copies) <= max(COPIED, entries / COPIED_ONE_IN) + len(parameters)
    for weight, update, old, new in zip(weights, updates, before, parameters, strict=True):
        assert weight == pytest.approx(float(old.double().norm()), rel=1e-3)
        assert update == pytest.approx(float((old.double() - new.double()).norm()), rel=0.02)


@pytest.mark.parametrize(
    "weights",
    [
        torch.randn(3, 5),
        torch.randn(3, 5).t(),
        torch.randn(3, 5)[:, ::2],
        torch.randn(1, 5).expand(4, 5),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(7).bfloat16(),
        torch.randn(3, 2, dtype=torch.complex64).conj(),
        torch.randn(()),
        torch.empty(0, 3),
        torch.eye(4).to_sparse(),
    ],
    ids=["matrix", "turned", "gaps", "one row", "channels last", "half", "conjugate", "scalar", "empty", "sparse"],
)
def test_copies_are_what_a_clone_is_whatever_lies_beside_them(weights):
    parameters = [torch.randn(3).half(), weights, torch.randn(5)]
    before = [p.clone() for p in parameters]

    copies = WeightSampler(1).before(0, None, parameters, torch.optim.SGD([torch.ones(1)])).copies
    for p in parameters:
        p.zero_() if p.layout != torch.strided or 0 not in p.stride() else p[0].zero_()

    for copy, clone in zip(copies, before, strict=True):
        assert (copy.dtype, copy.layout, copy.shape) == (clone.dtype, clone.layout, clone.shape)
        assert torch.equal(copy.to_dense(), clone.to_dense())
        if clone.layout == torch.strided:
            assert copy.stride() == clone.stride()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_the_memory_of_copies_is_given_back_when_moments_were_made_after_them():
    """The heap would keep the room of many small copies that lie below what a first step makes."""
    program = """
import torch
from pathlib import Path
from gradwatch.recording.weight_sampler import WeightSampler

def own():
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(rows[kind].split()[0]) for kind in ("RssAnon", "RssShmem"))

weights = [torch.zeros(1024) for _ in range(256)]
sampler = WeightSampler(1)
optimizer = torch.optim.SGD(weights)
sampler.before(0, None, weights[:4], optimizer)  # what a first call makes
begin = own()
sample = sampler.before(1, None, weights, optimizer)
held = own()
moments = [torch.zeros(16) for _ in range(64)]
del sample
print(held - begin, own() - begin)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    held, kept = map(int, done.stdout.split())
    assert held > 1000
    assert kept < 700


def test_over_the_turns_of_a_sample_the_squared_norm_of_the_change_is_unbiased():
    """One row of an embedding changes, the hardest case for a sample of single entries."""
    embedding = torch.zeros(3000, 512)
    row = torch.zeros(3000, 512)
    row[1234] = torch.linspace(0.5, 1.5, 512)

    squared = []
    for step in range(200):
        _, updates, _, _ = sampled([embedding], lambda: embedding.add_(row), step)
        squared.append(updates[0] ** 2)
        embedding.zero_()

    assert sum(squared) / len(squared) == pytest.approx(float(row.double().norm()) ** 2, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "updates_every", "copied"),
    [
        (torch.optim.AdamW, None, COPIED // 2),
        (torch.optim.SGD, 1, COPIED // 2),
        (torch.optim.AdamW, 0, COPIED),
        (torch.optim.Adagrad, None, COPIED),
    ],
)
def test_half_as_many_entries_are_copied_where_the_update_is_read_from_the_state_too(kind, updates_every, copied):
    weights = [torch.zeros(1531, 1021)]  # primes, so that any distance of entries will do
    sampler = WeightSampler(1, updates_every)
    (copy,) = sampler.before(0, None, weights, kind(weights)).copies
    assert copied * 0.9 < copy.numel() <= copied + 1
    few = [torch.zeros(COPIED // 1024, 1024)]  # a model that may be copied whole is copied whole
    assert sampler.before(0, None, few, kind(few)).copies[0].shape == few[0].shape


def test_an_update_of_half_precision_weights_is_scaled_without_overflow():
    weights = torch.zeros(4096, 512, dtype=torch.float16)

    _, updates, _, _ = sampled([weights], lambda: weights.fill_(60_000))

    assert updates[0] == pytest.approx(float(weights.double().norm()), rel=1e-3)


def test_a_nonfinite_weight_shows_in_the_norm_of_the_weights_wherever_it_is():
    weights = torch.zeros(4096, 512)
    weights[17, 5] = math.nan

    norms, _, _, sample = sampled([weights], lambda: weights.fill_(math.inf))

    assert math.isnan(norms[0])
    assert sample.entries[0].stride > 1


@pytest.mark.parametrize(
    "parameter",
    [
        torch.zeros(2048, 1024)[:, ::2],
        torch.zeros(1, 1024).expand(2048, 1024),
        torch.zeros(2048, 1024).to_sparse(),
        torch.zeros(2048, 1024, dtype=torch.complex64).conj(),
    ],
    ids=["gaps", "one row for all", "sparse", "conjugate view"],
)
def test_a_parameter_that_does_not_fill_its_memory_is_copied_whole(parameter):
    entries = entries_to_copy([parameter, torch.zeros(COPIED * 2)], 0)

    assert entries[0].stride == 1
    assert entries[1].stride > 1


shapes = st.lists(st.lists(st.integers(0, 3000), max_size=3).filter(lambda s: math.prod(s) <= 10**7), max_size=12)


@settings(max_examples=200, deadline=None)
@given(shapes, st.integers(0, 10**6))
def test_the_entries_of_any_model_stay_within_the_limit_and_within_their_parameter(model, turn):
    # Tensors on the meta device have shapes and strides, and no memory.
    parameters = [torch.empty(shape, device="meta") for shape in model]

    entries = entries_to_copy(parameters, turn)

    total = sum(p.numel() for p in parameters)
    copied = 0
    for chosen, parameter in zip(entries, parameters, strict=True):
        copied += chosen.of(parameter).numel()
        if chosen.stride > 1:
            assert 0 <= chosen.offset < min(chosen.stride, parameter.numel())
            last = chosen.offset + (chosen.of(parameter).numel() - 1) * chosen.stride
            assert last < parameter.numel() <= last + chosen.stride
            assert all(math.gcd(chosen.stride, length) == 1 for length in parameter.shape)
    # Each sample is rounded up to a whole number of entries.
    assert copied <= max(COPIED, total // COPIED_ONE_IN) + len(parameters)


def trained(optimizer, parameters, gradients):
    """What is sampled of one step."""
    sampler = WeightSampler(every=1)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    sample = sampler.before(0, None, parameters, optimizer)
    optimizer.step()
    return sampler.after(sample, parameters, optimizer).alignment.collect()


def cosine(first, second):
    return float(torch.nn.functional.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0))


@pytest.mark.parametrize("length", [12, 300_000])
def test_gradient_momentum_and_weights_are_compared(length):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(length))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    optimizer.state[weight] = {
        "step": torch.tensor(1.0),
        "exp_avg": torch.randn(length),
        "exp_avg_sq": torch.rand(length),
    }
    before, gradient = weight.detach().clone(), torch.randn(length) + 0.5 * weight.detach()
    found = trained(optimizer, [weight], [gradient])
    tolerance = {"abs": 1e-6 if length < 100 else 0.01}
    assert found["momentum_cosine"][0] == pytest.approx(
        cosine(gradient, optimizer.state[weight]["exp_avg"]), **tolerance
    )
    assert found["weight_cosine"][0] == pytest.approx(cosine(gradient, before), **tolerance)
    assert found["moved"][0] == 1.0


def test_in_bfloat16_small_updates_move_few_entries():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    weight.data[:250] = 1e-3
    before = weight.detach().clone()
    found = trained(torch.optim.SGD([weight], lr=1e-4), [weight], [torch.ones_like(weight)])
    assert found["moved"][0] == (weight != before).double().mean() == 0.25


def test_what_is_not_known_of_a_parameter_is_nan():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    found = trained(torch.optim.SGD(weights, lr=0.1), weights, [torch.ones(3), None])
    assert [math.isnan(value) for value in found["momentum_cosine"]] == [True, True]
    assert [math.isnan(value) for value in found["weight_cosine"]] == [False, True]
    assert found["moved"].tolist() == [1.0, 0.0]


def test_a_state_that_can_not_be_read_is_said_once_and_left_out_from_then_on(caplog):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.Adam([weight])
    optimizer.step()
    optimizer.state[weight]["step"] = "three"
    sampler = WeightSampler(every=0, updates_every=1)
    assert [sampler.updates(step, optimizer, [weight]) for step in (1, 2)] == [None, None]
    assert [record.getMessage() for record in caplog.records if "(updates-not-read)" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_updates_are_read_at_the_steps_that_are_asked_for():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.step()
    for every, expected in ((0, []), (1, [0, 1, 2, 3, 4, 5]), (3, [0, 3])):
        sampler = WeightSampler(every=0, updates_every=every)
        assert [step for step in range(6) if sampler.updates(step, optimizer, [weight]) is not None] == expected


@pytest.mark.parametrize(
    ("device", "compiled", "expected"), [("cpu", True, [0, 1, 2, 3]), ("cpu", False, [0, 2]), ("meta", True, [0, 2])]
)
def test_updates_are_read_at_fewer_steps_where_pytorchs_operators_read_them(monkeypatch, device, compiled, expected):
    monkeypatch.setattr(updates, "reads_updates", lambda: compiled)
    weights = [torch.nn.Parameter(torch.ones(3, device=device)) for _ in range(8)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD(weights, lr=0.1)
    sampler = WeightSampler(every=0, updates_every=None)
    assert [step for step in range(4) if sampler.updates(step, optimizer, weights) is not None] == expected


@pytest.mark.parametrize(
    ("device", "at_once", "length", "expected"),
    [
        ("cpu", True, 40, [1, 2]),
        ("cpu", False, 40, []),
        ("cpu", False, 400, []),
        ("meta", True, 40, [1, 2]),  # as on CUDA
        ("meta", False, 63, []),  # as on other accelerators
        ("meta", False, 64, [1, 2, 3]),
    ],
)
def test_who_has_sentinels(monkeypatch, device, at_once, length, expected):
    monkeypatch.setattr(weight_sampler, "reads_updates_at_once", lambda device: at_once)
    weights = [torch.nn.Parameter(torch.ones(2, 2, device=device)) for _ in range(length)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD(weights, lr=0.1)
    sampler = WeightSampler(every=0, updates_every=None)
    found = {step: sampler.sentinels(step, optimizer, weights)[0] for step in range(4)}
    assert [step for step, one in found.items() if one is not None] == expected
    for one in filter(None, found.values()):
        assert one.present == [0, 1, 2, length - 3, length - 2, length - 1]


@pytest.mark.parametrize(("entries", "expected"), [(160, True), (161, False)])
def test_on_the_host_operators_read_sentinels_of_a_model_of_enough_entries(monkeypatch, entries, expected):
    """As many as their read is short beside that of all gradients."""
    monkeypatch.setattr(weight_sampler, "reads_updates_at_once", lambda device: False)
    monkeypatch.setattr(weight_sampler, "SENTINELS_ON_HOST", entries)
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(40)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    sampler = WeightSampler(every=0, updates_every=None)
    found, _ = sampler.sentinels(1, torch.optim.SGD(weights, lr=0.1), weights)
    assert (found is not None) is expected
