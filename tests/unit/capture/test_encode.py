"""The description of values: plain JSON, with tensors beside it and what could not be kept by name."""

import json
import math

import pytest
import torch

from gradwatch.capture.encode import LARGEST_INT_BITS, Encoder, float_text
from gradwatch.capture.nested import MAX_DEPTH


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("text", "text"),
        (0.5, 0.5),
        (math.nan, {"float": "NaN"}),
        (-math.inf, {"float": "-Infinity"}),
        (2**LARGEST_INT_BITS - 1, 2**LARGEST_INT_BITS - 1),
        (complex(1, math.inf), {"complex": [1.0, {"float": "Infinity"}]}),
        (b"\x00\xff", {"bytes": "00ff"}),
        (..., {"ellipsis": True}),
        (range(1, 9, 2), {"range": [1, 9, 2]}),
        (slice(None, 3), {"slice": [None, 3, None]}),
        (torch.bfloat16, {"dtype": "bfloat16"}),
        (torch.device("cuda:1"), {"device": "cuda:1"}),
        (torch.Size([2, 3]), {"torch_size": [2, 3]}),
        ([], {"list": []}),
        ((1, [2]), {"tuple": [1, {"list": [2]}]}),
        ({1: "a"}, {"dict": [[1, "a"]]}),
        (frozenset({1}), {"frozenset": [1]}),
    ],
)
def test_a_value_is_described_in_json(value, expected):
    encoder = Encoder()
    node = encoder.nested(value)
    assert node == expected
    assert json.loads(json.dumps(node, allow_nan=False)) == expected
    assert (encoder.tensors, encoder.unkept) == ({}, [])


class Odd:
    def __repr__(self):
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("value", "text"), [(2**LARGEST_INT_BITS, str(2**LARGEST_INT_BITS)[:200]), (Odd(), "its repr raised ValueError")]
)
def test_what_can_not_be_kept_is_named(value, text):
    encoder = Encoder()
    node = encoder.nested([1, value])
    assert node["list"][0] == 1
    assert node["list"][1]["text"] == text
    (unkept,) = encoder.unkept
    assert unkept.text == text


def test_what_is_nested_too_deep_is_named():
    value = []
    for _ in range(2 * MAX_DEPTH):
        value = [value]
    encoder = Encoder()
    encoder.nested(value)
    assert "nested deeper" in encoder.unkept[0].text


def test_a_tensor_lies_beside_and_is_written_once():
    encoder = Encoder()
    tensor = torch.arange(6.0).reshape(2, 3).requires_grad_()
    first, second = encoder.nested([tensor, tensor])["list"]
    assert first == second == {"tensor": "t0", "shape": [2, 3], "dtype": "float32", "requires_grad": True}
    assert torch.equal(encoder.tensors["t0"], tensor.detach())
    assert not encoder.tensors["t0"].requires_grad


def test_the_order_of_dimensions_in_memory_is_kept():
    encoder = Encoder()
    tensor = torch.arange(6.0).reshape(2, 3).t()
    node = encoder.nested(tensor)
    assert (node["shape"], node["order"]) == ([3, 2], [1, 0])
    assert encoder.tensors["t0"].tolist() == tensor.t().tolist()
    assert encoder.tensors["t0"].is_contiguous()


def test_two_views_have_storages_of_their_own():
    encoder = Encoder()
    base = torch.arange(4.0)
    encoder.nested([base, base.view(2, 2)])
    storages = {one.untyped_storage().data_ptr() for one in encoder.tensors.values()}
    assert len(storages) == len(encoder.tensors) == 2


def test_a_tensor_without_values_is_named():
    encoder = Encoder()
    node = encoder.nested(torch.empty(3, device="meta"))
    assert "unkept" in node
    assert encoder.tensors == {}


@pytest.mark.parametrize(("value", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_floats_that_json_lacks_are_texts(value, text):
    assert float_text(value) == text
    assert repr(float(text)) == repr(value), "Python reads them"
