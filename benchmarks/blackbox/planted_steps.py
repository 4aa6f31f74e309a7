"""One training step, and its capture made in memory: what the recorder keeps, without a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.capture import (
    Autocast,
    Capture,
    Forward,
    Group,
    Why,
    map_tensors,
    take_random_state,
    tensors_in,
)


class Edge(torch.autograd.Function):
    """The identity, which notes the gradient that comes from outside."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, kept: list[Tensor | None], at: int) -> Tensor:
        ctx.kept, ctx.at = kept, at
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.kept[ctx.at] = gradient.clone()
        return gradient, None, None


class Keeper:
    """Keeps what each forward of a model was called with, and the gradients that reach its outputs."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards: list[tuple[dict[str, Any], list[Tensor | None]]] = []
        self._model = model
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        def copy(tensor: Tensor) -> Tensor:
            return tensor.detach().clone().requires_grad_(tensor.requires_grad)

        root = model.training
        autocast = {
            "cpu": Autocast(
                enabled=torch.is_autocast_enabled("cpu"),
                dtype=str(torch.get_autocast_dtype("cpu")).removeprefix("torch."),
                cache_enabled=torch.is_autocast_cache_enabled(),
            )
        }
        flags = {name: one.training for name, one in model.named_modules() if one.training != root}
        kept = {
            "args": map_tensors(copy, args),
            "kwargs": map_tensors(copy, kwargs),
            "random_state": take_random_state(),
            "buffers": {name: one.clone() for name, one in model.named_buffers()},
            "autocast": autocast,
            "training": {"": root} | flags,
        }
        self.forwards.append((kept, []))

    def _after(self, model: nn.Module, args: Any, output: Any) -> Any:
        gradients = self.forwards[-1][1]

        def edge(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad or tensor.is_leaf:
                return tensor
            gradients.append(None)
            return Edge.apply(tensor, gradients, len(gradients) - 1)

        return map_tensors(edge, output)

    def take(self) -> Group:
        """The forwards since the last time, as one group."""
        group = Group(forwards=tuple(Forward(**kept, output_gradients=tuple(got)) for kept, got in self.forwards))
        self.forwards = []
        return group

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def capture_step(
    model: nn.Module,
    losses: list[Callable[[], Tensor]],
    why: Why = "nonfinite",
    loss_scale: float | None = None,
    tamper: Callable[[nn.Module], None] | None = None,
) -> Capture:
    """Compute each loss and call its backward, and keep the step.

    Args:
        model: has the weights of the step.
        losses: one for each backward call; each calls the model as often as it wants to.
        why: the reason to keep it.
        loss_scale: multiplies each loss, as a GradScaler does.
        tamper: changes the gradients from outside afterwards.
    """
    model.zero_grad()
    keeper = Keeper(model)
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    groups = []
    try:
        for loss in losses:
            value = loss()
            (value if loss_scale is None else value * loss_scale).backward()
            groups.append(keeper.take())
    finally:
        keeper.remove()
    if loss_scale is not None:
        for one in model.parameters():
            if one.grad is not None:
                one.grad.mul_(1.0 / loss_scale)
    if tamper is not None:
        tamper(model)
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    assert all(tensors_in(forward.args) or forward.kwargs for group in groups for forward in group.forwards)
    return Capture(
        run="runs/case",
        step=0,
        optimizer="0",
        why=why,
        groups=tuple(groups),
        weights=weights,
        gradients=gradients,
        devices=("cpu",),
        loss_scale=loss_scale,
    )
