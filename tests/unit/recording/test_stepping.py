"""Optimizers that step others, and what a GradScaler does around a step."""

from __future__ import annotations

import pytest
import torch

from gradwatch.measure import measure
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.stepping import Nesting, Scaling, scaling_of


class Base(torch.optim.Optimizer):
    """Notes at each of its steps how deep it is."""

    def __init__(self, fails=False):
        super().__init__([torch.nn.Parameter(torch.zeros(1))], {})
        self.fails = fails

    def step(self, closure=None):
        if self.fails:
            raise RuntimeError("a failure of the script")
        if closure is not None:
            closure()


class Extended(Base):
    def step(self, closure=None):
        super().step(closure)


class Wrapper(Base):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def step(self, closure=None):
        self.inner.step()


def listen(*optimizers):
    """What `enter` and `leave` return at each hook of these optimizers."""
    nesting, told = Nesting(optimizers), []
    for one in optimizers:
        one.register_step_pre_hook(lambda *_: told.append(nesting.enter()))
        one.register_step_post_hook(lambda *_: told.append(nesting.leave()))
    return told


def test_a_step_is_a_step():
    optimizer = Base()
    told = listen(optimizer)
    for _ in range(3):
        optimizer.step()
    assert told == [True, True] * 3


@pytest.mark.parametrize("make", [Extended, lambda: Wrapper(Base())], ids=["extended", "wrapper"])
def test_a_step_within_a_step_is_a_part_of_it(make):
    optimizer = make()
    told = listen(optimizer, *([optimizer.inner] if isinstance(optimizer, Wrapper) else []))
    for _ in range(2):
        optimizer.step()
    assert told == [True, False, False, True] * 2


def test_a_step_within_the_closure_of_another_optimizer_is_its_own():
    first, second = Base(), Base()
    told = listen(first)
    other = listen(second)
    first.step(second.step)
    assert (told, other) == ([True, True], [True, True])


@pytest.mark.parametrize("make", [Base, Extended])
def test_an_exception_leaves_no_step_open(make):
    optimizer = make()
    told = listen(optimizer)
    optimizer.fails = True
    for _ in range(2):
        with pytest.raises(RuntimeError):
            optimizer.step()
    optimizer.fails = False
    told.clear()
    optimizer.step()
    assert told[0] is True
    assert told[-1] is True


def test_leaving_what_was_not_entered_does_no_harm():
    """A recording may begin within a step."""
    nesting = Nesting([])
    assert nesting.leave()
    assert nesting.enter()


def test_the_scale_is_known_from_unscaling_to_the_step():
    scaling, scale = Scaling(), torch.tensor(8.0)
    assert scaling.scale is None
    scaling.begin(None, [])
    assert scaling.end(scale) is None
    scale.fill_(4.0)  # `update` changes it in place
    assert scaling.scale.item() == 8.0
    scaling.forget()
    assert scaling.scale is None


def test_a_step_measured_of_the_scaled_gradients_is_found_if_they_are_as_they_were():
    gradient = torch.ones(2)
    pending = PendingStep(step=0, measured=measure([gradient]))
    pending.note_versions([gradient])
    scaling = Scaling()
    scaling.begin(pending, [gradient])
    assert scaling.end(torch.tensor(2.0)) is pending
    gradient.add_(1.0)
    scaling.begin(pending, [gradient])
    assert scaling.end(torch.tensor(2.0)) is None


def test_a_scaler_that_backs_off_is_told_by_the_step_that_did_not_come():
    scaling = Scaling()
    scaling.begin_step(torch.tensor(2.0), step=5)
    assert scaling.has_backed_off(5)
    assert not scaling.has_backed_off(6)
    scaling.forget()
    assert not scaling.has_backed_off(5)


def test_what_a_fused_optimizer_is_told():
    optimizer = Base()
    assert scaling_of(optimizer) == (None, None)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), torch.tensor(2.0)
    assert [tensor.item() for tensor in scaling_of(optimizer)] == [1.0, 2.0]
    optimizer.grad_scale = None
    assert scaling_of(optimizer)[1] is None
