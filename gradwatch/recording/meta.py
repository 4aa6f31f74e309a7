"""Facts about a run for its table of metadata: versions, the model, the options."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from gradwatch.record import EMBEDDINGS_KEY
from gradwatch.recording.options import RecordingOptions
from gradwatch.recording.parameters import Trained, named_parameters
from gradwatch.version import __version__

if TYPE_CHECKING:
    from gradwatch.clip import Policy

MAX_JOINED_CLASSES = 3  # of the models of one ModuleDict whose classes are named


def meta_of_run(trained: Trained, options: RecordingOptions, policies: Mapping[str, Policy]) -> dict[str, str]:
    """Facts about the run; one that it knows already stays as it is."""
    return {
        "gradwatch": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "model": ", ".join(dict.fromkeys(_class_of_model(model) for model, _ in trained.values())),
        "moment": "before clipping",
        "stats": ",".join(options.stats),
        "every": str(options.every),
        **_dropout([model for model, _ in trained.values()]),
        **_embeddings([model for model, _ in trained.values()]),
    } | {f"clip.{name}": repr(policy) for name, policy in policies.items()}


def _dropout(models: Iterable[nn.Module]) -> dict[str, str]:
    """The largest share that a dropout layer of the models drops; nothing without one."""
    layers = (layer for model in models for layer in model.modules() if isinstance(layer, _DropoutNd))
    largest = max((layer.p for layer in layers), default=0.0)
    return {"dropout": f"{largest:g}"} if largest > 0 else {}


def _embeddings(models: Iterable[nn.Module]) -> dict[str, str]:
    """The names of the weights of embeddings; nothing without one."""
    found = []
    for model in models:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
        weights = {id(layer.weight) for layer in layers}
        found += [name for name, parameter in named_parameters(model) if id(parameter) in weights]
    return {EMBEDDINGS_KEY: json.dumps(sorted(set(found)))} if found else {}


def meta_of_attempt(options: RecordingOptions) -> dict[str, str]:
    """Facts about the attempt, in place of those of earlier ones."""
    found = {"total_steps": None if options.total_steps is None else str(options.total_steps), "config": options.config}
    return {key: value for key, value in found.items() if value is not None}


def _class_of_model(model: nn.Module) -> str:
    """The class of the model itself, without what makes it one of several processes.

    Of a few models in a `ModuleDict`, as `gradwatch run` joins those of one optimizer, their own classes.

    >>> _class_of_model(nn.ModuleDict({"encoder": nn.LSTM(2, 2), "head": nn.Linear(2, 2)}))
    'LSTM + Linear'
    """
    kind = type(model)
    parts = list(dict.fromkeys(_class_of_model(part) for part in model.children())) if kind is nn.ModuleDict else []
    if 0 < len(parts) <= MAX_JOINED_CLASSES:
        return " + ".join(parts)
    if kind.__name__ in ("DistributedDataParallel", "FullyShardedDataParallel"):
        return _class_of_model(cast("nn.Module", model.module))
    if kind.__mro__[1].__name__ == "FSDPModule":  # `fully_shard` makes a class of both
        kind = kind.__mro__[2]
    return kind.__name__
