"""Check `gradwatch recommend --if` by experiment: is the threshold that it predicts the one to train with?

    python benchmarks/recommendation/changes.py [policies | again | unseen | afterwards | seen] > tables

Each row records three seeds of one task as it is, and asks `recommend --if` for the threshold after a change. Then it
trains with the change: without clipping, over a grid of thresholds, and with the thresholds of four rules. These are
the old one, 1.0, the predicted one, and the one that `recommend` gives for the changed runs themselves, recorded
without clipping. Where an advice names a policy, the training has the policy; "guards" has the predicted threshold
itself. The regret of a rule is its held-out loss over the best of the fixed thresholds, 1.0 and no clipping,
both means over the seeds.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from lab import Batch, History, Trial, train
from problems import EVERY, Made
from regret import CACHE, CLASSES, POLICIES, geometric_mean, recorded, rule_of

from gradwatch.analysis.recommend import ChangedAdvice, Recommendation, recommend_after

Advised: TypeAlias = tuple[float | None, str | None]  # a threshold, and a policy in its place

SEEDS, STEPS, GRID = 3, 800, 8
RULES = ("none", "old", "1.0", "predicted", "after")
WITH_POLICIES = (*RULES, "guards")


@dataclass(frozen=True)
class Setting:
    """What a change changes."""

    rate: float
    optimizer: str = ""  # of `lab`; empty: the task's
    batches: int = 1  # of the task, joined to one
    decay: float = 0.0


@dataclass(frozen=True)
class Row:
    """One change of one task."""

    task: str
    before: Setting
    after: Setting
    steps: int = STEPS

    def changes(self) -> dict[str, str]:
        """What `--if` is told."""
        before, after, found = self.before, self.after, {}
        if after.rate != before.rate:
            found["lr"] = f"{after.rate:g}"
        if after.batches != before.batches:
            found["batch"] = f"{before.batches}:{after.batches}"
        if after.decay != before.decay:
            found["weight_decay"] = f"{after.decay:g}"
        if (before.optimizer, after.optimizer) == ("SGD", "Momentum"):
            found["momentum"] = "0.9"
        elif after.optimizer != before.optimizer:
            found["optimizer"] = CLASSES[after.optimizer][0]
        return found

    def kind(self) -> str:
        return next(key for key in ("optimizer", "momentum", "batch", "weight_decay", "lr") if key in self.changes())


def _rates(task: str, before: float, after: float, decay: float = 0.0) -> Row:
    return Row(task, Setting(before, decay=decay), Setting(after, decay=decay))


def _batches(task: str, rate: float, before: int, after: int) -> Row:
    return Row(task, Setting(rate, batches=before), Setting(rate, batches=after))


def _decays(task: str, rate: float, before: float, after: float, optimizer: str = "") -> Row:
    """Long enough for the larger decay's steady state: some times 1 / (2 lr decay) steps."""
    return Row(task, Setting(rate, optimizer, decay=before), Setting(rate, optimizer, decay=after), 2 * STEPS)


def _optimizers(task: str, rate: float, optimizer: str, new_rate: float) -> Row:
    return Row(task, Setting(rate), Setting(new_rate, optimizer))


SEEN = (
    _rates("mlp-corrupted-sgd", 0.1, 0.3),
    _rates("mlp-corrupted-sgd", 0.1, 0.02),
    _rates("mlp-digits-momentum", 0.05, 0.2),
    _rates("counts-sgd", 0.01, 0.05),
    _rates("window-text-adam", 0.005, 0.02),
    _rates("residual-digits-momentum", 0.02, 0.1, decay=0.005),
    _batches("mlp-corrupted-sgd", 0.1, 1, 4),
    _batches("window-text-adam", 0.005, 1, 4),
    _batches("taught-t2-sgd", 0.02, 1, 4),
    _optimizers("mlp-corrupted-sgd", 0.1, "Adam", 0.005),
    _optimizers("window-text-adam", 0.005, "SGD", 0.1),
    _decays("mlp-corrupted-sgd", 0.1, 0.001, 0.01),
    _decays("mlp-digits-momentum", 0.05, 0.001, 0.01),
    _decays("residual-digits-momentum", 0.05, 0.001, 0.01),
    _decays("window-text-adam", 0.005, 0.1, 1.0, "AdamW"),
)
# Declared before anything was trained for them; `recommend`'s own constants were made on some of these tasks.
UNSEEN = (
    _rates("waves-sgd", 0.05, 0.2),
    _rates("spirals-momentum", 0.1, 0.01),
    _rates("autoencoder-corrupted-momentum", 0.01, 0.1),
    _rates("counts-adam", 0.001, 0.02),
    _rates("deep-mlp-sgd", 0.02, 0.3),
    _rates("lognormal-sgd", 0.05, 0.005),
    _batches("softmax-mislabelled-sgd", 0.05, 1, 4),
    _batches("spirals-adam", 0.005, 4, 1),
    _batches("lognormal-sgd", 0.01, 4, 1),
    _batches("waves-adam", 0.005, 1, 4),
    _batches("variance-sgd", 0.003, 1, 4),
    _optimizers("mlp-mislabelled-adam", 0.005, "SGD", 0.05),
    _optimizers("waves-sgd", 0.05, "Adam", 0.005),
    _optimizers("autoencoder-corrupted-adam", 0.003, "SGD", 0.1),
    _optimizers("spirals-momentum", 0.1, "AdamW", 0.005),
    _optimizers("cauchy-absolute-sgd", 0.03, "Adam", 0.005),
    _decays("deep-mlp-sgd", 0.1, 0.001, 0.01),
    _decays("softmax-mislabelled-sgd", 0.05, 0.001, 0.03),
    _decays("random-features-sgd", 0.1, 0.01, 0.001),
    _decays("residual-digits-adam", 0.005, 0.1, 1.0, "AdamW"),
    _decays("taught-t2-adam", 0.005, 0.01, 0.3, "AdamW"),
)


def _momenta(task: str, rate: float, new_rate: float) -> Row:
    return Row(task, Setting(rate, "SGD"), Setting(new_rate, "Momentum"))


# Rows of `UNSEEN` whose change ends at an optimizer with a policy: looked at again, now that `--if` names it.
POLICIES_AGAIN = tuple(
    row for row in UNSEEN if row.kind() != "weight_decay" and (row.after.optimizer or row.task)[:4] in ("Adam", "wave")
)
# Declared after `--if` named policies and knew momentum, and before anything was trained for them.
NEW = (
    _momenta("correlated-sgd", 0.01, 0.01),
    _momenta("waves-sgd", 0.05, 0.005),
    _momenta("lognormal-sgd", 0.01, 0.01),
    _momenta("adding-sgd", 0.03, 0.01),
    _batches("counts-adam", 0.005, 1, 4),
    _batches("mlp-mislabelled-adam", 0.005, 1, 4),
    _batches("autoencoder-corrupted-adam", 0.003, 4, 1),
    _optimizers("correlated-sgd", 0.01, "Adam", 0.005),
    _optimizers("deep-mlp-sgd", 0.1, "AdamW", 0.003),
    _optimizers("adding-sgd", 0.03, "Adam", 0.003),
    _rates("waves-adam", 0.001, 0.01),
    _rates("mlp-mislabelled-adam", 0.001, 0.02),
)
# Declared after the rule for weight decay with Adam was changed because of the three rows above, and before training.
AFTERWARDS = (
    _decays("waves-adam", 0.005, 0.1, 1.0, "AdamW"),
    _decays("spirals-adam", 0.005, 0.1, 1.0, "AdamW"),
    _decays("autoencoder-corrupted-adam", 0.003, 0.1, 1.0, "AdamW"),
    _decays("variance-adam", 0.005, 0.1, 1.0, "AdamW"),
)
SPLITS = (
    ("policies", "Unseen changes, after `--if` named policies and knew momentum", NEW),
    ("again", "Rows of the first unseen changes whose advice now names a policy", POLICIES_AGAIN),
    ("unseen", "Unseen changes", UNSEEN),
    ("afterwards", "Weight decay with AdamW, unseen by the changed rule", AFTERWARDS),
    ("seen", "Changes looked at before", SEEN),
)


@dataclass(frozen=True)
class Result:
    """What one row found: by rule the thresholds, a seed each (None: no clipping), and the mean held-out loss."""

    thresholds: dict[str, list[float | None]]
    losses: dict[str, float]
    grid: list[tuple[float, float]]  # threshold and loss
    inside: int  # seeds whose changed run supports a threshold of the predicted range
    norms: float  # the median norm after over that before
    reasons: list[str] = field(default_factory=list)
    clips: dict[str, list[str | None]] = field(default_factory=dict)  # the policies beside the thresholds

    @property
    def best(self) -> float:
        return min(self.losses["none"], self.losses["1.0"], *(loss for _, loss in self.grid))

    def regret(self, rule: str) -> float:
        return self.losses[rule] / self.best

    def best_threshold(self) -> str:
        fixed = [(self.losses["none"], "none"), (self.losses["1.0"], "1")]
        return min([*fixed, *((loss, f"{threshold:.2g}") for threshold, loss in self.grid)])[1]


def made(row: Row, setting: Setting) -> Made:
    """The task under a setting."""
    task = cast("Made", next(task for task in EVERY if task.name == row.task))

    def larger(generator: np.random.Generator) -> Batch:
        drawn = [task.batch(generator) for _ in range(setting.batches)]
        return tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))

    batch = larger if setting.batches > 1 else task.batch
    return replace(task, optimizer=setting.optimizer or task.optimizer, batch=batch)


def asked(
    row: Row, setting: Setting, history: History, trials: Sequence[Trial]
) -> list[tuple[Recommendation, ChangedAdvice]]:
    """What `recommend --if` says of each run."""
    task = made(row, setting)
    decay = {"weight_decay": setting.decay}
    with tempfile.TemporaryDirectory() as folder:
        runs = [recorded(task, history, at, trial, Path(folder) / str(at), decay) for at, trial in enumerate(trials)]
        return [recommend_after(run, row.changes()) for run in runs]


def _trial(seed: int, rate: float, advised: Advised) -> Trial:
    threshold, clip = advised
    if clip is not None:
        return Trial(seed, rate, policy=rule_of(clip))
    return Trial(seed, rate, threshold or math.inf)


def result_of(row: Row) -> Result:
    """Train one row."""
    recordings = {}
    for setting in (row.before, row.after):
        trials = [Trial(seed, setting.rate) for seed in range(SEEDS)]
        history = train(made(row, setting), trials, steps=row.steps, keep_layers=True, decay=setting.decay)
        recordings[setting] = history, asked(row, setting, history, trials)
    (old, first), (new, second) = recordings[row.before], recordings[row.after]
    chosen: dict[str, list[Advised]] = {
        "old": [(advice.max_norm, advice.clip) for advice, _ in first],
        "1.0": [(1.0, None)] * SEEDS,
        "predicted": [(change.max_norm, change.clip) for _, change in first],
        "after": [(advice.max_norm, advice.clip) for advice, _ in second],
        "guards": [(change.max_norm, None) for _, change in first],
    }
    middle = float(np.nanmedian(new.norms[np.isfinite(new.norms)]))
    grid = [middle * float(factor) for factor in np.geomspace(0.03, 30, GRID)]
    wanted = list(chosen.values())
    wanted += [[(threshold, None)] * SEEDS for threshold in grid]
    trials = [_trial(seed, row.after.rate, advised) for of in wanted for seed, advised in enumerate(of)]
    made_with = train(made(row, row.after), trials, steps=row.steps, policies=POLICIES, decay=row.after.decay)
    scores = made_with.score().reshape(len(wanted), SEEDS).mean(axis=1).tolist()
    return Result(
        thresholds={rule: [threshold for threshold, _ in of] for rule, of in chosen.items()},
        clips={rule: [clip for _, clip in of] for rule, of in chosen.items()},
        losses={"none": float(new.score().mean())} | dict(zip(chosen, scores, strict=False)),
        grid=list(zip(grid, scores[len(chosen) :], strict=True)),
        inside=sum(
            bool(change.low and change.high and advice.max_norm and change.low <= advice.max_norm <= change.high)
            for (_, change), (advice, _) in zip(first, second, strict=True)
        ),
        norms=middle / float(np.nanmedian(old.norms[np.isfinite(old.norms)])),
        reasons=list(first[0][1].reasons),
    )


def _rules(results: Sequence[Result]) -> tuple[str, ...]:
    """The first printings trained no policy, and had no "guards"."""
    return WITH_POLICIES if all("guards" in result.losses for result in results) else RULES


def line(row: Row, result: Result) -> str:
    pairs = zip(result.thresholds["predicted"], result.thresholds["after"], strict=True)
    ratios = [predicted / after for predicted, after in pairs if predicted and after]
    ratio = f"{geometric_mean(ratios):.2f}" if ratios else "-"
    regrets = " | ".join(f"{result.regret(rule):.3f}" for rule in _rules([result]))
    what = ", ".join(f"{key}={value}" for key, value in row.changes().items())
    numbers = " | ".join(
        "/".join(_shown(result, rule, seed) for seed in range(SEEDS)) for rule in ("old", "predicted", "after")
    )
    return (
        f"| {row.task} | {what} | {result.norms:.2f} | {numbers} | {ratio} | {result.inside} of {SEEDS} |"
        f" {result.best_threshold()} | {regrets} |"
    )


def _shown(result: Result, rule: str, seed: int) -> str:
    clip, number = (result.clips or {}).get(rule, [None] * SEEDS)[seed], result.thresholds[rule][seed]
    return clip or ("-" if number is None else f"{number:g}")


def overview(found: Sequence[tuple[Row, Result]]) -> list[str]:
    """By kind of change the geometric mean, the median and the worst regret of each rule."""
    rules = _rules([result for _, result in found])
    lines = ["| change | rows | of the regret | " + " | ".join(rules) + " |", "|" + "---|" * (len(rules) + 3)]
    for kind in ("lr", "batch", "optimizer", "momentum", "weight_decay", "all"):
        own = [result for row, result in found if kind in ("all", row.kind())]
        if not own:
            continue
        regrets = {rule: [result.regret(rule) for result in own] for rule in rules}
        for name, of in (("geometric mean", geometric_mean), ("median", np.median), ("worst", max)):
            numbers = " | ".join(f"{of(regrets[rule]):.3f}" for rule in rules)
            lines.append(f"| {kind} | {len(own)} | {name} | {numbers} |")
    return lines


def every_row(found: Sequence[tuple[Row, Result]]) -> list[str]:
    head = (
        "| task | change | median norm after / before | old advice | predicted | advice after | predicted / after |"
        " after lies in the predicted range | best threshold | regret: "
    )
    rules = _rules([result for _, result in found])
    return [
        head + " | ".join(rules) + " |",
        "|" + "---|" * (9 + len(rules)),
        *(line(row, result) for row, result in found),
    ]


def result_for(row: Row) -> Result:
    """The result of a row, from a file where it was trained before."""
    name = "-".join([row.task, *(f"{key}={value}" for key, value in row.changes().items())]).replace(":", "to")
    file = CACHE / f"changes.policies.{name}.json"
    if not file.exists():
        began, used = time.monotonic(), time.process_time()
        CACHE.mkdir(exist_ok=True)
        file.write_text(json.dumps(asdict(result_of(row))))
        wall, used = time.monotonic() - began, time.process_time() - used
        print(f"{name}: {used:.0f} s of processor time, {wall:.0f} s", file=sys.stderr, flush=True)
    return Result(**json.loads(file.read_text()))


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or [name for name, _, _ in SPLITS]
    for name, title, rows in SPLITS:
        if name in wanted:
            found = [(row, result_for(row)) for row in rows]
            print("\n".join([f"## {title}", "", *overview(found), "", *every_row(found), ""]))


if __name__ == "__main__":
    main()
