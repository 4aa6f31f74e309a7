"""A history with a spike, a NaN and an infinity, and what it is as a run; and rows as a script logs them."""

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


ROWS = [{"step": 10 * n, "loss": 2.0 / n, "grad_norm": 1.0 + n, "lr": 1e-3, "epoch": 0.1} for n in range(1, 6)]


def write_text(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def values(history):
    return [(point.step, point.norm, point.loss, point.learning_rate) for point in history.points]


EXPECTED = [(row["step"], row["grad_norm"], row["loss"], row["lr"]) for row in ROWS]
