"""What a forward depends on besides its inputs: buffers, random state, autocast, training flags."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradwatch.capture import Autocast
from gradwatch.recording.capture.passes import Held, bytes_of

MAX_COPY_BYTES = 2**16
"""Buffers up to this size are copied before each forward: PyTorch does not count the changes of BatchNorm's."""


class Buffers:
    """The buffers of one module, taken before each of its forwards.

    A large buffer that no forward has changed so far is held by reference; its version says if that was wrong.
    """

    def __init__(self, module: nn.Module, prefix: str) -> None:
        owners = [(f"{prefix}{name}." if name else prefix, one) for name, one in module.named_modules()]
        self._places = [(path + key, one._buffers, key) for path, one in owners for key in one._buffers]
        self._changing: set[str] = set()
        self._before: dict[str, Held] = {}

    def take(self) -> dict[str, Held]:
        """The buffers as they are before a forward, by name."""
        taken, self._before = {}, {}
        for name, buffers, key in self._places:
            buffer = buffers.get(key)
            if buffer is None:
                continue
            held = taken[name] = self._before[name] = Held.of(buffer)
            if name in self._changing or bytes_of(buffer) <= MAX_COPY_BYTES:
                taken[name] = Held.of(held.tensor.detach().clone())
        return taken

    def end(self) -> None:
        """A forward has ended: learn which buffers it changes, in place or by another tensor."""
        for name, buffers, key in self._places:
            held = self._before.get(name)
            if held is not None and (held.is_changed or buffers.get(key) is not held.tensor):
                self._changing.add(name)
        self._before = {}


class Flags:
    """The training flags of one module and of all within it."""

    def __init__(self, module: nn.Module, prefix: str) -> None:
        self._modules = [(prefix + name, one) for name, one in module.named_modules()]

    def take(self) -> dict[str, bool]:
        """The flag of the module as ``""``, and those that differ from it by name."""
        (_, first), *others = self._modules
        root = first.training
        return {"": root} | {name: one.training for name, one in others if one.training != root}


def autocast_of(kinds: set[str]) -> dict[str, Autocast]:
    """Autocast for these types of device, where it is on."""
    return {
        kind: Autocast(
            enabled=True,
            dtype=str(torch.get_autocast_dtype(kind)).removeprefix("torch."),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )
        for kind in kinds
        if torch.is_autocast_enabled(kind)
    }


def devices_of(module: nn.Module) -> set[torch.device]:
    """The devices of the parameters."""
    return {parameter.device for parameter in module.parameters()}


def is_plain(tensor: Tensor) -> bool:
    """Whether it is no subclass with a meaning of its own, for example a sharded tensor."""
    return type(tensor) is Tensor or type(tensor) is nn.Parameter
