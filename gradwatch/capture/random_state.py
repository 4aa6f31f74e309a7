"""The states of all random number generators: taken before a forward, set again for its replay."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable

import torch

from gradwatch.capture.record import RandomState


def take_random_state(devices: Iterable[torch.device] = ()) -> RandomState:
    """The states as they are now: of Python, of PyTorch on the CPU and ``devices``, and of numpy if it is imported.

    No device is waited for.
    """
    numpy = sys.modules.get("numpy.random")
    return RandomState(
        python=random.getstate(),
        numpy=None if numpy is None else numpy.get_state(),
        cpu=torch.get_rng_state(),
        devices={str(device): state for device in devices if (state := _of_device(device)) is not None},
    )


def set_random_state(state: RandomState) -> None:
    """Set all states that ``state`` has, but for those of devices that this machine lacks.

    >>> before = take_random_state()
    >>> drawn = torch.rand(3)
    >>> set_random_state(before)
    >>> torch.equal(torch.rand(3), drawn)
    True
    """
    random.setstate(state.python)
    torch.set_rng_state(state.cpu)
    if state.numpy is not None:
        import numpy as np

        np.random.set_state(state.numpy)
    for name, one in state.devices.items():
        device = torch.device(name)
        module = getattr(torch, device.type, None)
        if module is not None and module.is_available() and (device.index or 0) < module.device_count():
            module.set_rng_state(one, device)


def _of_device(device: torch.device) -> torch.Tensor | None:
    module = getattr(torch, device.type, None)
    if module is None or not hasattr(module, "get_rng_state"):
        return None
    state = module.get_rng_state(device) if device.type != "mps" else module.get_rng_state()
    return state if isinstance(state, torch.Tensor) else None
