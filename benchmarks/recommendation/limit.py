"""Estimate what a better rule for SGD could gain from the same records.

    python benchmarks/recommendation/limit.py     # after `regret.py train`; prints limit.txt

The advice of every cell with SGD or momentum is multiplied by a power of a number in its record: how much the weights
still grow, how much a step changes them, the tail of the norms, and so on. The powers are fitted twice: to all cells,
and to five sixths of the tasks, for a judgement on the other sixth. The gain of the second fit over the advice itself
is what a rule could gain from that number on unseen tasks.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lab import Task, Trial
from numpy.typing import NDArray
from problems import EVERY
from regret import Advice, advice_for, best_of, by_other_seeds, curves_of, geometric_mean, pilots, recorded, scores_of
from scipy.optimize import minimize

from gradwatch import Run
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.analysis.statistics.progress import is_flat, is_undone, spread
from gradwatch.analysis.statistics.tail import tail_index

Array = NDArray[np.float64]
FOLDS = 6
FEATURES = (
    "none",
    "growth of the weights in the last third",
    "median update over the weights",
    "tail index",
    "90th percentile over the norms around it",
    "loss at the end over that at the start",
    "the loss stands still",
    "the loss came back up",
    "weights at the end over those at the start",
    "advice over the median norm",
    "momentum",
)
TOGETHER = ((1, 2), (1, 2, 5), (1, 3, 9), tuple(range(1, len(FEATURES))))


@dataclass(frozen=True)
class Seed:
    """One training's record and the losses that its thresholds led to."""

    cell: int
    advice: float
    features: Array
    thresholds: Array  # logarithms, ascending
    losses: Array  # the same, over the best of the cell


def seeds_of(task: Task, best: Mapping[float, float], first: int) -> list[Seed]:
    """Of every learning rate and seed of a task whose cells are numbered from ``first``."""
    curves, advice, found = curves_of(task), advice_for(task), []
    with tempfile.TemporaryDirectory() as folder:
        for one, run in zip(advice, records_of(task, advice, Path(folder)), strict=True):
            if math.isinf(one.max_norm):
                continue  # refused, which no power changes
            thresholds, losses = curves[one.rate, one.seed]
            losses = losses - math.log(best[one.rate])
            cell = first + task.rates.index(one.rate)
            found.append(Seed(cell, math.log(one.max_norm), features(run, one), thresholds, losses))
    return found


def records_of(task: Task, advice: Sequence[Advice], folder: Path) -> list[Run]:
    """The records that the advice was read from: the second where the first was refused."""
    trials = [Trial(one.seed, one.rate) for one in advice]
    first = pilots(task, trials)
    found = [recorded(task, first, at, trial, folder / str(at)) for at, trial in enumerate(trials)]
    again = [at for at, one in enumerate(advice) if one.second_pilot is not None]
    if again:
        trials = [replace(trials[at], max_norm=pilot) for at in again if (pilot := advice[at].second_pilot) is not None]
        second = pilots(task, trials)
        for column, at in enumerate(again):
            found[at] = recorded(task, second, column, trials[column], folder / f"{at} again")
    return found


def features(run: Run, advice: Advice) -> Array:
    """In the order of `FEATURES`, as logarithms about a usual value."""
    history = optimizer_history(run)
    losses, norms, weights = history.losses, history.norms, history.weights.to_numpy(float)
    growth = weights[-1] / weights[len(weights) * 2 // 3 - 1] - 1
    progress = np.median(np.array_split(losses, 10)[-1]) / np.median(losses[:10])
    return np.array(
        [
            1.0,
            np.clip(math.log(max(growth, 1e-3) / 0.03), -3, 3),
            np.clip(math.log((history.update_ratio or 1e-4) / 0.01), -3, 3),
            np.log(np.clip(tail_index(history.every_norm)[0], 0.5, 10) / 4),
            math.log(min(spread(norms, 0.9), 10) / 2),
            np.clip(math.log(max(progress, 1e-2)), -4, 1),
            float(is_flat(history)),
            float(is_undone(history)),
            np.clip(math.log(weights[-1] / weights[0]), -1, 3),
            np.clip(math.log(advice.max_norm / np.median(norms)), -3, 3),
            float(history.momentum > 0),
        ]
    )


class Cells:
    """All of them, to be judged at once."""

    def __init__(self, seeds: Sequence[Seed], tasks: Sequence[str]) -> None:
        self.tasks = np.array(tasks)  # of each cell
        self.of = np.array([seed.cell for seed in seeds])
        self.features = np.stack([seed.features for seed in seeds])
        self.moves = np.linspace(-5, 5, 401)
        self.losses = np.stack([np.exp(np.interp(s.advice + self.moves, s.thresholds, s.losses)) for s in seeds])

    def regrets(self, powers: Array, columns: Sequence[int]) -> Array:
        """Of each cell, its advice moved by these powers of these features."""
        moved = np.clip(self.features[:, columns] @ powers, -4.9, 4.9)
        place = (moved - self.moves[0]) / (self.moves[1] - self.moves[0])
        below = place.astype(int)
        rows, share = np.arange(len(moved)), place - below
        losses = self.losses[rows, below] * (1 - share) + self.losses[rows, below + 1] * share
        total: Array = np.bincount(self.of, losses, len(self.tasks)) / np.bincount(self.of, minlength=len(self.tasks))
        return total

    def fitted(self, columns: Sequence[int], those: NDArray[np.bool_]) -> Array:
        """The powers that do best for some of the cells."""

        def cost(powers: Array) -> float:
            own = np.log(self.regrets(powers, columns)[those])
            return float(own.mean() + 0.003 * np.square(powers).sum())

        starts = [np.zeros(len(columns)), *(np.random.default_rng(i).normal(0, 0.2, len(columns)) for i in (1, 2))]
        found = [minimize(cost, start, method="Powell", options={"maxiter": 40}) for start in starts]
        best: Array = min(found, key=lambda one: one.fun).x
        return best

    def unseen(self, columns: Sequence[int]) -> Array:
        """The regrets of each task with powers fitted without it and those of its fold."""
        fold = np.array([list(dict.fromkeys(self.tasks)).index(task) % FOLDS for task in self.tasks])
        regrets = np.zeros(len(self.tasks))
        for k in range(FOLDS):
            regrets[fold == k] = self.regrets(self.fitted(columns, fold != k), columns)[fold == k]
        return regrets


def main() -> None:
    torch.set_num_threads(1)
    tasks = [task for task in EVERY if task.optimizer != "Adam"]
    seeds: list[Any] = []
    names: list[str] = []
    others: list[Any] = []
    for task in tasks:
        scores = scores_of(task)
        best = {rate: best_of(scores, rate)[0] for rate in task.rates}
        seeds += seeds_of(task, best, len(names))
        names += [task.name] * len(task.rates)
        others += [loss / best[rate] for rate, loss in by_other_seeds(task).items()]
    cells, every = Cells(seeds, names), np.ones(len(names), bool)
    advice = cells.regrets(np.zeros(1), [0])
    print(f"{len(names)} cells of {len(tasks)} tasks with SGD and momentum; geometric mean of regret, worst\n")
    print(line("the advice", advice))
    print(line("the best of nineteen thresholds, chosen on the other seeds", others) + "\n")
    print(f"{'the advice times powers of':62} fitted          other tasks")
    for columns in (*((i,) for i in range(1, len(FEATURES))), *TOGETHER):
        used = [0, *columns]
        numbers = ", ".join(map(str, columns))
        name = f"{numbers}. {FEATURES[columns[0]]}" if len(columns) == 1 else f"{numbers} together"
        print(line(name, cells.regrets(cells.fitted(used, every), used), cells.unseen(used)), flush=True)


def line(name: str, *columns: Sequence[float] | Array) -> str:
    """Geometric mean and worst of each."""
    return f"{name:62} " + "  ".join(f"{geometric_mean(regrets):.3f} {max(regrets):7.2f}" for regrets in columns)


if __name__ == "__main__":
    main()
