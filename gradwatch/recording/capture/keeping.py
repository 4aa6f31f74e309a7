"""Makes a capture of what is held, and writes it if there is room."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch.capture import Capture, CaptureOptions, Group, Why, capture_folders, tensors_in, write
from gradwatch.capture.listing import FOLDER
from gradwatch.recording.capture.forwards import unwrapped
from gradwatch.recording.capture.ledger import Ledger
from gradwatch.recording.capture.passes import HeldBackward, bytes_of
from gradwatch.recording.parameters import named_parameters

if TYPE_CHECKING:
    from gradwatch.recording.tracker import StepTracker

_PACKAGES = ("numpy", "transformers", "lightning", "pytorch_lightning", "accelerate", "triton")


class NoRoom(Exception):
    """The capture would exceed a budget."""


def make_capture(
    ledger: Ledger,
    gradients: Sequence[Tensor | None],
    options: CaptureOptions,
    *,
    run: Path,
    why: Why,
    total_norm: float,
    limit: float | None,
    loss_scale: float | None,
    is_unscaled: bool,
) -> Capture:
    """Everything that is held of the step that is pending, and what is to be kept beside it."""
    tracker = ledger.tracker
    model = tracker.parameters.model
    base = None if model is None else unwrapped(model)
    named = {} if model is None else dict(named_parameters(model))
    groups = [_group(one) for one in ledger.passes]
    faults = _why_not_replayable(ledger, is_unscaled=is_unscaled)
    notes = []
    if _world_size() > 1:
        notes.append("the inputs of the other processes; the gradients are those after the reduction over all")
    return Capture(
        run=str(run),
        step=tracker.step,
        optimizer=tracker.name,
        why=why,
        groups=tuple(groups),
        weights={name: one.detach() for name, one in named.items()} if options.weights else {},
        gradients=_by_name(tracker, gradients) if options.weights else {},
        frozen=_frozen(named),
        model="" if base is None else type(base).__name__,
        root=_root_of(groups),
        versions=_versions(),
        devices=_devices_of(named),
        settings=_settings(),
        total_norm=total_norm,
        limit=limit if why != "nonfinite" else None,
        loss_scale=loss_scale,
        ranks=_world_size(),
        is_compiled=_is_compiled(model),
        kept={
            "forwards": sum(len(group.forwards) for group in groups),
            "weights": options.weights,
            "gradients": options.weights,
            "optimizer_state": False,
        },
        not_kept=tuple(dict.fromkeys([*faults, *notes])),
        replayable=not faults,
        wall_time=time.time(),
    )


def keep(capture: Capture, run: Path, options: CaptureOptions) -> Path:
    """Write a capture into the run; return its folder.

    Raises:
        NoRoom: a budget does not allow it.
        OSError: it can't be written.
    """
    folders = capture_folders(run)
    if len(folders) >= options.most:
        raise NoRoom(f"the run has {len(folders)} captures already")
    size = size_of(capture)
    there = sum(one.stat().st_size for folder in folders for one in folder.iterdir() if one.is_file())
    if there + size > options.max_bytes:
        raise NoRoom(f"it takes {size:,} bytes, and of max_bytes={options.max_bytes:,} {there:,} are taken")
    free = shutil.disk_usage(run).free
    if free - size < options.min_free_bytes:
        raise NoRoom(f"it takes {size:,} bytes, and of the {free:,} that are free {options.min_free_bytes:,} are left")
    return write(capture, _folder(run, capture))


def size_of(capture: Capture) -> int:
    """The tensors of a capture in bytes, about as the files will have them."""
    parts = [*capture.weights.values(), *capture.gradients.values()]
    for group in capture.groups:
        for forward in group.forwards:
            parts += [*forward.buffers.values(), *(one for one in forward.output_gradients if one is not None)]
            parts += tensors_in([list(forward.args), dict(forward.kwargs)])
    return sum(bytes_of(one) for one in {id(one): one for one in parts}.values())


def _folder(run: Path, capture: Capture) -> Path:
    """A folder that does not exist, named by the step."""
    name = f"step-{capture.step:06d}"
    if capture.optimizer != "0":
        name += "-" + (re.sub(r"[^\w]+", "_", capture.optimizer, flags=re.ASCII) or "optimizer")
    folder, number = run / FOLDER / name, 1
    while folder.exists():
        number += 1
        folder = run / FOLDER / f"{name}-{number}"
    return folder


def _group(held: HeldBackward) -> Group:
    records = [
        forward.record([None if one is None else one.tensor for one in gradients])
        for forward, gradients in held.reached.values()
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


def _frozen(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, one in named.items() if not one.requires_grad)


def _devices_of(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(sorted({str(one.device) for one in named.values()}))


def _by_name(tracker: StepTracker, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    infos = tracker.infos
    return {infos[at].name: one.detach() for at, one in enumerate(gradients) if one is not None}


def _is_compiled(model: nn.Module | None) -> bool:
    return model is not None and any(
        "_orig_mod" in one._modules or one._compiled_call_impl is not None for one in model.modules()
    )


def _world_size() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "gradwatch": gradwatch.__version__,
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
