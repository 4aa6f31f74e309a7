"""What moved and along which directions, against numpy in float64, parameter by parameter."""

import math

import numpy as np
import pytest
import torch

from gradwatch.recording import alignment
from gradwatch.recording.alignment import Entries, alignments, can_count_off


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


def compare(weights, entries, rtol=1e-12):
    olds = [e.of(w.detach()).clone() for e, w in zip(entries, weights, strict=True)]
    optimizer = adam(weights)
    news = [e.of(w.detach()) for e, w in zip(entries, weights, strict=True)]
    found = alignments(entries, olds, news, weights, optimizer).collect()
    expected = [oracle(*each, optimizer) for each in zip(entries, olds, news, weights, strict=True)]
    for at, name in enumerate(("moved", *[n for n in found if n != "moved"])):
        np.testing.assert_allclose(found[name], [row[at] for row in expected], rtol=rtol, atol=1e-12, err_msg=name)


WHOLE = Entries(stride=1, offset=0)


def test_every_parameter_has_its_own_numbers():
    weights = [parameter((n, 3), seed=n) for n in range(1, 40)]
    compare(weights, [WHOLE] * len(weights))


def test_samples_of_long_parameters():
    weights = [parameter(1000, seed=1), parameter((30, 50), seed=2)]
    compare(weights, [Entries(stride=7, offset=3), Entries(stride=11, offset=0)])


def test_more_entries_than_are_joined_at_once(monkeypatch):
    monkeypatch.setattr(alignment, "BATCH_ON_HOST", 100)
    weights = [parameter(n, seed=n) for n in (1, 99, 1, 300, 40, 60, 61)]
    compare(weights, [WHOLE] * len(weights))


def test_dtypes_may_be_mixed():
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.bfloat16, torch.float32]
    weights = [parameter(50, dtype, seed=at) for at, dtype in enumerate(dtypes)]
    compare(weights, [WHOLE] * len(weights))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_that_float32_can_not_hold(scale):
    weights = [parameter(64, scale=scale), parameter(64)]
    compare(weights, [WHOLE, WHOLE], rtol=1e-6)


def test_zero_nan_and_infinity_stay_with_their_parameter():
    weights = [parameter(8, seed=at) for at in range(4)]
    weights[0].grad.zero_()
    weights[1].grad[3] = math.nan
    weights[2].grad[3] = math.inf
    compare(weights, [WHOLE] * 4)


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
