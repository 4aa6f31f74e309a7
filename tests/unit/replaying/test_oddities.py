"""Sentences on the inputs of one row."""

import math

import pytest
import torch
from torch import nn

from gradwatch.capture import Forward, take_random_state
from gradwatch.replaying.batch import Batch
from gradwatch.replaying.oddities import oddities

ROW = 2
G = torch.Generator().manual_seed(0)


def odd(value, name="x", model=None, gradient=None):
    outputs = () if gradient is None else (0,)
    forward = Forward(
        args=(),
        kwargs={name: value},
        random_state=take_random_state(),
        output_gradients=() if gradient is None else (gradient,),
    )
    batch = Batch(size=value.shape[0], dimension=0, inputs=(0,), outputs=outputs)
    return oddities(forward, batch, ROW, model or nn.Identity())


def changed(value, entries):
    value = value.clone()
    value[ROW] = entries
    return value


NORMAL = torch.randn(6, 10, generator=G)
IDS = torch.arange(60).reshape(6, 10) % 8


@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param(changed(NORMAL, torch.tensor([math.nan, *[1.0] * 9])), "x: 1 entry of 10 is NaN", id="NaN"),
        pytest.param(changed(NORMAL, math.inf), "x: 10 entries of 10 are infinite", id="infinite"),
        pytest.param(changed(NORMAL, NORMAL[ROW] * 1e4), "x: largest magnitude", id="large"),
        pytest.param(changed(NORMAL, NORMAL[ROW] * 1e-4), "x: largest magnitude only", id="small"),
        pytest.param(changed(NORMAL, 0.5), "x: all 10 entries are 0.5", id="constant"),
        pytest.param(changed(NORMAL, 0.0), "x: all 10 entries are 0", id="zero"),
        pytest.param(changed(IDS, 3), "x: all 10 ids are 3", id="one id"),
    ],
)
def test_values(value, said):
    (sentence,) = odd(value)
    assert sentence.startswith(said)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_row_of_a_huge_batch_is_compared_with_some_of_the_others(most, monkeypatch):
    monkeypatch.setattr("gradwatch.replaying.oddities.MOST_COMPARED", most)
    assert odd(changed(NORMAL, math.nan)) == ("x: 10 entries of 10 are NaN",)


@pytest.mark.parametrize("value", [NORMAL, IDS, torch.ones(6, 4), torch.zeros(6, 0), NORMAL > 0, torch.arange(6)])
def test_nothing_is_odd(value):
    assert odd(value) == ()


def test_masks():
    mask = torch.rand(6, 12, generator=G) > 0.5
    assert odd(changed(mask, True), "key_padding_mask") == ("key_padding_mask: all 12 keys are masked",)
    assert odd(changed(mask, False), "attention_mask") == ("attention_mask: all 12 keys are masked",)
    assert odd(changed(mask.long(), 0), "attention_mask") == ("attention_mask: all 12 keys are masked",)
    assert odd(changed(mask, True), "attention_mask") == ("attention_mask is True at all 12 positions",)


class Attention(nn.Module):
    def forward(self, x, key_padding_mask):
        return x


@pytest.mark.parametrize("container", ["position", "dictionary"])
def test_a_mask_without_a_keyword_has_the_name_that_the_model_gives_it(container):
    mask = changed(torch.rand(6, 12, generator=G) > 0.5, True)
    args = (NORMAL, mask) if container == "position" else ({"x": NORMAL, "key_padding_mask": mask},)
    forward = Forward(args=args, kwargs={}, random_state=take_random_state())
    batch = Batch(size=6, dimension=0, inputs=(0, 0), outputs=())
    assert oddities(forward, batch, ROW, Attention()) == ("key_padding_mask: all 12 keys are masked",)


def test_lengths_and_labels():
    assert odd(torch.tensor([8, 9, 0, 7, 12, 8]), "lengths") == ("lengths is 0, in other rows 7 to 12",)
    assert odd(torch.tensor([1.0, 2.0, math.nan, 1.0, 1.0, 1.0]), "y") == ("y is NaN",)


def test_ids_and_their_embeddings():
    ids = changed(IDS, torch.tensor([33, *IDS[ROW, 1:]]))
    assert odd(ids) == ("x: 1 id in no other row: 33",)
    model = nn.Embedding(40, 4)
    with torch.no_grad():
        model.weight[33] *= 1e4
    (sentence,) = odd(ids, model=model)
    assert sentence.startswith("x: the embedding of id 33 has norm")


def test_the_loss():
    gradient = torch.ones(6, 2)
    assert odd(NORMAL, gradient=changed(gradient, 100.0)) == (
        "the loss sends this row a gradient 100 times that of other rows",
    )
    assert odd(NORMAL, gradient=changed(gradient, math.nan)) == (
        "the gradient that the loss sends to this row is not finite",
    )
    assert odd(NORMAL, gradient=gradient) == ()
