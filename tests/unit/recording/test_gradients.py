"""Whether gradients were added to, dropped or consumed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradwatch.recording.gradients import GradientHistory, versions_of
from gradwatch.recording.parameters import ParameterTable


class Two:
    """Two weights of one optimizer."""

    def __init__(self):
        self.model = nn.ParameterDict({name: nn.Parameter(torch.ones(3)) for name in "ab"})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.history = GradientHistory(ParameterTable(self.model, self.optimizer))

    def backward(self, names="ab"):
        self.history.before_backward()
        for name in names:
            self.model[name].sum().backward()
        return self.history.after_backward()


def test_a_backward_counts_where_it_reaches_a_gradient():
    two = Two()
    assert [two.backward("a"), two.backward(""), two.backward("b"), two.backward("ab")] == [True, False, True, True]
    assert two.history.backwards == 3


def test_a_query_changes_nothing():
    two = Two()
    two.backward()
    two.history.consume()
    for _ in range(3):
        assert two.history.are_consumed()
        assert two.history.first() == two.history.first()
    assert two.history.backwards == 1


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_let_go_of_are_told_once(set_to_none):
    two = Two()
    two.backward()
    assert not two.history.take_dropped()
    two.optimizer.zero_grad(set_to_none)
    if not set_to_none:
        two.history.zeroed({id(p) for p in two.model.parameters()})
    assert two.history.take_dropped()
    assert not two.history.take_dropped()


def test_gradients_of_which_one_is_left_are_not_dropped():
    two = Two()
    two.backward()
    two.model["a"].grad = None
    assert not two.history.take_dropped()
    two.model["b"].grad = None
    assert two.history.take_dropped()


def test_zeroing_one_of_two_drops_nothing():
    two = Two()
    two.backward()
    two.history.zeroed({id(two.model["a"])})
    assert not two.history.take_dropped()


def test_gradients_that_the_script_replaced_are_not_dropped():
    two = Two()
    two.backward()
    for parameter in two.model.parameters():
        parameter.grad = parameter.grad * 2
    assert not two.history.take_dropped()


def test_consumed_gradients_can_not_be_dropped():
    two = Two()
    two.backward()
    two.history.consume()
    two.optimizer.zero_grad()
    assert not two.history.take_dropped()


@pytest.mark.parametrize(
    ("change", "still"),
    [
        pytest.param(lambda two: None, True, id="nothing"),
        pytest.param(lambda two: two.backward(), False, id="a backward that adds"),
        pytest.param(lambda two: two.optimizer.zero_grad(), False, id="zero_grad"),
        pytest.param(lambda two: two.model["a"].grad.mul_(2), False, id="the script changes them"),
        pytest.param(lambda two: (two.optimizer.zero_grad(), two.backward()), False, id="new ones"),
    ],
)
def test_gradients_are_consumed_until_something_is_done_with_them(change, still):
    two = Two()
    two.backward()
    assert not two.history.are_consumed()
    two.history.consume()
    change(two)
    assert two.history.are_consumed() is still


def test_weights_that_moved_since_are_told():
    two = Two()
    two.backward()
    made = two.history.first()
    assert not made.has_moved
    with torch.no_grad():
        two.model["a"].add_(1.0)
    assert made.has_moved


def test_versions_tell_which_gradients_changed():
    two = Two()
    two.backward("a")
    before = versions_of([two.model["a"].grad, two.model["b"].grad])
    two.model["a"].grad.add_(1.0)
    after = versions_of([two.model["a"].grad, two.model["b"].grad])
    assert before[1] == after[1] == -1
    assert after[0] == before[0] + 1


def test_gradients_made_in_inference_mode_have_no_versions_and_the_others_keep_theirs():
    with torch.inference_mode():
        made_there = torch.ones(2)
    plain = torch.ones(2)
    plain.add_(1).add_(1)
    assert versions_of([made_there, plain]) == [0, 2]
    assert versions_of([made_there, None, plain]) == [0, -1, 2]
