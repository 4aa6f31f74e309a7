"""Every operator of a replay, forward and backward, with its largest magnitude and its caller.

Operators are seen below autograd, by a dispatch mode. In the backward pass an operator belongs to the node of the
graph that runs: the number of the node gives the module, and its anomaly metadata give the line that created it.
"""

from __future__ import annotations

import bisect
import linecache
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

HERE = str(Path(__file__).parents[1])
TORCH = str(Path(torch.__file__).parent)
MOST_NODE_LINES = 400
MOST_WRITERS = 256


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code."""

    file: str
    number: int

    @property
    def code(self) -> str:
        return linecache.getline(self.file, self.number).strip()


@dataclass(slots=True, kw_only=True)
class Operation:
    """One call of an operator.

    Attributes:
        phase: in the forward or in the backward pass.
        module: the module that called it, by name; None if it was called outside of the model.
        name: of the operator, for example "aten.sqrt".
        node: in the backward pass the operator whose gradient this is, for example "aten.sqrt".
        line: that called it, or that made the node.
        magnitude: largest magnitude of its outputs; NaN if there is one.
        parents: indices of the operations and leaves that made its inputs.
        is_written: whether an argument is an infinity or NaN, written by intent.
        values: the tensor of the magnitude until `Tracer.trace` reads it.
    """

    phase: Literal["forward", "backward"]
    module: str | None
    name: str
    node: str | None
    line: Line | None
    parents: tuple[int, ...]
    is_written: bool
    magnitude: float = 0.0
    values: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class Leaf:
    """A tensor that no operation made: an input, a weight, or the gradient of an output."""

    kind: Literal["input", "weights", "loss"]
    name: str
    magnitude: float = 0.0
    values: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The operations of a replay in order.

    Attributes:
        operations: in the order of their calls.
        leaves: by their indices, which are negative.
        ends: the indices of the operations that made the parameters' gradients.
        classes: the class of each module by its name.
    """

    operations: Sequence[Operation]
    leaves: Mapping[int, Leaf]
    ends: Sequence[int]
    classes: Mapping[str, str]


@dataclass
class _Calls:
    """Which module made which nodes of the graph."""

    path: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)

    def enter(self, name: str) -> None:
        self.path.append(name)
        self._mark()

    def leave(self) -> None:
        if self.path:
            self.path.pop()
        self._mark()

    @property
    def current(self) -> str | None:
        return self.path[-1] if self.path else None

    def _mark(self) -> None:
        self.numbers.append(torch._C._autograd._get_sequence_nr())
        self.names.append(self.current)

    def of_node(self, number: int) -> str | None:
        at = bisect.bisect_right(self.numbers, number) - 1
        return self.names[at] if at >= 0 else None


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that run within it. Use it by `tracing`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls = _Calls()
        self._operations: list[Operation] = []
        self._leaves: dict[int, Leaf] = {}
        self._exact: dict[tuple[Any, ...], int] = {}
        self._writers: dict[int, list[int]] = {}  # of a storage: all since something wrote the whole of it
        self._generations: dict[int, int] = {}
        self._lines: dict[int, Line | None] = {}
        self._classes = {name: type(module).__name__ for name, module in model.named_modules()}
        self._ends: list[int] = []
        for name, parameter in model.named_parameters():
            self.leaf("weights", name, parameter)

    # ------------------------------------------------------------------------------------ leaves

    def leaf(self, kind: Literal["input", "weights", "loss"], name: str, tensor: Tensor) -> None:
        """Note a tensor that comes from outside."""
        if _key(tensor) is None:
            return
        index = -1 - len(self._leaves)
        with _disable_current_modes():
            self._leaves[index] = Leaf(kind=kind, name=name, values=_magnitude([tensor]))
        self._write(tensor, index)

    def end(self, gradients: Iterable[Tensor]) -> None:
        """Note the gradients that the backward pass left."""
        self._ends = [at for one in gradients for at in self._makers_of(one)]

    # --------------------------------------------------------------------------------- operations

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator, and note what it gave."""
        given = tree_flatten((args, kwargs or {}))[0]
        inputs = [one for one in given if isinstance(one, Tensor)]
        parents = dict.fromkeys(at for one in inputs for at in self._makers_of(one))
        output = function(*args, **(kwargs or {}))
        outputs = [one for one in tree_flatten(output)[0] if isinstance(one, Tensor)]
        self._note(function, given, inputs, outputs, tuple(parents))
        return output

    def _note(
        self, function: Any, given: list[Any], inputs: list[Tensor], outputs: list[Tensor], parents: tuple[int, ...]
    ) -> None:
        node = torch._C._current_autograd_node()
        index = len(self._operations)
        backward = node is not None
        module, line = self._place(node)
        self._operations.append(
            Operation(
                phase="backward" if backward else "forward",
                module=module,
                name=operator_name(function),
                node=None if node is None else node_name(node),
                line=line,
                parents=parents,
                is_written=any(isinstance(one, float) and one - one != 0.0 for one in given),
                values=_magnitude(outputs),
            )
        )
        storages = {_pointer(one) for one in inputs}
        for output in outputs:
            self._write(output, index, is_view=_pointer(output) in storages and not function._schema.is_mutable)

    def _place(self, node: Any) -> tuple[str | None, Line | None]:
        """The module and the line that an operation belongs to."""
        own = _line_of_stack()
        if node is None or self._calls.path:  # within a checkpoint the forward runs again in the backward pass
            return self._calls.current, own
        number = node._sequence_nr()
        if number not in self._lines:
            self._lines[number] = _line_of_node(node)
        return self._calls.of_node(number), own or self._lines[number]

    # ------------------------------------------------------------------- which operation made a tensor

    def _makers_of(self, tensor: Tensor) -> Sequence[int]:
        key = _key(tensor)
        if key is None:
            return ()
        exact = self._exact.get((*key, self._generations.get(key[0], 0)))
        return self._writers.get(key[0], ()) if exact is None else (exact,)

    def _write(self, tensor: Tensor, index: int, is_view: bool = False) -> None:
        key = _key(tensor)
        if key is None:
            return
        pointer = key[0]
        if not is_view:
            self._generations[pointer] = self._generations.get(pointer, 0) + 1
            is_whole = tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
            writers = [] if is_whole else self._writers.get(pointer, [])[-MOST_WRITERS:]
            self._writers[pointer] = [*writers, index]
            if not is_whole and len(writers):
                return
        self._exact[(*key, self._generations.get(pointer, 0))] = index

    # ------------------------------------------------------------------------------------- result

    def trace(self) -> Trace:
        """What was noted, with the magnitudes read from the device."""
        noted: list[Operation | Leaf] = [*self._operations, *self._leaves.values()]
        known = [one for one in noted if one.values is not None]
        if known:
            read = torch.stack([one.values.cpu() for one in known if one.values is not None]).tolist()
            for one, magnitude in zip(known, read, strict=True):
                one.magnitude, one.values = magnitude, None
        return Trace(operations=self._operations, leaves=self._leaves, ends=self._ends, classes=self._classes)


@contextmanager
def tracing(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Note the operations within, and the modules that call them."""
    with ExitStack() as stack:
        for name, module in model.named_modules():

            def enter(module: nn.Module, args: Any, name: str = name) -> None:
                tracer._calls.enter(name)

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                tracer._calls.leave()

            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        stack.enter_context(tracer)
        yield


# ------------------------------------------------------------------------------------ names and lines


def operator_name(function: Any) -> str:
    """The operator without its overload, and without the mark of one that works in place.

    >>> operator_name(torch.ops.aten.sqrt_.default)
    'aten.sqrt'
    """
    space, _, name = function._schema.name.partition("::")
    name = name if name.startswith("__") else name.rstrip("_")
    return f"{space}.{name}"


_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def node_name(node: Any) -> str:
    """The operator whose gradient a node computes; of a user's function, its class.

    >>> node_name((torch.ones(1, requires_grad=True) ** 0.5).grad_fn)
    'aten.pow'
    """
    name = type(node).__name__ if isinstance(node, torch.autograd.function.BackwardCFunction) else node.name()
    name = name.rpartition("::")[2]
    found = re.fullmatch(r"(.+)Backward(\d*)", name)
    if found is None:
        return str(name)
    if not found[2]:
        return f"{found[1]}"
    return "aten." + _WORDS.sub("_", found[1]).lower()


def _line_of_stack() -> Line | None:
    """The innermost line outside of torch and gradwatch, of what the replay called."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(HERE) and frame.f_code.co_name in _ENTRIES:
            return None
        if not file.startswith((HERE, TORCH)) and not file.startswith("<") and "contextlib" not in file:
            return Line(file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


_ENTRIES = {"_play_group"}  # of `passes`: what lies outside of it is not the model's

_FRAME = re.compile(r'  File "(.+)", line (\d+), in ')


def _line_of_node(node: Any) -> Line | None:
    """The innermost line outside of torch and gradwatch that made a node."""
    for text in reversed(list(node.metadata.get("traceback_", ()))[-MOST_NODE_LINES:]):
        found = _FRAME.match(text)
        if found is None:
            continue
        file = found[1]
        if file.startswith(HERE) and any(text.splitlines()[0].endswith(f"in {name}") for name in _ENTRIES):
            return None
        if not file.startswith((HERE, TORCH)) and not file.startswith("<") and "contextlib" not in file:
            return Line(file, int(found[2]))
    return None


# ------------------------------------------------------------------------------------------- tensors


def _magnitude(tensors: Sequence[Tensor]) -> Tensor | None:
    """The largest magnitude of floating tensors, float32 or wider; None if there is none."""
    found = []
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel() and tensor.layout == torch.strided:
            largest = tensor.detach().abs().amax()
            found.append(largest.to(torch.float64 if largest.device.type != "mps" else torch.float32))
    if not found:
        return None
    return found[0] if len(found) == 1 else torch.stack([one.to(found[0].device) for one in found]).amax()


def _pointer(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # sparse tensors have no storage
        return None


def _key(tensor: Tensor) -> tuple[Any, ...] | None:
    pointer = _pointer(tensor)
    if pointer is None:
        return None
    return (pointer, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
