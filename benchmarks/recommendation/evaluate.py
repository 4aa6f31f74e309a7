"""How good is the advice of `gradwatch recommend`? Regret against a grid search, beside the usual rules.

    python benchmarks/recommendation/evaluate.py train           # the grid and the rules; an hour on a processor
    python benchmarks/recommendation/evaluate.py advise tune     # what is recommended, and its regret as the grid
                                                                 # tells it, on the tasks that the rule was made on
    python benchmarks/recommendation/evaluate.py report          # trains with the advice; prints RESULTS.md

For each task, learning rate and seed the first quarter of a training without clipping is recorded;
`recommend` reads only that, and a training from the start with its advice is judged by the held-out
loss at the end. Where it refuses and names a threshold to record with, a second pilot is recorded with
that. The grid has ten thresholds from 0.03 to 30 times the median norm of the first pilots.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lab import SAMPLED, History, Task, Trial, train
from numpy.typing import NDArray
from tasks import REPORT, TUNE

from gradwatch import Run
from gradwatch import tune as experiment
from gradwatch.clip import AutoClip, ZClip
from gradwatch.recommend import Recommendation
from gradwatch.record import LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.testing import write_run

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
SEEDS, GRID, PILOT = 5, 10, 0.25
FIXED = (0.25, 1.0, 5.0)
PERCENTILES = (10, 50, 90, 99)
POLICIES = {"AutoClip": lambda: AutoClip(10).threshold, "ZClip": lambda: ZClip().threshold}
RULES = ("none", *(f"{c:g}" for c in FIXED), *(f"p{p}" for p in PERCENTILES), "mean", *POLICIES)
CLASSES = {"SGD": ("SGD", {"momentum": 0.0}), "Momentum": ("SGD", {"momentum": 0.9}), "Adam": ("Adam", {"eps": 1e-8})}
CANDIDATES = 7  # of tune, beside no clipping

Label = dict[str, Any]


def cells(task: Task) -> list[tuple[float, int]]:
    return [(rate, seed) for rate in task.rates for seed in range(SEEDS)]


def pilot_steps(task: Task) -> int:
    return int(PILOT * task.steps)


# ------------------------------------------------------------------------------- grid and rules


def unclipped(task: Task) -> History:
    """A training without clipping in each cell: the record of its first quarter, and the rule "none"."""
    file = CACHE / f"{task.name}.none.npz"
    if not file.exists():
        save(file, train(task, [Trial(seed, rate) for rate, seed in cells(task)], keep_layers=True))
    return load(file)


def grid(task: Task) -> tuple[list[Label], History]:
    """A training for each threshold of the grid and each rule in each cell, and what each was."""
    first = unclipped(task).norms[: pilot_steps(task)]
    trials, labels = [], []
    for at, (rate, seed) in enumerate(cells(task)):
        of_rate = first[:, [i for i, (other, _) in enumerate(cells(task)) if other == rate]]
        level = float(np.median(of_rate[np.isfinite(of_rate) & (of_rate > 0)]))
        own = first[:, at]
        own = own[np.isfinite(own) & (own > 0)]
        chosen: dict[str, float] = {f"grid{i}": level * factor for i, factor in enumerate(np.geomspace(0.03, 30, GRID))}
        chosen |= {f"{c:g}": c for c in FIXED}
        chosen |= {f"p{p}": float(np.percentile(own, p)) for p in PERCENTILES}
        chosen["mean"] = float(own.mean())
        for name, threshold in chosen.items():
            trials.append(Trial(seed, rate, threshold))
            labels.append({"rate": rate, "seed": seed, "rule": name, "threshold": threshold})
        for name in POLICIES:
            trials.append(Trial(seed, rate, policy=name))
            labels.append({"rate": rate, "seed": seed, "rule": name, "threshold": math.nan})
    file = CACHE / f"{task.name}.grid.npz"
    if not file.exists():
        save(file, train(task, trials, policies=POLICIES))
    return labels, load(file)


# ---------------------------------------------------------------------------------------- advice


@dataclass(frozen=True)
class Advice:
    """What one cell was told."""

    rate: float
    seed: int
    max_norm: float  # infinite: not to clip, or refused
    policy: str
    confidence: str
    refused: str | None
    second_pilot: float | None  # the threshold that it was recorded with


def pilots(task: Task, trials: Sequence[Trial]) -> History:
    """The first quarter of trainings, with the norms of layers, weights and updates."""
    key = hashlib.sha256(repr([asdict(trial) for trial in trials]).encode()).hexdigest()[:12]
    file = CACHE / f"{task.name}.pilot-{key}.npz"
    if not file.exists():
        save(file, train(task, trials, steps=pilot_steps(task), keep_layers=True))
    return load(file)


def advice_for(task: Task) -> list[Advice]:
    trials = [Trial(seed, rate) for rate, seed in cells(task)]
    found = [_advice(task, trial, None, answer) for trial, answer in zip(trials, _ask(task, trials), strict=True)]
    again = [
        (at, replace(trials[at], max_norm=answer.record_at))
        for at, answer in enumerate(_ask(task, trials))
        if answer.refused is not None and answer.record_at is not None
    ]
    if again:
        second = [trial for _, trial in again]
        for (at, trial), answer in zip(again, _ask(task, second), strict=True):
            found[at] = _advice(task, trial, trial.max_norm, answer)
    return found


def _advice(task: Task, trial: Trial, second: float | None, answer: Recommendation) -> Advice:
    threshold = math.inf if answer.max_norm is None else answer.max_norm
    return Advice(trial.rate, trial.seed, threshold, answer.policy, answer.confidence, answer.refused, second)


def _ask(task: Task, trials: Sequence[Trial]) -> list[Recommendation]:
    history = pilots(task, trials)
    with tempfile.TemporaryDirectory() as folder:
        return [
            recorded(task, history, at, trial, Path(folder) / str(at)).recommend() for at, trial in enumerate(trials)
        ]


def recorded(task: Task, history: History, at: int, trial: Trial, folder: Path) -> Run:
    """One training of a pilot as gradwatch would have recorded it."""
    shapes = {name: np.shape(value) for name, value in task.initial(np.random.default_rng(0)).items()}
    parameters = tuple(ParameterInfo(name=name, shape=shape) for name, shape in shapes.items())
    columns = {
        kind: np.stack([of[name][:, at] for name in shapes], 1).astype(np.float32)
        for kind, of in (("norm", history.layers), ("weight", history.weights), ("update", history.updates))
    }
    is_clipped = math.isfinite(trial.max_norm)
    records = []
    for step, norm in enumerate(history.norms[:, at].tolist()):
        samples = WeightStats(weight_norm=columns["weight"][step], update_norm=columns["update"][step])
        records.append(
            StepRecord(
                step=step,
                total_norm=norm,
                nonfinite=0 if math.isfinite(norm) else 1,
                loss=float(history.losses[step, at]),
                learning_rates=(trial.rate,),
                max_norm=trial.max_norm if is_clipped else None,
                clip_coef=min(1.0, trial.max_norm / (norm + 1e-6)) if is_clipped and math.isfinite(norm) else 1.0,
                layers=LayerStats(parameters=parameters, norm=columns["norm"][step]),
                weights=samples if step % SAMPLED == 0 else None,
            )
        )
        if not math.isfinite(norm):
            break  # the training is lost, and so is its record
    optimizer_class, options = CLASSES[task.optimizer]
    return Run(write_run(folder, records, optimizer_class, settings={"lr": trial.rate} | options))


# ---------------------------------------------------------------------------------------- regret

Scores = dict[tuple[float, str], float]  # by learning rate and rule: the mean over seeds


def scores_of(task: Task) -> Scores:
    """Of the grid, of every rule, and of no clipping."""
    labels, made = grid(task)
    values: dict[tuple[float, str], list[float]] = {}
    for label, score in zip(labels, made.score(), strict=True):
        values.setdefault((label["rate"], label["rule"]), []).append(score)
    for (rate, _), score in zip(cells(task), unclipped(task).score(), strict=True):
        values.setdefault((rate, "none"), []).append(score)
    return {key: float(np.mean(of)) for key, of in values.items()}


def best_of(scores: Scores, rate: float) -> float:
    return min(scores[rate, f"grid{i}"] for i in range(GRID))


def estimated(task: Task, advice: Sequence[Advice]) -> dict[float, float]:
    """By learning rate the loss that advice would have, read off the grid of the same seed in logarithms."""
    labels, made = grid(task)
    score = {(label["rate"], label["seed"], label["rule"]): s for label, s in zip(labels, made.score(), strict=True)}
    level = {(label["rate"], label["rule"]): label["threshold"] for label in labels}
    plain = dict(zip(cells(task), unclipped(task).score(), strict=True))
    found: dict[float, list[float]] = {}
    for one in advice:
        at = [level[one.rate, f"grid{i}"] for i in range(GRID)]
        on = [score[one.rate, one.seed, f"grid{i}"] for i in range(GRID)]
        value = plain[one.rate, one.seed]
        if math.isfinite(one.max_norm):
            value = float(np.exp(np.interp(math.log(one.max_norm), np.log(at), np.log(on))))
        found.setdefault(one.rate, []).append(value)
    return {rate: float(np.mean(of)) for rate, of in found.items()}


def advise(tasks: Sequence[Task]) -> None:
    regrets = []
    for task in tasks:
        scores, advice = scores_of(task), advice_for(task)
        for rate, value in estimated(task, advice).items():
            own = [one for one in advice if one.rate == rate]
            thresholds = " ".join("none" if math.isinf(one.max_norm) else f"{one.max_norm:g}" for one in own)
            best = best_of(scores, rate)
            at = min(range(GRID), key=lambda i: scores[rate, f"grid{i}"])
            labels, _ = grid(task)
            top = next(label["threshold"] for label in labels if (label["rate"], label["rule"]) == (rate, f"grid{at}"))
            regrets.append(value / best)
            again = sum(one.second_pilot is not None for one in own)
            print(
                f"{task.name:22} lr {rate:<7g} regret {value / best:6.3f}  none {scores[rate, 'none'] / best:7.3f}"
                f"  best {top:8.3g}  advice {thresholds}" + (f"  ({again} second pilots)" if again else "")
            )
    print(f"geometric mean {np.exp(np.mean(np.log(regrets))):.3f}, worst {max(regrets):.3f}")


# ------------------------------------------------------------------------------------- the files


def save(file: Path, history: History) -> None:
    file.parent.mkdir(exist_ok=True)
    kinds = {"layer": history.layers, "weight": history.weights, "update": history.updates}
    columns = {f"{kind}.{name}": v.astype(np.float32) for kind, of in kinds.items() for name, v in of.items()}
    np.savez_compressed(
        file,
        norms=history.norms,
        losses=history.losses.astype(np.float32),
        looks=history.looks,
        before=history.before,
        **columns,
    )


def load(file: Path) -> History:
    with np.load(file) as data:
        of = {
            kind: {name.removeprefix(f"{kind}."): data[name] for name in data.files if name.startswith(f"{kind}.")}
            for kind in ("layer", "weight", "update")
        }
        looks = data["looks"], data["before"]
        return History(data["norms"], data["losses"], of["layer"], of["weight"], of["update"], *looks)


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "advise"])
    parser.add_argument("tasks", nargs="*", default=["tune", "report"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [
        task
        for split, tasks in (("tune", TUNE), ("report", REPORT))
        for task in tasks
        if split in args.tasks or task.name in args.tasks
    ]
    if args.what == "advise":
        advise(chosen)
        return
    for task in chosen:
        began = time.monotonic()
        grid(task)
        say(f"{task.name} {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
