"""The update in closed form, compared with float64 copies of the weights and a second moment kept apart."""

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from gradwatch.measure import updates as module
from gradwatch.measure.fused import reads_updates
from gradwatch.measure.updates import closed_form_of, measure_updates

SHAPES = ((7, 5), (11,), (3, 4, 2), ())


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((0.3 * torch.randn(shape, generator=generator)).to(dtype)) for shape in SHAPES]


def give_gradients(weights, step, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for weight in weights:
        gradient = scale * torch.randn(weight.shape, generator=generator)
        weight.grad = gradient.to(weight.dtype)


ADAM: list[dict] = [
    {},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"amsgrad": True},
    {"amsgrad": True, "fused": True},
    {"maximize": True},
    {"maximize": True, "fused": True, "weight_decay": 0.1},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "foreach": True, "amsgrad": True},
    {"lr": torch.tensor(0.02), "fused": True},
    {"lr": torch.tensor(0.02), "weight_decay": 0.1, "foreach": False},
    {"betas": (0.0, 0.5), "eps": 1e-3},
    {"betas": (0.95, 0.999), "eps": 1e-15},
    {"weight_decay": 0.1, "maximize": True},
    {"decoupled_weight_decay": True, "weight_decay": 0.1},
    {"differentiable": False, "weight_decay": 0.5, "fused": True},
]
SGD: list[dict] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"maximize": True, "momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "maximize": True, "fused": True, "weight_decay": 0.1},
    {"momentum": 0.9, "foreach": True, "dampening": 0.1},
    {"lr": torch.tensor(0.02), "momentum": 0.9, "weight_decay": 0.1},
]
CASES = [
    *((torch.optim.Adam, options) for options in ADAM),
    *((torch.optim.AdamW, options) for options in ADAM if "decoupled_weight_decay" not in options),
    *((torch.optim.SGD, options) for options in SGD),
]


def name_of(value):
    return value.__name__ if isinstance(value, type) else ",".join(f"{k}={v}" for k, v in value.items()) or "plain"


class SecondMoments:
    """Kept in float64 from the gradients alone, by the definition in the paper."""

    def __init__(self, weights):
        self.values = [torch.zeros(w.shape, dtype=torch.float64) for w in weights]
        self.step = 0

    def take(self, weights, group):
        """The RMS ratio and the norm of the root of each, after the gradients of one step."""
        self.step += 1
        beta = float(group["betas"][1])
        decoupled = group.get("decoupled_weight_decay", False)
        found = []
        for value, weight in zip(self.values, weights, strict=True):
            gradient = weight.grad.double() * (-1 if group["maximize"] else 1)
            if not decoupled:
                gradient = gradient + group["weight_decay"] * weight.detach().double()
            value.mul_(beta).add_(gradient.square(), alpha=1 - beta)
            corrected = value / (1 - beta**self.step)
            ratio = (gradient.square() / corrected.clamp(min=group["eps"] ** 2)).mean().sqrt()
            found.append((float(ratio), float(corrected.sqrt().norm())))
        return found


def check_steps(kind, options, *, dtype=torch.float32, tolerance=2e-4, groups=None, steps=3):
    weights = parameters(dtype)
    optimizer = kind(weights if groups is None else groups(weights), **({"lr": 0.05} | options))
    moments = SecondMoments(weights)
    for step in range(steps):
        give_gradients(weights, step)
        before = [w.detach().double().clone() for w in weights]
        by_group = groups is not None or kind is torch.optim.SGD
        expected = None if by_group else moments.take(weights, optimizer.param_groups[0])
        optimizer.step()
        found = measure_updates(optimizer, [None, *weights]).collect()
        changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
        assert all(math.isnan(values[0]) for values in found.values())
        np.testing.assert_allclose(found["update_norm"][1:], changes, rtol=tolerance, atol=1e-7)
        np.testing.assert_allclose(found["weight_norm"][1:], [float(b.norm()) for b in before], rtol=tolerance)
        if expected is not None:
            np.testing.assert_allclose(found["rms_ratio"][1:], [e[0] for e in expected], rtol=tolerance)
            np.testing.assert_allclose(found["second_moment_norm"][1:], [e[1] for e in expected], rtol=tolerance)
        elif kind is torch.optim.SGD:
            assert np.isnan(found["rms_ratio"]).all()
            assert np.isnan(found["second_moment_norm"]).all()


@pytest.fixture(params=["compiled", "operators"])
def route(request, monkeypatch):
    """Both routes give the same numbers."""
    if request.param == "operators":
        monkeypatch.setattr(module, "reads_updates", lambda: False)
    elif not reads_updates():
        pytest.skip("the compiled part was not built")
    return request.param


@pytest.mark.parametrize(("kind", "options"), CASES, ids=name_of)
def test_the_update_is_the_change_of_the_weights(kind, options, route):
    check_steps(kind, options)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_each_group_has_its_own_settings(kind, route):
    def groups(weights):
        return [
            {"params": weights[:2], "lr": 0.01, "weight_decay": 0.3},
            {"params": weights[2:3], "lr": 0.2},
            {"params": weights[3:], "weight_decay": 0.0},
        ]

    check_steps(kind, {"weight_decay": 0.1}, groups=groups)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"maximize": True, "weight_decay": 0.1}])
def test_a_differentiable_step(kind, options, route):
    """Its weights are no leaves, and the step is part of the graph."""
    leaves = parameters()
    weights = [leaf.clone() for leaf in leaves]
    optimizer = kind(weights, lr=0.05, differentiable=True, **({} if kind is torch.optim.SGD else options))
    for step in range(3):
        give_gradients(weights, step)
        before = [w.detach().double().clone() for w in weights]
        optimizer.step()
        found = measure_updates(optimizer, weights).collect()
        changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
        np.testing.assert_allclose(found["update_norm"], changes, rtol=2e-4, atol=1e-7)


def test_a_capturable_state(route):
    """On the CPU no step may be capturable; what is read are the settings that it leaves, as tensors."""
    weights = parameters()
    optimizer = torch.optim.AdamW(weights, lr=torch.tensor(0.05), weight_decay=0.1)
    for step in range(3):
        give_gradients(weights, step)
        before = [w.detach().double().clone() for w in weights]
        optimizer.step()
        optimizer.param_groups[0]["capturable"] = True
        found = measure_updates(optimizer, weights).collect()
        optimizer.param_groups[0]["capturable"] = False
        changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
        np.testing.assert_allclose(found["update_norm"], changes, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_float64_weights(kind, route):
    check_steps(kind, {"weight_decay": 0.1}, dtype=torch.float64, tolerance=1e-9)


def test_in_bfloat16_the_update_is_the_one_that_is_meant(route):
    """What arrives is rounded to the weights; the meant one is that of the state as it is stored."""
    weights = parameters(torch.bfloat16)
    optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0)
    for step in range(3):
        give_gradients(weights, step)
        before = [w.detach().clone() for w in weights]
        optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    assert all(torch.equal(w, b) for w, b in zip(weights[:1], before, strict=False))
    for at, weight in enumerate(weights):
        state = optimizer.state[weight]
        first, second = (state[name].double() for name in ("exp_avg", "exp_avg_sq"))
        meant = 1e-5 * (first / (1 - 0.9**3)) / ((second / (1 - 0.999**3)).sqrt() + 1e-8)
        assert found["update_norm"][at] == pytest.approx(float(meant.norm()), rel=1e-4)


def test_parameters_without_a_gradient_are_left_out(route):
    weights = parameters()
    optimizer = torch.optim.Adam(weights)
    give_gradients(weights, 0)
    weights[1].grad = None
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    assert np.isnan(found["update_norm"]).tolist() == [False, True, False, False]


def test_a_nan_stays_in_its_parameter(route):
    weights = parameters()
    optimizer = torch.optim.Adam(weights)
    give_gradients(weights, 0)
    weights[0].grad[0, 0] = math.nan
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    for values in found.values():
        assert np.isnan(values).tolist() == [True, False, False, False]


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_sizes_of_gradients_that_float32_squares_lose(scale, route):
    weights = parameters()
    optimizer = torch.optim.SGD(weights, lr=1.0)
    give_gradients(weights, 0, scale)
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    np.testing.assert_allclose(found["update_norm"], [float(w.grad.double().norm()) for w in weights], rtol=1e-4)


def test_a_rate_of_zero_moves_nothing(route):
    weights = parameters()
    optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.1)
    give_gradients(weights, 0)
    optimizer.step()
    assert measure_updates(optimizer, weights).collect()["update_norm"].tolist() == [0.0] * 4


def test_empty_parameters_are_left_out(route):
    weights = [nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert np.isnan(measure_updates(optimizer, weights).collect()["update_norm"]).tolist() == [True, False]


def test_wrapper_subclasses_are_left_out_and_hide_no_other(route):
    """What operators make of them is no plain tensor: read as one, it took the whole step with it."""
    wrapped = nn.Parameter(TwoTensor(torch.ones(5), torch.ones(5)))
    plain = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([wrapped, plain], lr=0.5)
    wrapped.sum().backward()
    plain.sum().backward()
    optimizer.step()
    found = measure_updates(optimizer, [wrapped, plain]).collect()
    assert np.isnan(found["update_norm"][0])
    assert found["update_norm"][1] == pytest.approx(0.5 * math.sqrt(2))


def test_layouts_other_than_row_by_row(route):
    weight = nn.Parameter(torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last))
    odd = nn.Parameter(torch.randn(6, 5).T)
    optimizer = torch.optim.Adam([weight, odd], lr=0.05)
    before = [w.detach().double().clone() for w in (weight, odd)]
    for one in (weight, odd):
        one.grad = torch.randn(one.shape)  # contiguous, in contrast to the weights
    optimizer.step()
    found = measure_updates(optimizer, [weight, odd]).collect()
    changes = [float((w.detach().double() - b).norm()) for w, b in zip((weight, odd), before, strict=True)]
    np.testing.assert_allclose(found["update_norm"], changes, rtol=1e-4)


ROWS, CHANNELS = torch.contiguous_format, torch.channels_last


def as_in_memory(tensor):
    return torch.as_strided(tensor.detach(), (tensor.numel(),), (1,), tensor.storage_offset()).double().clone()


@pytest.mark.parametrize("others", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=name_of)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("weight_lies", [ROWS, CHANNELS])
@pytest.mark.parametrize("gradient_lies", [ROWS, CHANNELS])
@pytest.mark.parametrize("moment_lies", [ROWS, CHANNELS])
@pytest.mark.parametrize("square_lies", [ROWS, CHANNELS])
def test_moments_that_lie_otherwise_in_memory(
    kind, others, weight_lies, gradient_lies, moment_lies, square_lies, route
):
    """A fused step pairs entries as they lie in memory, the others by their indices."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 5, 6).contiguous(memory_format=weight_lies))
    options = {"lr": 0.05, "weight_decay": 0.1} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    optimizer = kind([weight], **options, **others)
    weight.grad = torch.randn(4, 3, 5, 6)
    optimizer.step()
    state = optimizer.state[weight]
    for name, lies in (("exp_avg", moment_lies), ("momentum_buffer", moment_lies), ("exp_avg_sq", square_lies)):
        if name in state:
            state[name] = torch.rand(4, 3, 5, 6).contiguous(memory_format=lies)
    weight.grad = torch.randn(4, 3, 5, 6).contiguous(memory_format=gradient_lies)
    before = weight.detach().double().clone()
    optimizer.step()
    found = measure_updates(optimizer, [weight]).collect()
    assert found["update_norm"][0] == pytest.approx(float((weight.detach().double() - before).norm()), rel=1e-4)
    assert found["weight_norm"][0] == pytest.approx(float(before.norm()), rel=1e-4)
    if kind is torch.optim.AdamW:
        paired = as_in_memory if "fused" in others else torch.Tensor.double
        second = paired(state["exp_avg_sq"]) / (1 - 0.999**2)
        ratio = (paired(weight.grad).square() / second).mean().sqrt()
        assert found["rms_ratio"][0] == pytest.approx(float(ratio), rel=1e-3)


def test_of_a_fused_step_on_a_view_with_gaps_nothing_is_guessed(route):
    """It moves entries that lie between those of the weight, and leaves some of the weight's."""
    weight = nn.Parameter(torch.randn(6, 10)[:, ::2])
    other = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([weight, other], lr=0.05, fused=True)
    weight.grad, other.grad = torch.randn(6, 5), torch.randn(3)
    before = other.detach().double().clone()
    optimizer.step()
    found = measure_updates(optimizer, [weight, other]).collect()
    assert all(math.isnan(values[0]) for values in found.values())
    assert found["update_norm"][1] == pytest.approx(float((other.detach().double() - before).norm()), rel=1e-4)
    alone = torch.optim.Adam([weight], lr=0.05, fused=True)
    alone.step()
    assert np.isnan(measure_updates(alone, [weight]).collect()["update_norm"]).all()


def test_a_large_model_is_sampled_without_bias(route):
    """Over many draws of the weights the squared estimate is right on average, and each is near."""
    quotients = []
    for seed in range(20):
        torch.manual_seed(seed)
        weight = nn.Parameter(torch.randn(300, 200))
        weight.grad = torch.randn(300, 200) * torch.rand(300, 1)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        before = weight.detach().clone()
        optimizer.step()
        found = measure_updates(optimizer, [weight], most=4096).collect()
        quotients.append(found["update_norm"][0] / float((weight.detach() - before).norm()))
    assert np.mean(np.square(quotients)) == pytest.approx(1.0, abs=0.03)
    assert np.ptp(quotients) < 0.25


@pytest.mark.parametrize("rows", [512, 4096])
def test_a_model_of_262144_entries_is_read_whole_and_a_larger_one_in_part(route, rows):
    weight = nn.Parameter(torch.randn(rows, 512))
    weight.grad = torch.zeros(rows, 512)
    weight.grad[::2, 1::7] = 1.0  # an even sample of a few rows is off by more than rounding
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.step()
    found = measure_updates(optimizer, [weight]).collect()["update_norm"][0]
    error = abs(found / (0.1 * float(weight.grad.norm())) - 1)
    assert error < 1e-5 if rows == 512 else 1e-5 < error < 0.1


def test_the_weights_the_state_and_the_random_state_stay_as_they_are(route):
    weights = parameters()
    optimizer = torch.optim.AdamW(weights)
    give_gradients(weights, 0)
    optimizer.step()
    state = [value.clone() for one in optimizer.state.values() for value in one.values()]
    copies, random = [w.detach().clone() for w in weights], torch.get_rng_state()
    measure_updates(optimizer, weights)
    assert all(map(torch.equal, state, [v for one in optimizer.state.values() for v in one.values()]))
    assert all(map(torch.equal, copies, weights))
    assert torch.equal(random, torch.get_rng_state())


class OwnAdam(torch.optim.Adam):
    """Steps otherwise."""


@pytest.mark.parametrize(
    "make",
    [
        OwnAdam,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adadelta,
        torch.optim.ASGD,
        torch.optim.Rprop,
        torch.optim.SparseAdam,
        torch.optim.LBFGS,
    ],
)
def test_of_other_optimizers_nothing_is_guessed(make):
    weights = [nn.Parameter(torch.ones(2))]
    optimizer = make(weights)
    assert closed_form_of(optimizer) is None
    assert measure_updates(optimizer, weights) is None


def test_a_state_that_was_replaced_is_read_anew(route):
    weights = parameters()
    optimizer = torch.optim.Adam(weights, lr=0.05)
    for step in range(2):
        give_gradients(weights, step)
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    for weight in weights:
        weight.data = weight.data.clone()
    give_gradients(weights, 2)
    before = [w.detach().double().clone() for w in weights]
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
    np.testing.assert_allclose(found["update_norm"], changes, rtol=2e-4)


def change_of(weights, optimizer):
    give_gradients(weights, 7)
    before = [w.detach().double().clone() for w in weights]
    optimizer.step()
    return [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]


def test_parameters_that_change_their_places_in_the_optimizer_are_found_again():
    weights = parameters()
    rates = [{"params": weights[:1], "lr": 0.5}, {"params": weights[1:2], "lr": 0.01}]
    optimizer = torch.optim.SGD(rates, momentum=0.9)

    def check(seen, stepped):
        changes = change_of(weights, optimizer)
        found = measure_updates(optimizer, seen).collect()["update_norm"]
        expected = [changes[at] if at in stepped else math.nan for at in range(len(found))]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    check(weights, {0, 1})
    first, second = optimizer.param_groups
    first["params"], second["params"] = second["params"], first["params"]
    check(weights, {0, 1})
    check([None, *weights[1:]], {1})  # fewer are asked for
    check([*weights[:1], None, *weights[2:]], {0})  # another
    optimizer.add_param_group({"params": weights[2:]})
    check(weights, {0, 1, 2, 3})
    check(weights[:1], {0})
    first["params"] = []
    check(weights, {0, 2, 3})


def _halve_rates(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["lr"]


def _move_weights(optimizer):
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.data = weight.data.clone()


def _load_state(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _use_wider_weights(optimizer):
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.data, weight.grad = weight.data.double(), None
    for state in optimizer.state.values():
        state.update({name: moment.double() for name, moment in state.items() if name != "step"})


def _step_one_alone(optimizer):
    weight = optimizer.param_groups[0]["params"][0]
    others = [one for group in optimizer.param_groups for one in group["params"] if one is not weight]
    weight.grad = torch.ones_like(weight)
    for other in others:
        other.grad = None
    optimizer.step()


@pytest.mark.skipif(not reads_updates(), reason="the compiled pass was not built")
@pytest.mark.parametrize(
    ("change", "is_read_again"),
    [
        (None, True),
        (_halve_rates, True),
        (_step_one_alone, True),
        (_move_weights, False),
        (_load_state, False),
        (_use_wider_weights, False),
    ],
)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_what_was_read_at_the_step_before_is_read_again_only_where_it_still_lies_there(
    monkeypatch, kind, change, is_read_again
):
    weights = parameters()
    optimizer = kind([{"params": weights[:1], "weight_decay": 0.2}, {"params": weights[1:]}], lr=0.1)
    looks = []
    found_anew = module._moved
    monkeypatch.setattr(module, "_moved", lambda *given: looks.append(1) or found_anew(*given))
    for step in range(2):
        give_gradients(weights, step)
        optimizer.step()
        measure_updates(optimizer, weights)
    assert len(looks) == 1
    if change is not None:
        change(optimizer)
    give_gradients(weights, 2)
    before = [weight.detach().double().clone() for weight in weights]
    optimizer.step()
    found = measure_updates(optimizer, weights).table()
    norms = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
    np.testing.assert_allclose(found[0], norms, rtol=1e-4)
    # SGD without momentum has no state that `load_state_dict` could put elsewhere.
    assert (len(looks) == 1) == (is_read_again or (kind is torch.optim.SGD and change is _load_state))
    module._places.clear()
    np.testing.assert_array_equal(found, measure_updates(optimizer, weights).table())


def test_of_no_gradient_there_is_no_update():
    weights = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    assert np.isnan(measure_updates(optimizer, weights).collect()["update_norm"]).all()


def test_an_optimizer_is_not_kept_alive_by_its_parameters():
    weight = nn.Parameter(torch.ones(3))
    optimizer = weight.own = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert measure_updates(optimizer, [weight]) is not None
    gone = weakref.ref(optimizer)
    del optimizer, weight
    gc.collect()
    assert gone() is None
