"""A capture: one bad step from before its update, with everything its gradients depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Why: TypeAlias = Literal["nonfinite", "spike", "explosion"]
"""The reason for which a step was captured."""

WHYS: tuple[Why, ...] = ("nonfinite", "spike", "explosion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unkept:
    """Stands for a value that can't be written without pickle.

    Attributes:
        type: its class, as "module.Name".
        text: its `repr`, cut to 200 characters; or the reason why nothing more is known.
    """

    type: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomState:
    """The states of all random number generators before a forward.

    Attributes:
        python: of `random`, as `random.getstate` gives it.
        numpy: of numpy's global generator, as `numpy.random.get_state` gives it; None if numpy was not imported.
        cpu: of PyTorch's CPU generator, as `torch.get_rng_state` gives it (bytes).
        devices: of each accelerator in use, by its name, for example "cuda:0" (bytes).
    """

    python: tuple[Any, ...]
    numpy: tuple[Any, ...] | None
    cpu: Tensor
    devices: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Autocast:
    """Autocast for one type of device.

    Attributes:
        enabled: whether operations were cast.
        dtype: to which type, for example "bfloat16".
        cache_enabled: whether casts of weights were cached.
    """

    enabled: bool
    dtype: str
    cache_enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The part of a parameter that one process holds.

    Attributes:
        shape: of the whole parameter.
        offset: where the part begins in the whole, along each dimension.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One call of the root module's forward.

    Attributes:
        module: the name of the module that was called, within the model that was captured; "" if it is that model.
        args: positional arguments, nested. Tensors are on the CPU when they were read back.
        kwargs: keyword arguments, nested.
        devices: the device on which each tensor of ``args`` and ``kwargs`` was, in the order of
            `gradwatch.capture.tensors_in`.
        random_state: before this forward.
        buffers: those of the module as they were before this forward, by name within the model.
        autocast: by type of device, for example "cpu", where it was on.
        training: the flag of the root module as ``""``, and of each module whose flag differs from it.
        grad_enabled: whether gradients were recorded.
        output_gradients: the gradient that reached each differentiable tensor of the output from outside, in the
            order of `gradwatch.capture.differentiable`; None where none did.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    random_state: RandomState
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    autocast: Mapping[str, Autocast] = field(default_factory=dict)
    training: Mapping[str, bool] = field(default_factory=lambda: {"": True})
    grad_enabled: bool = True
    output_gradients: tuple[Tensor | None, ...] = ()
    devices: tuple[str, ...] = ()
    module: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The forwards that one call of backward consumed; they are replayed in one backward.

    Attributes:
        rank: the process that made them.
    """

    forwards: tuple[Forward, ...]
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One bad step of one optimizer, as it was before its update.

    Attributes:
        folder: where it was read from; None where it was not.
        run: the folder of the run, as it was given.
        step: the number of the step.
        optimizer: the name of the optimizer.
        why: the reason for which it was kept.
        groups: what made the gradients, in the order of the backward calls.
        weights: the parameters of the model before the update, by name; empty where they were not kept.
        gradients: the gradients of the optimizer's parameters before clipping, unscaled, by name.
        parameters: the shapes of all parameters of the model, by name; also if the weights were not kept.
        frozen: names of parameters that took no gradient.
        model: the class of the model that was attached, without wrappers (DistributedDataParallel, compile).
        root: the name within it of the module that was called, if that was always the same; see `Forward.module`.
        versions: of Python, torch, gradwatch and whatever else bears on the numbers.
        devices: the devices of the parameters.
        settings: what else bears on the numbers: the number of threads, deterministic algorithms, TF32.
        total_norm: L2 norm over all gradients before clipping; NaN or infinite where they are.
        limit: the norm above which a step was kept; None for a non-finite one.
        max_norm: the clipping threshold of the step before, which was in force; None if nothing was clipped.
        loss_scale: by which a GradScaler had multiplied ``output_gradients``; None without one.
        rank, ranks: the process that wrote this, and how many there were.
        parts: the processes whose captures were put together in this one; see `gradwatch.capture.read_all`.
        reduction: "mean" if the gradients are the mean over the processes, by DistributedDataParallel or
            `fully_shard`; None if there is one process, or if it is not known.
        shards: the parameters of which ``weights`` and ``gradients`` hold one process's part, by name.
        is_compiled: whether the model was compiled by `torch.compile`.
        kept: what was kept, by its name, for example "weights".
        not_kept: why anything was not kept or is not exact, in words.
        replayable: whether forward and backward can be made again from it.
        wall_time: seconds since the epoch.
    """

    folder: Path | None = None
    run: str
    step: int
    optimizer: str
    why: Why
    groups: tuple[Group, ...]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    model: str = ""
    root: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    total_norm: float | None = None
    limit: float | None = None
    max_norm: float | None = None
    loss_scale: float | None = None
    rank: int = 0
    ranks: int = 1
    parts: tuple[int, ...] = ()
    reduction: str | None = None
    shards: Mapping[str, Shard] = field(default_factory=dict)
    is_compiled: bool = False
    kept: Mapping[str, object] = field(default_factory=dict)
    not_kept: tuple[str, ...] = ()
    replayable: bool = True
    wall_time: float | None = None
