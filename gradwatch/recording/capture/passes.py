"""The parts of each forward and backward held until a step is judged: references, and copies of what would change."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradwatch.capture import Autocast, Forward, RandomState, tensors_in
from gradwatch.capture.nested import MAX_DEPTH

RANDOM_STATE_BYTES = 40_000
"""About what the state of Python's random numbers and of the others takes: thousands of forwards hold as many."""


@dataclass(slots=True, eq=False)
class Held:
    """A tensor by reference, and PyTorch's count of its changes in place when it was taken."""

    tensor: Tensor
    version: int | None

    @staticmethod
    def of(tensor: Tensor) -> Held:
        return Held(tensor, version_of(tensor))

    @property
    def is_changed(self) -> bool:
        return version_of(self.tensor) != self.version


@dataclass(slots=True, eq=False)
class HeldOutput:
    """A differentiable tensor of an output, by weak reference.

    Attributes:
        edge: it, with the edge.
        version: PyTorch's count of its changes in place.
    """

    edge: weakref.ref[Tensor]
    version: int | None

    @property
    def changed(self) -> Tensor | None:
        """The tensor, if it is still there and was changed in place."""
        edge = self.edge()
        return None if edge is None or version_of(edge) == self.version else edge


@dataclass(slots=True, eq=False, kw_only=True)
class HeldForward:
    """One call of a module, as it was before.

    Attributes:
        tap: what heard of it.
        module: its name within the model.
        args, kwargs: as they were given.
        inputs: the tensors among them.
        buffers: by name within the model; copies of those that forwards change.
        outputs: the differentiable tensors of the output.
        fault: why a backward from its output gradients does not give its part of the gradients, if that is so.
        number: forwards that began later have higher ones.
    """

    tap: object
    module: str
    args: tuple[object, ...]
    kwargs: dict[str, object]
    inputs: list[Held]
    random_state: RandomState
    buffers: dict[str, Held]
    autocast: Mapping[str, Autocast]
    training: Mapping[str, bool]
    outputs: list[HeldOutput] = field(default_factory=list)
    fault: str | None = None
    number: int = field(default_factory=itertools.count().__next__)

    @property
    def input_bytes(self) -> int:
        """Of the inputs and of the random state."""
        return RANDOM_STATE_BYTES + sum(bytes_of(held.tensor) for held in self.inputs)

    def faults(self) -> list[str]:
        """Why a replay of it would not be exact."""
        found = [self.fault] if self.fault else []
        where = f" of {self.module}" if self.module else ""
        now = tensors_in([list(self.args), self.kwargs])
        is_other = list(map(id, now)) != [id(held.tensor) for held in self.inputs]
        if is_other or any(held.is_changed for held in self.inputs):
            found.append(f"an input{where} was changed in place after the forward")
        if changed := [name for name, held in self.buffers.items() if held.is_changed]:
            found.append(f"the buffers {', '.join(changed[:5])} were changed and not copied before")
        if any(output.changed is not None for output in self.outputs):
            found.append(f"an output{where} was changed in place, which hides its gradient")
        return found

    def record(self, output_gradients: Sequence[Tensor | None]) -> Forward:
        """The record of it, with the gradients of one backward."""
        return Forward(
            module=self.module,
            args=self.args,
            kwargs=self.kwargs,
            devices=tuple(str(tensor.device) for tensor in tensors_in([list(self.args), self.kwargs])),
            random_state=self.random_state,
            buffers={name: held.tensor for name, held in self.buffers.items()},
            autocast=self.autocast,
            training=self.training,
            grad_enabled=True,
            output_gradients=tuple(output_gradients),
        )


@dataclass(slots=True, eq=False)
class HeldBackward:
    """One call of backward: the gradients that reached the outputs of forwards.

    Attributes:
        reached: for each forward, by its `id`, the forward and a gradient for each of its outputs; the last forward
            mostly comes first, as backward reaches them.
    """

    reached: dict[int, tuple[HeldForward, list[Held | None]]] = field(default_factory=dict)

    def note(self, forward: HeldForward, index: int, gradient: Tensor) -> None:
        entry = self.reached.get(id(forward))
        if entry is None:
            entry = self.reached[id(forward)] = (forward, [None] * len(forward.outputs))
        known = entry[1][index]  # an output that was used both before and after a change in place
        entry[1][index] = Held.of(gradient if known is None else known.tensor + gradient)

    def in_order(self) -> list[tuple[HeldForward, list[Held | None]]]:
        """What was reached in the order of the forwards: a replay in another adds the gradients in another."""
        return sorted(self.reached.values(), key=lambda one: one[0].number)

    @property
    def held_bytes(self) -> int:
        """Of the inputs and the gradients."""
        gradients = (held for _, each in self.reached.values() for held in each if held is not None)
        return sum(forward.input_bytes for forward, _ in self.reached.values()) + sum(
            bytes_of(held.tensor) for held in gradients
        )


def own_containers(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value with lists and dictionaries of its own: the loop may put other values into its after the forward.

    >>> batch = {"x": [1, 2]}
    >>> own = own_containers(batch)
    >>> batch["x"].clear()
    >>> own
    {'x': [1, 2]}
    """
    if depth == 0:
        return value
    if type(value) is dict:
        return {key: own_containers(one, depth - 1) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)([own_containers(one, depth - 1) for one in value])
    return value


def version_of(tensor: Tensor) -> int | None:
    """The count of changes in place; None for a tensor of inference mode, which has none."""
    return None if tensor.is_inference() else tensor._version


def bytes_of(tensor: Tensor) -> int:
    """The size of the entries that a tensor has."""
    if tensor.is_sparse:
        return bytes_of(tensor._indices()) + bytes_of(tensor._values())
    return tensor.numel() * tensor.element_size()
