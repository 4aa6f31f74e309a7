"""Check `gradwatch recommend --if` by experiment: is the threshold that it predicts the one that a run then supports?

    python benchmarks/recommendation/changes.py > benchmarks/recommendation/CHANGES.md

Each row records two runs of one task, seed by seed: one as it was, and one after the change. The advice of the first
with `--if` is compared with the advice of the second, and a third set of trainings under the changed setting follows
each of: no clipping, the old threshold, the predicted one, and the one of the run after the change.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lab import Batch, History, Trial, train
from problems import EVERY, Made
from regret import recorded

from gradwatch.analysis.recommend import ChangedAdvice, Recommendation, recommend_after

SEEDS, STEPS = 3, 800


@dataclass(frozen=True)
class Row:
    """One change of one task."""

    task: str
    rate: float
    changes: Mapping[str, str]
    optimizer: str = ""  # after the change, of `lab`
    new_rate: float | None = None
    batches: int = 1  # batches that one has after the change


ROWS = (
    Row("mlp-corrupted-sgd", 0.1, {"lr": "0.3"}, new_rate=0.3),
    Row("mlp-corrupted-sgd", 0.1, {"lr": "0.02"}, new_rate=0.02),
    Row("mlp-digits-momentum", 0.05, {"lr": "0.2"}, new_rate=0.2),
    Row("counts-sgd", 0.01, {"lr": "0.05"}, new_rate=0.05),
    Row("window-text-adam", 0.005, {"lr": "0.02"}, new_rate=0.02),
    Row("mlp-corrupted-sgd", 0.1, {"batch": "16:64"}, batches=4),
    Row("window-text-adam", 0.005, {"batch": "16:64"}, batches=4),
    Row("taught-t2-sgd", 0.02, {"batch": "16:64"}, batches=4),
    Row("mlp-corrupted-sgd", 0.1, {"optimizer": "Adam", "lr": "0.005"}, optimizer="Adam", new_rate=0.005),
    Row("window-text-adam", 0.005, {"optimizer": "SGD", "lr": "0.1"}, optimizer="SGD", new_rate=0.1),
)


def task_of(name: str) -> Made:
    return cast("Made", next(task for task in EVERY if task.name == name))


def changed_task(row: Row) -> Made:
    """The task after the change."""
    task = task_of(row.task)

    def larger(generator: np.random.Generator) -> Batch:
        drawn = [task.batch(generator) for _ in range(row.batches)]
        return tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))

    return replace(task, optimizer=row.optimizer or task.optimizer, batch=larger if row.batches > 1 else task.batch)


def advice_of(
    task: Made, history: History, trials: Sequence[Trial], changes: Mapping[str, str]
) -> list[tuple[Recommendation, ChangedAdvice]]:
    with tempfile.TemporaryDirectory() as folder:
        return [
            recommend_after(recorded(task, history, at, trial, Path(folder) / str(at)), changes)
            for at, trial in enumerate(trials)
        ]


def line(row: Row) -> str:
    """Train one row and print it."""
    before, after = task_of(row.task), changed_task(row)
    old_trials = [Trial(seed, row.rate) for seed in range(SEEDS)]
    new_trials = [Trial(seed, row.new_rate or row.rate) for seed in range(SEEDS)]
    old = train(before, old_trials, steps=STEPS, keep_layers=True)
    new = train(after, new_trials, steps=STEPS, keep_layers=True)
    first = advice_of(before, old, old_trials, row.changes)
    second = [advice for advice, _ in advice_of(after, new, new_trials, {"lr": f"{row.new_rate or row.rate:g}"})]
    chosen = {
        "old": [advice.max_norm for advice, _ in first],
        "predicted": [change.max_norm for _, change in first],
        "after": [advice.max_norm for advice in second],
    }
    trials = [
        replace(trial, max_norm=threshold or math.inf)
        for thresholds in chosen.values()
        for trial, threshold in zip(new_trials, thresholds, strict=True)
    ]
    scores = train(after, trials, steps=STEPS).score().reshape(len(chosen), SEEDS).mean(axis=1)
    losses = {"none": float(new.score().mean())} | dict(zip(chosen, scores.tolist(), strict=True))
    best = min(losses.values())
    ratios = [p / a for p, a in zip(chosen["predicted"], chosen["after"], strict=True) if p and a]
    inside = [
        bool(change.low and change.high and advice.max_norm and change.low <= advice.max_norm <= change.high)
        for (_, change), advice in zip(first, second, strict=True)
    ]
    norms = float(np.nanmedian(new.norms) / np.nanmedian(old.norms))
    ratio = f"{np.exp(np.mean(np.log(ratios))):.2f}" if ratios else "-"
    regrets = " | ".join(f"{loss / best:.3f}" for loss in losses.values())
    what = ", ".join(f"{key}={value}" for key, value in row.changes.items())
    numbers = " | ".join("/".join("-" if n is None else f"{n:g}" for n in chosen[key]) for key in chosen)
    return f"| {row.task} | {what} | {norms:.2f} | {numbers} | {ratio} | {sum(inside)} of {SEEDS} | {regrets} |"


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| task | change | median norm after / before | old advice | predicted | advice after | predicted / after |"
        " after lies in the predicted range | regret: none | old | predicted | after |"
    )
    print("|" + "---|" * 12)
    for row in ROWS:
        print(line(row), flush=True)
        print(row, file=sys.stderr)


if __name__ == "__main__":
    main()
