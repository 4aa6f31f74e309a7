"""Plain tensors that are parts of a parameter, as Megatron-LM marks them.

`set_tensor_model_parallel_attributes` (megatron/core/tensor_parallel/layers.py) sets ``tensor_model_parallel`` and
``partition_dim`` on a parameter, and the layer keeps the process group in ``tp_group``. All parts have one size. Older
layers take the group from ``megatron.core.parallel_state``, which is asked only if the script has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from gradwatch.measure.sharded import is_sharded


def parts_by_attributes(model: nn.Module) -> dict[int, tuple[tuple[int, ...], str]]:
    """The whole shape and the part's name of each parameter that is marked as a part, by the parameter's `id`.

    >>> parts_by_attributes(nn.Linear(1, 1))
    {}
    """
    found: dict[int, tuple[tuple[int, ...], str]] = {}
    for layer, parameter in _marked(model):
        group = _group_of(layer)
        dim: Any = getattr(parameter, "partition_dim", -1)
        if group is None or group.size() == 1 or not 0 <= dim < parameter.dim():
            continue
        shape = list(parameter.shape)
        shape[dim] *= group.size()
        found.setdefault(id(parameter), (tuple(shape), str(group.rank())))
    return found


def count_unknown_parts(model: nn.Module, *, experts: bool) -> int:
    """The parameters that are marked as parts without a way to know which part.

    With ``experts`` those of experts that only some ranks have count as well.
    """
    known = parts_by_attributes(model)
    unknown = {
        id(parameter)
        for layer, parameter in _marked(model)
        if id(parameter) not in known and ((group := _group_of(layer)) is None or group.size() > 1)
    }
    if experts:
        unknown |= {id(one) for one in model.parameters() if getattr(one, "allreduce", True) is False}
    return len(unknown - known.keys())


def _marked(model: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    for layer in model.modules():
        for parameter in layer.parameters(recurse=False):
            if getattr(parameter, "tensor_model_parallel", False) is True and not is_sharded(parameter):
                yield layer, parameter


def _group_of(layer: nn.Module) -> Any:
    """The process group over which a layer is cut; None if it is not known."""
    group = getattr(layer, "tp_group", None)
    if group is not None:
        return group
    state: Any = sys.modules.get("megatron.core.parallel_state")
    if state is None or not state.model_parallel_is_initialized():
        return None
    if getattr(layer, "is_expert", False):
        return state.get_expert_tensor_parallel_group()
    return state.get_tensor_model_parallel_group()
