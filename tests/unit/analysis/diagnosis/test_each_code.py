"""Each code of a finding: a run in which it is found, and a near one in which it is not."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis import PAGES
from gradwatch.record import Event, UpdateStats, WeightStats
from gradwatch.sources.history import History, Point
from gradwatch.sources.writing import write
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream

from .made import calm, changed, codes, falling, parameters, run_of, with_layers, with_weights
from .test_optimizer import drifting, held
from .test_overfitting import turning, validated
from .test_recreated import adam, trained
from .test_rewards import FALLS, RISES, policy

Maker: TypeAlias = Callable[[Path], Run]

NAN = dict.fromkeys(range(200, 300), math.nan)
TWO = parameters("a.weight", "b.weight")
THREE = parameters("a.weight", "b.weight", "c.weight")
FOUR = parameters("a.weight", "b.weight", "c.weight", "d.weight")
GONE = parameters("group0.0", "group0.1")
ADAM_8, ADAM_12 = {"lr": 0.1, "eps": 1e-8}, {"lr": 0.1, "eps": 1e-12}
RISING = falling(500, 2.0, 0.5) + falling(500, 0.5, 1.8)
GROWING = [1.02**i for i in range(400)]
DEAD_AT_TIMES = np.where(np.arange(300)[:, None] % 2, [0.0, 1.0], [1e-9, 1.0])
FALLING_RATE = [0.1 if step < 990 else 0.01 for step in range(2000)]


def of(records, optimizer="SGD", settings=None, **ending) -> Maker:
    return lambda folder: run_of(folder, records, optimizer, settings, **ending)


def nan_from_200(losses):
    return stream(replaced(steady(300), NAN), losses=losses)


def weights_before_nan(norm):
    """Norms and no losses that are NaN from step 200 on, and the norm of a matrix before that step."""
    records = nan_from_200([None] * 300)
    before = WeightStats(weight_norm=np.array([1.0, norm], np.float32), update_norm=np.zeros(2, np.float32))
    records[200] = dataclasses.replace(records[200], weights=before)
    return records


def moved_by(update, dtype):
    names = parameters("a.weight", "b.weight", shape=(32, 32), dtype=dtype)
    return with_weights(with_layers(calm(), [0.8, 0.6], names), [1.0, 1.0], [update, update])


def owned(coef):
    """One parameter has nearly all of the norm by which all are clipped."""
    return changed(with_layers(calm(), [1e6, 1.0, 1.0], THREE), max_norm=1.0, clip_coef=coef)


def spikes(height):
    """Four spikes of the norm, after each of which the loss stands higher for 20 steps."""
    at = (100, 150, 250, 330)
    losses = np.array(falling(400))
    for step in at:
        losses[step : step + 20] += height * np.linspace(1, 0, 20)
    return stream(replaced(steady(400), dict.fromkeys(at, 40.0)), losses=losses.tolist())


def updates(jump):
    records = []
    for record in stream(steady(300, spread=0.05), losses=falling(300, 2.0, 1.0)):
        size = 1e-3 * (jump if record.step == 200 else 1.0)
        norms = np.array([0.8 * size, 0.6 * size], np.float32)
        stats = UpdateStats(update_norm=norms, weight_norm=np.ones(2, np.float32), rms_ratio=np.ones(2, np.float32))
        records.append(dataclasses.replace(record, updates=stats, update_norm=size, weight_norm=1.0))
    return records


def on_rank_1(kind, severity) -> Maker:
    def make(folder):
        writer = StoreWriter(folder)
        writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
        writer.add_parameters("0", parameters("a.weight"))
        writer.append(calm(), [Event(step=100, kind=kind, severity=severity, message="", rank=1)])
        writer.end_attempt("closed")
        return Run(folder)

    return make


def killed(folder):
    program = (
        "import os, sys; from pathlib import Path; from gradwatch.store import StoreWriter;"
        "from gradwatch.testing import stream, steady;"
        "w = StoreWriter(Path(sys.argv[1])); w.begin_attempt({}, {'0': ('SGD', {})});"
        "w.append(stream(steady(60))); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    return Run(folder)


def imported(moment) -> Maker:
    def make(folder):
        points = [Point(step, min(norm, 1.0)) for step, norm in enumerate(steady(300))]
        write(History(points, "a file"), folder / "run", moment=moment)
        return Run(folder / "run")

    return make


def scattered(scatter):
    norms = np.exp(scatter * np.random.default_rng(0).standard_normal(300)).tolist()
    return stream(norms, losses=falling(300))


CASES: dict[str, tuple[Maker, Maker]] = {
    "no-steps": (of([]), of(calm(1))),
    "all-steps-skipped": (of(changed(calm(), skipped=True)), of(changed(calm(), skipped=lambda i: i < 12))),
    "learning-rate-zero": (
        of(changed(calm(), learning_rates=(0.0,))),
        of(changed(calm(), learning_rates=lambda i: (0.1 * min(1.0, i / 50),))),
    ),
    "clipped-to-nothing": (of(stream(steady(300), max_norm=0.0)), of(stream(steady(300), max_norm=0.5))),
    "stale-optimizer": (
        of(with_layers(stream([0.0] * 100), [0.0, 0.0], GONE, present=[False, False])),
        of(with_layers(calm(100), [0.8, 0.6], GONE)),
    ),
    "zero-gradients": (
        of(stream([0.0] * 300, losses=falling(300))),
        of(stream([n * (i % 10 > 2) for i, n in enumerate(steady(300))], losses=falling(300))),
    ),
    "constant-loss": (
        of(stream(steady(300), losses=[0.7] * 300)),
        of(stream(steady(300), losses=replaced([0.7] * 300, {150: 0.7 + 1e-15}))),
    ),
    "updates-below-precision": (of(moved_by(1.5e-7, "bfloat16"), "AdamW"), of(moved_by(1.5e-7, "float32"), "AdamW")),
    "loss-hides-nan": (
        of(nan_from_200(replaced(falling(300), dict.fromkeys(NAN, 0.0)))),
        of(nan_from_200(replaced(falling(300), NAN))),
    ),
    "nonfinite-loss": (
        of(nan_from_200(replaced(falling(300), NAN))),
        of(nan_from_200(replaced(falling(300), NAN | {200: 0.5}))),
    ),
    "nonfinite-gradient": (
        of(nan_from_200(replaced(falling(300), NAN | {200: 0.5}))),
        of(nan_from_200(replaced(falling(300), NAN))),
    ),
    "nonfinite-weights": (of(weights_before_nan(math.nan)), of(weights_before_nan(1.0))),
    "norm-overflow": (
        of(changed(calm(), max_norm=1.0, clip_coef=lambda i: 0.0 if i == 200 else 1.0)),
        of(changed(calm(), max_norm=1.0, clip_coef=lambda i: 0.01 if i == 200 else 1.0)),
    ),
    "gradients-accumulate": (
        of(calm(), meta={"carried_steps.0": "298"}),
        of(calm(), meta={"carried_steps.0": "60"}),
    ),
    "desync": (on_rank_1("desync", "critical"), on_rank_1("spike", "info")),
    "diverged": (
        of(stream(GROWING, losses=GROWING)),
        of(stream(replaced(steady(400), {200: 500.0}), losses=replaced(falling(400), {200: 900.0}))),
    ),
    "repeated-spikes": (of(spikes(1.0)), of(spikes(0.0))),
    "huge-loss": (
        of(stream(steady(400, level=1e6), losses=falling(400, 4e8, 4e8))),
        of(stream(steady(400, level=1e6), losses=falling(400, 4e8, 4e7))),
    ),
    "optimizer-recreated": (
        lambda folder: trained(folder, adam),
        lambda folder: trained(folder, adam, anew=True),
    ),
    "loss-scale": (
        of(changed(calm(), loss_scale=1.0, skipped=lambda i: i % 2 == 0)),
        of(changed(calm(), loss_scale=1024.0, skipped=lambda i: i < 15 or i == 150)),
    ),
    "no-gradient": (
        of(with_layers(calm(), [1.0, 1.0, 1.0], THREE, present=[False, False, True])),
        of(
            with_layers(calm(150), [1.0, 1.0, 1.0], THREE, present=[False, False, True])
            + with_layers(calm(), [1.0, 1.0, 1.0], THREE)[150:]
        ),
    ),
    "parameters-without-optimizer": (
        of(calm(), meta={"parameters_without_optimizer": json.dumps(["0.weight"])}),
        of(calm(), meta={"parameters_without_optimizer": json.dumps([])}),
    ),
    "clip-starves": (
        of(owned(1e-6), "Adam", {"lr": 0.1, "eps": 1e-5}),
        of(owned(1e-6), "Adam", {"lr": 0.1, "eps": 1e-9}),
    ),
    "ineffective-clipping": (
        of(changed(calm(), max_norm=0.5, clip_fault="after-step")),
        of(stream(steady(300), max_norm=0.5, losses=falling(300))),
    ),
    "threshold-too-low": (of(stream(steady(300), max_norm=0.01)), of(stream(steady(300), max_norm=0.5))),
    "clipped-by-script": (of(calm(), meta={"changed_steps.0": "300"}), of(calm(), meta={"changed_steps.0": "3"})),
    "dead-parameters": (of(with_layers(calm(), [0.0, 1.0], TWO)), of(with_layers(calm(), DEAD_AT_TIMES, TWO))),
    "vanishing": (
        of(with_weights(with_layers(calm(400), [1e-9, 1e-4, 1.0], THREE), [1, 1, 1], [1e-3] * 3)),
        of(with_weights(with_layers(calm(400), [0.1, 0.4, 1.0], THREE), [1, 1, 1], [1e-3] * 3)),
    ),
    "died": (of(calm(), reason="exception RuntimeError"), of(calm(), reason="exception KeyboardInterrupt")),
    "killed": (killed, of(stream(steady(60)), reason="closed")),
    "learning-rate-too-high": (
        of(with_weights(stream(steady(1000), losses=RISING), [1.0, 1.0], [0.3, 0.3])),
        of(with_weights(stream(steady(1000), losses=RISING), [1.0, 1.0], [1e-3, 1e-3])),
    ),
    "loss-regressed": (
        of(stream(steady(400), losses=falling(200) + falling(200, 0.5, 1.6))),
        of(stream(steady(400), losses=falling(200) + falling(200, 0.6, 0.5))),
    ),
    "reward-lost": (lambda folder: policy(folder, FALLS), lambda folder: policy(folder, RISES)),
    "overfitting": (
        lambda folder: validated(folder, turning()),
        lambda folder: validated(folder, turning(rise=0.004)),
    ),
    "dropout-noise": (of(scattered(0.03), meta={"dropout": "0.5"}), of(scattered(0.3), meta={"dropout": "0.5"})),
    "no-progress": (
        of(stream(steady(400), losses=falling(400, 2.3, 2.3, 0.01))),
        of(stream(steady(400), losses=falling(400, 2.3, 2.1, 0.01))),
    ),
    "too-short": (of(calm(300)[:39]), of(calm(300)[:40])),
    "spike": (of(stream(replaced(steady(600), {300: 20.0}), losses=falling(600))), of(calm(600))),
    "eps-starvation": (
        of(with_layers(calm(), [1e-9, 1e-9]), "Adam", ADAM_8),
        of(with_layers(calm(), [1e-9, 1e-9]), "Adam", ADAM_12),
    ),
    "norm-rises-as-rate-falls": (
        functools.partial(drifting, FALLING_RATE, 1.0),
        functools.partial(drifting, FALLING_RATE, 0.1),
    ),
    "update-spike": (of(updates(10.0), "Adam"), of(updates(1.5), "Adam")),
    "updates-out-of-proportion": (
        of(with_weights(stream(steady(600), losses=falling(600)), [1.0, 1.0], [1e-3, 0.1])),
        of(with_weights(stream(steady(600), losses=falling(600)), [1.0, 1.0], [1e-2, 0.09])),
    ),
    "held-spike": (lambda folder: held(folder, 0.9), lambda folder: held(folder, 0.0)),
    "large-initial-norms": (
        of(stream([500.0] * 15 + steady(1500), losses=falling(1515))),
        of(stream([5.0] * 15 + steady(1500), losses=falling(1515))),
    ),
    "threshold-idle": (of(stream(steady(300), max_norm=100.0)), of(stream(steady(300), max_norm=1.3))),
    "one-parameter-dominates": (
        of(with_layers(calm(), [0.99, 0.1, 0.3, 0.05], FOUR)),
        of(with_layers(calm(), [0.5, 0.1, 0.3, 0.05], FOUR)),
    ),
    "norms-after-clipping": (imported("after clipping"), imported("before clipping")),
    "recording-stopped": (of(calm(), reason="fault"), of(calm(), reason="closed")),
}


def test_every_code_has_its_cases():
    assert set(CASES) == set(PAGES)


@pytest.mark.parametrize("code", CASES)
def test_a_code_is_found_where_it_is_and_not_where_it_is_nearly(tmp_path, code):
    found, near = CASES[code]
    assert code in codes(found(tmp_path / "found"))
    assert code not in codes(near(tmp_path / "near"))
