"""Runs with their advice."""

import dataclasses
import math

import numpy as np

from gradwatch import Run
from gradwatch.record import WeightStats
from gradwatch.testing import stream, write_run


def advise(tmp_path, norms, optimizer="SGD", **more):
    return Run(write_run(tmp_path / "run", stream(norms, **more), optimizer)).recommend()


def weighing(records, weight, update=1e-3):
    """The records with samples of two parameters of this norm each."""
    pair = np.ones(2, np.float32)
    samples = WeightStats(weight_norm=pair * weight / math.sqrt(2), update_norm=pair * weight * update / math.sqrt(2))
    return [dataclasses.replace(r, weights=None if r.step % 50 else samples) for r in records]
