"""Which losses belong to a step."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch

from gradwatch.errors import BadArgument
from gradwatch.recording.losses import ScaledLosses, StepLosses, loss_value, losses_among


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (1, 1.0),
        (2.5, 2.5),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (torch.tensor(3.0), 3.0),
        (torch.tensor([[4.0]]), 4.0),
        (torch.tensor(2, dtype=torch.int64), 2.0),
        (torch.tensor(5.0, requires_grad=True), 5.0),
        (math.inf, math.inf),
    ],
)
def test_any_number_is_a_loss(given, value):
    assert loss_value(given) == value
    assert isinstance(loss_value(given), float)


@pytest.mark.parametrize("given", ["0.5", b"1", object(), None, torch.ones(2), torch.ones(0), torch.tensor(1j)])
def test_what_is_no_number_is_refused(given):
    with pytest.raises(BadArgument):
        loss_value(given)


def test_of_the_roots_of_a_backward_only_single_real_numbers_are_losses():
    roots = [torch.tensor(1.0), torch.ones(3), torch.tensor(1j), torch.tensor([2.0])]
    assert [loss.value for loss in losses_among(roots)] == [1.0, 2.0]


@pytest.mark.parametrize("value", [3.0, math.inf, math.nan])
def test_a_scaled_loss_is_known_as_it_was_before_and_only_to_who_was_told(value):
    loss = torch.tensor(value, requires_grad=True)
    scaled = loss * 2.0**127 * 16
    told = ScaledLosses()
    told.after_scaling(loss, scaled)
    (known,) = losses_among([scaled], told)
    assert str(known.value) == str(value)
    assert not known.is_as_called
    for other in (None, ScaledLosses()):
        (as_called,) = losses_among([scaled], other)
        assert not math.isfinite(as_called.value)
        assert as_called.is_as_called


def test_a_scaled_loss_is_forgotten_once_it_is_gone():
    loss, told = torch.tensor(3.0), ScaledLosses()
    told.after_scaling(loss, scaled := loss * 2)
    kept = weakref.ref(told.before_scaling(scaled))
    assert kept() is not None
    del scaled
    assert kept() is None


def test_losses_of_backward_add_up_until_they_are_taken():
    losses = StepLosses()
    losses.add([1.0])
    losses.add([2.0, 3.0])
    assert losses.take() == ([], [1.0, 2.0, 3.0])
    assert losses.take() == ([], [])


def test_dropped_losses_are_of_no_later_step():
    losses = StepLosses()
    losses.add([1.0])
    assert losses.drop() == [1.0]
    losses.add([2.0])
    assert losses.take() == ([], [2.0])


def test_once_losses_are_logged_those_of_backward_do_not_count():
    losses = StepLosses()
    losses.add([1.0])
    losses.use_logged()
    losses.log(7.0)
    assert losses.take() == ([7.0], [])
    losses.add([2.0])
    assert losses.drop() == []


def test_the_loss_of_a_closure_is_that_of_its_first_evaluation():
    losses = StepLosses()
    losses.add([9.0])  # before the step; the closure drops it
    losses.begin_closure()
    losses.drop()
    losses.add([1.0])
    losses.drop()
    losses.add([2.0])
    losses.drop()
    losses.add([3.0])
    assert losses.take() == ([], [1.0])
    losses.add([4.0])
    assert losses.take() == ([], [4.0]), "and of the next step its own"


def test_a_closure_that_drops_nothing_adds_to_the_losses_before_it():
    losses = StepLosses()
    losses.add([9.0])
    losses.begin_closure()
    losses.add([1.0])
    assert losses.take() == ([], [9.0, 1.0])


def test_a_closure_that_raised_leaves_the_losses_of_its_gradients():
    losses = StepLosses()
    losses.begin_closure()
    losses.add([1.0])
    losses.end_closure()
    assert losses.take() == ([], [1.0])


@pytest.mark.parametrize(
    ("is_made", "has_held", "has_backward", "before"),
    [
        pytest.param(False, False, True, True, id="before the first step"),
        pytest.param(True, True, False, False, id="after a step"),
        pytest.param(True, True, True, False, id="after a step, the next has begun"),
        pytest.param(True, False, True, True, id="the last step is written and the next has begun"),
        pytest.param(True, False, False, False, id="the last step is written and nothing has begun"),
    ],
)
def test_the_first_logged_loss_shows_the_order_of_the_loop(is_made, has_held, has_backward, before):
    losses = StepLosses()
    losses.add([1.0] if has_backward else [])
    if is_made:
        losses.note_step(is_made=True)
    losses.note_order(has_held=has_held)
    assert losses.logs_before_step is before
    losses.note_step(is_made=not is_made)
    losses.note_order(has_held=not has_held)
    assert losses.logs_before_step is before, "it does not change its mind"


def test_an_attempt_whose_update_was_left_out_does_not_show_the_order():
    losses = StepLosses()
    losses.note_step(is_made=True)
    losses.note_step(is_made=False)
    losses.add([1.0])
    losses.note_order(has_held=True)
    assert losses.logs_before_step, "a loss beside new gradients is theirs, not the attempt's"


def test_losses_that_were_put_back_come_first():
    losses = StepLosses()
    losses.log(1.0)
    taken = losses.take_logged()
    losses.log(2.0)
    losses.put_back(taken)
    assert losses.take_logged() == [1.0, 2.0]
