"""Runs made for the tests of the diagnosis."""

import dataclasses

import numpy as np

from gradwatch import Run
from gradwatch.record import LayerStats, ParameterInfo, WeightStats
from gradwatch.store import StoreWriter
from gradwatch.testing import PARAMETERS, steady, stream, write_run


def falling(steps, start=2.0, end=0.5, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    return [float(x) for x in np.geomspace(start, end, steps) * np.exp(noise * rng.standard_normal(steps))]


def calm(steps=300, **more):
    """Records of a training that is well."""
    return stream(steady(steps), **{"losses": falling(steps)} | more)


def changed(records, **values):
    """The records with other values; a function is called with the step's position."""
    return [
        dataclasses.replace(record, **{name: v(i) if callable(v) else v for name, v in values.items()})
        for i, record in enumerate(records)
    ]


def with_layers(records, norms, parameters=PARAMETERS, present=None):
    """The records with these norms of each parameter, (parameters,) or (steps, parameters)."""
    table = np.broadcast_to(np.asarray(norms, np.float32), (len(records), len(parameters)))
    there = np.ones(len(parameters), bool) if present is None else np.asarray(present)
    out = []
    for record, row in zip(records, table, strict=True):
        norm = np.where(there, row, np.nan).astype(np.float32)
        zero = np.where(there, 0.0, np.nan).astype(np.float32)
        layers = LayerStats(parameters=tuple(parameters), norm=norm, abs_max=norm, nonfinite=zero, zeros=zero)
        total = float(np.sqrt(np.nansum(np.square(norm.astype(float)))))
        out.append(dataclasses.replace(record, layers=layers, weights=None, total_norm=total))
    return out


def with_weights(records, weight, update, every=10):
    """The records with samples of these norms of each parameter."""
    samples = WeightStats(weight_norm=np.asarray(weight, np.float32), update_norm=np.asarray(update, np.float32))
    return [dataclasses.replace(r, weights=None if r.step % every else samples) for r in records]


def parameters(*names, shape=(3, 3), dtype="float32"):
    return tuple(ParameterInfo(name=name, shape=shape, dtype=dtype) for name in names)


def run_of(folder, records, optimizer_class="SGD", settings=None, meta=None, reason=None):
    """A run of these records, with further entries of the meta table, ended for this reason."""
    write_run(folder, records, optimizer_class, settings)
    if meta or reason:
        writer = StoreWriter(folder)
        if reason:
            writer.begin_attempt({}, {})
        for key, value in (meta or {}).items():
            writer.set_meta(key, value)
        if reason:
            writer.end_attempt(reason)
        else:
            writer.abandon()
    return Run(folder)


def codes(run):
    return [finding.code for finding in run.diagnosis()]


def the(run, code):
    """The one finding of this code."""
    (found,) = [finding for finding in run.diagnosis() if finding.code == code]
    return found
