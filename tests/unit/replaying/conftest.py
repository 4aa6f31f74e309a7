"""Captures of single steps in memory, made by the benchmark's keeper, which knows nothing of the replay."""

import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parents[3] / "benchmarks" / "blackbox")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)


@pytest.fixture
def one_thread():
    """Sums are added up in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
