"""Carry out today's advice on unseen tasks, and compare it with the regrets that RESULTS.md printed with older rules.

    python benchmarks/recommendation/again.py [TASK ...]

The grid of RESULTS.md trains for hours. Here `recommend` reads the pilots of each task again. Where it says what it
said then, the regret is the one that was printed. Only the other cells are trained: with today's advice, and with four
rules whose regret the table has (no clipping, 0.25, 1 and 5). The loss of each of these over its printed regret is the
loss of the best threshold, and the regret today is that of the advice over the median of the four. The last column is
how far the four disagree. Rounding differs with the number of trainings side by side, and a training at its limit
makes that large.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch
from lab import Task, Trial, train
from problems import REPORT
from regret import CACHE, FIXED, HERE, POLICIES, Advice, advice_for, geometric_mean, key_of, load, rule_of, told_by
from regret import save as save_history

ANCHORS = ("none", *(f"{threshold:g}" for threshold in FIXED))
Printed = dict[tuple[str, str], dict[str, str]]  # by task and learning rate the row of the table


def printed() -> Printed:
    """The rows of the unseen tasks in RESULTS.md."""
    text = (HERE / "RESULTS.md").read_text(encoding="utf-8")
    lines = text[text.index("## Unseen tasks") :].splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("| task |"))
    names, found = _fields(lines[begin]), {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        row = dict(zip(names, _fields(line), strict=True))
        found[row["task"], row["learning rate"]] = row
    return found


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.strip("| ").split("|")]


def losses_of(task: Task, advice: Sequence[Advice]) -> dict[str, float]:
    """By rule the mean held-out loss at one learning rate."""
    trials = [
        Trial(one.seed, one.rate, policy=rule_of(one.clip)) if one.clip else Trial(one.seed, one.rate, one.max_norm)
        for one in advice
    ]
    for threshold in (math.inf, *FIXED):
        trials += [Trial(one.seed, one.rate, threshold) for one in advice]
    file = CACHE / f"{task.name}.again-{key_of(trials)}.npz"
    if not file.exists():
        save_history(file, train(task, trials, policies=POLICIES))
    scores = load(file).score().reshape(1 + len(ANCHORS), len(advice)).mean(axis=1).tolist()
    return dict(zip(("recommend", *ANCHORS), scores, strict=True))


def regret_of(task: Task, advice: Sequence[Advice], row: dict[str, str]) -> tuple[float, float]:
    """The regret of advice, and how far the best thresholds that the printed rules tell differ."""
    losses = losses_of(task, advice)
    bests = [losses[rule] / float(row[rule]) for rule in ANCHORS]
    return losses["recommend"] / float(np.median(bests)), max(bests) / min(bests) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=[task.name for task in REPORT])
    wanted = parser.parse_args().tasks
    torch.set_num_threads(1)
    table, then, now = printed(), [], []
    print("| task | learning rate | advice before | advice today | regret before | regret today | rules agree to |")
    print("|" + "---|" * 7)
    for task in (task for task in REPORT if task.name in wanted):
        advice = advice_for(task)
        for rate in task.rates:
            own = [one for one in advice if one.rate == rate]
            row = table[task.name, f"{rate:g}"]
            before, told = row["advice, a seed each"], ", ".join(told_by(one) for one in own)
            then.append(float(row["recommend"]))
            regret, apart = (then[-1], "not trained") if told == before else regret_of(task, own, row)
            now.append(regret)
            shown = apart if isinstance(apart, str) else f"{apart:.1%}"
            today = "the same" if told == before else told
            print(
                f"| {task.name} | {rate:g} | {before} | {today} | {then[-1]:.3f} | {regret:.3f} | {shown} |", flush=True
            )
    print(f"\ngeometric mean {geometric_mean(then):.3f} before, {geometric_mean(now):.3f} today; worst {max(now):.2f}")


if __name__ == "__main__":
    main()
