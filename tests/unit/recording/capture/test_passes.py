"""What is held of forwards and backwards is a reference, and a change of it is noticed."""

import math
import weakref

import pytest
import torch

from gradwatch.capture import take_random_state
from gradwatch.recording.capture.passes import (
    RANDOM_STATE_BYTES,
    Held,
    HeldBackward,
    HeldForward,
    HeldOutput,
    bytes_of,
    version_of,
)


def forward_of(*inputs, module="", buffers=None, outputs=()):
    return HeldForward(
        tap=None,
        module=module,
        args=inputs,
        kwargs={},
        inputs=[Held.of(one) for one in inputs],
        random_state=take_random_state(),
        buffers={name: Held.of(one) for name, one in (buffers or {}).items()},
        autocast={},
        training={"": True},
        outputs=[HeldOutput(weakref.ref(one), version_of(one)) for one in outputs],
    )


@pytest.mark.parametrize(
    "change",
    [lambda x: x.add_(0), lambda x: x.mul_(math.nan), lambda x: x[:1].zero_(), lambda x: x.detach().fill_(math.inf)],
)
def test_a_change_in_place_is_noticed_whatever_the_values(change):
    tensor = torch.zeros(3)
    held = Held.of(tensor)
    assert held.tensor is tensor
    assert not held.is_changed
    change(tensor)
    assert held.is_changed


def test_a_tensor_of_inference_mode_has_no_count_of_changes():
    with torch.inference_mode():
        tensor = torch.zeros(2)
    assert version_of(tensor) is None
    assert not Held.of(tensor).is_changed


@pytest.mark.parametrize(
    ("tensor", "size"),
    [
        (torch.zeros(0), 0),
        (torch.tensor(1.0), 4),
        (torch.zeros(2, 3, dtype=torch.float64), 48),
        (torch.zeros(5, dtype=torch.bool), 5),
        (torch.zeros(4, dtype=torch.bfloat16), 8),
        (torch.zeros(1).expand(10), 40),
        (torch.eye(3).to_sparse(), 3 * 4 + 2 * 3 * 8),
    ],
)
def test_the_size_is_that_of_the_entries(tensor, size):
    assert bytes_of(tensor) == size


def test_each_change_that_spoils_a_replay_is_said():
    x, buffer, output = torch.ones(2), torch.ones(3), torch.ones(2)
    held = forward_of(x, module="encoder", buffers={"mask": buffer}, outputs=[output])
    assert held.faults() == []
    for tensor in (x, buffer, output):
        tensor.add_(1)
    assert held.faults() == [
        "an input of encoder was changed in place after the forward",
        "the buffers mask were changed and not copied before",
        "an output of encoder was changed in place, which hides its gradient",
    ]
    held.fault = "planted"
    assert held.faults()[0] == "planted"


def test_an_output_that_nothing_holds_any_more_was_not_changed():
    held = forward_of(outputs=[torch.ones(2)])
    assert held.faults() == []


def test_the_record_has_what_was_given_by_reference():
    x, buffer = torch.ones(2), torch.zeros(1)
    record = forward_of(x, module="part", buffers={"running": buffer}).record([None, torch.tensor([math.nan])])
    assert record.args[0] is x
    assert record.buffers["running"] is buffer
    assert (record.module, record.devices, record.grad_enabled) == ("part", ("cpu",), True)
    assert record.output_gradients[0] is None
    assert math.isnan(record.output_gradients[1])


def test_gradients_lie_at_their_outputs_and_their_bytes_are_counted():
    first, second = torch.ones(2), torch.ones(3)
    one, other = forward_of(first, outputs=[first, second]), forward_of(second, outputs=[second])
    made = HeldBackward()
    assert made.held_bytes == 0
    made.note(other, 0, torch.ones(3))
    made.note(one, 1, torch.full((3,), math.inf))
    (_, of_other), (_, of_one) = made.reached.values()
    assert [held and held.tensor.tolist() for held in of_one] == [None, [math.inf] * 3]
    assert [held.tensor.tolist() for held in of_other] == [[1.0] * 3]
    assert made.held_bytes == 4 * (2 + 3 + 3 + 3) + 2 * RANDOM_STATE_BYTES
