"""The black box of a recording: which steps it keeps, and that it disturbs nothing."""

import copy
import logging
import math

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.capture import CaptureOptions, list_captures, read


def train(folder, scales, capture, model=None):
    """Train on one batch for each scale, which its gradients are multiplied by."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    before = {}
    with gradwatch.attach(model, optimizer, folder, capture=capture):
        for step, scale in enumerate(scales):
            before[step] = copy.deepcopy(model.state_dict())
            optimizer.zero_grad()
            (model(torch.ones(2, 3)).sum() * scale).backward()
            optimizer.step()
    return model, before


def kept(folder):
    return [(info.step, info.why) for info in list_captures(folder)]


CALM = [1.0] * 40


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_is_kept_before_its_update(tmp_path, bad):
    _, before = train(tmp_path, [1.0, bad, 1.0], True)
    assert kept(tmp_path) == [(1, "nonfinite")]
    found = read(list_captures(tmp_path)[0].folder)
    assert all(torch.equal(found.weights[name], before[1][name]) for name in before[1])
    assert found.limit is None
    assert not math.isfinite(found.total_norm)


def test_a_spike_is_kept_with_its_norm_and_its_limit(tmp_path):
    train(tmp_path, [*CALM, 50.0], True)
    assert kept(tmp_path) == [(40, "spike")]
    found = read(list_captures(tmp_path)[0].folder)
    stored = Run(tmp_path).steps()["total_norm"]
    assert found.total_norm == pytest.approx(stored[40])
    assert stored[39] < found.limit < stored[40]


@pytest.mark.parametrize(
    ("clips", "policy", "threshold"), [(2.5, None, 2.5), (None, gradwatch.clip.NormClip(0.5), 0.5), (None, None, None)]
)
def test_the_threshold_in_force_is_kept(tmp_path, clips, policy, threshold):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with gradwatch.attach(model, optimizer, tmp_path, capture=True, clip=policy) as watch:
        for scale in [*CALM, 50.0]:
            optimizer.zero_grad()
            (model(torch.ones(2, 3)).sum() * scale).backward()
            watch.log(loss=scale)
            if clips is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clips)
            optimizer.step()
    assert read(list_captures(tmp_path)[0].folder).max_norm == threshold


@pytest.mark.parametrize(("why", "step"), [("spike", 40), ("explosion", 42), ("nonfinite", 44)])
def test_only_what_is_asked_for_is_kept(tmp_path, why, step):
    train(tmp_path, [*CALM, 50.0, 1.0, 1e4, 1.0, math.nan], CaptureOptions(on=(why,)))
    assert kept(tmp_path) == [(step, why)]


def test_the_last_place_is_for_a_step_that_is_not_finite(tmp_path):
    scales = [*CALM, 50.0, 1.0, 50.0, 1.0]
    train(tmp_path, [*scales, math.nan], CaptureOptions(most=2))
    assert kept(tmp_path) == [(40, "spike"), (44, "nonfinite")]


@pytest.mark.parametrize("options", [CaptureOptions(max_bytes=1), CaptureOptions(min_free_bytes=2**62)])
def test_without_room_the_step_is_recorded_and_the_reason_is_said(tmp_path, caplog, options):
    train(tmp_path, [1.0, math.nan], options)
    assert kept(tmp_path) == []
    assert "did not capture step 1 (nonfinite)" in caplog.text
    assert len(Run(tmp_path).steps()) == 2


def test_a_fault_while_capturing_ends_the_capturing_alone(tmp_path, caplog):
    class Model(nn.Linear):
        is_broken = False

        def named_modules(self, *arguments, **options):
            if Model.is_broken:
                raise RuntimeError("planted")
            return super().named_modules(*arguments, **options)

    caplog.set_level(logging.WARNING, "gradwatch")
    model = Model(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path, capture=True):
        for step in range(4):
            Model.is_broken = step == 0  # the first forward looks for the model's buffers
            optimizer.zero_grad()
            (model(torch.ones(2, 3)).sum() * (math.nan if step == 2 else 1.0)).backward()
            optimizer.step()
    assert kept(tmp_path) == []
    assert caplog.text.count("captures no step") == 1
    assert "RuntimeError: planted" in caplog.text
    assert len(Run(tmp_path).steps()) == 4


def test_the_end_of_the_recording_takes_every_hook_out(tmp_path):
    model, _ = train(tmp_path, [1.0, 1.0], True)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    model(torch.ones(1, 3)).sum().backward()


def test_an_overflow_that_a_scaler_skips_is_not_kept(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with gradwatch.attach(model, optimizer, tmp_path, capture=True):
        for _ in range(2):
            optimizer.zero_grad()
            output = model(torch.ones(2, 3)).sum() * 1e6
            scaler.scale(output - output.detach()).backward()  # the loss is 0, and its gradients overflow
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert Run(tmp_path).steps()["skipped"].tolist() == [True, True]
    assert kept(tmp_path) == []
