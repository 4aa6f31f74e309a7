"""Measure how good `gradwatch recommend` is: regret against a grid search, beside the usual rules.

    python benchmarks/recommendation/regret.py train           # the grid and the rules; an hour on a processor
    python benchmarks/recommendation/regret.py advise tune     # what is recommended, and its regret as the grid
                                                                 # tells it, on the tasks that the rule was made on
    python benchmarks/recommendation/regret.py report          # trains with the advice; prints RESULTS.md

For each task, learning rate and seed, a pilot records the first quarter of a training without clipping. `recommend`
reads only that. A training from the start with its advice is judged by the final held-out loss. If `recommend`
refuses and names a threshold to record with, a second pilot records with that threshold. The grid has ten thresholds
from 0.03 to 30 times the median norm of the first pilots.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lab import LOOKS, SAMPLED, History, Task, Trial, train
from numpy.typing import NDArray
from problems import FIFTH, FIRST, FOURTH, REPORT, SECOND, THIRD, TUNE

from gradwatch import Run
from gradwatch.analysis.recommend import Recommendation
from gradwatch.clip import AutoClip, ZClip
from gradwatch.record import LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.script import tune as experiment
from gradwatch.testing import write_run

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
SEEDS, GRID, PILOT = 5, 10, 0.25
FIXED = (0.25, 1.0, 5.0)
PERCENTILES = (10, 50, 90, 99)
POLICIES = {"AutoClip": lambda: AutoClip(10).threshold, "ZClip": lambda: ZClip().threshold}
RULES = ("none", *(f"{c:g}" for c in FIXED), *(f"p{p}" for p in PERCENTILES), "mean", *POLICIES)
CLASSES = {
    "SGD": ("SGD", {"momentum": 0.0}),
    "Momentum": ("SGD", {"momentum": 0.9}),
    "Adam": ("Adam", {"eps": 1e-8}),
    "AdamW": ("AdamW", {"eps": 1e-8}),
}
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
    clip: str | None  # a policy instead
    confidence: str
    refused: str | None
    second_pilot: float | None  # the threshold that it was recorded with


def pilots(task: Task, trials: Sequence[Trial]) -> History:
    """The first quarter of trainings, with the norms of layers, weights and updates."""
    file = CACHE / f"{task.name}.pilot-{key_of(trials)}.npz"
    if not file.exists():
        save(file, train(task, trials, steps=pilot_steps(task), keep_layers=True))
    return load(file)


def advice_for(task: Task) -> list[Advice]:
    trials = [Trial(seed, rate) for rate, seed in cells(task)]
    answers = _ask(task, trials)
    found = [_advice(task, trial, None, answer) for trial, answer in zip(trials, answers, strict=True)]
    again = [
        (at, replace(trials[at], max_norm=answer.record_at))
        for at, answer in enumerate(answers)
        if answer.refused is not None and answer.record_at is not None
    ]
    if again:
        second = [trial for _, trial in again]
        for (at, trial), answer in zip(again, _ask(task, second), strict=True):
            found[at] = _advice(task, trial, trial.max_norm, answer)
    return found


def _advice(task: Task, trial: Trial, second: float | None, answer: Recommendation) -> Advice:
    threshold = math.inf if answer.max_norm is None else answer.max_norm
    return Advice(trial.rate, trial.seed, threshold, answer.clip, answer.confidence, answer.refused, second)


def _ask(task: Task, trials: Sequence[Trial]) -> list[Recommendation]:
    history = pilots(task, trials)
    with tempfile.TemporaryDirectory() as folder:
        return [
            recorded(task, history, at, trial, Path(folder) / str(at)).recommend() for at, trial in enumerate(trials)
        ]


def recorded(
    task: Task, history: History, at: int, trial: Trial, folder: Path, settings: Mapping[str, object] | None = None
) -> Run:
    """One training of a pilot as gradwatch would have recorded it; ``settings``: more of the optimizer's."""
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
    return Run(
        write_run(folder, records, optimizer_class, settings={"lr": trial.rate} | options | dict(settings or {}))
    )


# ---------------------------------------------------------------------------------------- regret

Scores = dict[tuple[float, str], float]  # by learning rate and rule: the mean over seeds


def score_of_each(task: Task) -> dict[tuple[float, int, str], float]:
    """By learning rate, seed and rule: of the grid, of every rule, and of no clipping."""
    labels, made = grid(task)
    found = {(label["rate"], label["seed"], label["rule"]): s for label, s in zip(labels, made.score(), strict=True)}
    plain = zip(cells(task), unclipped(task).score(), strict=True)
    return found | {(rate, seed, "none"): s for (rate, seed), s in plain}


def scores_of(task: Task) -> Scores:
    values: dict[tuple[float, str], list[float]] = {}
    for (rate, _, rule), score in score_of_each(task).items():
        values.setdefault((rate, rule), []).append(score)
    return {key: float(np.mean(of)) for key, of in values.items()}


THRESHOLDS = (*(f"grid{i}" for i in range(GRID)), *(rule for rule in RULES if rule not in POLICIES))


def best_of(scores: Scores, rate: float) -> tuple[float, str]:
    """The least loss of a threshold that stays, the grid's or a rule's, and which that is."""
    return min((scores[rate, name], name) for name in THRESHOLDS)


def by_other_seeds(task: Task) -> dict[float, float]:
    """By learning rate the loss of each seed with the threshold that is best for the other seeds, in the mean.

    Whoever has made all of these trainings on other seeds has this; the best of a cell is partly luck.
    """
    score, found = score_of_each(task), {}
    for rate in task.rates:
        own = []
        for seed in range(SEEDS):
            others = [other for other in range(SEEDS) if other != seed]
            best = min(THRESHOLDS, key=lambda rule: sum(score[rate, other, rule] for other in others))
            own.append(score[rate, seed, best])
        found[rate] = float(np.mean(own))
    return found


def curves_of(task: Task) -> dict[tuple[float, int], NDArray[np.float64]]:
    """By learning rate and seed the thresholds that were trained with, ascending, and their losses; logarithms."""
    score = score_of_each(task)
    points: dict[tuple[float, int], list[tuple[float, float]]] = {}
    for label in grid(task)[0]:
        if math.isfinite(label["threshold"]):
            cell = label["rate"], label["seed"]
            points.setdefault(cell, []).append((label["threshold"], score[*cell, label["rule"]]))
    return {cell: np.log(sorted(of)).T for cell, of in points.items()}


def estimated(task: Task, advice: Sequence[Advice]) -> dict[float, float]:
    """By learning rate the loss that advice would have, read off the grid of the same seed in logarithms."""
    score, curves, losses = score_of_each(task), curves_of(task), []
    for one in advice:
        if one.clip is not None or math.isinf(one.max_norm):
            rule = "none" if one.clip is None else rule_of(one.clip)
            losses.append(score[one.rate, one.seed, rule])
        else:
            at, on = curves[one.rate, one.seed]
            losses.append(float(np.exp(np.interp(math.log(one.max_norm), at, on))))
    return by_rate(advice, losses)


def advise(tasks: Sequence[Task]) -> None:
    regrets = []
    for task in tasks:
        scores, advice = scores_of(task), advice_for(task)
        for rate, value in estimated(task, advice).items():
            own = [one for one in advice if one.rate == rate]
            thresholds = " ".join(told_by(one) for one in own)
            best, name = best_of(scores, rate)
            top = levels_of(task).get((rate, name), math.inf)
            regrets.append(value / best)
            again = sum(one.second_pilot is not None for one in own)
            print(
                f"{task.name:22} lr {rate:<7g} regret {value / best:6.3f}  none {scores[rate, 'none'] / best:7.3f}"
                f"  best {top:8.3g}  advice {thresholds}" + (f"  ({again} second pilots)" if again else "")
            )
    print(f"geometric mean {geometric_mean(regrets):.3f}, worst {max(regrets):.3f}")


# --------------------------------------------------------------------------- the advice, carried out


def with_advice(task: Task, advice: Sequence[Advice]) -> dict[float, float]:
    """By learning rate the loss of a training from the start with what each cell was told."""
    trials = [
        Trial(one.seed, one.rate, one.max_norm)
        if one.clip is None
        else Trial(one.seed, one.rate, policy=rule_of(one.clip))
        for one in advice
    ]
    file = CACHE / f"{task.name}.advice-{key_of(trials)}.npz"
    if not file.exists():
        save(file, train(task, trials, policies=POLICIES))
    return by_rate(advice, load(file).score())


def by_rate(advice: Sequence[Advice], losses: Iterable[float]) -> dict[float, float]:
    """Of losses, one for each advice, the mean at each learning rate."""
    found: dict[float, list[float]] = {}
    for one, loss in zip(advice, losses, strict=True):
        found.setdefault(one.rate, []).append(loss)
    return {rate: float(np.mean(of)) for rate, of in found.items()}


def rule_of(clip: str) -> str:
    """The rule of the tables that a policy is."""
    return next(name for name in POLICIES if clip.startswith(name))


def tuned(task: Task, advice: Sequence[Advice], by_validation: bool = False) -> dict[float, float]:
    """By learning rate the held-out loss with the threshold that the search of `gradwatch tune` ends with.

    It is judged by the losses of the batches or, as with ``--judge-by``, by those of a validation.
    """
    first, plain = unclipped(task).norms[: pilot_steps(task)], unclipped(task)
    wanted = []
    for at, one in enumerate(advice):
        own = first[:, at]
        centre = one.max_norm if math.isfinite(one.max_norm) else float(np.median(own[np.isfinite(own) & (own > 0)]))
        wanted.append(experiment.candidates(centre, CANDIDATES))
    trials = [Trial(one.seed, one.rate, c) for one, thresholds in zip(advice, wanted, strict=True) for c in thresholds]
    file = CACHE / f"{task.name}.tune-{key_of(trials)}.npz"
    if not file.exists():
        save(file, train(task, trials))
    made = load(file)
    losses = []
    for at, thresholds in enumerate(wanted):
        columns = {c: (made, at * CANDIDATES + i) for i, c in enumerate(thresholds)} | {math.inf: (plain, at)}

        def trial(max_norm: float, steps: int, of: dict[float, tuple[History, int]] = columns) -> experiment.Trial:
            history, column = of[max_norm]
            return judged(task, history, column, max_norm, steps, by_validation)

        found = experiment.search(thresholds, task.steps, trial)
        history, column = columns[math.inf if found.best is None else found.best]
        losses.append(float(history.score()[column]))
    return by_rate(advice, losses)


def judged(
    task: Task, history: History, column: int, max_norm: float, steps: int, by_validation: bool
) -> experiment.Trial:
    """Return the first ``steps`` steps of a training as a trial of `tune`."""
    losses, norms = history.losses[:steps, column].astype(float), history.norms[:steps, column]
    if by_validation:
        losses = history.checks[: steps // (task.steps // LOOKS), column]
    tail = losses[-max(1, int(experiment.JUDGED_SHARE * len(losses))) :]
    lost = not (np.isfinite(tail).all() and np.isfinite(norms[-1]))
    middle, error = (None, None) if lost else experiment.judge(tail)
    return experiment.Trial(
        max_norm=max_norm,
        steps=steps,
        made=steps,
        loss=middle,
        error=error,
        clipped_fraction=float(np.mean(norms > max_norm)),
    )


def key_of(trials: Sequence[Trial]) -> str:
    return hashlib.sha256(repr([asdict(trial) for trial in trials]).encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------- the report

OURS = ("recommend", "tune", "tune --judge-by")
OTHERS = "other seeds"


@dataclass(frozen=True)
class Cell:
    """One task at one learning rate: regrets by rule, means over the seeds."""

    task: Task
    rate: float
    best: float  # threshold; infinite: not to clip
    regret: dict[str, float]
    advice: tuple[Advice, ...]


def levels_of(task: Task) -> dict[tuple[float, str], float]:
    """By learning rate and rule the threshold, the geometric mean over the seeds."""
    found: dict[tuple[float, str], list[float]] = {}
    for label in grid(task)[0]:
        found.setdefault((label["rate"], label["rule"]), []).append(label["threshold"])
    return {key: float(np.exp(np.mean(np.log(of)))) for key, of in found.items()}


def cells_of(task: Task, carried_out: bool = True) -> list[Cell]:
    """With the advice and the search carried out; or the advice alone, read off the grid."""
    scores, levels = scores_of(task), levels_of(task)
    advice = advice_for(task)
    ours = {OTHERS: by_other_seeds(task)}
    if carried_out:
        ours |= {"recommend": with_advice(task, advice)}
        ours |= {"tune": tuned(task, advice), "tune --judge-by": tuned(task, advice, by_validation=True)}
    else:
        ours |= {"recommend": estimated(task, advice)}
    found = []
    for rate in task.rates:
        best, name = best_of(scores, rate)
        regret = {rule: scores[rate, rule] / best for rule in RULES}
        regret |= {rule: losses[rate] / best for rule, losses in ours.items()}
        top = levels.get((rate, name), math.inf)
        found.append(Cell(task, rate, top, regret, tuple(one for one in advice if one.rate == rate)))
    return found


def rules_of(found: Sequence[Cell]) -> list[str]:
    return [rule for rule in (*OURS, OTHERS, *RULES) if all(rule in cell.regret for cell in found)]


def report() -> str:
    of = {name: [cell for task in tasks for cell in cells_of(task, name == "report")] for name, tasks in SPLITS}
    lines = [HEAD]
    for name, title in TITLES:
        lines += [f"## {title}", "", *overview(of[name]), "", *every_cell(of[name]), ""]
    return "\n".join(lines)


def overview(found: Sequence[Cell]) -> list[str]:
    adam = [cell for cell in found if cell.task.optimizer == "Adam"]
    sgd = [cell for cell in found if cell.task.optimizer != "Adam"]
    lines = [
        f"| rule | geometric mean of regret ({len(found)} cells) | worst | more than 2% worse than none"
        f" | SGD, momentum ({len(sgd)}) | Adam ({len(adam)}) |",
        "|---|---|---|---|---|---|",
    ]
    for rule in rules_of(found):
        regrets = [cell.regret[rule] for cell in found]
        worse = sum(cell.regret[rule] > 1.02 * cell.regret["none"] for cell in found)
        lines.append(
            f"| {rule} | {mean_of(found, rule)} | {max(regrets):.2f} | {worse} |"
            f" {mean_of(sgd, rule)} | {mean_of(adam, rule)} |"
        )
    return lines


def mean_of(found: Sequence[Cell], rule: str) -> str:
    return f"{geometric_mean([cell.regret[rule] for cell in found]):.3f}" if found else "-"


def geometric_mean(regrets: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.exp(np.mean(np.log(regrets))))


def every_cell(found: Sequence[Cell]) -> list[str]:
    shown = rules_of(found)
    lines = [
        "| task | learning rate | best threshold | advice, a seed each | " + " | ".join(shown) + " |",
        "|---|---|---|---|" + "---|" * len(shown),
    ]
    for cell in found:
        told = ", ".join(told_by(one) for one in cell.advice)
        numbers = " | ".join(f"{cell.regret[rule]:.3f}" for rule in shown)
        lines.append(f"| {cell.task.name} | {cell.rate:g} | {cell.best:.2g} | {told} | {numbers} |")
    return lines


def told_by(advice: Advice) -> str:
    """A star: after a second pilot, which the first asked for."""
    number = advice.clip or ("none" if math.isinf(advice.max_norm) else f"{advice.max_norm:g}")
    return ("refused" if advice.refused else number) + ("*" if advice.second_pilot else "")


SPLITS = (
    ("report", REPORT),
    ("fifth", FIFTH),
    ("fourth", FOURTH),
    ("third", THIRD),
    ("second", SECOND),
    ("first", FIRST),
    ("tune", TUNE),
)
TITLES = (
    ("report", "Unseen tasks"),
    ("fifth", "Tasks of the fifth report, seen since"),
    ("fourth", "Tasks of the fourth report, seen since"),
    ("third", "Tasks of the third report, seen since"),
    ("second", "Tasks of the second report, seen since"),
    ("first", "Tasks of the first report, seen since"),
    ("tune", "The tasks that the rule was made on"),
)
HEAD = """# How good the advice is

Printed by `python benchmarks/recommendation/regret.py report`. Regret is the final held-out loss over that of the best
threshold. The best is taken from ten thresholds (0.03 to 30 times the median norm of the first quarter of a training
without clipping), the fixed rules below, and no clipping. Both losses are means over five seeds, and all trainings of a
seed see the same batches. A training that is lost gets the loss of its untrained network.

The best of nineteen on five seeds is partly luck. "other seeds" removes the luck: each seed trains with the threshold
that is best for the other four. That is what one gets from running all those trainings. A rule that differs from seed
to seed, or from step to step, can have a lower regret.

`recommend` reads the record of the first quarter of a training without clipping. A star marks a second record,
clipped at the threshold that a refusal asked for; "refused" trains without clipping. `tune` is the search of
`gradwatch tune` with seven candidates, judged by the losses of the batches. `tune --judge-by` is the same, judged by
the loss on data that is neither the training nor the held-out data: fresh samples, or, for the few digits, every
other held-out one. p10 to p99 and mean are of the norms of the same quarter. AutoClip (percentile 10) and ZClip have
their defaults. On the unseen tasks the advice was carried out; on seen tasks it is read off the grid.

If `recommend` names a policy (with Adam), that policy was used, with its defaults.

Seven times a rule was committed and then reported on tasks that had never been trained with clipping. The findings of
each report went into the next rule:

| report | cells | recommend | worst | what it showed |
|---|---|---|---|---|
| first, the grid alone | 30 | 1.54 | 1676 | refusals of runs with corrupted batches |
| second | 24 | 1.38 | 4.8 | percentiles of a plateau, of a tenth of bad batches, of an early explosion |
| third, the grid alone | 30 | 1.29 | 48 | a refusal that did not say what to record (1.14 without that cell) |
| fourth, the grid alone | 27 | 1.21 | 2.1 | weights that start near zero; Adam clipped too much |
| fifth, the grid alone | 24 | 1.19 | 2.5 | with Adam, policies that follow the norms beat fixed thresholds |
| sixth, with Adam | 18 | 1.04 | 1.6 | the tasks with Adam called unseen below |
| seventh, with SGD | 21 | 1.06 | 1.5 | the tasks with SGD called unseen below |

Since the third report the rule for SGD bounds how far an update may move the weights; before, it used percentiles of
the norms. Since the seventh it weighs the weights' norm at the start and at the lowest loss, and bounds large updates
even if nothing went wrong. Read off the grid, the previous rule has 1.16 (worst 3.5) on the tasks of the seventh
report, and this one 1.07 (1.6). The rule for Adam has not changed since before the sixth.

[limit.txt](limit.txt) estimates what a rule for SGD could gain by using more of the same record.
"""


# ------------------------------------------------------------------------------------- the files


def save(file: Path, history: History) -> None:
    file.parent.mkdir(exist_ok=True)
    kinds = {"layer": history.layers, "weight": history.weights, "update": history.updates}
    columns: dict[str, Any] = {
        f"{kind}.{name}": v.astype(np.float32) for kind, of in kinds.items() for name, v in of.items()
    }
    np.savez_compressed(
        file,
        norms=history.norms,
        losses=history.losses.astype(np.float32),
        looks=history.looks,
        checks=history.checks,
        before=history.before,
        **columns,
    )


def load(file: Path) -> History:
    with np.load(file) as data:
        of = {
            kind: {name.removeprefix(f"{kind}."): data[name] for name in data.files if name.startswith(f"{kind}.")}
            for kind in ("layer", "weight", "update")
        }
        looks = data["looks"], data["checks"], data["before"]
        return History(data["norms"], data["losses"], of["layer"], of["weight"], of["update"], *looks)


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "advise", "report"])
    parser.add_argument("tasks", nargs="*", default=["tune", "first", "second", "third", "fourth", "fifth", "report"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [task for split, tasks in SPLITS for task in tasks if split in args.tasks or task.name in args.tasks]
    if args.what == "advise":
        advise(chosen)
        return
    if args.what == "report":
        print(report())
        return
    for task in chosen:
        began = time.monotonic()
        grid(task)
        say(f"{task.name} {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
