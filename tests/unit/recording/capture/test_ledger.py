"""The ledger has the backward passes that made the gradients as they are now."""

import pytest
import torch
from torch import nn

from gradwatch.recording.capture.ledger import Ledgers
from gradwatch.recording.capture.passes import RANDOM_STATE_BYTES

from .support import Heard


def loss(heard, scale=1.0, rows=2):
    return (heard.model(torch.ones(rows, 2)) * scale).sum()


@pytest.mark.parametrize("count", [1, 3])
def test_passes_that_accumulate_are_all_there(count):
    heard = Heard()
    for number in range(count):
        heard.backward(loss(heard, scale=number + 1.0))
    reached = [one for held in heard.ledger.passes for one in held.reached.values()]
    found = [gradients[0].tensor.flatten().tolist() for _, gradients in reached]
    assert found == [[number + 1.0] * 2 for number in range(count)]
    assert heard.ledger.faults == []


def test_gradients_that_are_none_again_begin_anew():
    heard = Heard()
    heard.backward(loss(heard))
    heard.optimizer.zero_grad()
    heard.backward(loss(heard))
    assert len(heard.ledger.passes) == 1


def test_a_step_consumes_them_and_gradients_that_stay_are_said():
    heard = Heard()
    heard.backward(loss(heard))
    heard.ledger.after_step()
    assert heard.ledger.passes == []
    heard.backward(loss(heard))
    assert len(heard.ledger.passes) == 1
    assert heard.ledger.faults == [
        "gradients were not set to zero after the step before, and it is not known how they were"
    ]


def test_zero_in_place_begins_anew_only_if_all_gradients_are_zero():
    heard = Heard()
    heard.backward(loss(heard))
    weight, bias = (id(parameter) for parameter in heard.model.parameters())
    heard.ledger.zeroed({weight})
    assert len(heard.ledger.passes) == 1
    heard.ledger.zeroed({weight, bias, 0})
    assert heard.ledger.passes == []


def test_a_backward_that_reaches_no_gradient_is_none_of_its_passes():
    heard = Heard()
    heard.backward(torch.ones(1, requires_grad=True).sum())
    assert (heard.ledger.passes, heard.ledger.faults) == ([], [])


def test_a_backward_through_no_output_that_was_seen_is_said():
    heard = Heard()
    heard.backward(heard.model.weight.square().sum())
    assert heard.ledger.passes == []
    assert "through no output of the model" in heard.ledger.faults[0]


@pytest.mark.parametrize(("rows", "is_held"), [(8, True), (9, False)])
def test_more_bytes_than_may_be_held_are_let_go(rows, is_held):
    heard = Heard(max_bytes=8 * (2 + 1) * 4 + RANDOM_STATE_BYTES)  # inputs and output gradients of eight rows
    heard.backward(loss(heard, rows=rows))
    assert bool(heard.ledger.passes) == is_held
    assert bool(heard.ledger.faults) != is_held


def test_forwards_of_another_model_are_left_out():
    heard, other = Heard(), Heard()
    inner = other.model(torch.ones(3, 2))
    heard.backward(loss(heard) + nn.functional.mse_loss(inner, torch.zeros(3, 1)))
    (held,) = heard.ledger.passes
    assert [forward.tap for forward, _ in held.reached.values()] == [heard.tap]


def ledgers(models):
    """The ledgers of an optimizer for each of these models, the optimizers, and the taps that were made."""
    made, heard = [], [Heard(model) for model in models]

    def tap(model):
        made.append(Heard(model).tap)
        return made[-1]

    table = Ledgers(tap, 2**20)
    for one in heard:
        table.add(one.tracker, [one.optimizer], one.model, None)
    return table, heard, made


def test_each_optimizer_has_its_ledger_and_each_model_one_tap():
    shared, other = nn.Linear(2, 1), nn.Linear(2, 1)
    table, heard, taps = ledgers([shared, shared, other])
    assert len(list(table)) == 3
    assert len(taps) == 2
    for one in heard:
        assert table.of(one.optimizer).tracker is one.tracker
        assert table.of_tracker(one.tracker) is table.of(one.optimizer)
    assert [one.tap for one in table] == [taps[0], taps[0], taps[1]]


def test_a_model_is_heard_until_its_last_ledger_is_gone():
    model = nn.Linear(2, 1)
    table, (first, second), _ = ledgers([model, model])
    table.remove(table.of(first.optimizer))
    assert table.of(first.optimizer) is None
    assert table.of_tracker(first.tracker) is None
    hooks = len(model._forward_hooks)
    table.remove(table.of(second.optimizer))
    assert len(model._forward_hooks) < hooks
    assert list(table) == []


def test_after_the_end_nothing_is_held_and_nothing_heard():
    table, (one,), _ = ledgers([nn.Linear(2, 1)])
    one.tap.close()
    ledger = table.of(one.optimizer)
    ledger.faults.append("planted")
    table.clear()
    assert (list(table), table.of(one.optimizer), ledger.faults) == ([], None, [])
