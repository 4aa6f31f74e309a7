"""Policies in a training: attached or called in the loop, and what is recorded of them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.clip import (
    AGC,
    AdaGC,
    AutoClip,
    LayerNormClip,
    NormClip,
    SkipOutliers,
    ValueClip,
    ZClip,
)
from gradwatch.errors import BadArgument

from .support import by_name


def training(tmp_path, policy, steps=40, by_hand=False, optimizers=1, **options):
    """The weights after, and the run; gradients grow so that something is clipped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    parts = [model[0], model[2]] if optimizers == 2 else [model]
    made = [torch.optim.SGD(part.parameters(), lr=0.05) for part in parts]
    clip = None if by_hand else policy
    with gradwatch.attach(model, made, tmp_path / "run", clip=clip, **options) as watch:
        for step in range(steps):
            for one in made:
                one.zero_grad()
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step)) * (1 + step % 7)
            model(x).square().mean().backward()
            if by_hand:
                policy(model.parameters())
            for one in made:
                one.step()
    return [p.detach().clone() for p in model.parameters()], gradwatch.Run(tmp_path / "run"), watch


@by_name
def test_attached_it_does_what_a_call_in_the_loop_does_and_both_are_recorded(policy, tmp_path):
    attached, run, _ = training(tmp_path / "a", copy.deepcopy(policy))
    called, other, _ = training(tmp_path / "b", copy.deepcopy(policy), by_hand=True)
    for one, two in zip(attached, called, strict=True):
        assert torch.equal(one, two)
    ours, theirs = run.steps(), other.steps()
    for column in ("total_norm", "max_norm", "clip_value", "clip_coef", "clipped", "skipped"):
        np.testing.assert_allclose(ours[column].astype(float), theirs[column].astype(float), rtol=1e-6, err_msg=column)
    assert ours["clipped"].any() or ours["skipped"].any() or isinstance(policy, ZClip | SkipOutliers)
    summary = run.summary().clipping
    assert summary.policy == repr(policy)
    assert summary.kind == {ValueClip: "value"}.get(
        type(policy), "policy" if isinstance(policy, LayerNormClip | AGC | AdaGC | SkipOutliers) else "norm"
    )


def test_a_run_that_nobody_clipped_is_said_to_be_so(tmp_path):
    _, run, _ = training(tmp_path, None)
    assert run.summary().clipping.kind is None
    assert run.summary().clipping.policy is None


def test_a_skipped_update_leaves_the_weights_and_is_recorded(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    weights = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=SkipOutliers(window=16)):
        for step in range(30):
            weights.append(model.weight.detach().clone())
            optimizer.zero_grad()
            (model(torch.ones(1, 2)) * (1 + 0.1 * (step % 3)) * (1000 if step == 20 else 1)).sum().backward()
            optimizer.step()
    skipped = gradwatch.Run(tmp_path / "run").steps()["skipped"]
    assert skipped[skipped].index.tolist() == [20]
    assert torch.equal(weights[20], weights[21])
    assert not torch.equal(weights[21], weights[22])


def test_each_optimizer_has_a_history_of_its_own(tmp_path):
    policy = AutoClip(50)
    _, run, watch = training(tmp_path, policy, optimizers=2)
    assert watch.policies["0"] is policy
    for name in ("0", "1"):
        norms = run.steps(name)["total_norm"].to_numpy()
        expected = [np.percentile(norms[: t + 1], 50) for t in range(len(norms))]
        np.testing.assert_allclose(run.steps(name)["max_norm"], expected, rtol=1e-9)


def test_one_optimizer_alone_can_be_clipped(tmp_path):
    _, run, _ = training(tmp_path, {"1": NormClip(0.01)}, optimizers=2)
    assert run.steps("0")["max_norm"].isna().all()
    assert (run.steps("1")["max_norm"] == 0.01).all()


@pytest.mark.parametrize("clip", [{"nobody": NormClip(1.0)}, NormClip, 1.0, "norm"])
def test_what_is_no_policy_is_refused_before_anything_is_written(clip, tmp_path):
    with pytest.raises(BadArgument, match="clip"):
        training(tmp_path, clip)
    assert not (tmp_path / "run").exists()


def test_a_policy_clips_every_step_or_is_refused(tmp_path):
    with pytest.raises(BadArgument, match="every is 3"):
        training(tmp_path, NormClip(1.0), every=3)
