"""One replay of a captured step: its forwards, and one backward for each group of them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gradwatch.capture.nested import differentiable, map_tensors, tensors_in
from gradwatch.capture.random_state import set_random_state, take_random_state
from gradwatch.capture.record import Capture, Forward, Group
from gradwatch.errors import CannotReplay
from gradwatch.measure import is_sharded
from gradwatch.replaying.arguments import named_arguments
from gradwatch.replaying.batch import repacked
from gradwatch.replaying.trace import Trace, Tracer, tracing

Gradients: TypeAlias = Mapping[str, Tensor]
"""The gradient of each parameter that took one, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What one replay gave.

    Attributes:
        gradients: of the root module's parameters, unscaled.
        outputs: the differentiable output tensors of each forward, detached.
    """

    gradients: Gradients
    outputs: tuple[tuple[Tensor, ...], ...]

    @property
    def total_norm(self) -> float:
        """L2 norm over all gradients; NaN or infinite if an entry is."""
        return total_norm(self.gradients.values())


def total_norm(gradients: Iterable[Tensor]) -> float:
    """L2 norm over all entries, summed in float64.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    5.0
    """
    square = 0.0
    for gradient in gradients:
        square += dot(gradient, gradient)
    return math.sqrt(square) if square >= 0 else math.nan


def dot(a: Tensor, b: Tensor) -> float:
    """The scalar product of two tensors of one shape, summed in float64."""
    a, b = (one.coalesce().to_dense() if one.layout != torch.strided else one for one in (a, b))
    return float(torch.dot(a.detach().reshape(-1).double(), b.detach().reshape(-1).double()))


class Player:
    """Replays the forwards of a capture on a model that has its weights. Made by `prepared`."""

    def __init__(self, model: nn.Module, capture: Capture) -> None:
        self.model = model
        self.capture = capture
        self.scale = 1.0 if capture.loss_scale is None else 1.0 / capture.loss_scale
        if capture.reduction == "mean":
            self.scale /= capture.ranks
        self._captured_on = {device.split(":")[0] for device in capture.devices}
        self._parameters = dict(model.named_parameters())
        self._device = next((one.device for one in self._parameters.values()), torch.device("cpu"))

    def play(
        self,
        groups: Sequence[Group] | None = None,
        *,
        autocast: bool = True,
        within: AbstractContextManager[Any] | None = None,
    ) -> Played:
        """Forward and backward of each group, all of the capture's if None.

        Args:
            groups: the forwards with the gradients of their outputs; those of one group share one backward.
            autocast: False leaves it off where the training had it on.
            within: entered around it, for example a dispatch mode.

        Raises:
            CannotReplay: the model has other outputs than the captured one.
            Exception: whatever the model raises.
        """
        for parameter in self._parameters.values():
            parameter.grad = None
        outputs: list[tuple[Tensor, ...]] = []
        with within or contextlib.nullcontext():
            for group in self.capture.groups if groups is None else groups:
                outputs += self._play_group(group, autocast)
            if self.observer is not None:
                self.observer.end([one.grad for one in self._parameters.values() if one.grad is not None])
        scale = self.scale
        with torch.no_grad():
            gradients = {
                name: one.grad if scale == 1.0 else one.grad * scale
                for name, one in self._parameters.items()
                if one.grad is not None
            }
        for parameter in self._parameters.values():
            parameter.grad = None
        return Played(gradients=gradients, outputs=tuple(outputs))

    def _play_group(self, group: Group, autocast: bool) -> list[tuple[Tensor, ...]]:
        outputs, roots, gradients = [], [], []
        for forward in group.forwards:
            found = self.forward(forward, autocast=autocast)
            outputs.append(tuple(one.detach() for one in found))
            if len(found) != len(forward.output_gradients):
                raise CannotReplay(
                    f"The model returned {len(found)} differentiable tensors, and the captured one"
                    f" {len(forward.output_gradients)}. Is it the same model?"
                )
            for at, (output, gradient) in enumerate(zip(found, forward.output_gradients, strict=True)):
                if gradient is not None:
                    roots.append(output)
                    gradients.append(self._fitting(gradient, output))
                    self._observe("loss", str(at), gradients[-1])
        if roots:
            torch.autograd.backward(roots, gradients)
        return outputs

    def trace(self, groups: Sequence[Group] | None = None) -> Trace:
        """Replay once more, and note every operation."""
        tracer = Tracer(self.model)
        self.observer = tracer
        try:
            self.play(groups, within=tracing(tracer, self.model))
        finally:
            self.observer = None
        return tracer.trace()

    def _fitting(self, gradient: Tensor, output: Tensor) -> Tensor:
        if gradient.shape != output.shape:
            raise CannotReplay(
                f"An output has the shape {tuple(output.shape)}, and the captured one {tuple(gradient.shape)}."
                " Is it the same model?"
            )
        return gradient.to(output.device, output.dtype)

    def forward(self, forward: Forward, *, autocast: bool = True, grad: bool = True) -> list[Tensor]:
        """One forward with everything that bears on it set as it was; the differentiable tensors of its output."""
        self.restore(forward)
        args, kwargs = self.arguments(forward)
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(grad))
            for context in self._autocast(forward, autocast):
                stack.enter_context(context)
            call = self.calls.get(forward.module)  # whose truth may be its length
            output = (self.model.get_submodule(forward.module) if call is None else call)(*args, **kwargs)
        return differentiable(output) if grad else tensors_in(output)

    def arguments(self, forward: Forward) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh copies of a forward's arguments, each on its device."""
        devices = iter(forward.devices)

        def fresh(tensor: Tensor) -> Tensor:
            copy = tensor.detach().to(self._device_for(next(devices, None)), copy=True)
            if copy.is_floating_point() and self.floats is not None:
                copy = copy.to(self.floats)
            return copy.requires_grad_(tensor.requires_grad)

        args, kwargs = map_tensors(fresh, (tuple(forward.args), dict(forward.kwargs)))
        if self.observer is not None:
            for name, value in named_arguments(dataclasses.replace(forward, args=args, kwargs=kwargs), self.model):
                for tensor in tensors_in(value):
                    self._observe("input", name, tensor)
        return repacked(args), {name: repacked((one,))[0] for name, one in kwargs.items()}

    calls: Mapping[str, Callable[..., Any]] = MappingProxyType({})
    """What is called in the place of a module, by its name."""

    floats: torch.dtype | None = None
    """The type that floating inputs are cast to; None leaves them."""

    observer: Tracer | None = None
    """Told of the tensors that come from outside, and of the gradients in the end."""

    def _observe(self, kind: Literal["input", "loss"], name: str, tensor: Tensor) -> None:
        if self.observer is not None:
            self.observer.leaf(kind, name, tensor)

    def _device_for(self, captured: str | None) -> torch.device:
        if captured is None or captured.split(":")[0] in self._captured_on:
            return self._device
        return torch.device("cpu") if captured == "cpu" else self._device

    def restore(self, forward: Forward) -> None:
        """Set buffers, random state and training flags as they were before the forward."""
        for name, buffer in self.model.named_buffers():
            kept = forward.buffers.get(name)
            # What an earlier forward of the group has left is mostly what was kept, and its backward may need it.
            if kept is not None and buffer.shape == kept.shape and not torch.equal(buffer.cpu(), kept.cpu()):
                buffer.data = kept.detach().to(buffer.device, buffer.dtype, copy=True)
        default = forward.training.get("", True)
        for name, module in self.model.named_modules():
            module.training = forward.training.get(name, default)
        set_random_state(forward.random_state)

    def _autocast(self, forward: Forward, wanted: bool) -> Iterator[AbstractContextManager[Any]]:
        for device, state in forward.autocast.items():
            known = device in ("cpu", self._device.type)
            if state.enabled and wanted and known:
                yield torch.autocast(
                    device, dtype=getattr(torch, state.dtype), cache_enabled=state.cache_enabled, enabled=True
                )


# ---------------------------------------------------------------------------------- the model's state


@contextmanager
def prepared(model: nn.Module, capture: Capture) -> Iterator[Player]:
    """A player on the model, which has the captured weights meanwhile and everything of its own afterwards.

    Raises:
        CannotReplay: the model has other parameters than the captured one.
    """
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise CannotReplay(
            "The model's parameters are sharded over processes. Give the model as it is before fully_shard:"
            " a replay is made by one process, with whole parameters."
        )
    if capture.weights or capture.parameters:
        check_same(model, capture)
    with _own_random_state(model), _own_tensors(model), _own_flags(model), _captured_threads(capture), _eager():
        with torch.no_grad():
            for name, one in model.named_parameters():
                one.data = torch.empty_like(one.data).copy_(capture.weights.get(name, one.data))
            for buffer in model.buffers():
                buffer.data = buffer.data.clone()
        yield Player(model, capture)


@contextmanager
def _own_random_state(model: nn.Module) -> Iterator[None]:
    """Restore the states of the random number generators afterwards, with those of the model's devices."""
    before = take_random_state({parameter.device for parameter in model.parameters() if parameter.is_cuda})
    try:
        yield
    finally:
        set_random_state(before)


@contextmanager
def _own_tensors(model: nn.Module) -> Iterator[None]:
    """Give the model's parameters, their gradients and its buffers back afterwards."""
    data = [(one, one.data) for one in (*model.parameters(), *model.buffers())]
    gradients = [(one, one.grad) for one in model.parameters()]
    try:
        yield
    finally:
        for tensor, before in data:
            tensor.data = before
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def _own_flags(model: nn.Module) -> Iterator[None]:
    """Restore the training flag of each module afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def _captured_threads(capture: Capture) -> Iterator[None]:
    """Compute with the captured number of threads: with another one sums are added up in another order."""
    before, threads = torch.get_num_threads(), capture.settings.get("threads")
    if isinstance(threads, int) and 0 < threads <= 1024 and threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _eager() -> AbstractContextManager[Any]:
    """Whatever `torch.compile` compiled runs as it was written."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def check_same(model: nn.Module, capture: Capture) -> None:
    """Raise `CannotReplay` unless the model's parameters have the captured names and shapes."""
    own = {name: tuple(one.shape) for name, one in model.named_parameters()}
    kept = {name: tuple(one.shape) for name, one in capture.weights.items()} or dict(capture.parameters)
    if own == kept:
        return
    missing, other = sorted(kept.keys() - own.keys()), sorted(own.keys() - kept.keys())
    reshaped = sorted(name for name in own.keys() & kept.keys() if own[name] != kept[name])
    told = [
        f"{len(names)} {what}, for example {names[0]}"
        for names, what in ((missing, "are missing"), (other, "are not in the capture"), (reshaped, "differ in shape"))
        if names
    ]
    raise CannotReplay(f"The model's parameters are not the captured ones: {'; '.join(told)}.")


@contextmanager
def in_dtype(player: Player, dtype: torch.dtype) -> Iterator[None]:
    """The player's model and inputs in another floating type meanwhile."""
    model = player.model
    floating = [one for one in [*model.parameters(), *model.buffers()] if one.is_floating_point()]
    data = [one.data for one in floating]
    try:
        for one in floating:
            one.data = one.data.to(dtype)
        player.floats = dtype
        yield
    finally:
        player.floats = None
        for one, old in zip(floating, data, strict=True):
            one.data = old


def with_gradients(forward: Forward, gradients: Sequence[Tensor | None]) -> Forward:
    """The forward with other gradients of its outputs."""
    return dataclasses.replace(forward, output_gradients=tuple(gradients))
