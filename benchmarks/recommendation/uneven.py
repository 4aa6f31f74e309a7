"""With Adam, norms that differ from step to step without spikes: the fixed threshold that is advised, or ZClip?

    python benchmarks/recommendation/uneven.py [unseen | TASK ...] > tables

Six pilots of each task and learning rate are recorded without clipping. Those count whose advice lies between a guard
and clipping every step because norms differ, not because of spikes. `recommend` names ZClip for the nearer
half of them. Each is trained from the start without clipping, with ZClip, with the advised threshold, and
with the guard, the 95th percentile of the pilot's norms. Numbers are held-out losses over the least of the row.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lab import Trial, train
from problems import EVERY, Made
from regret import POLICIES, geometric_mean, pilot_steps, recorded

from gradwatch.analysis.recommend import Recommendation

SEEDS = 6
RULES = ("none", "ZClip", "threshold", "guard")
TUNING = (
    ("transformer-adam", (3e-4, 5e-4, 1e-3)),
    ("completion-adam", (2e-3, 3e-3, 4e-3)),
    ("echo-rnn-adam", (5e-4, 1e-3)),
)
# Tasks that had been trained with SGD alone, declared before anything was trained with Adam.
UNSEEN = (
    ("lognormal-sgd", (3e-3, 1e-2, 3e-2)),
    ("deep-mlp-sgd", (1e-3, 3e-3, 1e-2)),
    ("pareto-features-sgd", (3e-3, 1e-2)),
    ("adding-sgd", (1e-3, 3e-3, 1e-2)),
    ("correlated-sgd", (3e-3, 1e-2)),
    ("regression-t15-sgd", (3e-3, 1e-2)),
    ("random-features-sgd", (3e-3, 1e-2)),
    ("deep-linear-sgd", (1e-3, 3e-3)),
)


def is_between(advice: Recommendation) -> bool:
    """Whether the threshold lies between the guard and clipping every step, because norms differ without spikes."""
    return any("between the 95th" in reason and "norms differ from step" in reason for reason in advice.reasons)


def rows_of(name: str, rates: Sequence[float]) -> list[tuple[str, dict[str, float]]]:
    """The losses by rule of each pilot that counts, with what is printed of it."""
    task = replace(cast("Made", next(task for task in EVERY if task.name == name)), optimizer="Adam")
    pilots = [Trial(seed, rate) for rate in rates for seed in range(SEEDS)]
    history = train(task, pilots, steps=pilot_steps(task), keep_layers=True)
    chosen: list[tuple[Trial, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for at, pilot in enumerate(pilots):
            advice = recorded(task, history, at, pilot, Path(folder) / str(at)).recommend()
            if is_between(advice):
                assert advice.max_norm is not None
                chosen.append((pilot, advice.max_norm, float(np.nanquantile(history.norms[:, at], 0.95))))
    print(f"{name}: {len(chosen)} of {len(pilots)} pilots", file=sys.stderr, flush=True)
    if not chosen:
        return []
    trials = [
        trial
        for pilot, threshold, guard in chosen
        for trial in (pilot, replace(pilot, policy="ZClip"), *(replace(pilot, max_norm=c) for c in (threshold, guard)))
    ]
    scores = train(task, trials, policies=POLICIES).score().reshape(len(chosen), len(RULES))
    label = name.rsplit("-", 1)[0]
    return [
        (
            f"| {label} | {pilot.rate:g} | {pilot.seed} | {guard:.2g} | {threshold:g} |",
            dict(zip(RULES, of, strict=True)),
        )
        for (pilot, threshold, guard), of in zip(chosen, scores.tolist(), strict=True)
    ]


def main() -> None:
    torch.set_num_threads(1)
    wanted = set(sys.argv[1:] or ["unseen", "tuning"])
    for title, tasks in (("unseen", UNSEEN), ("tuning", TUNING)):
        found = [row for name, rates in tasks if {name, title} & wanted for row in rows_of(name, rates)]
        if not found:
            continue
        print(f"## {title.capitalize()} tasks\n")
        print("| task | learning rate | seed | guard | threshold | " + " | ".join(RULES) + " |")
        print("|" + "---|" * (5 + len(RULES)))
        regrets = []
        for text, losses in found:
            least = min(losses.values())
            regrets.append([losses[rule] / least for rule in RULES])
            print(text + "".join(f" {regret:.3f} |" for regret in regrets[-1]))
        for what, of in (("geometric mean", geometric_mean), ("worst", max)):
            numbers = " | ".join(f"{of(column):.3f}" for column in zip(*regrets, strict=True)) if regrets else ""
            print(f"| **{what}** of {len(found)} | | | | | {numbers} |")
        print(flush=True)


if __name__ == "__main__":
    main()
