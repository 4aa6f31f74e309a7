"""From a measured step to its record: each column against torch or numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gradwatch.clip import Clipping
from gradwatch.errors import BadArgument
from gradwatch.measure import measure
from gradwatch.record import ParameterInfo, StepRecord
from gradwatch.recording.clip_audit import norm_clipping, value_clipping
from gradwatch.recording.gradients import versions_of
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.losses import BackwardLoss, loss_value
from gradwatch.recording.pending import PendingStep, learning_rates_of
from gradwatch.recording.records import make_record
from gradwatch.recording.weight_sampler import WeightChange

INF, NAN = math.inf, math.nan


def gradients(*values: list[float] | None) -> list[torch.Tensor | None]:
    return [None if value is None else torch.tensor(value) for value in values]


def pending(*values: list[float] | None, **fields: Any) -> PendingStep:
    """A step of parameters with these gradients."""
    return PendingStep(step=3, measured=measure(gradients(*values)), **fields)


def recorded(step: PendingStep, parameters: int | None = None) -> StepRecord:
    count = step.measured.length if parameters is None else parameters
    infos = tuple(ParameterInfo(name=f"p{i}", shape=(2,)) for i in range(count))
    record = make_record(step, "main", 2, infos, [True] * count)
    assert record is not None
    return record


# --------------------------------------------------------------------------------- the gradients


@pytest.mark.parametrize(
    "values",
    [
        ([3.0, 4.0],),
        ([3.0, 4.0], [-12.0]),
        ([3.0], None, [4.0]),
        ([0.0, 0.0],),
        ([1e30, 1e30],),
        ([1e-30],),
        ([INF, 1.0], [2.0]),
        ([NAN, 1.0], [INF]),
        ([],),
        (None,),
        (None, None),
        (),
    ],
)
def test_the_statistics_are_those_of_the_gradients(values):
    record = recorded(pending(*values))
    present = [np.array(value, np.float64) for value in values if value is not None]
    whole = np.concatenate([np.zeros(0), *present])
    with np.errstate(all="ignore"):
        assert record.total_norm == pytest.approx(np.linalg.norm(whole), rel=1e-6, nan_ok=True)
    assert record.nonfinite == (~np.isfinite(whole)).sum()
    expected = [NAN if value is None else np.linalg.norm(np.array(value, np.float64)) for value in values]
    assert record.layers.norm.tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert record.layers.present.tolist() == [value is not None for value in values]


def test_what_names_the_step_is_passed_on():
    record = recorded(pending([1.0], wall_time=12.5, skipped=True, learning_rates=(0.1, torch.tensor(0.5))))
    assert (record.step, record.optimizer, record.attempt) == (3, "main", 2)
    assert (record.wall_time, record.skipped) == (12.5, True)
    assert record.learning_rates == pytest.approx((0.1, 0.5))


@pytest.mark.parametrize(("found", "skipped"), [(0.0, False), (1.0, True)])
def test_a_fused_optimizer_skips_where_it_was_told_of_an_infinity(found, skipped):
    assert recorded(pending([1.0], found_inf=torch.tensor(found))).skipped is skipped


def test_parameters_that_join_after_the_step_was_measured_are_not_in_it():
    record = recorded(pending([3.0]), parameters=2)
    assert [info.name for info in record.layers.parameters] == ["p0"]


def test_sampled_weights_stand_at_the_positions_that_this_process_has():
    step = pending([1.0], None, [1.0])
    step.weights = WeightChange(measure(gradients([3.0, 4.0], [0.0, 2.0])), measure(gradients([0.3], [0.4])), None)
    infos = tuple(ParameterInfo(name=f"p{i}", shape=(2,)) for i in range(3))
    record = make_record(step, "0", 0, infos, [True, False, True])
    assert record.weights.weight_norm.tolist() == pytest.approx([5.0, NAN, 2.0], nan_ok=True)
    assert record.weights.update_norm.tolist() == pytest.approx([0.3, NAN, 0.4], nan_ok=True)


# --------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({}, None),
        ({"losses": [2.0]}, 2.0),
        ({"losses": [2.0, torch.tensor(4.0)]}, 3.0),
        ({"losses": [NAN]}, NAN),
        ({"losses": [INF, 1.0]}, INF),
        ({"losses": [0.0]}, 0.0),
        ({"backward_losses": [BackwardLoss(2.0), BackwardLoss(torch.tensor(4.0))]}, 6.0),
        ({"backward_losses": [BackwardLoss(16.0)], "loss_scale": torch.tensor(8.0)}, 2.0),
        ({"losses": [16.0], "loss_scale": torch.tensor(8.0)}, 16.0),
        ({"losses": [2.0], "backward_losses": [BackwardLoss(7.0)]}, 2.0),
        ({"backward_losses": [BackwardLoss(INF)], "loss_scale": torch.tensor(8.0)}, INF),
        ({"backward_losses": [BackwardLoss(3.0, False)], "loss_scale": torch.tensor(8.0)}, 3.0),
        ({"backward_losses": [BackwardLoss(3.0, False), BackwardLoss(16.0)], "loss_scale": torch.tensor(8.0)}, 5.0),
    ],
)
def test_the_loss_is_the_mean_of_those_logged_or_the_unscaled_sum_of_those_of_backward(fields, loss):
    assert recorded(pending([1.0], **fields)).loss == (loss if loss is None else pytest.approx(loss, nan_ok=True))


@pytest.mark.parametrize("loss", [0.0, 2.0, NAN])
def test_a_loss_scale_of_zero_still_makes_a_record(loss):
    """A GradScaler that backs off for long reaches 0, and nothing can be unscaled by it."""
    step = pending([0.0, 1.0], backward_losses=[BackwardLoss(loss)], loss_scale=torch.tensor(0.0))
    step.unscale(torch.tensor(0.0))
    record = recorded(step)
    assert record.loss_scale == 0.0
    assert record.loss is None
    assert not math.isfinite(record.total_norm)


# ----------------------------------------------------------------------------------- the clipping


@pytest.mark.parametrize(
    ("clippings", "columns"),
    [
        ([], {"clip_coef": 1.0, "max_norm": None, "clip_value": None, "cut_entries": None, "norm_type": None}),
        ([Clipping(max_norm=1.0, coefficient=0.2)], {"clip_coef": 0.2, "max_norm": 1.0}),
        ([Clipping(max_norm=1.0, coefficient=0.2, norm_type=INF)], {"clip_coef": 0.2, "norm_type": INF}),
        (
            [Clipping(max_norm=1.0, coefficient=0.2), Clipping(max_norm=2.0, coefficient=0.1)],
            {"clip_coef": 0.1, "max_norm": 2.0},
        ),
        (
            [Clipping(max_norm=1.0, coefficient=0.2), Clipping(max_norm=2.0, coefficient=NAN)],
            {"clip_coef": NAN, "max_norm": 2.0},
        ),
        ([Clipping(max_norm=torch.tensor(1.0), coefficient=torch.tensor(0.5))], {"clip_coef": 0.5, "max_norm": 1.0}),
        ([Clipping(max_norm=1.0, coefficient=None)], {"clip_coef": 1 / (5 + 1e-6), "max_norm": 1.0}),
        ([Clipping(max_norm=9.0, coefficient=None)], {"clip_coef": 1.0, "max_norm": 9.0}),
        ([Clipping(coefficient=0.3), Clipping(coefficient=0.4)], {"clip_coef": 0.3, "max_norm": None}),
        ([Clipping(coefficient=0.3), Clipping(max_norm=1.0, coefficient=0.4)], {"clip_coef": 0.4, "max_norm": 1.0}),
        (
            [Clipping(clip_value=2.0, cut_entries=(torch.tensor(3), torch.tensor(4)))],
            {"clip_value": 2.0, "cut_entries": 7, "clip_coef": 1.0},
        ),
        (
            [
                Clipping(clip_value=2.0, cut_entries=(torch.tensor(3),)),
                Clipping(clip_value=1.0, cut_entries=(torch.tensor(0),)),
                Clipping(max_norm=1.0, coefficient=0.5),
            ],
            {"clip_value": 1.0, "cut_entries": 3, "clip_coef": 0.5, "max_norm": 1.0},
        ),
    ],
)
def test_of_several_clip_calls_the_strongest_coefficient_and_the_smallest_value_count(clippings, columns):
    record = recorded(pending([3.0, 4.0], clippings=clippings))
    for column, value in columns.items():
        assert getattr(record, column) == (value if value is None else pytest.approx(value, nan_ok=True)), column


@pytest.mark.parametrize("norm_type", [2.0, 1.0, INF])
@pytest.mark.parametrize("max_norm", [1.0, 1000.0, 0.0, INF, 1e-8])
@pytest.mark.parametrize("values", [([3.0, 4.0], [-12.0]), ([1e-7],), ([INF],), ([NAN, 1.0],)])
def test_the_coefficient_is_what_torch_multiplies_by(values, max_norm, norm_type):
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for parameter, gradient in zip(parameters, gradients(*values), strict=True):
        parameter.grad = gradient
    before = [parameter.grad.clone() for parameter in parameters]
    norm = clip_grad_norm_(parameters, max_norm, norm_type)
    clipping = norm_clipping(ClipCall(parameters=parameters, max_norm=max_norm, norm_type=norm_type), norm)
    coefficient = float(clipping.coefficient)
    for old, parameter in zip(before, parameters, strict=True):
        torch.testing.assert_close(old * coefficient, parameter.grad, rtol=1e-5, atol=0, equal_nan=True)
    assert clipping.norm_type == (None if norm_type == 2 else norm_type)


@pytest.mark.parametrize("norm", [INF, NAN])
def test_a_function_that_keeps_nonfinite_norms_from_the_gradients_has_not_clipped(norm):
    call = ClipCall(parameters=[], max_norm=1.0, spreads_nonfinite=False)
    assert float(norm_clipping(call, torch.tensor(norm)).coefficient) == 1.0


@pytest.mark.parametrize("limit", [0.0, 1.0, 3.0, 100.0])
def test_cut_entries_are_those_that_torch_changes(limit):
    values = [[3.0, -4.0, 0.5], None, [-3.0, INF], [NAN]]
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, gradient in zip(parameters, gradients(*values), strict=True):
        parameter.data = torch.zeros(0 if gradient is None else len(gradient))
        parameter.grad = gradient
    step = PendingStep(step=0, measured=measure([p.grad for p in parameters]))
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    clipping = value_clipping(parameters, step, ClipCall(parameters=parameters, clip_value=limit))
    clip_grad_value_(parameters, limit)
    changed = [
        (~torch.isnan(old) & (old != p.grad)).sum().item()
        for old, p in zip(before, (p for p in parameters if p.grad is not None), strict=True)
    ]
    assert sum(int(count) for count in clipping.cut_entries) == sum(changed)


def test_only_the_parameters_of_the_call_are_counted():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.tensor([9.0])
    step = PendingStep(step=0, measured=measure([p.grad for p in parameters]))
    clipping = value_clipping([*parameters, None], step, ClipCall(parameters=parameters[:1], clip_value=1.0))
    assert sum(int(count) for count in clipping.cut_entries) == 1


# -------------------------------------------------------------------------------------- the scale


def test_numbers_of_scaled_gradients_are_divided_by_the_scale():
    step = pending([24.0, 32.0], clippings=[Clipping(max_norm=8.0, coefficient=0.2), Clipping(clip_value=16.0)])
    step.unscale(torch.tensor(8.0))
    record = recorded(step)
    assert record.total_norm == pytest.approx(5.0)
    assert record.layers.abs_max.tolist() == pytest.approx([4.0])
    assert (record.max_norm, record.clip_value, record.clip_coef) == pytest.approx((1.0, 2.0, 0.2))
    assert record.clip_fault == "before-unscale"


@pytest.mark.parametrize(("scale", "fault"), [(8.0, "before-unscale"), (1.0, "micro-batch")])
def test_clipping_before_unscaling_is_a_fault_unless_the_scale_is_one(scale, fault):
    step = pending([3.0], clippings=[Clipping(max_norm=1.0, coefficient=0.3)], clip_fault="micro-batch")
    step.unscale(torch.tensor(scale))
    assert recorded(step).clip_fault == fault


def test_unscaling_keeps_the_scale_as_it_was():
    scale = torch.tensor(8.0)
    step = pending([24.0])
    step.unscale(scale)
    scale.mul_(2)  # the scaler grows
    assert recorded(step).total_norm == pytest.approx(3.0)


def test_bringing_numbers_to_the_host_changes_none_that_are_there():
    step = pending([3.0], losses=[torch.tensor(2.0)], clippings=[Clipping(max_norm=1.0, coefficient=torch.tensor(0.5))])
    step.to_host()
    record = recorded(step)
    assert (record.loss, record.clip_coef, record.max_norm) == (2.0, 0.5, 1.0)


# ----------------------------------------------------------------------------------- small helpers


@pytest.mark.parametrize("loss", [2, 2.0, np.float32(2), torch.tensor(2.0), torch.tensor([[2.0]]), torch.tensor(2)])
def test_a_number_is_a_loss(loss):
    assert float(loss_value(loss)) == 2.0


@pytest.mark.parametrize("loss", ["2", b"2", None, [2.0], torch.ones(2), torch.tensor(2j), torch.ones(0)])
def test_anything_else_is_none(loss):
    with pytest.raises(BadArgument, match="Not recorded"):
        loss_value(loss)


def test_a_loss_that_the_loop_changes_later_stays_as_it_was():
    loss = torch.tensor(2.0)
    kept = loss_value(loss)
    loss.zero_()
    assert float(kept) == 2.0


def test_learning_rates_are_those_of_each_group_that_has_one():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [parameters[0]], "lr": 0.1}, {"params": [parameters[1]], "lr": torch.tensor(0.5)}]
    optimizer = torch.optim.Adam(groups, foreach=False)
    assert learning_rates_of(optimizer) == pytest.approx((0.1, 0.5))
    del optimizer.param_groups[0]["lr"]
    assert learning_rates_of(optimizer) == pytest.approx((0.5,))


def test_the_rate_of_a_group_without_parameters_is_left_out():
    optimizer = torch.optim.SGD([{"params": [], "lr": 5.0}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}])
    assert learning_rates_of(optimizer) == (0.1,)


def test_versions_tell_of_every_change_in_place():
    gradient = torch.ones(2)
    before = versions_of([gradient, None])
    assert versions_of([gradient, None]) == before
    gradient.mul_(0.5)
    assert versions_of([gradient, None]) != before
