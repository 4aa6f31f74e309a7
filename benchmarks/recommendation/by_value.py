"""Clip by value or by norm? Trainings made so that it is known where spikes lie, and what `recommend` says of them.

    python benchmarks/recommendation/by_value.py [tuning | unseen] > tables

Each task says in advance in which part of the gradient its large steps lie: a single entry, or many. Trainings, grids
and regrets are those of `modern.py` (four thresholds of each kind, two policies, no clipping), so *norm* and *value*
have a choice that `recommend` does not have. *by value* follows `recommend` where it says "by value", with the
threshold that it gives.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from lab import Batch, Task, Weights
from modern import FACTORS, POLICIES, SEEDS, AdamW, Array, Kind, Optimizer, Sgd, Trial, advised, follow, train
from modern import PILOT_STEPS as PILOT
from numpy.typing import NDArray
from problems import EVERY, Made
from torch import Tensor
from torch.nn import functional

from gradwatch.analysis.recommend import Recommendation

CACHE = Path(__file__).parent / ".cache"
OPTIMIZERS = {
    "SGD": Optimizer(Sgd, "SGD", {"momentum": 0.9}, (0.0, 0.0)),
    "AdamW": Optimizer(AdamW, "AdamW", {"eps": 1e-8}, (0.0, 0.0)),
}

Where: TypeAlias = Literal["entry", "many"]
Draw: TypeAlias = Callable[[np.random.Generator, int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class Case:
    """A task, where its large steps lie, and a learning rate for each optimizer."""

    task: Task
    where: Where
    rates: dict[str, float]


def _tensors(*arrays: NDArray[np.generic]) -> Batch:
    return tuple(torch.tensor(a, dtype=torch.int64 if a.dtype.kind in "iub" else torch.float32) for a in arrays)


def _made(
    name: str,
    initial: Callable[[np.random.Generator], dict[str, NDArray[np.float64]]],
    batch: Callable[[np.random.Generator], Batch],
    held_out: Batch,
    loss: Callable[[Weights, Batch], Tensor],
) -> Made:
    return Made(name, "SGD", (0.0,), 600, initial, batch, lambda: held_out, loss)


# ------------------------------------------------------------------------------------------ noise


def each_entry(tail: float) -> Draw:
    """Independent noise in every entry, of Student's t with ``tail`` degrees of freedom."""
    return lambda rng, count, size: rng.standard_t(tail, (count, size))


def all_entries(tail: float) -> Draw:
    """Noise whose size is common to all entries of a sample: the same tail, but in every entry at once."""

    def draw(rng: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
        return rng.standard_normal((count, size)) / np.sqrt(rng.chisquare(tail, (count, 1)) / tail)

    return draw


def one_entry(share: float, size_of_fault: float) -> Draw:
    """Normal noise; a share of the samples has one entry that is far off."""

    def draw(rng: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
        noise = rng.standard_normal((count, size))
        faulty = np.flatnonzero(rng.random(count) < share)
        noise[faulty, rng.integers(0, size, len(faulty))] += size_of_fault * rng.choice([-1, 1], len(faulty))
        return noise

    return draw


def one_sample(share: float, size_of_fault: float) -> Draw:
    """Normal noise; a share of the samples is far off in every entry."""

    def draw(rng: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
        return rng.standard_normal((count, size)) * np.where(rng.random((count, 1)) < share, size_of_fault, 1.0)

    return draw


# ------------------------------------------------------------------------------------------ tasks


def location(name: str, noise: Draw, size: int = 100, count: int = 8) -> Made:
    """Find the centre of noisy points: the gradient has the noise of the batch, entry by entry."""
    centre = np.random.default_rng(7).normal(0, 2, size)

    def loss(w: Weights, batch: Batch) -> Tensor:
        return 0.5 * (w["centre"].unsqueeze(1) - batch[0]).square().sum(-1).mean(1)

    return _made(
        name,
        lambda rng: {"centre": rng.normal(0, 1, size)},
        lambda rng: _tensors(centre + noise(rng, count, size)),
        _tensors(centre[None]),
        loss,
    )


def table(name: str, noise: Draw, size: int = 60, count: int = 16) -> Made:
    """Learn a table of values from noisy rewards, as tabular Q-learning or the biases of an embedding do."""
    values = np.random.default_rng(8).normal(0, 2, size)

    def loss(w: Weights, batch: Batch) -> Tensor:
        return 0.5 * (w["values"].gather(1, batch[0]) - batch[1]).square().mean(1)

    def batch(rng: np.random.Generator) -> Batch:
        rows = rng.integers(0, size, count)
        return _tensors(rows, values[rows] + noise(rng, count, 1)[:, 0])

    return _made(name, lambda rng: {"values": rng.normal(0, 1, size)}, batch, _tensors(np.arange(size), values), loss)


def logistic(name: str, faults: Draw, size: int = 40, count: int = 16) -> Made:
    """Logistic regression on features that are sometimes far off; the labels are those of the true features."""
    truth = np.random.default_rng(9).normal(0, 1, size)

    def drawn(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x = rng.standard_normal((count, size))
        return x, (rng.random(count) < 1 / (1 + np.exp(-x @ truth))).astype(float)

    def batch(rng: np.random.Generator) -> Batch:
        x, y = drawn(rng, count)
        return _tensors(x + faults(rng, count, size), y)

    def loss(w: Weights, batch: Batch) -> Tensor:
        scores = (batch[0] @ w["weight"].unsqueeze(-1)).squeeze(-1) + w["bias"]
        return functional.binary_cross_entropy_with_logits(scores, batch[1], reduction="none").mean(1)

    start = {"weight": np.zeros(size), "bias": np.zeros(1)}
    return _made(
        name,
        lambda rng: {key: value + rng.normal(0, 0.1, value.shape) for key, value in start.items()},
        batch,
        _tensors(*drawn(np.random.default_rng(10), 2000)),
        loss,
    )


def rare_feature(name: str, share: float = 0.01, size_of_it: float = 10.0, size: int = 40, count: int = 16) -> Made:
    """A large feature that is rarely there and matters: single entries that are signal, not noise."""
    truth = np.random.default_rng(11).normal(0, 1, size)
    truth[0] = 0.5

    def drawn(rng: np.random.Generator, count: int, share: float) -> Batch:
        x = rng.standard_normal((count, size))
        x[:, 0] = size_of_it * (rng.random(count) < share)
        return _tensors(x, x @ truth + 0.1 * rng.standard_normal(count))

    def loss(w: Weights, batch: Batch) -> Tensor:
        return 0.5 * ((batch[0] @ w["weight"].unsqueeze(-1)).squeeze(-1) - batch[1]).square().mean(1)

    return _made(
        name,
        lambda rng: {"weight": rng.normal(0, 0.1, size)},
        lambda rng: drawn(rng, count, share),
        drawn(np.random.default_rng(12), 2000, share),
        loss,
    )


def embeddings(name: str, noise: Draw, words: int = 200, width: int = 8, length: int = 5, count: int = 16) -> Made:
    """Bags of embedded words with a noisy target: a large error goes into every word of its bag."""
    rng = np.random.default_rng(13)
    meaning, often = rng.normal(0, 1, words), 1.0 / np.arange(1, words + 1)
    often /= often.sum()

    def drawn(rng: np.random.Generator, count: int, noisy: bool) -> Batch:
        bags = rng.choice(words, (count, length), p=often)
        return _tensors(bags, meaning[bags].mean(1) + (0.3 * noise(rng, count, 1)[:, 0] if noisy else 0.0))

    def loss(w: Weights, batch: Batch) -> Tensor:
        bags, targets = batch
        trainings = torch.arange(len(bags)).view(-1, 1, 1)
        pooled = w["embedding"][trainings, bags].mean(2)
        return 0.5 * ((pooled @ w["out"].unsqueeze(-1)).squeeze(-1) - targets).square().mean(1)

    return _made(
        name,
        lambda rng: {"embedding": rng.normal(0, 0.5, (words, width)), "out": rng.normal(0, 0.5, width)},
        lambda rng: drawn(rng, count, True),
        drawn(np.random.default_rng(14), 2000, False),
        loss,
    )


def recurrent(name: str) -> Made:
    """The temporal order of Pascanu et al. 2013 by a plain RNN: error signals that explode, in every entry."""
    return replace(cast("Made", next(task for task in EVERY if task.name == "order-sgd")), name=name)


TUNING = (
    Case(location("centre, each entry t(1.5)", each_entry(1.5)), "entry", {"SGD": 0.01, "AdamW": 0.05}),
    Case(location("centre, all entries t(1.5)", all_entries(1.5)), "many", {"SGD": 0.01, "AdamW": 0.05}),
    Case(table("table, t(1.2)", each_entry(1.2)), "entry", {"SGD": 0.1, "AdamW": 0.02}),
    Case(embeddings("bags, target t(1.5)", each_entry(1.5)), "many", {"SGD": 0.1, "AdamW": 0.01}),
)
UNSEEN = (
    Case(location("centre, one entry x 300 in 1%", one_entry(0.01, 300.0)), "entry", {"SGD": 0.01, "AdamW": 0.05}),
    Case(table("table, 1 in 300 x 100", one_entry(1 / 300, 100.0)), "entry", {"SGD": 0.1, "AdamW": 0.02}),
    Case(logistic("logistic, each feature t(1.1)", each_entry(1.1)), "entry", {"SGD": 0.1, "AdamW": 0.02}),
    Case(logistic("logistic, one feature x 100 in 1%", one_entry(0.01, 100.0)), "entry", {"SGD": 0.1, "AdamW": 0.02}),
    Case(location("centre, all entries x 60 in 1%", one_sample(0.01, 60.0)), "many", {"SGD": 0.01, "AdamW": 0.05}),
    Case(logistic("logistic, all features t(1.1)", all_entries(1.1)), "many", {"SGD": 0.1, "AdamW": 0.02}),
    Case(rare_feature("a rare feature that matters"), "entry", {"SGD": 0.02, "AdamW": 0.02}),
    Case(recurrent("RNN, temporal order"), "many", {"SGD": 0.02, "AdamW": 0.003}),
)


# ----------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class Cell:
    """The mean held-out loss of every rule, and what `recommend` said of the place of the spikes."""

    task: str
    where: str
    optimizer: str
    losses: dict[str, float]
    advice: tuple[str, ...]
    said: tuple[str, ...]

    def best_of(self, *kinds: str) -> float:
        return min(loss for rule, loss in self.losses.items() if rule.split()[0] in kinds)

    @property
    def best(self) -> float:
        return self.best_of("none", "norm", "value", "parameter", "policy")

    @property
    def value_over_norm(self) -> float:
        """The best threshold by value over the best by norm."""
        return self.losses_of("value") / self.losses_of("norm")

    def losses_of(self, kind: str) -> float:
        return self.best_of(kind)


def said(advice: Recommendation) -> str:
    """What the reasons say: "value", "parameter", "norm" or "can't tell"."""
    if advice.refused is not None:
        return "refused"
    line = next(reason for reason in advice.reasons if reason.startswith("by value or by norm"))
    words = {"can't tell": "can't tell", ": per parameter": "parameter", ": by norm": "norm"}
    return next((word for text, word in words.items() if text in line), "value")


def cell_of(case: Case, name: str) -> Cell:
    """Train everything of one case with one optimizer."""
    optimizer, rate = OPTIMIZERS[name], case.rates[name]
    bases = [Trial(seed, rate) for seed in range(SEEDS)]
    plain = train(case.task, optimizer, bases, keep=True)
    first, rows, answers = slice(0, PILOT), [], []
    for at, base in enumerate(bases):
        levels: dict[Kind, float] = {
            "norm": float(np.nanmedian(plain.norms[first, at])),
            "value": float(np.nanmedian(plain.layer_max[first, at].max(axis=1))),
            "parameter": float(np.nanmedian(plain.layer_norms[first, at])),
        }
        chosen = {
            f"{kind} x{factor:g}": replace(base, kind=kind, threshold=level * factor)
            for kind, level in levels.items()
            for factor in FACTORS
        }
        chosen |= {f"policy {policy}": replace(base, kind="policy", policy=policy) for policy in POLICIES}
        advice = advised(case.task, optimizer, plain, at, base)
        chosen["recommend"] = follow(base, advice)
        by_value = replace(base, kind="value", threshold=advice.clip_value or math.inf)
        chosen["by-value"] = chosen["recommend"] if advice.clip_value is None else by_value
        rows.append(chosen)
        answers.append(advice)
    labels = list(rows[0])
    trials = [row[label] for label in labels for row in rows]
    scores: Array = train(case.task, optimizer, trials).score().reshape(len(labels), SEEDS).mean(axis=1)
    losses = {"none": float(plain.score().mean())} | dict(zip(labels, scores.tolist(), strict=True))
    numbers = tuple(f"{a.clip or a.max_norm}; {a.clip_value}" if a.refused is None else "refused" for a in answers)
    return Cell(case.task.name, case.where, name, losses, numbers, tuple(said(advice) for advice in answers))


def found(cases: Sequence[Case]) -> list[Cell]:
    """The cells of the cases, from files where they were trained before."""
    cells = []
    for case in cases:
        for name in OPTIMIZERS:
            file = CACHE / f"by-value.{case.task.name.replace(' ', '-').replace('/', '-')}.{name}.json"
            if not file.exists():
                CACHE.mkdir(exist_ok=True)
                file.write_text(json.dumps(asdict(cell_of(case, name))))
                print(f"{case.task.name} {name}", file=sys.stderr, flush=True)
            cells.append(Cell(**json.loads(file.read_text())))
    return cells


def report(cells: Sequence[Cell]) -> str:
    kinds = ("none", "norm", "value", "parameter", "policy", "recommend", "by-value")
    lines = [
        "| task | large steps lie in | optimizer | best | " + " | ".join(kinds) + " | value / norm | advice | said |"
    ]
    lines += ["|" + "---|" * (len(kinds) + 7)]
    for cell in cells:
        rules = [rule for rule in cell.losses if rule not in ("recommend", "by-value")]
        best = min(rules, key=cell.losses.__getitem__)
        numbers = " | ".join(f"{cell.best_of(kind) / cell.best:.3f}" for kind in kinds)
        lines.append(
            f"| {cell.task} | {cell.where} | {cell.optimizer} | {best} | {numbers} | {cell.value_over_norm:.3f} |"
            f" {', '.join(dict.fromkeys(cell.advice))} | {', '.join(dict.fromkeys(cell.said))} |"
        )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["unseen", "tuning"]
    for name, cases in (("unseen", UNSEEN), ("tuning", TUNING)):
        if name in wanted:
            print(f"## {name.capitalize()} tasks\n\n{report(found(cases))}\n")


if __name__ == "__main__":
    main()
