"""What one optimizer's tracker records of a sequence of calls, without any training.

Each row of the tables spells a loop and the records it should leave; the words are those of `docs/glossary.md`.
A loss is ten times the gradient that it makes unless another is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from gradwatch.clip import NormClip, ValueClip

from .sequences import (
    Evaluates,
    Loop,
    Operation,
    Stop,
    add_to_gradient,
    assert_records,
    backward,
    backward_of,
    backward_of_another_model,
    backward_that_raises,
    clip_norm,
    clip_norm_or_raise,
    clip_nothing,
    clip_stranger,
    clip_value,
    clipped,
    do,
    expect_error,
    flush,
    log,
    loss_of,
    model_zero_grad,
    perturb,
    play,
    rec,
    scaler_step,
    step,
    step_with,
    stop,
    unscale,
    update,
    zero_grad,
)

INF, NAN = math.inf, math.nan


@dataclass(frozen=True, slots=True)
class Row:
    """A loop, and the records expected of its optimizers."""

    what: str
    operations: Sequence[Operation]
    expected: Sequence[dict[str, Any]]
    also: dict[str, Sequence[dict[str, Any]]] = field(default_factory=dict)  # of further optimizers
    setting: dict[str, Any] = field(default_factory=dict)


def rows(*table: Row) -> Any:
    assert len({row.what for row in table}) == len(table)
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in table])


def check(row: Row) -> None:
    found = play(row.operations, **row.setting)
    first, *others = found
    assert_records(found[first], row.expected)
    assert sorted(others) == sorted(row.also)
    for name in others:
        assert_records(found[name], row.also[name])


# ----------------------------------------------------------------------------------- a step, a clip


@rows(
    Row("a step", [backward(3), step()], [rec(3, 30)]),
    Row("three steps", [backward(3), step(), zero_grad()] * 3, [rec(3, 30)] * 3),
    Row("gradients to zero in place", [backward(3), step(), zero_grad(set_to_none=False)] * 2, [rec(3, 30)] * 2),
    Row("zero_grad first", [zero_grad(), backward(3), step()] * 2, [rec(3, 30)] * 2),
    Row("zero_grad of the model", [backward(3), step(), model_zero_grad()] * 2, [rec(3, 30)] * 2),
    Row("micro-batches add up", [backward(1), backward(2), step()], [rec(3, 30)]),
    Row("micro-batches that cancel", [backward(3), backward(-3), step()], [rec(0, 0)]),
    Row("zero_grad never", [backward(3), step(), backward(4), step()], [rec(3, 30), rec(7, 40)]),
    Row("a gradient of zero", [backward(0), step()], [rec(0, 0)]),
    Row("a tiny gradient", [backward(1e-30), step()], [rec(1e-30, 1e-29)]),
    Row("a huge gradient", [backward(1e30), step()], [rec(1e30, 1e31)]),
    Row("a NaN", [backward(NAN), step()], [rec(NAN, NAN)]),
    Row("an infinity", [backward(INF, loss=7), step()], [rec(INF, 7)]),
    Row("two weights", [backward_of({"a": 3, "b": 4}, loss=1), step()], [rec(5, 1, norms={"a": 3, "b": 4})],
        setting={"optimizers": {"0": "ab"}}),
    Row("one of two weights has a gradient", [backward(3, of="b"), step()], [rec(3, 30, norms={"a": NAN, "b": 3})],
        setting={"optimizers": {"0": "ab"}}),
    Row("every second step", [backward(3), step(), zero_grad()] * 4, [rec(3, 30, step=0), rec(3, 30, step=2)],
        setting={"every": 2}),
)  # fmt: skip
def test_steps(row):
    check(row)


@rows(
    Row("by norm", [backward(3), clip_norm(1), step()], [clipped(3, to=1, loss=30)]),
    Row("by norm, in vain", [backward(3), clip_norm(5), step()], [clipped(3, to=5, loss=30)]),
    Row("by norm, to nothing", [backward(3), clip_norm(0), step()], [rec(3, 30, max_norm=0, clip_coef=0)]),
    Row("by norm, without bound", [backward(3), clip_norm(INF), step()], [rec(3, 30, max_norm=INF)]),
    Row("by norm, of a NaN", [backward(NAN, 7), clip_norm(1), step()], [rec(NAN, 7, max_norm=1, clip_coef=NAN)]),
    Row("by norm, of an infinity", [backward(INF, 7), clip_norm(1), step()], [rec(INF, 7, max_norm=1, clip_coef=0)]),
    Row("by value", [backward(3), clip_value(1), step()], [rec(3, 30, clip_value=1, cut_entries=1)]),
    Row("by value, in vain", [backward(3), clip_value(5), step()], [rec(3, 30, clip_value=5, cut_entries=0)]),
    Row("by value and then by norm", [backward(3), clip_value(2), clip_norm(1), step()],
        [rec(3, 30, clip_value=2, cut_entries=1, max_norm=1, clip_coef=1 / (2 + 1e-6))]),
    Row("by norm and then by value", [backward(3), clip_norm(2), clip_value(1), step()],
        [clipped(3, to=2, loss=30, clip_value=1, cut_entries=1)]),
    Row("twice by norm: the strongest counts", [backward(3), clip_norm(2), clip_norm(1), step()],
        [rec(3, 30, max_norm=1, clip_coef=1 / (2 + 1e-6))]),
    Row("twice by value: the smallest threshold", [backward(3), clip_value(1), clip_value(2), step()],
        [rec(3, 30, clip_value=1, cut_entries=1)]),
    Row("by another norm", [backward_of({"a": 3, "b": 4}, 1), clip_norm(2, norm_type=INF), step()],
        [rec(5, 1, max_norm=2, clip_coef=2 / (4 + 1e-6))], setting={"optimizers": {"0": "ab"}}),
    Row("each weight by a call of its own", [backward_of({"a": 3, "b": 4}, 1), clip_norm(1, "a"), clip_norm(1, "b"),
        step()],
        [rec(5, 1, max_norm=1, clip_coef=1 / (4 + 1e-6))], setting={"optimizers": {"0": "ab"}}),
    Row("each weight by a call of its own, one has no gradient", [backward(4, of="b"), clip_norm(1, "a"),
        clip_norm(1, "b"), step()], [clipped(4, to=1, loss=40)], setting={"optimizers": {"0": "ab"}}),
    Row("one weight of two", [backward_of({"a": 3, "b": 4}, 1), clip_norm(1, "a"), step()],
        [rec(5, 1, max_norm=1, clip_coef=1 / (3 + 1e-6), clip_fault="part")],
        setting={"optimizers": {"0": "ab"}}),
    Row("after accumulating", [backward(1), backward(2), clip_norm(1), step()], [clipped(3, to=1, loss=30)]),
    Row("and then noise is added", [backward(3), clip_norm(1), add_to_gradient(5), step()], [rec(6, 30)]),
    Row("after the script scaled by itself", [backward(3), add_to_gradient(1), clip_norm(1), step()],
        [clipped(4, to=1, loss=30)]),
    Row("by a policy", [backward(3), step()], [clipped(3, to=1, loss=30)], setting={"clip": NormClip(1.0)}),
    Row("by a policy by value", [backward(3), step()], [rec(3, 30, clip_value=1, cut_entries=1)],
        setting={"clip": ValueClip(1.0)}),
    Row("by the loop and then by a policy", [backward(3), clip_norm(2), step()],
        [rec(3, 30, max_norm=1, clip_coef=1 / (2 + 1e-6))], setting={"clip": NormClip(1.0)}),
    Row("every second step", [backward(3), clip_norm(1), step(), zero_grad()] * 3,
        [clipped(3, 1, 30, step=0), clipped(3, 1, 30, step=2)], setting={"every": 2}),
)  # fmt: skip
def test_clipping(row):
    check(row)


@rows(
    Row("before the backward", [clip_norm(1), backward(3), step()], [rec(3, 30, clip_fault="before-backward")]),
    Row("before the backward, onto zeros", [backward(4), step(), zero_grad(False), clip_norm(1), backward(3), step()],
        [rec(4, 40), rec(3, 30, clip_fault="before-backward")]),
    Row("before the last of two backwards", [backward(3), clip_norm(1), backward(3), step()],
        [rec(1 + 3, 60, clip_fault="before-backward")]),
    Row("at every micro-batch", [backward(3), clip_norm(1), backward(3), clip_norm(1), step()],
        [clipped(1 + 3, to=1, loss=60, clip_fault="micro-batch")]),
    Row("by value at every micro-batch", [backward(3), clip_value(1), backward(3), clip_value(1), step()],
        [rec(1 + 3, 60, clip_value=1, cut_entries=1, clip_fault="micro-batch")]),
    Row("after the step", [backward(3), step(), clip_norm(1)], [rec(3, 30, clip_fault="after-step")]),
    Row("after every step", [backward(3), step(), clip_norm(1), zero_grad()] * 2,
        [rec(3, 30, clip_fault="after-step")] * 2),
    Row("before and after the step", [backward(3), clip_norm(1), step(), clip_norm(1), zero_grad()] * 2,
        [clipped(3, to=1, loss=30)] * 2),
    Row("of another model", [backward(3), clip_stranger(1), step()], [rec(3, 30, clip_fault="other-parameters")]),
    Row("of another model, and of this one", [backward(3), clip_stranger(1), clip_norm(1), step()],
        [clipped(3, to=1, loss=30)]),
    Row("of another model that has gradients", [backward_of_another_model(1), backward(3), clip_stranger(1), step()],
        [rec(3, 30)]),
    Row("of no parameters", [backward(3), clip_nothing(1), step()], [rec(3, 30, clip_fault="no-parameters")]),
    Row("of a weight without gradient", [backward(3, of="a"), clip_norm(1, "b"), step()],
        [rec(3, 30, clip_fault="no-gradients")], setting={"optimizers": {"0": "ab"}}),
    Row("before a closure", [backward(3), clip_norm(1), step_with([zero_grad(), backward(4)])],
        [rec(4, 40, clip_fault="before-backward")]),
)  # fmt: skip
def test_clipping_that_does_not_reach_the_optimizer(row):
    check(row)


# ------------------------------------------------------------------------------ batches left out


def step_if_finite(gradient: float) -> list[Operation]:
    """A batch whose update is left out if the norm that the clip call returns is not finite."""

    def call(loop: Loop) -> None:
        if torch.isfinite(nn.utils.clip_grad_norm_(loop.weights(""), 1)):
            loop.optimizer.step()

    return [backward(gradient), call, zero_grad()]


def zero_grad_unless_finite() -> Operation:
    def call(loop: Loop) -> None:
        if not all(torch.isfinite(w.grad) for w in loop.weights("") if w.grad is not None):
            loop.optimizer.zero_grad()

    return call


def clip_norm_if_there(max_norm: float) -> Operation:
    """A clip call, unless the gradients were let go of."""

    def call(loop: Loop) -> None:
        if loop.model["w"].grad is not None:
            clip_norm(max_norm)(loop)

    return call


def backward_if_finite(gradient: float) -> Operation:
    def call(loop: Loop) -> None:
        loss = loss_of(loop, {"w": gradient}, 10 * gradient)
        if torch.isfinite(loss):
            loss.backward()

    return call


@rows(
    Row("after clipping", [backward(30), clip_norm(1), zero_grad(), backward(3), clip_norm(1), step()],
        [clipped(30, 1, 300, skipped=True), clipped(3, 1, 30)]),
    Row("after clipping, zeros in place", [backward(30), clip_norm(1), zero_grad(False), backward(3), clip_norm(1),
        step()],
        [clipped(30, 1, 300, skipped=True), clipped(3, 1, 30)]),
    Row("after clipping by value", [backward(30), clip_value(1), zero_grad(), backward(3), clip_value(1), step()],
        [rec(30, 300, clip_value=1, cut_entries=1, skipped=True), rec(3, 30, clip_value=1, cut_entries=1)]),
    Row("after clipping, the next is not clipped", [backward(30), clip_norm(1), zero_grad(), backward(3), step()],
        [clipped(30, 1, 300, skipped=True), rec(3, 30)]),
    Row("two in a row", [*[backward(30), clip_norm(1), zero_grad()] * 2, backward(3), clip_norm(1), step()],
        [*[clipped(30, 1, 300, skipped=True)] * 2, clipped(3, 1, 30)]),
    Row("the step is made without gradients", [backward(30), clip_norm(1), zero_grad(), step(), backward(3), step()],
        [clipped(30, 1, 300, skipped=True), rec(3, 30)]),
    Row("between two steps", [backward(3), step(), zero_grad(), backward(30), clip_norm(9), zero_grad(), backward(4),
        step()],
        [rec(3, 30), clipped(30, 9, 300, skipped=True), rec(4, 40)]),
    Row("before clipping", [backward(30), zero_grad(), backward(3), clip_norm(1), step()], [clipped(3, 1, 30)]),
    Row("before clipping, zeros in place", [backward(30), zero_grad(False), backward(3), clip_norm(1), step()],
        [clipped(3, 1, 30)]),
    Row("before clipping, by the model's zero_grad", [backward(30), model_zero_grad(), backward(3), clip_norm(1),
        step()],
        [clipped(3, 1, 30)]),
    Row("not clipped at all", [backward(INF, 7), zero_grad(), backward(3), step()], [rec(3, 30)]),
    Row("a NaN loss, not clipped at all", [backward(NAN), zero_grad(), backward(3), step()], [rec(3, 30)]),
    Row("not by zero_grad but by hand", [backward(30), do(lambda loop: setattr(loop.model["w"], "grad", None)),
        backward(3), step()],
        [rec(3, 30)]),
    Row("torch refuses its norm", [backward(INF, 7), clip_norm_or_raise(1), zero_grad(), backward(3),
        clip_norm_or_raise(1), step()],
        [rec(INF, 7, skipped=True), clipped(3, 1, 30)]),
    Row("by a finite check of the norm, NaN", [*step_if_finite(NAN), *step_if_finite(3)],
        [rec(NAN, NAN, max_norm=1, clip_coef=NAN, skipped=True), clipped(3, 1, 30)]),
    Row("by a finite check of the norm, an infinity at every second", [*step_if_finite(INF), *step_if_finite(3)] * 2,
        [rec(INF, INF, max_norm=1, clip_coef=0, skipped=True), clipped(3, 1, 30)] * 2),
    Row("by a finite check of the norm, at the end", [*step_if_finite(3), *step_if_finite(NAN)],
        [clipped(3, 1, 30), rec(NAN, NAN, max_norm=1, clip_coef=NAN, skipped=True)]),
    Row("by a finite check of the gradients, before clipping", [backward(INF, 7), zero_grad_unless_finite(),
        clip_norm_if_there(1), backward(3), clip_norm_if_there(1), step()], [clipped(3, 1, 30)]),
    Row("by a finite check of the loss, before its backward", [backward_if_finite(NAN), backward_if_finite(3),
        clip_norm(1), step(), zero_grad(), backward_if_finite(INF), backward_if_finite(4), clip_norm(1), step()],
        [clipped(3, 1, 30), clipped(4, 1, 40)]),
    Row("by an exception in the backward", [backward_that_raises(30), zero_grad(), backward(3), step()], [rec(3, 30)]),
    Row("by an exception before clipping", [backward(30), expect_error(Stop, stop()), zero_grad(), backward(3),
        clip_norm(1), step()],
        [clipped(3, 1, 30)]),
    Row("by an exception after clipping", [backward(30), clip_norm(1), expect_error(Stop, stop()), zero_grad(),
        backward(3), clip_norm(1), step()],
        [clipped(30, 1, 300, skipped=True), clipped(3, 1, 30)]),
    Row("of one of two micro-batches", [backward(30), zero_grad(), backward(1), backward(2), step()], [rec(3, 30)]),
    Row("kept, and more added to it", [backward(30), clip_norm(1), backward(3), clip_norm(1), step()],
        [clipped(1 + 3, 1, 330, clip_fault="micro-batch")]),
    Row("with losses logged", [backward(30), clip_norm(1), log(5), zero_grad(), backward(3), clip_norm(1), log(6),
        step()],
        [clipped(30, 1, 5, skipped=True), clipped(3, 1, 6)]),
    Row("unscaled", [backward(30), unscale(), clip_norm(1), update(), zero_grad(), backward(3), unscale(), clip_norm(1),
        scaler_step(), update()],
        [clipped(30, 1, 300, skipped=True, loss_scale=8), clipped(3, 1, 30, loss_scale=8)], setting={"loss_scale": 8}),
    Row("the next is left out by a policy", [backward(30), clip_norm(1), zero_grad(), backward(NAN), step(),
        zero_grad(), backward(3), step()],
        [clipped(30, 1, 300, skipped=True), rec(NAN, NAN, skipped=True), rec(3, 30)], setting={"skip_nonfinite": True}),
)  # fmt: skip
def test_a_batch_left_out(row):
    check(row)


@rows(
    Row("nothing at all", [], []),
    Row("a backward", [backward(3), step(), zero_grad(), backward(4)], [rec(3, 30)]),
    Row("a clip call", [backward(3), step(), zero_grad(), backward(4), clip_norm(1)],
        [rec(3, 30), clipped(4, 1, 40, skipped=True)]),
    Row("a clip call and zero_grad", [backward(4), clip_norm(1), zero_grad()],
        [clipped(4, 1, 40, skipped=True)]),
    Row("an exception after a backward", [backward(3), step(), zero_grad(), backward(4), stop()], [rec(3, 30)]),
    Row("an exception after a clip call", [backward(3), step(), zero_grad(), backward(4), clip_norm(1), stop()],
        [rec(3, 30), clipped(4, 1, 40, skipped=True)]),
    Row("an exception after the step", [backward(3), clip_norm(1), step(), stop()], [clipped(3, 1, 30)]),
    Row("two exceptions", [backward(3), clip_norm(1), stop(), stop()], [clipped(3, 1, 30, skipped=True)]),
)  # fmt: skip
def test_the_end_of_the_loop(row):
    check(row)


# -------------------------------------------------------------------------------------- closures

THRICE = [[zero_grad(), backward(g), clip_norm(1)] for g in (3, 4, 5)]


@rows(
    Row("evaluated once", [step_with([zero_grad(), backward(3)])] * 2, [rec(3, 30)] * 2),
    Row("evaluated three times: the last gradient, the first loss", [step_with(*[[zero_grad(), backward(g)] for g in (3,
        4, 5)])],
        [rec(5, 30)], setting={"make": Evaluates}),
    Row("that clips", [step_with([zero_grad(), backward(3), clip_norm(1)])] * 2, [clipped(3, 1, 30)] * 2),
    Row("that clips by value", [step_with([zero_grad(), backward(3), clip_value(1)])], [rec(3, 30, clip_value=1,
        cut_entries=1)]),
    Row("that clips, evaluated three times", [step_with(*THRICE)] * 2, [clipped(5, 1, 30)] * 2,
        setting={"make": Evaluates}),
    Row("that clips, zeros in place", [step_with(*[[zero_grad(False), *operations[1:]] for operations in THRICE])],
        [clipped(5, 1, 30)],
        setting={"make": Evaluates}),
    Row("that sums micro-batches and clips", [step_with([zero_grad(), backward(1), backward(2), clip_norm(1)])],
        [clipped(3, 1, 30)]),
    Row("that calls no backward: clipped before", [backward(3), clip_norm(1), step_with([])], [clipped(3, 1, 30)]),
    Row("that calls no backward: not clipped", [backward(3), step_with([])], [rec(3, 30)]),
    Row("after a backward whose gradient it drops", [backward(3), step_with([zero_grad(), backward(4)])], [rec(4, 40)]),
    Row("after a backward to which it adds", [backward(3), step_with([backward(4)])], [rec(7, 70)]),
    Row("that clips, after a clip call that found nothing: of no concern to the next step",
        [clip_norm(1), step_with([zero_grad(), backward(3), clip_norm(1)]), zero_grad(), backward(4), step()],
        [clipped(3, 1, 30), rec(4, 40)]),
    Row("that raises before its backward", [expect_error(Stop, step_with([zero_grad(), stop()])),
        step_with([zero_grad(), backward(3)])],
        [rec(3, 30)]),
    Row("that raises after its backward", [expect_error(Stop, step_with([zero_grad(), backward(30), stop()])),
        step_with([zero_grad(), backward(3)])],
        [rec(3, 30)]),
    Row("that raises after clipping",
        [expect_error(Stop, step_with([zero_grad(), backward(30), clip_norm(1), stop()])), step_with([zero_grad(),
        backward(3), clip_norm(1)])],
        [clipped(30, 1, 300, skipped=True), clipped(3, 1, 30)]),
    Row("with a policy that is told when", [step_with([zero_grad(), backward(3),
        do(lambda loop: loop.watch.gradients_ready(loop.optimizer))])] * 2,
        [clipped(3, 1, 30)] * 2, setting={"clip": NormClip(1.0)}),
    Row("with a policy that is told when, evaluated three times",
        [step_with(*[[zero_grad(), backward(g),
        do(lambda loop: loop.watch.gradients_ready(loop.optimizer))] for g in (3, 4, 5)])],
        [clipped(5, 1, 30)], setting={"clip": NormClip(1.0), "make": Evaluates}),
    Row("and its loss logged afterwards", [step_with([zero_grad(), backward(3)]), log(5)] * 2, [rec(3, 5)] * 2),
    Row("that logs its loss", [step_with([zero_grad(), backward(3), log(5)])] * 2, [rec(3, 5)] * 2),
    Row("every second step", [step_with([zero_grad(), backward(3), clip_norm(1)])] * 3, [clipped(3, 1, 30, step=0),
        clipped(3, 1, 30, step=2)],
        setting={"every": 2}),
)  # fmt: skip
def test_a_closure(row):
    check(row)


# ---------------------------------------------------------------- two backward passes an update


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation as its public implementations shape it: a wrapper around a base optimizer."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any) -> None:
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


def first_step() -> Operation:
    return lambda loop: loop.optimizer.first_step()


def second_step() -> Operation:
    return lambda loop: loop.optimizer.second_step()


@rows(
    Row("by hand", [backward(3), perturb(0.1), zero_grad(), backward(4), perturb(-0.1), step(), zero_grad()] * 2,
        [rec(4, 40)] * 2),
    Row("by hand, clipped in both", [backward(3), clip_norm(1), perturb(0.1), zero_grad(), backward(4), clip_norm(1),
        perturb(-0.1), step(), zero_grad()] * 2,
        [clipped(4, 1, 40)] * 2),
    Row("by hand, zeros in place", [backward(3), clip_norm(1), perturb(0.1), zero_grad(False), backward(4),
        clip_norm(1), perturb(-0.1), step(), zero_grad(False)] * 2,
        [clipped(4, 1, 40)] * 2),
    Row("by hand, clipped in the second", [backward(3), perturb(0.1), zero_grad(), backward(4), clip_norm(1),
        perturb(-0.1), step(), zero_grad()] * 2,
        [clipped(4, 1, 40)] * 2),
    Row("by hand, clipped in the first", [backward(3), clip_norm(1), perturb(0.1), zero_grad(), backward(4),
        perturb(-0.1), step(), zero_grad()] * 2,
        [rec(4, 40)] * 2),
    Row("first_step and second_step", [backward(3), first_step(), backward(4), second_step()] * 2, [rec(4, 40)] * 2,
        setting={"make": Sam}),
    Row("first_step and second_step, clipped in both",
        [backward(3), clip_norm(1), first_step(), backward(4), clip_norm(1), second_step()] * 2,
        [clipped(4, 1, 40)] * 2, setting={"make": Sam}),
    Row("a closure", [backward(3), step_with([backward(4)])] * 2, [rec(4, 40)] * 2, setting={"make": Sam}),
    Row("a closure, clipped in both", [backward(3), clip_norm(1), step_with([backward(4), clip_norm(1)])] * 2,
        [clipped(4, 1, 40)] * 2, setting={"make": Sam}),
    Row("the base optimizer is watched", [backward(3), first_step(), backward(4), second_step()] * 2, [rec(4, 40)] * 2,
        setting={"make": lambda parameters: Based(parameters)}),
)  # fmt: skip
def test_two_backward_passes_an_update(row):
    check(row)


class Based:
    """Hands gradwatch the base optimizer of a `Sam`, and the loop the wrapper."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.sam = Sam(parameters)
        self.optimizer = self.sam.base_optimizer
        self.first_step, self.second_step = self.sam.first_step, self.sam.second_step


# ------------------------------------------------------------------------ optimizers in optimizers


class Lookahead(torch.optim.Optimizer):
    """Steps the optimizer inside and moves the weights towards it every second step."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.inner = torch.optim.SGD(parameters, lr=0.1)
        self.param_groups = self.inner.param_groups

    def step(self, closure: Any = None) -> None:
        self.inner.step()


class Subclass(torch.optim.SGD):
    """Does something of its own around the step of the class that it extends."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, lr=0.1)

    def step(self, closure: Any = None) -> None:
        super().step()


class Schedule:
    """A schedule around an optimizer, as the original Transformer has it; no optimizer itself."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.optimizer = torch.optim.SGD(parameters, lr=0.1)

    def step(self) -> None:
        self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class Delegating(torch.optim.Optimizer):
    """An optimizer whose `step` is called through the one inside, as Accelerate's is."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.optimizer = torch.optim.SGD(parameters, lr=0.1)

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> None:
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


WRAPPED = [backward(3), clip_norm(1), step(), zero_grad()] * 2


@rows(
    Row("whose step steps the one inside", WRAPPED, [clipped(3, 1, 30)] * 2, setting={"make": Lookahead}),
    Row("that is a subclass and steps its base", WRAPPED, [clipped(3, 1, 30)] * 2, setting={"make": Subclass}),
    Row("a schedule that is no optimizer", WRAPPED, [clipped(3, 1, 30)] * 2, setting={"make": Schedule}),
    Row("that delegates", WRAPPED, [clipped(3, 1, 30)] * 2, setting={"make": Delegating}),
    Row("of which only the one inside is stepped", [backward(3), do(lambda loop: loop.optimizer.inner.step()),
        zero_grad()] * 2,
        [rec(3, 30)] * 2, setting={"make": Lookahead}),
)  # fmt: skip
def test_an_optimizer_around_another(row):
    check(row)


# ------------------------------------------------------------------------- steps without backward


@rows(
    Row("no gradient was ever there", [step()], [rec(0)]),
    Row("gradients were let go of", [backward(3), step(), zero_grad(), step()], [rec(3, 30), rec(0)]),
    Row("gradients were set to zero", [backward(3), step(), zero_grad(False), step()], [rec(3, 30), rec(0)]),
    Row("the gradients of before are consumed again", [backward(3), step(), step()], [rec(3, 30), rec(3)]),
    Row("the clipped gradients of before are consumed again", [backward(3), clip_norm(1), step(), step()],
        [clipped(3, 1, 30), rec(1 / (3 + 1e-6) * 3)]),
    Row("gradients were written by the script", [do(lambda loop: setattr(loop.model["w"], "grad", torch.full((1,), 3.0,
        dtype=torch.float64))), clip_norm(1), step()],
        [clipped(3, 1)]),
    Row("a backward of another model", [backward(3), step(), zero_grad(), backward_of_another_model(9), step()], [rec(3,
        30), rec(0)]),
)  # fmt: skip
def test_a_step_without_backward(row):
    check(row)


# ------------------------------------------------------------------------------------ loss scaling

SCALED = {"loss_scale": 8}
MIXED = {"optimizers": {"0": "a", "1": "b"}, "loss_scale": 8}
FAULT = {"max_norm": 1 / 8, "clip_coef": 1 / (24 + 1e-6), "clip_fault": "before-unscale"}


@rows(
    Row("a step", [backward(3), scaler_step(), update(), zero_grad()] * 2, [rec(3, 30, loss_scale=8)] * 2,
        setting=SCALED),
    Row("unscaled", [backward(3), unscale(), scaler_step(), update()], [rec(3, 30, loss_scale=8)], setting=SCALED),
    Row("unscaled and clipped", [backward(3), unscale(), clip_norm(1), scaler_step(), update(), zero_grad()] * 2,
        [clipped(3, 1, 30, loss_scale=8)] * 2, setting=SCALED),
    Row("unscaled and clipped by value", [backward(3), unscale(), clip_value(1), scaler_step(), update()],
        [rec(3, 30, clip_value=1, cut_entries=1, loss_scale=8)], setting=SCALED),
    Row("clipped and not unscaled", [backward(3), clip_norm(1), scaler_step(), update(), zero_grad()] * 2,
        [rec(3, 30, loss_scale=8, **FAULT)] * 2, setting=SCALED),
    Row("clipped and then unscaled", [backward(3), clip_norm(1), unscale(), scaler_step(), update()], [rec(3, 30,
        loss_scale=8, **FAULT)], setting=SCALED),
    Row("clipped, unscaled and clipped again", [backward(3), clip_norm(8), unscale(), clip_norm(0.5), scaler_step(),
        update()],
        [rec(3, 30, loss_scale=8, max_norm=1, clip_coef=8 / (24 + 1e-6), clip_fault="before-unscale")], setting=SCALED),
    Row("clipped by value and not unscaled", [backward(3), clip_value(1), scaler_step(), update()],
        [rec(3, 30, loss_scale=8, clip_value=1 / 8, cut_entries=1, clip_fault="before-unscale")], setting=SCALED),
    Row("a scale of one does no harm", [backward(3), clip_norm(1), scaler_step(), update()], [clipped(3, 1, 30,
        loss_scale=1)], setting={"loss_scale": 1}),
    Row("micro-batches, unscaled at the end", [backward(1), backward(2), unscale(), clip_norm(1), scaler_step(),
        update()],
        [clipped(3, 1, 30, loss_scale=8)], setting=SCALED),
    Row("unscaled twice, which torch refuses", [backward(3), unscale(), expect_error(RuntimeError, unscale()),
        clip_norm(1), scaler_step(), update()],
        [clipped(3, 1, 30, loss_scale=8)], setting=SCALED),
    Row("clipped after the step", [backward(3), scaler_step(), update(), clip_norm(1), zero_grad()], [rec(3, 30,
        loss_scale=8, clip_fault="after-step")], setting=SCALED),
    Row("an infinity", [backward(INF, 7), scaler_step(), update(), zero_grad(), backward(3), scaler_step(), update()],
        [rec(INF, 7, loss_scale=8, skipped=True), rec(3, 30, loss_scale=4)], setting=SCALED),
    Row("an infinity, unscaled", [backward(INF, 7), unscale(), scaler_step(), update(), zero_grad(), backward(3),
        unscale(), scaler_step(), update()],
        [rec(INF, 7, loss_scale=8, skipped=True), rec(3, 30, loss_scale=4)], setting=SCALED),
    Row("an infinity, unscaled and clipped", [backward(INF, 7), unscale(), clip_norm(1), scaler_step(), update()],
        [rec(INF, 7, loss_scale=8, skipped=True, max_norm=1, clip_coef=0)], setting=SCALED),
    Row("an infinity, clipped and not unscaled", [backward(INF, 7), clip_norm(1), scaler_step(), update()],
        [rec(INF, 7, loss_scale=8, skipped=True, max_norm=1 / 8, clip_coef=0, clip_fault="before-unscale")],
        setting=SCALED),
    Row("an infinity, clipped after the step", [backward(INF, 7), scaler_step(), update(), clip_norm(1), zero_grad()],
        [rec(INF, 7, loss_scale=8, skipped=True, clip_fault="after-step")], setting=SCALED),
    Row("a NaN", [backward(NAN), scaler_step(), update()], [rec(NAN, NAN, loss_scale=8, skipped=True)], setting=SCALED),
    Row("losses logged", [backward(3), scaler_step(), update(), log(5), zero_grad()] * 2, [rec(3, 5, loss_scale=8)] * 2,
        setting=SCALED),
    Row("losses logged, an infinity", [backward(INF, 7), scaler_step(), update(), log(5), zero_grad(), backward(3),
        scaler_step(), update(), log(6)],
        [rec(INF, 5, loss_scale=8, skipped=True), rec(3, 6, loss_scale=4)], setting=SCALED),
    Row("every second step, an infinity", [backward(INF, 7), scaler_step(), update(), zero_grad()] * 3,
        [rec(INF, 7, loss_scale=8, skipped=True, step=0), rec(INF, 7, loss_scale=2, skipped=True, step=2)],
        setting=SCALED | {"every": 2}),
    Row("two optimizers, an infinity for one", [backward_of({"a": INF, "b": 4}, 7), scaler_step("0"), scaler_step("1"),
        update()],
        [rec(INF, 7, loss_scale=8, skipped=True)], {"1": [rec(4, 7, loss_scale=8)]}, MIXED),
    Row("two optimizers, one unscaled and clipped", [backward_of({"a": 3, "b": 4}, 7), unscale("0"), clip_norm(1, "a"),
        scaler_step("0"), scaler_step("1"), update()],
        [clipped(3, 1, 7, loss_scale=8)], {"1": [rec(4, 7, loss_scale=8)]}, MIXED),
    Row("a policy", [backward(3), unscale(), scaler_step(), update()], [clipped(3, 1, 30, loss_scale=8)],
        setting=SCALED | {"clip": NormClip(1.0)}),
    Row("a policy, not unscaled: torch does it before the step", [backward(3), scaler_step(), update()], [clipped(3, 1,
        30, loss_scale=8)],
        setting=SCALED | {"clip": NormClip(1.0)}),
)  # fmt: skip
def test_a_grad_scaler(row):
    check(row)


# ----------------------------------------------------------------------------------------- losses


@rows(
    Row("logged after the step", [backward(3), step(), log(5), zero_grad()] * 2, [rec(3, 5)] * 2),
    Row("logged before the step", [backward(3), log(5), step(), zero_grad()] * 2, [rec(3, 5)] * 2),
    Row("logged before the backward", [log(5), backward(3), step(), zero_grad()] * 2, [rec(3, 5)] * 2),
    Row("logged twice: the mean", [backward(3), step(), log(5), log(7), zero_grad()] * 2, [rec(3, 6)] * 2),
    Row("logged at every micro-batch", [backward(1), log(5), backward(2), log(7), step(), zero_grad()] * 2, [rec(3,
        6)] * 2),
    Row("logged at some steps: at the others none", [backward(3), step(), log(5), zero_grad(), backward(3), step()],
        [rec(3, 5), rec(3)]),
    Row("logged from the second step on", [backward(3), step(), zero_grad(), backward(3), step(), log(5)], [rec(3, 30),
        rec(3, 5)]),
    Row("logged as NaN", [backward(3), step(), log(NAN)], [rec(3, NAN)]),
    Row("logged as infinite", [backward(3), step(), log(torch.tensor(INF))], [rec(3, INF)]),
    Row("logged as None: nothing was said", [backward(3), step(), log(None)], [rec(3, 30)]),
    Row("logged in vain: that of backward is not taken for it", [backward(3), step(), log("five")], [rec(3)]),
    Row("of no backward", [step_with([])], [rec(0)]),
    Row("several roots", [do(lambda loop: torch.autograd.backward([loss_of(loop, {"w": 1}, 10), loss_of(loop, {"w": 2},
        20)])), step()], [rec(3, 30)]),
    Row("a root that is no loss", [do(lambda loop: (loop.model["w"] * torch.ones(2)).backward(torch.ones(2))), step()],
        [rec(2)]),
    Row("a backward of another model", [backward(3), backward_of_another_model(9), step()], [rec(3, 30)]),
    Row("logged after the run was flushed", [backward(3), step(), flush(), log(5), zero_grad(), backward(4), step(),
        flush(), log(6)],
        [rec(3, 30), rec(4)]),
    Row("of a second run in the loop", [backward(3), step(), do(lambda loop: loop.watch.close()), backward(4), step()],
        [rec(3, 30)]),
)  # fmt: skip
def test_losses(row):
    check(row)


# ------------------------------------------------------------------------------------- parameters


def freeze(name: str, requires_grad: bool = False) -> Operation:
    return lambda loop: loop.model[name].requires_grad_(requires_grad)


def take_out(name: str) -> Operation:
    """The optimizer lets go of a weight."""

    def call(loop: Loop) -> None:
        (group,) = loop.optimizer.param_groups
        group["params"] = [p for p in group["params"] if p is not loop.model[name]]

    return call


def take_in(name: str) -> Operation:
    def call(loop: Loop) -> None:
        if name not in loop.model:
            loop.model[name] = nn.Parameter(torch.ones(1, dtype=torch.float64))
        loop.optimizer.add_param_group({"params": [loop.model[name]]})

    return call


def put_another_in_its_place(name: str) -> Operation:
    """As a resized embedding: another tensor of the same name, in the model and in the optimizer."""

    def call(loop: Loop) -> None:
        old = loop.model[name]
        loop.model[name] = nn.Parameter(torch.ones(2, dtype=torch.float64))
        (group,) = loop.optimizer.param_groups
        group["params"] = [loop.model[name] if p is old else p for p in group["params"]]

    return call


AB = {"optimizers": {"0": "ab"}}
BOTH = [backward_of({"a": 3, "b": 4}, 7), step(), zero_grad()]
BOTH_NORMS = rec(5, 7, norms={"a": 3, "b": 4})


@rows(
    Row("one is frozen", [*BOTH, freeze("b"), *BOTH], [BOTH_NORMS, rec(3, 7, norms={"a": 3, "b": NAN})], setting=AB),
    Row("one is frozen with its gradient still there", [backward_of({"a": 3, "b": 4}, 7), step(), zero_grad(False),
        freeze("b"), backward(3, of="ab"), step()],
        [BOTH_NORMS, rec(3, 30, norms={"a": 3, "b": 0})], setting=AB),
    Row("one is thawed", [freeze("b"), *BOTH, freeze("b", True), *BOTH], [rec(3, 7, norms={"a": 3, "b": NAN}),
        BOTH_NORMS], setting=AB),
    Row("all are frozen", [*BOTH, freeze("a"), freeze("b"), step()], [BOTH_NORMS, rec(0)], setting=AB),
    Row("one is added", [backward(3), step(), zero_grad(), take_in("v"), backward_of({"w": 3, "v": 4}, 7), step()],
        [rec(3, 30, norms={"w": 3}), rec(5, 7, norms={"w": 3, "v": 4})]),
    Row("one is added between backward and step", [backward(3), take_in("v"), step(), zero_grad(), backward_of({"w": 3,
        "v": 4}, 7), step()],
        [rec(3, 30, norms={"w": 3, "v": NAN}), rec(5, 7, norms={"w": 3, "v": 4})]),
    Row("one is added between clip and step", [backward(3), clip_norm(1), take_in("v"), step(), zero_grad(),
        backward_of({"w": 3, "v": 4}, 7), step()],
        [clipped(3, 1, 30), rec(5, 7, norms={"w": 3, "v": 4})]),
    Row("one is added between clip and step, and the weights are sampled", [backward(3), clip_norm(1), take_in("v"),
        step(), zero_grad(), backward_of({"w": 3, "v": 4}, 7), step()],
        [clipped(3, 1, 30), rec(5, 7, norms={"w": 3, "v": 4})], setting={"weights_every": 1, "updates_every": 1}),
    Row("one is added between steps, and clipped with the others", [backward(3), clip_norm(1), step(), zero_grad(),
        take_in("v"), backward_of({"w": 3}, 30), clip_norm(1), step()],
        [clipped(3, 1, 30), clipped(3, 1, 30)], setting={"weights_every": 1, "updates_every": 1}),
    Row("one is added between steps, and its gradient is clipped with the others", [backward(3), clip_norm(1), step(),
        zero_grad(), take_in("v"), backward_of({"w": 3, "v": 4}, 7), clip_norm(1), step()],
        [clipped(3, 1, 30), clipped(5, 1, 7, norms={"w": 3, "v": 4})]),
    Row("one is added between steps, and clipped alone", [backward(3), clip_norm(1), step(), zero_grad(),
        take_in("v"), backward_of({"w": 3, "v": 4}, 7), clip_norm(1, "v"), step()],
        [clipped(3, 1, 30), rec(5, 7, max_norm=1, clip_coef=1 / (4 + 1e-6), clip_fault="part",
            norms={"w": 3, "v": 4})]),
    Row("one is taken out", [*BOTH, take_out("b"), backward_of({"a": 3, "b": 4}, 7), step()], [BOTH_NORMS, rec(3, 7,
        norms={"a": 3, "b": NAN})],
        setting=AB),
    Row("one is taken out and clipped with the others", [*BOTH, take_out("b"), backward_of({"a": 3, "b": 4}, 7),
        clip_norm(1), step()],
        [BOTH_NORMS, rec(3, 7, max_norm=1, clip_coef=1 / (5 + 1e-6), norms={"a": 3, "b": NAN})], setting=AB),
    Row("one is taken out and taken in again", [*BOTH, take_out("b"), *BOTH,
        do(lambda loop: setattr(loop.model["b"], "grad", None)), take_in("b"), *BOTH],
        [BOTH_NORMS, rec(3, 7, norms={"a": 3, "b": NAN}), BOTH_NORMS], setting=AB),
    Row("one is replaced", [*BOTH, put_another_in_its_place("b"), backward_of({"a": 3, "b": 4}, 7), step()],
        [BOTH_NORMS, rec(math.sqrt(9 + 16 + 16), 7, norms={"a": 3, "b": math.sqrt(32)})], setting=AB),
    Row("clipped, one is frozen", [backward_of({"a": 3, "b": 4}, 7), clip_norm(1), step(), zero_grad(), freeze("b"),
        backward(3, of="ab"), clip_norm(1), step()],
        [clipped(5, 1, 7), clipped(3, 1, 30)], setting=AB),
)  # fmt: skip
def test_parameters_that_come_and_go(row):
    check(row)


# -------------------------------------------------------------------------------- two optimizers

TWO = {"optimizers": {"0": "a", "1": "b"}}
A3B4 = backward_of({"a": 3, "b": 4}, 7)


@rows(
    Row("share a loss", [A3B4, step("0"), step("1"), zero_grad()] * 2, [rec(3, 7)] * 2, {"1": [rec(4, 7)] * 2}, TWO),
    Row("one is clipped", [A3B4, clip_norm(1, "a"), step("0"), step("1")], [clipped(3, 1, 7)], {"1": [rec(4, 7)]}, TWO),
    Row("are clipped together", [A3B4, clip_norm(1), step("0"), step("1")],
        [rec(3, 7, max_norm=1, clip_coef=1 / (5 + 1e-6))], {"1": [rec(4, 7, max_norm=1, clip_coef=1 / (5 + 1e-6))]},
        TWO),
    Row("are clipped together by value", [A3B4, clip_value(3.5), step("0"), step("1")],
        [rec(3, 7, clip_value=3.5, cut_entries=0)], {"1": [rec(4, 7, clip_value=3.5, cut_entries=1)]}, TWO),
    Row("are left out together", [A3B4, clip_norm(1), zero_grad(), A3B4, clip_norm(1), step("0"), step("1")],
        [rec(3, 7, max_norm=1, clip_coef=1 / (5 + 1e-6), skipped=True), rec(3, 7, max_norm=1,
        clip_coef=1 / (5 + 1e-6))],
        {"1": [rec(4, 7, max_norm=1, clip_coef=1 / (5 + 1e-6), skipped=True), rec(4, 7, max_norm=1,
        clip_coef=1 / (5 + 1e-6))]}, TWO),
    Row("take turns with losses of their own", [backward(3, of="a"), step("0"), zero_grad(), backward(4, of="b"),
        step("1"), zero_grad()] * 2,
        [rec(3, 30)] * 2, {"1": [rec(4, 40)] * 2}, TWO),
    Row("both backward first, then both step", [backward(3, of="a"), backward(4, of="b"), step("0"), step("1"),
        zero_grad()] * 2,
        [rec(3, 30)] * 2, {"1": [rec(4, 40)] * 2}, TWO),
    Row("one steps at every second backward", [A3B4, step("0"), zero_grad(), A3B4, step("0"), step("1"), zero_grad()],
        [rec(3, 7)] * 2, {"1": [rec(4, 7)]}, TWO),
    Row("one accumulates over the other's steps",
        [A3B4, step("0"), do(lambda loop: loop.optimizers["0"].zero_grad()), A3B4, step("0"), step("1"), zero_grad()],
        [rec(3, 7)] * 2, {"1": [rec(8, 14)]}, TWO),
    Row("a loss is logged for one", [A3B4, step("0"), step("1"), log(5, "0"), zero_grad()] * 2, [rec(3, 5)] * 2,
        {"1": [rec(4, 7)] * 2}, TWO),
    Row("a loss is logged for both", [A3B4, step("0"), step("1"), log(5), zero_grad()] * 2, [rec(3, 5)] * 2,
        {"1": [rec(4, 5)] * 2}, TWO),
    Row("one never steps", [A3B4, step("0"), zero_grad()] * 2, [rec(3, 7)] * 2, {"1": []}, TWO),
    Row("hold the same weight", [backward(3), step("0"), step("1"), zero_grad()], [rec(3, 30)], {"1": [rec(3, 30)]},
        {"optimizers": {"0": "w", "1": "w"}}),
    Row("an adversarial pair", [backward(3, of="b"), clip_norm(1, "b"), step("1"), zero_grad(), backward_of({"a": 4,
        "b": 9}, 40), step("0"), zero_grad()] * 2,
        [rec(4, 40)] * 2, {"1": [clipped(3, 1, 30)] * 2}, TWO),
)  # fmt: skip
def test_two_optimizers(row):
    check(row)


# ----------------------------------------------------------- optimizers within backward, or none


def step_within_backward(loop: Loop) -> None:
    for name, weight in loop.model.items():
        at = list(loop.model).index(name)
        weight.register_post_accumulate_grad_hook(lambda _, one=loop.optimizers[str(at)]: step_and_zero_grad(one))


def step_and_zero_grad(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


@rows(
    Row("make one record", [A3B4] * 2, [rec(5, 7, norms={"a": 3, "b": 4})] * 2),
    Row("of which one gets no gradient", [backward(3, of="a")], [rec(3, 30, norms={"a": 3, "b": NAN})]),
    Row("cannot be clipped", [A3B4, clip_norm(1)] * 2, [rec(5, 7, clip_fault="no-gradients")] * 2),
    Row("loss logged", [A3B4, log(5)] * 2, [rec(5, 5)] * 2),
    Row("a backward of another model", [A3B4, backward_of_another_model(9), A3B4], [rec(5, 7)] * 2),
)  # fmt: skip
def test_optimizers_that_step_within_the_backward(row):
    found = play(row.operations, **TWO, init=step_within_backward)
    assert_records(found["0"], row.expected)
    assert found["1"] == []


def by_hand() -> Operation:
    def call(loop: Loop) -> None:
        with torch.no_grad():
            for weight in loop.weights(""):
                if weight.grad is not None:
                    weight.sub_(weight.grad, alpha=0.1)

    return call


@rows(
    Row("a step is a clip call", [backward(3), clip_norm(1), by_hand(), model_zero_grad()] * 2, [clipped(3, 1,
        30)] * 2),
    Row("zeros in place", [backward(3), clip_norm(1), by_hand(), model_zero_grad(False)] * 2, [clipped(3, 1, 30)] * 2),
    Row("zero_grad never", [backward(3), clip_norm(5), by_hand(), backward(4), clip_norm(9), by_hand()], [clipped(3, 5,
        30), clipped(7, 9, 40)]),
    Row("by value and by norm is one step", [backward(3), clip_value(2), clip_norm(1), by_hand(),
        model_zero_grad()] * 2,
        [rec(3, 30, clip_value=2, cut_entries=1, max_norm=1, clip_coef=1 / (2 + 1e-6))] * 2),
    Row("no clip call, no step", [backward(3), by_hand(), model_zero_grad()] * 2, []),
    Row("loss logged", [backward(3), clip_norm(1), by_hand(), log(5), model_zero_grad()] * 2, [clipped(3, 1, 5)] * 2),
    Row("a batch left out before its clip call", [backward(30), model_zero_grad(), backward(3), clip_norm(1),
        by_hand()], [clipped(3, 1, 30)]),
    Row("every second step", [backward(3), clip_norm(1), by_hand(), model_zero_grad()] * 3, [clipped(3, 1, 30, step=0),
        clipped(3, 1, 30, step=2)],
        setting={"every": 2}),
)  # fmt: skip
def test_a_loop_without_optimizer(row):
    check(Row(row.what, row.operations, row.expected, setting=row.setting | {"make": lambda _: None}))
