"""What holds for every policy."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradwatch.clip import (
    AGC,
    AdaGC,
    AutoClip,
    HiddenStateClip,
    LayerNormClip,
    NormClip,
    QuantileClip,
    SkipOutliers,
    ValueClip,
    ZClip,
)
from gradwatch.errors import BadArgument
from gradwatch.measure import measure

from .support import POLICIES, SHAPES, as_parameters, by_name, clip, gradients


@pytest.mark.parametrize(
    "make",
    [
        lambda: NormClip(0.0),
        lambda: NormClip(-1.0),
        lambda: NormClip(math.nan),
        lambda: ValueClip(0.0),
        lambda: LayerNormClip(-1.0),
        lambda: AutoClip(101),
        lambda: AutoClip(10, window=0),
        lambda: QuantileClip(1.5),
        lambda: QuantileClip(0.5, rate=0),
        lambda: ZClip(z=0),
        lambda: ZClip(alpha=2),
        lambda: ZClip(warm_up=1),
        lambda: ZClip(cap=-1.0),
        lambda: ZClip(space="cubic"),  # type: ignore[arg-type]
        lambda: AGC(0),
        lambda: AGC(eps=-1.0),
        lambda: AdaGC(beta=1.5),
        lambda: AdaGC(start=0),
        lambda: SkipOutliers(sigma=0),
        lambda: SkipOutliers(window=1),
        lambda: HiddenStateClip(0),
        lambda: ZClip().load_state_dict({"mean": 3}),
    ],
)
def test_invalid_settings_are_refused(make):
    with pytest.raises(BadArgument, match="expected"):
        make()


@by_name
def test_a_call_in_a_loop_does_what_clip_does_and_returns_the_norm(policy):
    by_call, by_clip = copy.deepcopy(policy), copy.deepcopy(policy)
    for seed in range(12):
        ours, theirs = as_parameters(gradients(seed)), as_parameters(gradients(seed))
        norm = by_call(iter(ours))
        clip(by_clip, theirs)
        assert float(norm) == pytest.approx(float(torch.cat([g.flatten() for g in gradients(seed)]).norm()), rel=1e-6)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.grad, other.grad)


@by_name
def test_a_call_takes_one_tensor_none_and_absent_gradients(policy):
    policy = copy.deepcopy(policy)
    assert float(policy([])) == 0.0
    assert float(policy([nn.Parameter(torch.zeros(2))])) == 0.0
    (alone,) = as_parameters([torch.tensor([3.0, 4.0])])
    assert float(policy(alone)) == 5.0


@by_name
def test_after_one_nan_and_one_infinity_it_clips_as_if_they_had_not_been(policy):
    disturbed, quiet = copy.deepcopy(policy), copy.deepcopy(policy)
    for seed in range(40):
        if seed in (2, 20):
            for bad in (math.nan, math.inf):
                hit = gradients(99)
                hit[0][0, 0] = bad
                disturbed(as_parameters(hit))
        ours, theirs = as_parameters(gradients(seed, 1 + seed % 5)), as_parameters(gradients(seed, 1 + seed % 5))
        disturbed(ours)
        quiet(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)


@by_name
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_entry_is_not_spread(policy, bad):
    """torch's function makes every gradient NaN, or all finite ones 0."""
    policy = copy.deepcopy(policy)
    for seed in range(20):
        policy(as_parameters(gradients(seed)))
    hit = as_parameters(gradients(50))
    hit[0].grad[0, 0] = bad
    clip(policy, hit)
    for parameter in hit[1:]:
        assert bool(torch.isfinite(parameter.grad).all())
        assert float(parameter.grad.abs().max()) > 0


@by_name
def test_zero_huge_tiny_and_empty_gradients(policy):
    policy = copy.deepcopy(policy)
    for size in (0.0, 1e-30, 1.0, 1e30, 0.0, 1.0):
        tensors = [torch.full((3,), size), torch.zeros(0), torch.full((2, 2), size)]
        parameters = as_parameters(tensors)
        clip(policy, parameters)
        for parameter in parameters:
            assert bool(torch.isfinite(parameter.grad).all())
            assert parameter.grad.numel() == 0 or float(parameter.grad.max()) <= size * (1 + 1e-6)


@by_name
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(policy, dtype):
    policy = copy.deepcopy(policy)
    for seed in range(8):
        parameters = as_parameters([g.to(dtype) for g in gradients(seed)])
        clip(policy, parameters)
        assert all(p.grad.dtype == dtype for p in parameters)


@pytest.mark.parametrize("policy", [p for p in POLICIES if hasattr(p, "state_dict")], ids=repr)
def test_a_checkpoint_goes_on_as_if_nothing_had_been(policy, tmp_path):
    through, stopped = copy.deepcopy(policy), copy.deepcopy(policy)
    for seed in range(15):
        through(as_parameters(gradients(seed)))
        stopped(as_parameters(gradients(seed)))
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    resumed = policy.fresh()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in range(15, 40):
        ours, theirs = as_parameters(gradients(seed, 3)), as_parameters(gradients(seed, 3))
        through(ours)
        resumed(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)


def test_the_state_that_was_handed_out_does_not_change_afterwards():
    policy = ZClip(warm_up=2)
    policy.threshold(torch.tensor(1.0))
    kept = policy.state_dict()
    policy.threshold(torch.tensor(5.0))
    assert float(kept["mean"]) == 1.0


@pytest.mark.parametrize("policy", [p for p in POLICIES if not isinstance(p, ValueClip)], ids=repr)
def test_no_policy_waits_for_a_device(policy):
    """PyTorch's meta device has no numbers: asking for one raises."""
    policy = copy.deepcopy(policy)
    parameters = [nn.Parameter(torch.zeros(shape, device="meta")) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.zeros(parameter.shape, device="meta")
    for _ in range(3):
        measured = measure([parameter.grad for parameter in parameters])
        assert not measured.is_here
        clipping = policy.clip(parameters, measured)
        kept = [clipping.coefficient, clipping.max_norm, clipping.skip]
        assert any(isinstance(number, torch.Tensor) and number.device.type == "meta" for number in kept)
    if hasattr(policy, "state_dict"):
        assert {value.device.type for value in policy.state_dict().values()} == {"meta"}


# ------------------------------------------------------------------------- the scale of the loss

RELATIVE = [
    AutoClip(10),
    AutoClip(95, window=20),
    QuantileClip(0.5),
    ZClip(warm_up=3),
    ZClip(warm_up=3, space="log"),
    AdaGC(start=3, max_norm=math.inf),
    SkipOutliers(window=40),
]
relative = pytest.mark.parametrize("policy", RELATIVE, ids=repr)


def noisy(step, seed):
    """Float64 gradients whose norm scatters over a decade, with a spike now and then."""
    generator = np.random.default_rng([seed, step])
    size = math.exp(generator.normal(0, 0.7)) * (50 if step % 11 == 10 else 1)
    return [torch.tensor(size * generator.standard_normal(shape)) for shape in SHAPES]


def what_is_left(policy, seed, factor, steps=60, zeros=()):
    """The gradients after the policy, divided by the factor again; None for a skipped step."""
    policy = copy.deepcopy(policy)
    left = []
    for step in range(steps):
        if step in zeros:
            policy(as_parameters([torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]))
        parameters = as_parameters([factor * gradient for gradient in noisy(step, seed)])
        policy(parameters)
        left.append([None if p.grad is None else p.grad.numpy() / factor for p in parameters])
    return left


def assert_same(found, expected):
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        for a, b in zip(one, other, strict=True):
            assert (a is None) == (b is None), step
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=0, err_msg=str(step))


@relative
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([1e-20, 1e-9, 1e-6, 1e6, 1e9, 1e20]))
def test_a_relative_policy_does_not_depend_on_the_scale_of_the_loss(policy, seed, factor):
    assert_same(what_is_left(policy, seed, factor), what_is_left(policy, seed, 1.0))


@relative
def test_every_relative_policy_did_something_in_that_test(policy):
    left, plain = what_is_left(policy, 0, 1.0), [noisy(step, 0) for step in range(60)]
    pairs = [pair for one, other in zip(left, plain, strict=True) for pair in zip(one, other, strict=True)]
    changed = [a is None or not np.allclose(a, b) for a, b in pairs]
    assert any(changed)
    assert not all(changed)


@relative
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_loss_times_a_million_trains_alike(policy, factor):
    """Plain SGD with the learning rate divided by the factor: all that is left is what clipping does."""

    def weights(factor):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / factor)
        own = copy.deepcopy(policy)
        for step in range(50):
            x = torch.randn(8, 3, dtype=torch.float64) * (20 if step % 13 == 12 else 1)
            optimizer.zero_grad()
            (factor * (model(x) - x.sum(1, keepdim=True)).square().mean()).backward()
            own(model.parameters())
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(weights(factor), weights(1.0), rtol=1e-6, atol=0)


@relative
def test_steps_without_any_gradient_leave_no_trace(policy):
    """A history of zeros would make every later threshold 0, and with it every gradient."""
    assert_same(what_is_left(policy, 1, 1.0, zeros=(12, 13, 30)), what_is_left(policy, 1, 1.0))


@pytest.mark.parametrize(
    ("make", "order"),
    [
        pytest.param(NormClip, 2.0, id="NormClip"),
        pytest.param(LayerNormClip, 2.0, id="LayerNormClip"),
        pytest.param(ValueClip, math.inf, id="ValueClip"),
    ],
)
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e6])
def test_an_absolute_threshold_is_kept_at_every_scale(make, order, factor):
    """Within the 1e-6 that PyTorch adds to a norm."""
    parameters = as_parameters([factor * gradient for gradient in noisy(0, 0)])
    make(0.1 * factor)(parameters)
    groups = [[p] for p in parameters] if make is LayerNormClip else [parameters]
    for group in groups:
        entries = torch.cat([p.grad.flatten() for p in group])
        assert float(torch.linalg.vector_norm(entries, order)) == pytest.approx(0.1 * factor, abs=2e-6)


@by_name
@pytest.mark.parametrize("is_coalesced", [True, False])
def test_a_sparse_gradient_is_clipped_as_the_same_dense_one(policy, is_coalesced):
    torch.manual_seed(0)
    start = torch.randn(6, 3)
    found = {}
    for is_sparse in (False, True):
        own = copy.deepcopy(policy)
        rows, bias = nn.Embedding(6, 3, _weight=start.clone(), sparse=is_sparse), nn.Parameter(torch.zeros(2))
        for step in range(4):
            rows.weight.grad = None
            (rows(torch.tensor([4, 1, 4, 0])) * torch.arange(1.0, 4.0) * 10.0**step).sum().backward()
            bias.grad = torch.full((2,), 0.3)
            if is_sparse and is_coalesced:
                rows.weight.grad = rows.weight.grad.coalesce()
            clipping = clip(own, [rows.weight, bias])
        grad = rows.weight.grad
        found[is_sparse] = clipping, grad.to_dense(), bias.grad
    (ours, rows_ours, bias_ours), (theirs, rows_theirs, bias_theirs) = found[True], found[False]
    torch.testing.assert_close(rows_ours, rows_theirs)
    torch.testing.assert_close(bias_ours, bias_theirs)
    assert [int(count) for count in ours.cut_entries] == [int(count) for count in theirs.cut_entries]
    torch.testing.assert_close(torch.as_tensor(ours.coefficient), torch.as_tensor(theirs.coefficient))
