"""The names of a forward's arguments; a positional one has the name that the module's `forward` gives it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from gradwatch.capture.nested import parts_of
from gradwatch.capture.record import Forward
from gradwatch.replaying.batch import Padded

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def named_arguments(forward: Forward, model: nn.Module) -> list[tuple[str, object]]:
    """Each argument with its name, the positional ones first.

    A positional argument whose name the signature does not tell, for example of ``*args``, is counted from 0.

    >>> from gradwatch.replaying.example import example_forward
    >>> import torch
    >>> forward = example_forward(torch.ones(2, 3))
    >>> [name for name, _ in named_arguments(forward, nn.Linear(3, 1))]
    ['input']
    >>> [name for name, _ in named_arguments(forward, nn.DataParallel(nn.Linear(3, 1)))]
    ['argument 0']
    """
    names = _positional_names(forward, model)
    names += [f"argument {at}" for at in range(len(names), len(forward.args))]
    return [*zip(names, forward.args, strict=False), *forward.kwargs.items()]


def named_parts(forward: Forward, model: nn.Module) -> list[tuple[str, object]]:
    """The same, with the fields of an argument that is a mapping or a dataclass in its place, by their own names."""
    found: list[tuple[str, object]] = []
    for name, value in named_arguments(forward, model):
        parts = None if isinstance(value, list | tuple | Padded) else parts_of(value)
        found += [(name, value)] if parts is None else [(str(key), one) for key, one in parts.items()]
    return found


def _positional_names(forward: Forward, model: nn.Module) -> list[str]:
    try:
        module = model.get_submodule(forward.module)
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(module.forward).parameters
    except Exception:  # it may be a program, or an object with a signature of its own
        return []
    names = [name for name, parameter in parameters.items() if parameter.kind in _BY_POSITION]
    return names[: len(forward.args)]
