"""Truncating the error that flows back through a hidden state: Mikolov 2012."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from gradwatch.clip.policy import above_zero
from gradwatch.errors import BadArgument

H = TypeVar("H", Tensor, tuple[Tensor, ...])


@dataclass
class HiddenStateClip:
    """Limit every entry of the error at a hidden state to [-limit, limit], at each step of an RNN.

    Mikolov 2012 (PhD thesis, section 3.2.2): "I did limit maximum size of gradients of errors that get
    accumulated in the hidden neurons to be in a range <-15; 15>". It acts on dE/dh_t within the
    backward pass, before the error reaches earlier steps, so that no step can amplify it further. Clipping
    the gradients of the weights, as `clip_grad_value_` does, acts only after the whole backward pass. A NaN
    stays NaN. Call it on the state in the loop over time, or use it as a context around RNN cells:

    >>> cell = nn.RNNCell(2, 3)
    >>> h = torch.zeros(1, 3)
    >>> truncate = HiddenStateClip(limit=0.1)
    >>> for x in torch.ones(4, 1, 2):
    ...     h = truncate(cell(x, h))
    >>> h.sum().backward()
    >>> truncate.entries, truncate.cut > 0
    (12, True)

    >>> with HiddenStateClip(15.0).of(cell):
    ...     h = cell(torch.ones(1, 2), torch.zeros(1, 3))
    """

    limit: float = 15.0
    entries: int = field(default=0, init=False, compare=False)  # entries of errors seen so far
    _cut: Tensor | int = field(default=0, init=False, repr=False, compare=False)
    _cells: tuple[nn.Module, ...] = field(default=(), init=False, repr=False, compare=False)
    _handles: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        above_zero(limit=self.limit)

    @property
    def cut(self) -> int:
        """How many of these entries were truncated. Waits for the device."""
        return int(self._cut)

    def __call__(self, state: H) -> H:
        """Return the same state, with its error to be truncated; of an LSTM's (h, c), both."""
        if isinstance(state, tuple):
            return tuple(self(part) for part in state)
        if state.requires_grad:
            # A view has its own error, the sum of what later steps and losses send back, and its own hook.
            state = state.view_as(state)
            state.register_hook(self._truncated)  # type: ignore[no-untyped-call]
        return state

    def _truncated(self, error: Tensor) -> Tensor:
        self.entries += error.numel()
        self._cut = self._cut + torch.count_nonzero(error.detach().abs() > self.limit)
        return error.clamp(-self.limit, self.limit)

    def of(self, *cells: nn.Module) -> Self:
        """Use it as a context in which it acts on every state that these cells return.

        Raises:
            BadArgument: a module runs over the whole sequence (`nn.RNN`, `nn.LSTM`, `nn.GRU`), so that its
                states can't be reached. Use the cell in a loop.
        """
        for cell in cells:
            if isinstance(cell, nn.RNNBase):
                name = type(cell).__name__
                raise BadArgument(
                    f"{name} runs over the whole sequence at once, so its hidden states can't be reached;"
                    f" expected cells, for example nn.{name}Cell in a loop."
                )
        self._cells = cells
        return self

    def __enter__(self) -> Self:
        self._handles = [cell.register_forward_hook(lambda *call: self(call[-1])) for cell in self._cells]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
