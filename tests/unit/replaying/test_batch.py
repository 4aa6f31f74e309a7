"""The batch dimension is found by trial."""

import math

import pytest
import torch
from planted_models import ConvNet, LSTMModel, TimeFirst, Transformer
from planted_steps import capture_step
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradwatch.replaying.batch import Batch, _differing, find_batch, only, padded, replace_rows, take
from gradwatch.replaying.passes import prepared


def found(model, loss):
    capture = capture_step(model, [loss])
    forward = padded(capture.groups[0].forwards[0])
    with prepared(model, capture) as player:
        return find_batch(player, forward), forward


def test_rows_first():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)), torch.randn(4, 4)
    batch, _ = found(model, lambda: model(x).sum())
    assert batch == Batch(size=4, dimension=0, inputs=(0,), outputs=(0,))


def test_time_first():
    model, x = TimeFirst(), torch.randn(6, 8, 5)
    batch, _ = found(model, lambda: model(x).sum())
    assert (batch.size, batch.dimension, batch.outputs, batch.mixed_in) == (8, 1, (1,), None)


def test_as_many_steps_as_rows():
    model, x = TimeFirst(), torch.randn(6, 6, 5)
    batch, _ = found(model, lambda: model(x).sum())
    assert (batch.size, batch.dimension, batch.mixed_in) == (6, 1, None)


def test_a_square_mask_is_no_row():
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x, mask):
            return self.attention(x, x, x, attn_mask=mask)[0]

    model, x, mask = Causal(), torch.randn(5, 5, 4), torch.full((5, 5), float("-inf")).triu(1)
    batch, _ = found(model, lambda: model(x, mask).sum())
    assert (batch.dimension, batch.inputs, batch.mixed_in) == (0, (0, None), None)


def test_ids_with_a_mask():
    model, ids = Transformer(), torch.randint(40, (3, 9))
    batch, _ = found(model, lambda: model(ids, key_padding_mask=torch.zeros(3, 9, dtype=torch.bool)).sum())
    assert (batch.size, batch.inputs, batch.outputs) == (3, (0, 0), (0,))


@pytest.mark.parametrize("seed", range(12))  # another length makes other products, whose last bits may differ
def test_packed_sequences(seed):
    torch.manual_seed(seed)
    model, x = LSTMModel(), torch.randn(5, 7, 6)
    packed = pack_padded_sequence(x, torch.tensor([3, 7, 2, 5, 7]), batch_first=True, enforce_sorted=False)
    batch, forward = found(model, lambda: model(packed).sum())
    assert (batch.size, batch.inputs, batch.mixed_in) == (5, (0, 0), None)
    assert forward.args[0].lengths.tolist() == [3, 7, 2, 5, 7]


def test_rows_that_depend_on_each_other():
    model, x = ConvNet(), torch.randn(5, 3, 6, 6)
    batch, _ = found(model, lambda: model(x).sum())
    assert (batch.size, batch.dimension, batch.outputs, batch.mixed_in) == (5, 0, (0,), "norm")


def test_a_loss_inside_the_model():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x).pow(2).mean()

    model, x = Own(), torch.randn(6, 4)
    batch, _ = found(model, lambda: model(x))
    assert (batch.size, batch.dimension, batch.outputs, batch.mixed_in) == (6, 0, (None,), None)


@pytest.mark.parametrize("value", [torch.tensor(2.0), torch.ones(5, 3)])
def test_no_row_can_be_told(value):
    """A number, and rows that are all alike."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.w * x

    model = Scale()
    assert found(model, lambda: model(value).sum())[0] is None


def test_rows_are_taken_from_inputs_and_gradients():
    model, x = nn.Linear(2, 2), torch.arange(8.0).reshape(4, 2)
    batch, forward = found(model, lambda: (model(x) * torch.arange(4.0)[:, None]).sum())
    taken = take(forward, batch, [3, 1])
    assert taken.args[0].tolist() == [[6, 7], [2, 3]]
    assert taken.output_gradients[0].tolist() == [[3, 3], [1, 1]]
    assert only(forward, batch, [2]).output_gradients[0].tolist() == [[0, 0], [0, 0], [2, 2], [0, 0]]
    assert replace_rows(forward, batch, [0, 2], [3]).args[0].tolist() == [[6, 7], [2, 3], [6, 7], [6, 7]]


def test_the_layout_in_memory_stays():
    x = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    model = nn.Conv2d(3, 2, 1)
    batch, forward = found(model, lambda: model(x).sum())
    assert take(forward, batch, [1, 0, 2, 3]).args[0].stride() == x.stride()


def test_a_change_of_rounding_is_none_and_one_of_a_row_is():
    was = torch.tensor([[5.0, 3.0, 2.0, math.inf, math.nan], [0.0, 3.0, -2.0, math.inf, math.nan]], dtype=torch.float64)
    assert _differing(was, was.clone()) == []
    rounded = was + torch.tensor([[4e-6, 0, 0, 0, 0], [4e-6, 0, 0, 0, 0]])  # the sum of five that cancel
    assert _differing(was, rounded) == []
    other = was.clone()
    other[1, 1], other[0, 2] = 2.99, math.nan
    assert _differing(was, other) == [1, 2]
