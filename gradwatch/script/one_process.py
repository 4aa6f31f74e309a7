"""Runs a script that was written for several processes in one: for a replay, which needs its model alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradwatch.script.imports import replace_after_import

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def alone() -> Iterator[None]:
    """Within it `init_process_group` finds a group of one process, and `fully_shard` leaves parameters whole.

    What a launcher has set already stays.
    """
    missing = {} if "RANK" in os.environ else _environment()
    os.environ.update(missing)
    stop = replace_after_import("torch.distributed.fsdp", "fully_shard", lambda _: leave_whole)
    try:
        yield
    finally:
        stop()
        for name in missing:
            os.environ.pop(name, None)


def _environment() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return one | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def leave_whole(module: Any, *args: Any, **kwargs: Any) -> Any:
    """In the place of `fully_shard`: the module stays as it is, and its methods of sharding do nothing.

    >>> from torch import nn
    >>> model = leave_whole(nn.Linear(2, 1), reshard_after_forward=True)
    >>> model.set_requires_gradient_sync(False)
    >>> type(model).__name__, type(model.weight).__name__
    ('Linear', 'Parameter')
    """
    for one in module if isinstance(module, (list, tuple)) else [module]:
        _add_methods(one)
    return module


def _add_methods(module: nn.Module) -> None:
    from torch import nn
    from torch.distributed.fsdp import FSDPModule

    kind = type(module)
    if getattr(kind, "_gradwatch_whole", False):
        return

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    names = [name for name in vars(FSDPModule) if not name.startswith("_") and not hasattr(nn.Module, name)]
    methods: dict[str, Any] = dict.fromkeys(names, nothing)
    methods |= {"_gradwatch_whole": True, "__module__": kind.__module__}
    module.__class__ = type(kind.__name__, (kind,), methods)
