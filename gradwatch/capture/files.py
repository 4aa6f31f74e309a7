"""A capture as files: ``capture.json``, which describes it, and its tensors as safetensors."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from gradwatch.capture.decode import Classes, Decoder, list_of, number_of, object_of, sizes
from gradwatch.capture.encode import Encoder, Node, float_text
from gradwatch.capture.listing import (
    DESCRIPTION,
    MAX_DESCRIPTION_BYTES,
    MOST_RANKS,
    VERSION,
    check_file,
    few_texts,
    load_description,
    shortened,
    unfinished_name,
)
from gradwatch.capture.record import WHYS, Autocast, Capture, Forward, Group, Shard
from gradwatch.errors import CaptureDamaged, CaptureTooLarge, UnsupportedVersion

PARTS = ("weights", "gradients", "forwards")
"""Each a file of tensors, named so."""

_TENSORS = ("weights", "gradients")
MOST_FORWARDS = 20_000
"""Of one step. To replay as many takes minutes for the smallest model."""


_APART = {"folder", "groups", "parts", "shards", *_TENSORS}


def write(capture: Capture, folder: str | os.PathLike[str]) -> Path:
    """Write a capture into a new folder; return it.

    The folder appears when it is complete. Values that can't be written without pickle are written as their type
    and `repr`, and the capture that is read back says that it is not replayable.

    Raises:
        FileExistsError: the folder exists.
        OSError: it can't be written.
        UnsupportedVersion: safetensors is not installed.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{str(folder)!r} exists")
    save = _safetensors().save_file
    part = folder.with_name(unfinished_name(folder.name))
    shutil.rmtree(part, ignore_errors=True)  # of a process that had the same number, and was ended meanwhile
    part.mkdir(parents=True)
    try:
        encoders = {name: Encoder() for name in PARTS}
        description = _description(capture, encoders)
        for name, encoder in encoders.items():
            _save(save, encoder.tensors, part / f"{name}.safetensors")
        (part / DESCRIPTION).write_text(_text_of(description), encoding="utf-8")
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def _text_of(description: dict[str, Any]) -> str:
    text = json.dumps(description, allow_nan=False)  # of ASCII characters
    if len(text) > MAX_DESCRIPTION_BYTES:
        raise OSError(
            f"its description has {len(text):,} bytes, and none is read of more than {MAX_DESCRIPTION_BYTES:,}"
        )
    return text


def _save(save: Any, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save(tensors, path)
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise OSError(f"{str(path)!r} can't be written: {error}") from error  # safetensors hides the OSError


def read(folder: str | os.PathLike[str], *, classes: Classes | None = None, most_bytes: float | None = None) -> Capture:
    """Read a capture, with all tensors on the CPU.

    Args:
        folder: that of the capture.
        classes: of containers in the inputs, by "module.Name", as `classes_in` gives them of another batch of the
            same script. Stand-ins with the same attributes and keys are made for other classes.
        most_bytes: a larger capture is refused; by default one that is larger than this machine's memory.

    Raises:
        CaptureNotFound, CaptureDamaged, CaptureTooNew, CaptureTooLarge: it can't be read.
        UnsupportedVersion: safetensors is not installed.
    """
    folder = Path(folder)
    found = load_description(folder)
    tensors = _load_tensors(folder, memory() if most_bytes is None else most_bytes)
    decoders = {name: Decoder(tensors[name], classes) for name in PARTS}
    try:
        return _capture(folder, found, decoders)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, CaptureDamaged):
            raise
        what = shortened(f"{type(error).__name__}: {error}")
        raise CaptureDamaged(f"The capture {str(folder)!r} can't be read: {what}.") from error


def check_can_write() -> None:
    """Check that captures can be written and read.

    Raises:
        UnsupportedVersion: safetensors is not installed.
    """
    _safetensors()


# ------------------------------------------------------------------------------------- to JSON


def _description(capture: Capture, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    plain = {one.name: _plain(getattr(capture, one.name)) for one in fields(capture) if one.name not in _APART}
    described: dict[str, Any] = {"version": VERSION, **plain}
    for name in _TENSORS:
        described[name] = {key: encoders[name].tensor(one) for key, one in getattr(capture, name).items()}
    described["shards"] = {
        name: {"shape": list(one.shape), "offset": list(one.offset)} for name, one in capture.shards.items()
    }
    inputs = encoders["forwards"]
    described["groups"] = [[_forward(one, inputs) for one in group.forwards] for group in capture.groups]
    unkept = {(one.type, one.text): one for encoder in encoders.values() for one in encoder.unkept}
    if unkept:
        described["replayable"] = False
        described["not_kept"] += [f"a {one.type}: {one.text}" for one in unkept.values()]
    return described


def _forward(forward: Forward, encoder: Encoder) -> Node:
    return {
        "module": forward.module,
        "args": encoder.nested(list(forward.args)),
        "kwargs": encoder.nested(dict(forward.kwargs)),
        "devices": list(forward.devices),
        "random_state": encoder.random_state(forward.random_state),
        "buffers": {name: encoder.tensor(one) for name, one in forward.buffers.items()},
        "autocast": {
            kind: {"enabled": one.enabled, "dtype": one.dtype, "cache_enabled": one.cache_enabled}
            for kind, one in forward.autocast.items()
        },
        "training": dict(forward.training),
        "grad_enabled": forward.grad_enabled,
        "output_gradients": [None if one is None else encoder.tensor(one) for one in forward.output_gradients],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return float_text(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# ----------------------------------------------------------------------------------- from JSON


def _capture(folder: Path, found: dict[str, Any], decoders: Mapping[str, Decoder]) -> Capture:
    if found["why"] not in WHYS:
        raise CaptureDamaged(
            f"The capture {str(folder)!r} can't be read: {str(found['why'])[:80]!r} is no reason to keep a step."
        )
    groups = [list_of(group) for group in list_of(found["groups"])]
    forwards = sum(map(len, groups))
    if max(forwards, len(groups)) > MOST_FORWARDS:
        raise CaptureTooLarge(f"The capture {str(folder)!r} has {forwards} forwards; at most {MOST_FORWARDS} are read.")
    rank, ranks = _rank_of(found)
    return Capture(
        folder=folder,
        run=str(found["run"]),
        step=int(found["step"]),
        optimizer=str(found["optimizer"]),
        why=found["why"],
        groups=tuple(Group(forwards=tuple(_to_forward(one, decoders["forwards"]) for one in each)) for each in groups),
        weights=decoders["weights"].tensors(found["weights"]),
        gradients=decoders["gradients"].tensors(found["gradients"]),
        parameters={name: tuple(sizes(one)) for name, one in object_of(found.get("parameters", {})).items()},
        frozen=_texts(found["frozen"]),
        model=str(found["model"]),
        root=str(found["root"]),
        versions={str(name): str(one) for name, one in object_of(found["versions"]).items()},
        devices=_texts(found["devices"]),
        settings=object_of(found["settings"]),
        total_norm=_number(found["total_norm"]),
        limit=_number(found["limit"]),
        max_norm=_number(found["max_norm"]),
        loss_scale=_loss_scale(found["loss_scale"]),
        rank=rank,
        ranks=ranks,
        parts=(rank,),
        reduction=None if found.get("reduction") is None else str(found["reduction"]),
        shards={name: _to_shard(one) for name, one in object_of(found.get("shards", {})).items()},
        is_compiled=found["is_compiled"] is True,
        kept=object_of(found["kept"]),
        not_kept=few_texts(found["not_kept"]),
        replayable=found["replayable"] is True,
        wall_time=_number(found["wall_time"]),
    )


def _rank_of(found: Mapping[str, Any]) -> tuple[int, int]:
    """The process that wrote it, and how many there were."""
    rank, ranks = int(found["rank"]), int(found["ranks"])
    if not 0 <= rank < ranks <= MOST_RANKS:
        raise CaptureDamaged(f"The capture can't be read: there is no rank {rank} of {ranks}.")
    return rank, ranks


def _loss_scale(node: Any) -> float | None:
    scale = _number(node)
    if scale is not None and not 0 < scale < math.inf:
        raise CaptureDamaged(f"The capture can't be read: {scale} is no scale of a loss.")
    return scale


def _to_shard(node: Any) -> Shard:
    shape, offset = sizes(node["shape"]), sizes(node["offset"])
    if len(shape) != len(offset) or math.prod(max(1, one) for one in shape) >= 2**62:
        raise CaptureDamaged("The capture can't be read: a part of a parameter is not as it is described.")
    return Shard(shape=tuple(shape), offset=tuple(offset))


def _to_forward(node: Any, decoder: Decoder) -> Forward:
    args, kwargs = decoder.nested(node["args"]), decoder.nested(node["kwargs"])
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
        raise CaptureDamaged("The capture can't be read: the inputs of a forward are not as they are described.")
    return Forward(
        module=str(node["module"]),
        args=tuple(args),
        kwargs=kwargs,
        devices=_texts(node["devices"]),
        random_state=decoder.random_state(node["random_state"]),
        buffers=decoder.tensors(node["buffers"]),
        autocast={
            kind: Autocast(
                enabled=one["enabled"] is True,
                dtype=str(one["dtype"]),
                cache_enabled=one["cache_enabled"] is True,
            )
            for kind, one in object_of(node["autocast"]).items()
        },
        training={name: flag is True for name, flag in object_of(node["training"]).items()},
        grad_enabled=node["grad_enabled"] is True,
        output_gradients=tuple(
            None if one is None else decoder.tensor(one) for one in list_of(node["output_gradients"])
        ),
    )


def _texts(node: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in list_of(node))


def _number(node: Any) -> float | None:
    return None if node is None else number_of(node)


# --------------------------------------------------------------------------------- the tensors


def _load_tensors(folder: Path, most_bytes: float) -> dict[str, dict[str, Tensor]]:
    paths = _paths(folder)
    size = size_of_files(folder)
    if size > most_bytes:
        raise CaptureTooLarge(f"The capture {str(folder)!r} has {size} bytes, more than the {int(most_bytes)} allowed.")
    load = _safetensors().load_file
    try:
        return {name: load(path) for name, path in paths.items()}
    except Exception as error:  # a class of the library's own
        raise CaptureDamaged(f"The capture {str(folder)!r} can't be read: {error}.") from error


def _paths(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.safetensors" for name in PARTS}


def size_of_files(folder: Path) -> int:
    """The size of the tensors of a capture, in bytes.

    Raises:
        CaptureNotFound, CaptureDamaged: a file is missing, or is no plain file.
    """
    return sum(check_file(path) for path in _paths(folder).values())


def memory() -> float:
    """Of this machine, in bytes."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise UnsupportedVersion("safetensors is not installed: `pip install 'gradwatch[capture]'`.") from None
    return safetensors.torch
