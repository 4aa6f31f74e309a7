"""These tests need a CUDA device. `make gpu` runs them before it measures anything."""

import os

import pytest
import torch

from gradwatch.measure import routes

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products that repeat bit for bit


@pytest.fixture(autouse=True)
def _only_with_a_device():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    yield
    # PyTorch's operators would give the same numbers, and hide that a kernel has failed.
    assert not routes._failed


@pytest.fixture
def no_waits():
    """Any operation of PyTorch that waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")
