"""The capture for examples is a true one."""

import pytest
import torch
from torch import nn

from gradwatch.replaying.example import example_capture, example_forward


@pytest.mark.parametrize(("rows", "bad_row"), [(1, 0), (8, 2), (3, 2)])
def test_its_gradients_are_those_of_its_inputs_and_one_row_is_bad(rows, bad_row):
    model = nn.Linear(4, 2)
    capture = example_capture(model, bad_row, rows)
    (forward,) = capture.groups[0].forwards
    (inputs,) = forward.args
    assert inputs.isnan().any(1).nonzero().flatten().tolist() == [bad_row]
    model.zero_grad()
    model(inputs).backward(forward.output_gradients[0])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(capture.gradients[name], parameter.grad, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(capture.weights[name], parameter)
        assert capture.weights[name].data_ptr() != parameter.data_ptr()


def test_two_examples_are_alike_and_leave_the_random_numbers_of_the_caller():
    model = nn.Linear(2, 1)
    before = torch.get_rng_state()
    one, other = (example_capture(model, 0).groups[0].forwards[0].args[0] for _ in range(2))
    assert torch.equal(one[1:], other[1:])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_forward_takes_the_tensor_that_it_is_given():
    inputs = torch.empty(0, 2)
    forward = example_forward(inputs)
    assert forward.args[0] is inputs
    assert (forward.kwargs, forward.output_gradients) == ({}, ())
