"""An edge on each differentiable output of a module: a view that receives only the gradient from outside the module.

A hook on the output itself would also see the gradient of uses within the module, for example of a loss that a model
computes from the logits it returns. The view is PyTorch's own, so it supports everything that the output supports:
changes in place, second derivatives, functorch.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gradwatch.capture.nested import Parts, is_differentiable, is_namedtuple, map_tensors

Arrived = Callable[[int, Tensor], None]
"""Takes the position of an output and the gradient that reached it."""


class CannotReplace(Exception):
    """A container of the output can't be made again with other tensors."""


def put_edges(output: Any, arrived: Arrived) -> tuple[Any, list[Tensor]]:
    """Return the output with an edge on each differentiable tensor, and these tensors.

    A tensor that comes twice gets one edge, because the order in which its gradients are added is to stay.

    Raises:
        CannotReplace: it can't be done; the output is as it was.
    """
    edges: dict[int, tuple[Tensor, Tensor]] = {}  # with the output, so that its id stays its own

    def edge(tensor: Tensor) -> Tensor:
        if not is_differentiable(tensor):
            return tensor
        known = edges.get(id(tensor))
        if known is None:
            known = edges[id(tensor)] = (tensor, _edge(tensor, len(edges), arrived))
        return known[1]

    try:
        replaced = map_tensors(edge, output, _rebuilt)
    except RecursionError as error:
        raise CannotReplace(f"its output is {error}") from error
    return replaced, [one for _, one in edges.values()]


def _edge(tensor: Tensor, index: int, arrived: Arrived) -> Tensor:
    made = tensor.view_as(tensor)

    def hook(gradients: tuple[Tensor | None, ...]) -> None:
        if gradients[0] is not None:
            arrived(index, gradients[0])

    made.grad_fn.register_prehook(hook)  # type: ignore[union-attr, arg-type, unused-ignore]
    return made


def follow_changes(edge: Tensor, origin: Any, arrived: Callable[[Tensor], None]) -> bool:
    """Hear the gradient of an output that was changed in place after the forward, for example by `loss *= scale`.

    Such a change gives the edge another history, and its hook is not called for what reaches the output by that. The
    gradient passes PyTorch's `CopySlices`, one for each change. The first of them hands it to ``origin``.

    Args:
        edge: from `put_edges`.
        origin: the node that made the output, before it had an edge.
        arrived: takes the gradient.

    Returns:
        False if the history is of another kind, as that of an output that is a view.
    """
    if edge._base is None:
        return False
    node, first = edge._base.grad_fn, None
    while node is not None and node is not origin:
        if type(node).__name__ != "CopySlices":
            return False
        node, first = node.next_functions[0][0], node
    if node is None or first is None:
        return False
    first.register_hook(lambda inputs, _: None if inputs[0] is None else arrived(inputs[0]))
    return True


def _rebuilt(value: Any, parts: Parts, changed: Parts) -> Any:
    """A copy of the container with other parts; whatever else it holds stays."""
    kind: Any = type(value)
    if is_namedtuple(value):
        return tuple.__new__(kind, (parts | changed).values())
    if kind in {list, tuple}:
        return kind((parts | changed).values())
    try:
        made = copy.copy(value)
        if isinstance(value, (list, Mapping)):
            for key, part in changed.items():
                made[key] = part
        elif dataclasses.is_dataclass(value):
            for key, part in changed.items():
                object.__setattr__(made, key, part)
        else:
            raise TypeError("a tuple of a class of its own")
    except Exception as error:
        raise CannotReplace(f"its output holds a {kind.__name__}, which can't be made again") from error
    return made
