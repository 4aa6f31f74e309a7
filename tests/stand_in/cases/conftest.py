import os
from pathlib import Path

import pytest
import torch

from ..device import Device


@pytest.fixture(scope="session")
def _device():
    return Device(Path(os.environ["GRADWATCH_LATE_DEVICE"]))


@pytest.fixture(autouse=True)
def late(_device):
    """The device, with no copy under way and no wait noted; no copy may find its source changed."""
    _device.set_delay(0.002)
    _device.waits()
    yield _device
    _device.set_delay(0.002)
    torch.accelerator.synchronize()
    assert _device.forget_changed_early() == 0
