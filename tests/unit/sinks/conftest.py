"""A run to send."""

import math

import pytest

from gradwatch import Run
from gradwatch.testing import replaced, steady, stream, write_run

from .support import STEPS


@pytest.fixture
def run(tmp_path):
    """A run with a spike, an infinity and a NaN at its end."""
    norms = replaced(steady(STEPS), {150: 60.0, STEPS - 2: math.inf, STEPS - 1: math.nan})
    losses = [1.0 / (1 + step) for step in range(STEPS)]
    return Run(write_run(tmp_path / "the-run", stream(norms, losses=losses, max_norm=1.5), "AdamW", {"lr": 0.1}))
