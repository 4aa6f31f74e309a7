"""Walks through nested values: every tensor once, in order, and no container changed without need."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from gradwatch.capture import classes_in, map_tensors, tensors_in

Pair = namedtuple("Pair", "left right")


@dataclass
class Batch:
    x: object
    y: object = None


def numbered():
    return [torch.tensor(float(n)) for n in range(5)]


def test_tensors_come_in_order_of_their_containers():
    a, b, c, d, e = numbered()
    value = {"z": a, "a": [b, (None, c)], "p": Pair(1, d), "b": Batch(3, e), "text": "x"}
    assert [int(one) for one in tensors_in(value)] == [0, 1, 2, 3, 4]


def test_containers_keep_their_classes_when_tensors_change():
    a, b, *_ = numbered()
    value = [Pair(a, 2), Batch(b), OrderedDict(x=a), (b,), pack_sequence([torch.ones(2)])]
    changed = map_tensors(lambda tensor: tensor + 10, value)
    assert [type(one) for one in changed] == [type(one) for one in value]
    assert [one.tolist() for one in tensors_in(changed)] == [(one + 10).tolist() for one in tensors_in(value)]


def test_what_has_no_tensor_stays_the_same_object():
    value = [1, {"a": object()}, (2, "x")]
    assert map_tensors(lambda tensor: tensor + 1, value) is value
    mixed = [{"kept": 1}, torch.ones(1)]
    assert map_tensors(lambda tensor: tensor + 1, mixed)[0] is mixed[0]


def test_a_model_output_keeps_its_class():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    value = outputs.CausalLMOutput(loss=torch.tensor(1.0), logits=torch.ones(2))
    changed = map_tensors(lambda tensor: tensor * 2, value)
    assert type(changed) is type(value)
    assert (changed.loss.item(), changed["logits"].tolist(), changed.hidden_states) == (2, [2, 2], None)
    assert list(classes_in(value).values()) == [type(value)]


def test_a_value_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(RecursionError):
        tensors_in(value)
