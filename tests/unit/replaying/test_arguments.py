"""Arguments have the names of the forward that took them."""

import dataclasses
import functools
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from gradwatch.capture import Forward, take_random_state
from gradwatch.replaying.arguments import named_arguments, named_parts
from gradwatch.replaying.batch import padded

ONE, TWO = torch.ones(2), torch.zeros(2)


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    mask: torch.Tensor


class Two(nn.Module):
    def forward(self, x, mask=None, *rest, **more):
        return x


class Any(nn.Module):
    def forward(self, *args, **kwargs):
        return args[0]


def passed_on(method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        return method(*args, **kwargs)

    return call


class Decorated(nn.Module):
    @passed_on
    def forward(self, tokens, mask):
        return tokens


class Odd(nn.Module):
    @property
    def forward(self):
        raise RuntimeError("no forward")


def forward_of(*args, module="", **kwargs):
    return Forward(args=args, kwargs=kwargs, random_state=take_random_state(), module=module)


@pytest.mark.parametrize(
    ("model", "args", "names"),
    [
        (Two(), (ONE,), ["x"]),
        (Two(), (ONE, TWO), ["x", "mask"]),
        (Two(), (ONE, TWO, ONE, TWO), ["x", "mask", "argument 2", "argument 3"]),
        (Two(), (), []),
        (Any(), (ONE, TWO), ["argument 0", "argument 1"]),
        (Decorated(), (ONE, TWO), ["tokens", "mask"]),
        (nn.Sequential(), (ONE,), ["input"]),
        (nn.MultiheadAttention(2, 1), (ONE, ONE, ONE, TWO), ["query", "key", "value", "key_padding_mask"]),
        (Odd(), (ONE,), ["argument 0"]),
        (nn.Linear(1, 1), (ONE, TWO), ["input", "argument 1"]),  # more than it takes: a capture of another model
    ],
    ids=repr,
)
def test_positional_arguments_have_the_names_of_the_signature(model, args, names):
    assert [name for name, _ in named_arguments(forward_of(*args), model)] == names


def test_keywords_keep_their_names_and_come_last():
    found = named_arguments(forward_of(ONE, labels=TWO), Two())
    assert [name for name, _ in found] == ["x", "labels"]
    assert [value is expected for (_, value), expected in zip(found, [ONE, TWO], strict=True)] == [True, True]


def test_the_module_that_was_called_is_asked():
    model = nn.ModuleDict({"net": Two(), "other": nn.Linear(1, 1)})
    assert [name for name, _ in named_arguments(forward_of(ONE, TWO, module="net"), model)] == ["x", "mask"]
    assert [name for name, _ in named_arguments(forward_of(ONE, module="gone"), model)] == ["argument 0"]


@pytest.mark.parametrize("batch", [{"x": ONE, "mask": TWO}, OrderedDict(x=ONE, mask=TWO), Batch(ONE, TWO)], ids=repr)
def test_the_fields_of_a_batch_have_their_own_names(batch):
    for forward in (forward_of(batch), forward_of(batch=batch)):
        assert [name for name, _ in named_parts(forward, Any())] == ["x", "mask"]


@pytest.mark.parametrize("value", [ONE, [ONE, TWO], (ONE, TWO), None, 3, "text"], ids=repr)
def test_what_has_no_names_within_is_one_argument(value):
    assert named_parts(forward_of(value), Two()) == [("x", value)]


def test_a_packed_sequence_is_one_argument():
    forward = padded(forward_of(pack_sequence([torch.ones(3, 2), torch.ones(1, 2)], enforce_sorted=False)))
    assert [name for name, _ in named_parts(forward, Two())] == ["x"]
