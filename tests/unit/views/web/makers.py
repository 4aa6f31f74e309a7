"""Runs for the page: records of layers with given norms, written as stores."""

import numpy as np

from gradwatch import Run
from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter


def infos(count):
    return tuple(ParameterInfo(name=f"layers.{i}.weight", shape=(4, 4)) for i in range(count))


def record(step, norms, *, optimizer="0", attempt=0, nonfinite=None, weights=None):
    norms = np.asarray(norms, np.float32)
    bad = np.where(np.isnan(norms), np.nan, 0).astype(np.float32) if nonfinite is None else np.float32(nonfinite)
    return StepRecord(
        step=step,
        optimizer=optimizer,
        attempt=attempt,
        wall_time=float(step),
        total_norm=float(np.sqrt(np.nansum(norms.astype(float) ** 2))),
        nonfinite=int(np.nansum(bad)),
        layers=LayerStats(parameters=infos(len(norms)), norm=norms, nonfinite=bad),
        weights=weights,
    )


def written(folder, *attempts, optimizers=("0",), parameters=3):
    for records in attempts:
        writer = StoreWriter(folder)
        writer.begin_attempt({}, {name: ("SGD", {"lr": 0.1}) for name in optimizers})
        for name in optimizers:
            writer.add_parameters(name, infos(parameters))
        writer.append(list(records), [])
        writer.end_attempt("closed")
    return Run(folder)
