"""Values from descriptions: the inverse of the encoder, and a refusal of everything else."""

import math

import pytest
import torch

from gradwatch.capture.decode import Decoder
from gradwatch.capture.encode import Encoder
from gradwatch.errors import CaptureDamaged


def there_and_back(value):
    encoder = Encoder()
    node = encoder.nested(value)
    assert encoder.unkept == []
    return Decoder(encoder.tensors).nested(node)


@pytest.mark.parametrize(
    "value",
    [
        None,
        False,
        -(2**100),
        "é\x00",
        1e-300,
        -0.0,
        math.inf,
        complex(-0.0, math.inf),
        b"\xff",
        ...,
        range(3, -3, -2),
        slice(1, None, 2),
        torch.float16,
        torch.device("cpu"),
        torch.Size([0, 2]),
        [1, (2, [3]), {"a": {1, 2}, (1, 2): None}],
        frozenset({"x"}),
    ],
    ids=repr,
)
def test_a_value_comes_back_with_its_type(value):
    found = there_and_back(value)
    assert repr(found) == repr(value)
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.tensor([math.nan, -math.inf, -0.0]),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]),
        torch.eye(3).to_sparse(),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}",
)
def test_a_tensor_comes_back_bit_by_bit(tensor):
    found = there_and_back(tensor)
    assert (found.dtype, found.shape, found.layout) == (tensor.dtype, tensor.shape, tensor.layout)
    ours, theirs = (one.to_dense() if one.layout != torch.strided else one for one in (found, tensor))
    assert ours.stride() == theirs.stride()
    assert ours.contiguous().view(-1).tolist().__repr__() == theirs.contiguous().view(-1).tolist().__repr__()


@pytest.mark.parametrize(
    "node",
    [
        {},
        [],
        [1],
        {"unheard": 1},
        {"list": 3},
        {"range": [1, 2, 0]},
        {"bytes": "xyz"},
        {"dtype": "float7"},
        {"dtype": "load"},
        {"device": "nowhere"},
        {"float": "much"},
        {"torch_size": [-1]},
        {"dict": [[1]]},
        {"dict": [[{"list": []}, 1]]},
        {"slice": [1]},
        {"tensor": "t9", "shape": [2], "dtype": "float32"},
        {"tensor": "t0", "shape": [3], "dtype": "float32"},
        {"tensor": "t0", "shape": [2], "dtype": "int64"},
        {"tensor": "t0", "shape": [-2, -1], "dtype": "float32"},
        {"tensor": "t0", "shape": [2], "dtype": "float32", "order": [1]},
        {"sparse": "coo", "size": [2]},
        {"packed_sequence": [1, 2, 3, 4]},
        {"namedtuple": "Pair", "fields": {"_x": 1}},
    ],
    ids=str,
)
def test_what_describes_no_value_is_refused(node):
    decoder = Decoder({"t0": torch.zeros(2)})
    with pytest.raises(CaptureDamaged, match="can't be read"):
        decoder.nested(node)


def test_one_name_is_one_tensor():
    node = {"tensor": "t0", "shape": [2], "dtype": "float32"}
    first, second = Decoder({"t0": torch.zeros(2)}).nested({"list": [node, node]})
    assert first is second


def test_a_class_is_made_only_if_it_was_given():
    node = {"mapping": "collections.OrderedDict", "items": [["a", 1]]}
    from collections import OrderedDict

    assert type(Decoder({}).nested(node)).__name__ == "MappingStandIn"
    assert type(Decoder({}, {"collections.OrderedDict": OrderedDict}).nested(node)) is OrderedDict
    assert type(Decoder({}, {"collections.OrderedDict": int}).nested(node)).__name__ == "MappingStandIn"
