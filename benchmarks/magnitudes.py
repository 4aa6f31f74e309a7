"""Measure what counting the entries of gradients by magnitude costs, in time and on the disk.

    python benchmarks/magnitudes.py [--models many,gpt,lstm] [--rounds 21] | tee benchmarks/magnitudes.txt

The models and the interleaved rounds are those of overhead.py, on one thread. Both variants observe the same training
and sample the weights at every step; one of them does not count. "a sampled step" is the median over rounds of the time
with counting over the time without; by default one step in 100 is counted, so "a recorded step" is what remains of it
over 100. "one count" is the least processor time of a count. The bytes are those of a row with its checksums, for each
parameter; beside them the share that it adds to what a step takes on average, with every second sample of the weights.
"""

from __future__ import annotations

import argparse
import logging
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from overhead import MODELS, Between, Model, Training, training

import gradwatch
from gradwatch.measure import measure_magnitudes
from gradwatch.recording import weight_sampler
from gradwatch.store import FILE_NAME

SAMPLES_EVERY = 50  # steps between two samples of the weights, by default
EVERY = 2 * SAMPLES_EVERY  # steps between two counts
HEAD = "{:<6}{:>28}{:>18}{:>12}{:>20}{:>14}{:>10}"


def observing(t: Training) -> tuple[Between, Callable[[], object]]:
    watch = t.stack.enter_context(gradwatch.attach(t.model, t.optimizer, t.folder, weights_every=1))
    return lambda: None, watch.flush


def not_counted(*_: object) -> None:
    return None


def compared(model: Model, rounds: int) -> tuple[list[float], float, float]:
    """The ratios of the rounds with and without counting, the bytes of a row for a parameter, and what they add."""
    ratios, variants = [], {"with": measure_magnitudes, "without": not_counted}
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder) / name for name in variants}
        runs = {}
        for name, count in variants.items():
            places[name].mkdir()
            runs[name] = training(model, observing, places[name], 1.0, compiled=True)
            with mock.patch.object(weight_sampler, "measure_magnitudes", count):
                next(runs[name])
        for number in range(rounds):
            taken = {}
            for name in variants if number % 2 else reversed(variants):
                with mock.patch.object(weight_sampler, "measure_magnitudes", variants[name]):
                    taken[name] = next(runs[name])
            ratios.append(taken["with"] / taken["without"])
        for run in runs.values():
            run.close()
        return ratios, *bytes_of(places["with"])


def bytes_of(run: Path) -> tuple[float, float]:
    """Bytes of a row of magnitude for each parameter, and the share that it adds to a step at one count in `EVERY`."""
    db = sqlite3.connect(run / FILE_NAME)
    (parameters,) = db.execute("select count(*) from parameter").fetchone()

    def mean(table: str, *blobs: str) -> float:
        (found,) = db.execute(
            f"select coalesce(avg({' + '.join(f'coalesce(length({b}), 0)' for b in blobs)}), 0) from {table}"
        ).fetchone()
        return float(found)

    row = mean("magnitude", "filled", "cells", "crc")
    layer = mean("layer", "norm", "abs_max", "nonfinite", "zeros", "crc")
    weight = mean("weight", "weight_norm", "update_norm", "moved", "momentum_cosine", "weight_cosine", "crc")
    db.close()
    return row / parameters, row / EVERY / (layer + weight / SAMPLES_EVERY)


def one_count(model: Model) -> tuple[float, float]:
    """Seconds of the processor of one count, and the share of the entries that are counted."""
    torch.manual_seed(0)
    net = model.make()
    net(model.data()).backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    counts = []
    for _ in range(15):
        began = time.thread_time()
        found = measure_magnitudes(gradients)
        counts.append(time.thread_time() - began)
    assert found is not None
    counted = sum(float(column.sum()) for column in found.collect().values())
    return min(counts), counted / sum(parameter.numel() for parameter in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="many,gpt,lstm")
    parser.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, load {os.getloadavg()[0]:.0f}")
    print(
        HEAD.format(
            "", "a sampled step", "a recorded step", "one count", "bytes a parameter", "of the store", "counted"
        )
    )
    for name in given.models.split(","):
        ratios, size, share = compared(MODELS[name], given.rounds)
        seconds, counted = one_count(MODELS[name])
        low, middle, high = statistics.quantiles(ratios, n=4)
        row = (
            f"{middle:.3f} ({low:.3f} to {high:.3f})",
            f"{1 + (middle - 1) / EVERY:.4f}",
            f"{1000 * seconds:.2f} ms",
            f"{size:.0f}",
            f"{share:+.1%}",
            f"{counted:.1%}",
        )
        print(HEAD.format(name, *row), flush=True)


if __name__ == "__main__":
    main()
