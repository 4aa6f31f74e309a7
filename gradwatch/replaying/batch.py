"""The batch dimension of a model's inputs: found by trial, and used to separate rows.

A dimension is the batch dimension if the output of a row changes when that row's input changes, and only then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gradwatch.capture.nested import map_tensors, tensors_in
from gradwatch.capture.record import Forward

if TYPE_CHECKING:
    from gradwatch.replaying.passes import Player


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How the rows of a micro-batch lie in its tensors.

    Attributes:
        size: the number of rows.
        dimension: of the first input that has rows.
        inputs: the dimension of rows in each tensor of the arguments; None where it has none.
        outputs: the same of each differentiable output.
        mixed_in: the first module whose output for a row depends on other rows; None if there is none. "" is the
            model itself.
    """

    size: int
    dimension: int
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    mixed_in: str | None = None


class Padded(NamedTuple):
    """A packed sequence, padded so that its rows can be taken apart."""

    data: Tensor  # rows x time x ...
    lengths: Tensor


def padded(forward: Forward) -> Forward:
    """The forward with `Padded` for each packed sequence among its arguments."""

    def one(value: Any) -> Any:
        return Padded(*pad_packed_sequence(value, batch_first=True)) if isinstance(value, PackedSequence) else value

    values = [*forward.args, *forward.kwargs.values()]
    if not any(isinstance(value, PackedSequence) for value in values):
        return forward
    return dataclasses.replace(
        forward,
        args=tuple(one(value) for value in forward.args),
        kwargs={name: one(value) for name, value in forward.kwargs.items()},
        devices=(),
    )


def repacked(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values with a packed sequence for each `Padded`."""
    return tuple(
        pack_padded_sequence(value.data, value.lengths.cpu(), batch_first=True, enforce_sorted=False)
        if isinstance(value, Padded)
        else value
        for value in values
    )


def leaves_of(forward: Forward) -> list[Tensor]:
    """The tensors of the arguments."""
    return tensors_in((tuple(forward.args), dict(forward.kwargs)))


def take(forward: Forward, batch: Batch, rows: Sequence[int]) -> Forward:
    """The forward with these rows of its inputs and of its output gradients, in this order.

    >>> from gradwatch.replaying.example import example_forward
    >>> forward = example_forward(torch.tensor([[1.0], [2.0], [3.0]]))
    >>> batch = Batch(size=3, dimension=0, inputs=(0,), outputs=())
    >>> take(forward, batch, [2, 0]).args[0].tolist()
    [[3.0], [1.0]]
    """
    index = torch.tensor(list(rows), dtype=torch.int64)
    dimensions = iter(batch.inputs)

    def select(tensor: Tensor) -> Tensor:
        dimension = next(dimensions)
        if dimension is None:
            return tensor
        return _selected(tensor, dimension, index).requires_grad_(tensor.requires_grad)

    args, kwargs = map_tensors(select, (tuple(forward.args), dict(forward.kwargs)))
    gradients = tuple(
        gradient if gradient is None or dimension is None else _selected(gradient, dimension, index)
        for gradient, dimension in zip(forward.output_gradients, batch.outputs, strict=True)
    )
    return dataclasses.replace(forward, args=args, kwargs=kwargs, output_gradients=gradients)


def _selected(tensor: Tensor, dimension: int, index: Tensor) -> Tensor:
    """These rows, laid out in memory as the tensor is where there are as many."""
    rows = tensor.detach().index_select(dimension, index.to(tensor.device))
    return torch.empty_like(tensor).copy_(rows) if rows.shape == tensor.shape else rows


def only(forward: Forward, batch: Batch, rows: Sequence[int]) -> Forward:
    """The forward with the output gradients of these rows, and zero for the others."""
    gradients: list[Tensor | None] = []
    for gradient, dimension in zip(forward.output_gradients, batch.outputs, strict=True):
        if gradient is None or dimension is None:
            gradients.append(None)
            continue
        kept = torch.zeros_like(gradient)
        index = torch.tensor(list(rows), dtype=torch.int64, device=gradient.device)
        gradients.append(kept.index_copy_(dimension, index, gradient.index_select(dimension, index)))
    return dataclasses.replace(forward, output_gradients=tuple(gradients))


def replace_rows(forward: Forward, batch: Batch, rows: Sequence[int], donors: Sequence[int]) -> Forward:
    """The forward with copies of ``donors`` in the place of ``rows``: as many rows, without these."""
    index = list(range(batch.size))
    for at, row in enumerate(rows):
        index[row] = donors[at % len(donors)]
    return take(forward, batch, index)


# ---------------------------------------------------------------------------------------- finding it


def find_batch(player: Player, forward: Forward) -> Batch | None:
    """Find the batch dimension of a forward by changing rows of its inputs; None if it has none."""
    best: tuple[int, Batch] | None = None
    forward = _with_finite_inputs(forward)
    for dimension, size, inputs in _candidates(leaves_of(forward)):
        batch = Batch(size=size, dimension=dimension, inputs=inputs, outputs=(None,) * len(forward.output_gradients))
        try:
            found = _tried(player, forward, batch)
        except Exception:  # a model may refuse these rows in any way
            continue
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    return None if best is None else best[1]


def _with_finite_inputs(forward: Forward) -> Forward:
    """Zero in the place of each NaN and infinity, which would hide what depends on what; masks keep their -inf."""

    def finite(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.layout != torch.strided or bool(tensor.isfinite().all()):
            return tensor
        return torch.where(tensor < torch.inf, tensor.detach(), 0.0).requires_grad_(tensor.requires_grad)

    args, kwargs = map_tensors(finite, (tuple(forward.args), dict(forward.kwargs)))
    return dataclasses.replace(forward, args=args, kwargs=kwargs)


def _candidates(leaves: Sequence[Tensor]) -> Iterator[tuple[int, int, tuple[int | None, ...]]]:
    """Ways to lay rows into the tensors: their dimension, how many, and the dimension in each tensor."""
    main = next((one for one in leaves if one.dim() >= 1 and one.layout == torch.strided), None)
    if main is None:
        return
    seen = set()
    for dimension, size in enumerate(main.shape[:2]):
        for layout in _layouts(leaves, dimension, size) if size else ():
            if layout not in seen:
                seen.add(layout)
                yield dimension, size, layout


def _layouts(leaves: Sequence[Tensor], dimension: int, size: int) -> list[tuple[int | None, ...]]:
    """The dimension of rows in each tensor: with square matrices, which may be a batch, and without them."""
    inputs = tuple(_dimension_in(leaf, dimension, size) for leaf in leaves)
    square = [leaf.dim() == 2 and leaf.shape[0] == leaf.shape[1] for leaf in leaves]
    without = tuple(None if is_square else one for one, is_square in zip(inputs, square, strict=True))
    return [layout for layout in (inputs, without) if any(one is not None for one in layout)]


def _dimension_in(leaf: Tensor, dimension: int, size: int) -> int | None:
    if leaf.layout != torch.strided:
        return None
    if leaf.dim() > dimension and leaf.shape[dimension] == size:
        return dimension
    return next((at for at in range(leaf.dim()) if leaf.shape[at] == size), None)


def _tried(player: Player, forward: Forward, batch: Batch) -> tuple[int, Batch] | None:
    """How much speaks for this layout, and the dimensions of rows in the outputs; None if rows change nothing."""
    if batch.size == 1:
        sizes = [_of_size_one(one, batch.dimension) for one in player.forward(forward)]
        return 3, dataclasses.replace(batch, outputs=tuple(sizes))
    trials = _trials(player, forward, batch)
    if not trials.count or not trials.is_moved:
        return None
    wanted = [gradient is not None for gradient in forward.output_gradients]
    if all(compress(trials.fitting, wanted)):
        return 3, _with_outputs(batch, trials.fitting)
    mixed_in = trials.mixed_in
    if all(compress(trials.plain.outputs, wanted)):
        outputs = [kept or set(every) for kept, every in zip(trials.fitting, trials.plain.outputs, strict=True)]
        return 2, _with_outputs(batch, outputs, mixed_in or "")
    return int(mixed_in is None and bool(trials.isolated)), _with_outputs(batch, trials.fitting, mixed_in)


def _trials(player: Player, forward: Forward, batch: Batch) -> _Trials:
    """Change the first and the last row, each into another one."""
    trials = _Trials(_look(player, forward, batch.size))
    for row in (0, batch.size - 1):
        other = _other_row(forward, batch, row)
        if other is not None:
            index = list(range(batch.size))
            index[row] = other
            trials.note(_look(player, take(forward, batch, index), batch.size), row)
    return trials


def _with_outputs(batch: Batch, dimensions: Sequence[set[int]], mixed_in: str | None = None) -> Batch:
    outputs = tuple(_preferred(one, batch.dimension) for one in dimensions)
    return dataclasses.replace(batch, outputs=outputs, mixed_in=mixed_in)


def _preferred(dimensions: set[int], dimension: int) -> int | None:
    return dimension if dimension in dimensions else min(dimensions, default=None)


def _of_size_one(tensor: Tensor, dimension: int) -> int | None:
    return _preferred({at for at in range(tensor.dim()) if tensor.shape[at] == 1}, dimension)


def _other_row(forward: Forward, batch: Batch, row: int) -> int | None:
    """A row whose inputs differ from those of ``row``."""
    for step in range(1, min(batch.size, 8)):
        other = (row + step) % batch.size
        for leaf, dimension in zip(leaves_of(forward), batch.inputs, strict=True):
            if dimension is not None and not torch.equal(leaf.select(dimension, row), leaf.select(dimension, other)):
                return other
    return None


@dataclass(frozen=True, slots=True)
class _Looked:
    """Sums over each slice of each tensor, by dimension, of those dimensions that have as many slices as rows."""

    outputs: list[dict[int, Tensor]]
    modules: list[tuple[str, dict[int, Tensor]]]


@dataclass(slots=True)
class _Trials:
    """How a forward changes when single rows of its inputs do.

    Attributes:
        plain: the forward with no row changed.
        fitting: the dimensions of each output in which no slice but that of the changed row has changed.
        isolated: whether the output of a module has such a dimension.
        count: how many rows were changed.
        is_moved: whether an output changed; also true if none has as many slices as there are rows.
        mixed_in: the first module whose output has no such dimension.
    """

    plain: _Looked
    fitting: list[set[int]] = field(init=False)
    isolated: dict[str, bool] = field(default_factory=dict)
    count: int = 0
    is_moved: bool = field(init=False)

    def __post_init__(self) -> None:
        self.fitting = [set(profile) for profile in self.plain.outputs]
        self.is_moved = not any(self.fitting)

    @property
    def mixed_in(self) -> str | None:
        return next((name for name, is_apart in self.isolated.items() if not is_apart), None)

    def note(self, changed: _Looked, row: int) -> None:
        """Take in the forward with this row changed."""
        self.count += 1
        pairs = list(zip(self.plain.outputs, changed.outputs, strict=True))
        self.fitting = [kept & _dimensions_that_fit(*pair, row) for kept, pair in zip(self.fitting, pairs, strict=True)]
        self.is_moved = self.is_moved or any(
            _differing(was[at], now[at]) for was, now in pairs for at in was.keys() & now.keys()
        )
        for (name, was), (_, now) in zip(self.plain.modules, changed.modules, strict=True):
            if was:
                self.isolated[name] = self.isolated.get(name, True) and bool(_dimensions_that_fit(was, now, row))


def _look(player: Player, forward: Forward, size: int) -> _Looked:
    modules: list[tuple[str, dict[int, Tensor]]] = []

    def note(name: str, output: Any) -> None:
        modules.extend((name, _profile(tensor, size)) for tensor in tensors_in(output)[:1])

    with _each_output(player.model, note):
        outputs = player.forward(forward)
    return _Looked([_profile(one, size) for one in outputs], modules)


@contextmanager
def _each_output(model: nn.Module, note: Callable[[str, Any], None]) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():

        def hook(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            note(name, output)

        handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _profile(tensor: Tensor, size: int) -> dict[int, Tensor]:
    if tensor.layout != torch.strided:
        return {}
    found = {}
    for dimension in range(tensor.dim()):
        if tensor.shape[dimension] == size:
            values = tensor.detach().movedim(dimension, 0).reshape(size, -1)
            values = values.double()
            found[dimension] = torch.stack([values.abs().sum(1), values.sum(1)]).cpu()
    return found


SAME = 1e-6
"""Of a slice's sum of magnitudes: a smaller change is one of rounding, where a kernel adds in another order."""


def _differing(was: Tensor, now: Tensor) -> list[int]:
    """The slices whose sums (2, slices) differ; the first sum is that of magnitudes."""
    close = ((was - now).abs() <= SAME * was[:1]) | (was == now) | (was.isnan() & now.isnan())
    return [int(at) for at in (~close.all(0)).nonzero().reshape(-1)]


def _dimensions_that_fit(was: dict[int, Tensor], now: dict[int, Tensor], row: int) -> set[int]:
    common = was.keys() & now.keys()
    return {at for at in common if set(_differing(was[at], now[at])) <= {row}}
