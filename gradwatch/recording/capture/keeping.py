"""Makes a capture of what is held, and writes it if there is room."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradwatch.capture import Capture, CaptureOptions, Group, Shard, capture_folders, tensors_in
from gradwatch.capture.listing import FOLDER, size_of_captures
from gradwatch.distributed import rank_and_world_size
from gradwatch.measure import local
from gradwatch.recording.capture.forwards import compiled_around, unwrapped
from gradwatch.recording.capture.judging import Judged
from gradwatch.recording.capture.ledger import Ledger
from gradwatch.recording.capture.passes import HeldBackward, bytes_of
from gradwatch.recording.capture.team import Parallel, computing_type, shard_of
from gradwatch.recording.parameters import named_parameters
from gradwatch.version import __version__

if TYPE_CHECKING:
    from gradwatch.recording.tracker import StepTracker

WORD_BYTES = 8  # of the states of Python's and numpy's random numbers, as they are written
_PACKAGES = ("numpy", "transformers", "lightning", "pytorch_lightning", "accelerate", "triton")


_LIKE_A_RANK = re.compile(r"rank\d+")
"""So are the parts of several processes named."""


class NoRoom(Exception):
    """The capture would exceed a budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenModel:
    """What a capture says of the model; nothing, if the script has let go of it.

    Attributes:
        class_name: of the model itself, not of what wraps it.
        named: its parameters by name.
        is_compiled: whether `torch.compile` compiled it or a part of it.
        notes: what can't be the same in a replay by one process.
    """

    class_name: str = ""
    named: Mapping[str, Tensor] = field(default_factory=dict)
    is_compiled: bool = False
    notes: tuple[str, ...] = ()


def make_capture(
    ledger: Ledger,
    gradients: Sequence[Tensor | None],
    options: CaptureOptions,
    *,
    run: Path,
    judged: Judged,
) -> Capture:
    """Everything that is held of the step that is pending, and what is to be kept beside it."""
    tracker, parallel = ledger.tracker, ledger.parallel
    rank, ranks = rank_and_world_size()
    model = _seen(tracker.parameters.model, ranks, parallel)
    groups = tuple(map(_group, ledger.passes))
    faults = _why_not_replayable(ledger, is_unscaled=judged.is_unscaled)
    has_tensors = options.weights and (rank == 0 or parallel != "ddp")  # the weights of all copies are equal
    return Capture(
        run=str(run),
        step=tracker.step,
        optimizer=tracker.name,
        why=judged.why,
        groups=groups,
        weights=_own_parts(model.named) if has_tensors else {},
        gradients=_by_name(tracker, gradients) if has_tensors else {},
        parameters={name: tuple(one.shape) for name, one in model.named.items()},
        frozen=_frozen(model.named),
        model=model.class_name,
        root=_root_of(groups),
        versions=_versions(),
        devices=_devices_of(model.named),
        settings=_settings(),
        total_norm=judged.total_norm,
        limit=judged.limit if judged.why != "nonfinite" else None,
        max_norm=ledger.max_norm,
        loss_scale=judged.loss_scale,
        rank=rank,
        ranks=ranks,
        reduction=None if parallel is None else "mean",
        shards=_shards_of(model.named),
        is_compiled=model.is_compiled,
        kept={
            "forwards": sum(len(group.forwards) for group in groups),
            "weights": has_tensors,
            "gradients": has_tensors,
            "optimizer_state": False,
        },
        not_kept=tuple(dict.fromkeys([*faults, *model.notes])),
        replayable=not faults,
        wall_time=time.time(),
    )


def _seen(model: nn.Module | None, ranks: int, parallel: Parallel | None) -> SeenModel:
    if model is None:
        return SeenModel()
    return SeenModel(
        class_name=type(unwrapped(model)).__name__,
        named=dict(named_parameters(model)),
        is_compiled=_is_compiled(model),
        notes=tuple(_of_several(model, ranks, parallel)),
    )


def place_for(capture: Capture, run: Path, options: CaptureOptions) -> Path:
    """The folder for a capture, which does not exist yet, if there is room for the parts of all ranks.

    Raises:
        NoRoom: a budget does not allow it, or the run is gone.
        OSError: the disk can't be asked.
    """
    if not run.is_dir():
        raise NoRoom(f"the folder of the run, {str(run)!r}, is not there any more")
    folders = capture_folders(run)
    if len(folders) >= options.most:
        raise NoRoom(f"the run has {len(folders)} captures already")
    size = size_of(capture) * capture.ranks if capture.shards else size_of(capture)
    if capture.reduction is not None and not capture.shards:
        size += (capture.ranks - 1) * size_of_forwards(capture)
    there = size_of_captures(run)
    if there + size > options.max_bytes:
        raise NoRoom(f"it takes {size:,} bytes, and of max_bytes={options.max_bytes:,} {there:,} are taken")
    check_disk(capture, run, options)
    return _folder(run, capture)


def check_disk(capture: Capture, run: Path, options: CaptureOptions) -> None:
    """See that the disk has room for this process's part.

    Raises:
        NoRoom: it has not.
        OSError: the disk can't be asked.
    """
    size, there = size_of(capture), next(one for one in (run, *run.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free - size < options.min_free_bytes:
        raise NoRoom(f"it takes {size:,} bytes, and of the {free:,} that are free {options.min_free_bytes:,} are left")


def size_of(capture: Capture) -> int:
    """The tensors of a capture in bytes, about as the files will have them."""
    return _bytes_of_all([*capture.weights.values(), *capture.gradients.values()]) + size_of_forwards(capture)


def size_of_forwards(capture: Capture) -> int:
    """The tensors of a capture in bytes without weights and gradients."""
    states = [forward.random_state for group in capture.groups for forward in group.forwards]
    words = sum(len(state.python[1]) + (0 if state.numpy is None else len(state.numpy[1])) for state in states)
    return _bytes_of_all(_tensors_of_forwards(capture)) + WORD_BYTES * words


def _bytes_of_all(tensors: Sequence[Tensor]) -> int:
    return sum(bytes_of(one) for one in {id(one): one for one in tensors}.values())


def _tensors_of_forwards(capture: Capture) -> list[Tensor]:
    parts: list[Tensor] = []
    for group in capture.groups:
        for forward in group.forwards:
            parts += [forward.random_state.cpu, *forward.random_state.devices.values()]
            parts += [*forward.buffers.values(), *(one for one in forward.output_gradients if one is not None)]
            parts += tensors_in([list(forward.args), dict(forward.kwargs)])
    return parts


def _folder(run: Path, capture: Capture) -> Path:
    """A folder that does not exist, named by the step."""
    name = f"step-{capture.step:06d}"
    if capture.optimizer != "0":
        own = re.sub(r"[^\w]+", "_", capture.optimizer, flags=re.ASCII) or "optimizer"
        name += f"-{own}_" if _LIKE_A_RANK.fullmatch(own) else f"-{own}"
    folder, number = run / FOLDER / name, 1
    while folder.exists():
        number += 1
        folder = run / FOLDER / f"{name}-{number}"
    return folder


def _group(held: HeldBackward) -> Group:
    records = [
        forward.record([None if one is None else one.tensor for one in gradients])
        for forward, gradients in held.in_order()
    ]
    return Group(forwards=tuple(records))


def _why_not_replayable(ledger: Ledger, *, is_unscaled: bool) -> list[str]:
    faults = [*ledger.faults, *_faults_of(ledger.passes)]
    if not ledger.passes:
        faults += sorted(ledger.tap.faults) or [
            "no forward of the model was seen: it is compiled in place, or not called"
        ]
    if not is_unscaled:
        faults.append("the gradients were measured before they were divided by the scale")
    return faults


def _faults_of(passes: Sequence[HeldBackward]) -> list[str]:
    found = []
    for held in passes:
        for forward, gradients in held.reached.values():
            found += forward.faults()
            if any(one is not None and one.is_changed for one in gradients):
                found.append("the gradient of an output was changed in place after the backward")
    return found


def _root_of(groups: Sequence[Group]) -> str:
    """The module that was called, if it was one alone; "" is the model itself."""
    modules = {forward.module for group in groups for forward in group.forwards}
    return modules.pop() if len(modules) == 1 else ""


def _own_parts(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this process holds of each parameter."""
    return {name: local(one.detach()) for name, one in named.items()}


def _shards_of(named: Mapping[str, Tensor]) -> dict[str, Shard]:
    """Where that lies in the whole, for each parameter of which it is a part."""
    return {name: shard for name, one in named.items() if (shard := shard_of(one)) is not None}


def _frozen(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, one in named.items() if not one.requires_grad)


def _devices_of(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(sorted({str(one.device) for one in named.values()}))


def _by_name(tracker: StepTracker, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    infos = tracker.infos
    return {infos[at].name: local(one.detach()) for at, one in enumerate(gradients) if one is not None}


def _is_compiled(model: nn.Module) -> bool:
    held = any("_orig_mod" in one._modules or one._compiled_call_impl is not None for one in model.modules())
    return held or bool(compiled_around(unwrapped(model)))


def _of_several(model: nn.Module, ranks: int, parallel: Parallel | None) -> list[str]:
    """What can't be the same in a replay by one process."""
    if ranks < 2:
        return []
    if parallel is None:
        return ["the inputs of the other processes, of which it is not known how their gradients were put together"]
    kind = computing_type(model)
    found = [] if kind is None else [f"fully_shard computed in {kind}, and a replay in the type of the weights"]
    if any(isinstance(one, nn.SyncBatchNorm) for one in model.modules()):
        found.append("SyncBatchNorm took its statistics over all ranks, and a replay takes them of each rank")
    return found


def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "gradwatch": __version__,
        "platform": platform.platform(),
    }
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    for name in _PACKAGES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def _settings() -> dict[str, object]:
    """Switches of PyTorch that bear on the last bits of the numbers."""
    return {
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }
