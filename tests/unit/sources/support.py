"""A history with a spike, a NaN and an infinity, and what it is as a run."""

import math

import numpy as np

from gradwatch import Run
from gradwatch.sources import read, write
from gradwatch.testing import replaced, steady

NORMS = replaced(steady(500), {100: 40.0, 200: math.nan, 300: math.inf})


def imported(paths, tmp_path, **options):
    write(read(paths, **options), tmp_path / "run")
    return Run(tmp_path / "run")


def assert_norms(run, norms=NORMS, every=1):
    steps = run.steps()
    assert steps.index.tolist() == [every * i for i in range(len(norms))]
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-6)
    return steps
