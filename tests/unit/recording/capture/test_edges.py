"""Edges see the gradient from outside, and leave outputs what they were."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from gradwatch.recording.capture.edges import CannotReplace, follow_changes, put_edges

Pair = namedtuple("Pair", "left right")


@dataclass
class Answer:
    loss: object
    logits: object = None
    note: str = ""


class Tagged(dict):
    pass


class OwnTuple(tuple):
    pass


def made(size=3):
    return torch.randn(size, requires_grad=True) * 2


def edged(output):
    seen = {}
    replaced, edges = put_edges(output, lambda index, gradient: seen.setdefault(index, gradient.clone()))
    return replaced, edges, seen


def test_only_the_gradient_from_outside_is_seen():
    logits = made()
    loss = logits.square().sum()  # within
    (loss_out, logits_out), edges, seen = edged((loss, logits))
    (2 * loss_out + 5 * logits_out.sum()).backward()
    assert len(edges) == 2
    assert seen[0].item() == 2
    assert seen[1].tolist() == [5, 5, 5]


def test_an_output_that_no_gradient_reaches_is_not_told():
    one, other = made(), made()
    (first, _), _, seen = edged((one, other))
    first.sum().backward()
    assert list(seen) == [0]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: [x, "text", None],
        lambda x: (x, (x, 3)),
        lambda x: {"a": x, "b": {"c": [x]}},
        lambda x: Pair(x, 1),
        lambda x: Answer(x, note="kept"),
        lambda x: OrderedDict(a=x),
        lambda x: UserDict({"a": x}),
        lambda x: pack_sequence([x]),
    ],
)
def test_containers_keep_their_class_and_their_values(make):
    x = made()
    output = make(x)
    replaced, edges, seen = edged(output)
    assert type(replaced) is type(output)
    assert len(edges) == 1
    assert torch.equal(edges[0], x)
    edges[0].sum().backward()
    assert seen[0].tolist() == [1, 1, 1]


def test_a_container_keeps_what_else_it_holds():
    output = Tagged(a=made(), b=3)
    output.tag = "kept"
    replaced, _, _ = edged(output)
    assert (type(replaced), replaced.tag, replaced["b"]) == (Tagged, "kept", 3)
    assert replaced["a"] is not output["a"]


def test_a_tensor_that_comes_twice_has_one_edge():
    x = made()
    replaced, edges, _ = edged({"last": x, "all": [x, x]})
    assert replaced["last"] is replaced["all"][0] is replaced["all"][1] is edges[0]


def test_what_has_no_gradient_stays_the_same_object():
    leaf, plain, whole = torch.ones(2, requires_grad=True), torch.ones(2), torch.ones(2, dtype=torch.long)
    output = {"leaf": leaf, "plain": plain, "whole": [whole]}
    replaced, edges, _ = edged(output)
    assert replaced is output
    assert edges == []


def test_a_container_that_cannot_be_made_again_is_left_as_it_is():
    output = OwnTuple([made()])
    with pytest.raises(CannotReplace, match="OwnTuple"):
        put_edges(output, lambda index, gradient: None)


@pytest.mark.parametrize(
    "use",
    [
        lambda y: y.mul_(3),
        lambda y: y.relu_(),
        lambda y: y[:2].zero_(),
        lambda y: y.detach(),
        lambda y: y.view(-1)[1:],
        lambda y: y.retain_grad() or y,
        lambda y: torch.autograd.grad(y.pow(3).sum(), y, create_graph=True)[0],
    ],
)
def test_what_can_be_done_with_an_output_can_be_done_with_its_edge(use):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    x = torch.randn(2, 3)

    def gradients(edges):
        model.zero_grad()
        out = model(x)
        used = use(edged(out)[0] if edges else out)
        (used.square().sum() + model[0].weight.sum()).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    assert all(map(torch.equal, gradients(False), gradients(True)))


def test_pieces_of_one_tensor_are_refused_in_place_as_without_edges():
    pieces, _, _ = edged(made(4).chunk(2))
    with pytest.raises(RuntimeError, match="inplace"):
        pieces[0].mul_(2)


def changed_by(change, output, factor=2.0):
    """The gradient that reaches an output from outside after a change in place, and what the edge's hook had heard."""
    origin = output.grad_fn
    edge, _, seen = edged(output)
    change(edge)
    heard = []
    followed = follow_changes(edge, origin, heard.append)
    (edge.sum() * factor).backward()
    return followed, heard, seen


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda y: y.mul_(5), [10.0, 10.0, 10.0]),
        (lambda y: y.mul_(5).add_(1).mul_(3), [30.0, 30.0, 30.0]),
        (lambda y: y[1:].zero_(), [2.0, 0.0, 0.0]),
        (lambda y: y.mul_(float("inf")), [float("inf")] * 3),
        (lambda y: y.detach_().requires_grad_(), None),
    ],
    ids=["once", "several times", "in part", "by infinity", "detached"],
)
def test_the_gradient_of_an_output_that_was_changed_in_place_is_that_before_the_change(change, expected):
    x = torch.ones(3, requires_grad=True)
    try:
        followed, heard, seen = changed_by(change, x * 1)
    except RuntimeError:  # PyTorch detaches no view in place
        assert expected is None
        return
    assert (followed, seen) == (True, {})
    assert [one.tolist() for one in heard] == [expected]
    assert x.grad.tolist() == expected


def test_an_output_that_was_changed_within_the_model_is_followed_to_there():
    x = torch.ones(3, requires_grad=True)
    output = x * 1
    output[0] = 7.0
    followed, heard, _ = changed_by(lambda y: y.mul_(5), output)
    assert followed
    assert [one.tolist() for one in heard] == [[10.0, 10.0, 10.0]]
    assert x.grad.tolist() == [0.0, 10.0, 10.0]


def test_what_is_not_changed_or_a_view_of_something_else_is_not_followed():
    output = made()
    edge, _, _ = edged(output)
    assert not follow_changes(edge, output.grad_fn, pytest.fail)
    part = made(6)[:3]
    origin = part.grad_fn
    edge, _, _ = edged(part)
    edge.mul_(2)
    assert not follow_changes(edge, origin, pytest.fail)
    assert not follow_changes(made(), None, pytest.fail)
