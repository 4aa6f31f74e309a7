"""Sequences of calls that hypothesis draws, against the plain reference of `reference.py`."""

from __future__ import annotations

import contextlib
import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from . import sequences as do
from .reference import Reference

GRADIENTS = st.sampled_from([3.0, -4.0, 0.25, 100.0, 0.0])
LIMITS = st.sampled_from([1.0, 5.0, 0.5])
WEIGHTS = st.sampled_from(["ab", "a", "b"])


class Sequences(RuleBasedStateMachine):
    """One optimizer of two weights, plain, clipped, scaled, with closures, with losses logged."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = contextlib.ExitStack()
        self.run = self.folder.enter_context(do.folder_in_memory())

    @initialize(scale=st.sampled_from([None, None, 8.0, 1.0]), logs=st.sampled_from(["never", "before", "after"]))
    def begin(self, scale: float | None, logs: str) -> None:
        self.reference = Reference("ab", scale)
        self.loop = do.Loop(self.run, {"0": "ab"}, loss_scale=scale)
        self.logs = logs
        self.losses = 0

    # ---------------------------------------------------------------------------- what may come next

    def is_scaled(self) -> bool:
        return self.reference.scale is not None

    def has_gradients(self) -> bool:
        return any(value is not None for value in self.reference.gradients.values.values())

    def is_between_steps(self) -> bool:
        """Nothing was done with these gradients since the last step, or there are none."""
        return self.reference.gradients.are_consumed or not self.reference.gradients.history

    def may_accumulate(self) -> bool:
        """Scaled gradients are not added to unscaled ones."""
        return not self.is_scaled() or not self.reference.is_unscaled

    def may_leave_out(self) -> bool:
        """The scale of gradients that are never unscaled is not known."""
        return not self.is_scaled() or self.reference.is_unscaled

    def may_clip(self) -> bool:
        """Where losses are logged before the step its record is not held back, and no later call belongs to it."""
        return self.logs != "before" or not self.reference.gradients.are_consumed

    # ----------------------------------------------------------------------------------- the calls

    def backward(self, gradient: float, weights: str) -> None:
        self.losses += 1
        gradients = dict.fromkeys(weights, gradient)
        do.backward_of(gradients, float(self.losses))(self.loop)
        self.reference.backward(gradients, float(self.losses))

    def log(self, after_the_step: bool) -> None:
        if self.logs == ("after" if after_the_step else "before"):
            self.losses += 1
            do.log(float(self.losses))(self.loop)
            self.reference.log(float(self.losses), after_the_step)

    @precondition(may_accumulate)
    @rule(gradient=GRADIENTS, weights=WEIGHTS)
    def call_backward(self, gradient: float, weights: str) -> None:
        if self.is_scaled() and self.reference.gradients.are_consumed:
            self.zero(True)  # of the step before, which are not scaled any more
        self.backward(gradient, weights)

    @precondition(lambda self: self.is_scaled() and self.may_accumulate() and self.is_between_steps())
    @rule(weights=WEIGHTS)
    def call_backward_that_overflows(self, weights: str) -> None:
        self.zero(True)
        self.backward(math.inf, weights)

    @precondition(lambda self: self.may_clip())
    @rule(limit=LIMITS, weights=WEIGHTS)
    def clip_by_norm(self, limit: float, weights: str) -> None:
        do.clip_norm(limit, weights)(self.loop)
        self.reference.clip_norm(limit, weights)

    @precondition(lambda self: self.may_clip() and self.has_gradients())  # torch raises without
    @rule(limit=LIMITS)
    def clip_all_by_value(self, limit: float) -> None:
        self.clip_by_value(limit, "ab")

    def clip_by_value(self, limit: float, weights: str) -> None:
        do.clip_value(limit, weights)(self.loop)
        self.reference.clip_value(limit, weights)

    @precondition(lambda self: not self.is_scaled() and self.has_gradients())
    @rule(amount=GRADIENTS)
    def add_to_the_gradients(self, amount: float) -> None:
        for weight in self.loop.weights(""):
            if weight.grad is not None:
                weight.grad += amount
        self.reference.change(amount)

    def zero(self, set_to_none: bool) -> None:
        do.zero_grad(set_to_none)(self.loop)
        self.reference.zero_grad(set_to_none)

    @precondition(lambda self: self.is_between_steps() or self.may_leave_out())
    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none: bool) -> None:
        self.zero(set_to_none)
        if self.is_scaled() and self.reference.is_unscaled:
            do.update()(self.loop)
            self.reference.update()

    def zero_grad_unscaled(self) -> None:
        do.unscale()(self.loop)
        self.reference.unscale()
        self.zero(True)

    @precondition(lambda self: not self.is_scaled())
    @rule()
    def step(self) -> None:
        self.log(after_the_step=False)
        do.step()(self.loop)
        self.reference.step()
        self.log(after_the_step=True)

    @precondition(lambda self: self.is_scaled() and not self.reference.is_unscaled and self.has_gradients())
    @precondition(lambda self: not self.reference.gradients.are_consumed)
    @rule()
    def unscale(self) -> None:
        do.unscale()(self.loop)
        self.reference.unscale()

    @precondition(lambda self: self.is_scaled() and self.has_gradients())
    @precondition(lambda self: not self.reference.gradients.are_consumed)
    @rule()
    def scaler_step(self) -> None:
        self.log(after_the_step=False)
        do.scaler_step()(self.loop)
        do.update()(self.loop)
        self.reference.scaler_step()
        self.log(after_the_step=True)

    @precondition(lambda self: not self.is_scaled() and self.is_between_steps())
    @rule(gradient=GRADIENTS, weights=WEIGHTS, clips=st.booleans(), set_to_none=st.booleans())
    def step_with_a_closure(self, gradient: float, weights: str, clips: bool, set_to_none: bool) -> None:
        def evaluate(_: do.Loop) -> None:
            self.zero(set_to_none)
            self.backward(gradient, weights)
            if clips:
                self.clip_by_norm(1.0, weights)

        self.log(after_the_step=False)
        do.step_with([evaluate])(self.loop)
        self.reference.step()
        self.log(after_the_step=True)

    # ---------------------------------------------------------------------------------- the records

    def teardown(self) -> None:
        try:
            if hasattr(self, "loop"):
                if self.reference.is_begun and not self.may_leave_out():
                    self.zero_grad_unscaled()
                self.loop.watch.close()
                self.reference.end()
                do.assert_records(do.records_of(self.run, ["0"])["0"], self.reference.records)
        finally:
            self.folder.close()


TestSequences = Sequences.TestCase
# The same sequences at every run, so that a rare one does not fail a change that has nothing to do with it.
TestSequences.settings = settings(max_examples=60, stateful_step_count=15, deadline=None, derandomize=True)
