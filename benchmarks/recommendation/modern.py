"""Clip by norm, by value, per parameter or adaptively: the same trainings with the optimizers that people now use.

    python benchmarks/recommendation/modern.py [OPTIMIZER ...] > benchmarks/recommendation/MODERN.md

Tasks are those of `problems.py`, trained with Muon (matrices, AdamW for the rest), Lion, Adafactor, Shampoo, AdamW with
bfloat16 weights and states, and SGD beside them. In each cell (task, optimizer, learning rate) a pilot without
clipping records its first 400 of 600 steps; grids of each kind are multiples of what it recorded. `recommend` reads
the pilot. The regret of a rule is its held-out loss over the best of the cell, both means over the seeds.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from lab import LAST, LOOKS, SAMPLED, SideBySide, Task, Threshold, Weights
from numpy.typing import NDArray
from problems import EVERY
from torch import Tensor

from gradwatch import Run
from gradwatch.analysis.recommend import Recommendation
from gradwatch.clip import AutoClip, ZClip
from gradwatch.record import LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.testing import write_run

Kind: TypeAlias = Literal["none", "norm", "value", "parameter", "policy"]
Array: TypeAlias = NDArray[np.float64]

TASKS = ("mlp-corrupted-sgd", "window-text-adam", "taught-t2-adam")
CACHE = Path(__file__).parent / ".cache"
STEPS, SEEDS, PILOT_STEPS = 600, 2, 400
FACTORS = (0.03, 0.3, 1.0, 3.0)  # times the median norm, largest entry or norm of a parameter
POLICIES: dict[str, Callable[[], Threshold]] = {
    "AutoClip(10)": lambda: AutoClip(10).threshold,
    "ZClip()": lambda: ZClip().threshold,
}


@dataclass(frozen=True)
class Trial:
    """One training to run; ``threshold`` is of its kind, ``policy`` a key of `POLICIES`."""

    seed: int
    rate: float
    kind: Kind = "none"
    threshold: float = math.inf
    policy: str = ""


@dataclass
class History:
    """The results, a column per training; layers: (steps, trainings, parameters)."""

    norms: Array
    losses: Array
    layer_norms: Array
    layer_max: Array
    layer_zeros: Array
    weights: Array  # norms before each step
    updates: Array  # norms of the change
    looks: Array  # (LOOKS, trainings), held out
    before: Array

    def score(self) -> Array:
        """The mean of the last looks; a lost training gets the loss of its untrained network."""
        capped = np.where(np.isfinite(self.looks), np.minimum(self.looks, self.before), self.before)
        return capped[-LAST:].mean(axis=0)


# --------------------------------------------------------------------------- update rules, batched


class UpdateRule(Protocol):
    """Changes the weights of all trainings in place; ``rates`` has one learning rate for each."""

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None: ...


def _per(values: Tensor, like: Tensor) -> Tensor:
    """One value per training, shaped to multiply a tensor of trainings."""
    return values.view(-1, *[1] * (like.dim() - 1))


@dataclass
class AdamW:
    """`torch.optim.AdamW`; with ``dtype`` weights, gradients and states are kept in that precision."""

    decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    dtype: torch.dtype = torch.float32
    first: Weights = field(default_factory=dict)
    second: Weights = field(default_factory=dict)
    step: int = 0

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        self.step += 1
        for name, weight in weights.items():
            gradient = gradients[name].to(self.dtype)
            first = self.first.setdefault(name, torch.zeros_like(gradient)).lerp_(gradient, 1 - self.betas[0])
            second = self.second.setdefault(name, torch.zeros_like(gradient))
            second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            own = weight.to(self.dtype)
            rate = _per(rates, weight)
            own = (own * (1 - rate * self.decay)).to(self.dtype)
            deviation = (second.sqrt() / math.sqrt(1 - self.betas[1] ** self.step)).add_(self.eps)
            own = own - ((rate / (1 - self.betas[0] ** self.step)) * (first / deviation)).to(self.dtype)
            weight.copy_(own)


@dataclass
class Lion:
    """Chen et al. 2023, "Symbolic discovery of optimization algorithms" (arXiv 2302.06675), algorithm 2."""

    betas: tuple[float, float] = (0.9, 0.99)
    momentum: Weights = field(default_factory=dict)

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        for name, weight in weights.items():
            momentum = self.momentum.setdefault(name, torch.zeros_like(weight))
            update = momentum.lerp(gradients[name], 1 - self.betas[0]).sign_()
            weight.sub_(_per(rates, weight) * update)
            momentum.lerp_(gradients[name], 1 - self.betas[1])


@dataclass
class Muon:
    """`torch.optim.Muon` for matrices, with `AdamW` at a tenth of its learning rate for the rest."""

    decay: float = 0.1
    momentum: float = 0.95
    buffers: Weights = field(default_factory=dict)
    rest: AdamW = field(default_factory=AdamW)

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        others = {name: weight for name, weight in weights.items() if weight.dim() != 3}
        self.rest(others, gradients, rates / 10)
        for name in set(weights) - set(others):
            weight, gradient = weights[name], gradients[name]
            buffer = self.buffers.setdefault(name, torch.zeros_like(weight)).lerp_(gradient, 1 - self.momentum)
            update = orthogonalised(gradient.lerp(buffer, self.momentum))
            rate = _per(rates, weight)
            scale = math.sqrt(max(1.0, weight.shape[1] / weight.shape[2]))
            weight.mul_(1 - rate * self.decay).sub_(rate * scale * update)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz iterations towards U V^T, as `torch.optim.Muon` makes them, of a stack of matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


@dataclass
class Adafactor:
    """`torch.optim.Adafactor` with its defaults and the second moment factored for matrices."""

    rows: Weights = field(default_factory=dict)
    columns: Weights = field(default_factory=dict)
    whole: Weights = field(default_factory=dict)
    step: int = 0

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        self.step += 1
        mix, eps = self.step**-0.8, torch.finfo(torch.float32).eps
        for name, weight in weights.items():
            gradient = gradients[name]
            size = weight[0].numel() ** 0.5
            alpha = (weight.flatten(1).norm(dim=1) / size).clamp(min=1e-3) * rates.clamp(max=self.step**-0.5)
            if weight.dim() > 2:
                row = gradient.square().mean(dim=-1, keepdim=True)
                row = self.rows.setdefault(name, torch.zeros_like(row)).lerp_(row, mix)
                column = gradient.square().mean(dim=-2, keepdim=True)
                column = self.columns.setdefault(name, torch.zeros_like(column)).lerp_(column, mix)
                variance = (row @ column) / row.mean(dim=-2, keepdim=True).clamp(min=eps)
            else:
                square = gradient.square()
                variance = self.whole.setdefault(name, torch.zeros_like(square)).lerp_(square, mix)
            update = variance.clamp(min=eps * eps).rsqrt() * gradient
            largest = (update.flatten(1).norm(dim=1) / size).clamp(min=1.0)
            weight.sub_(_per(alpha / largest, weight) * update)


@dataclass
class Shampoo:
    """Gupta et al. 2018 (arXiv 1802.09568), algorithm 1, with roots renewed every 20 steps; Adagrad for vectors."""

    every: int = 20
    eps: float = 1e-4
    left: Weights = field(default_factory=dict)
    right: Weights = field(default_factory=dict)
    roots: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    squares: Weights = field(default_factory=dict)
    step: int = 0

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        for name, weight in weights.items():
            gradient, rate = gradients[name], _per(rates, weight)
            if weight.dim() != 3:
                squares = self.squares.setdefault(name, torch.zeros_like(weight)).addcmul_(gradient, gradient)
                weight.sub_(rate * gradient / (squares.sqrt() + self.eps))
                continue
            for sides, product in ((self.left, gradient @ gradient.mT), (self.right, gradient.mT @ gradient)):
                sides.setdefault(name, self.eps * torch.eye(product.shape[1]).expand_as(product).clone()).add_(product)
            if self.step % self.every == 0 or self.step < 5:
                self.roots[name] = (_inverse_root(self.left[name]), _inverse_root(self.right[name]))
            left, right = self.roots[name]
            weight.sub_(rate * (left @ gradient @ right))
        self.step += 1


def _inverse_root(matrices: Tensor) -> Tensor:
    """The inverse fourth root of symmetric matrices."""
    values, vectors = torch.linalg.eigh(matrices.double().nan_to_num(0.0, 0.0, 0.0))
    return ((vectors * values.clamp(min=1e-12).pow(-0.25).unsqueeze(1)) @ vectors.mT).float()


@dataclass
class Sgd:
    """`torch.optim.SGD` with momentum 0.9."""

    buffers: Weights = field(default_factory=dict)

    def __call__(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        for name, weight in weights.items():
            buffer = self.buffers.setdefault(name, torch.zeros_like(weight)).mul_(0.9).add_(gradients[name])
            weight.sub_(_per(rates, weight) * buffer)


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of the benchmark: its rule, the class and settings that a run of it records, its learning rates."""

    make: Callable[[], UpdateRule]
    class_name: str
    settings: dict[str, object]
    rates: tuple[float, float]


OPTIMIZERS = {
    "SGD": Optimizer(Sgd, "SGD", {"momentum": 0.9}, (0.01, 0.05)),
    "AdamW bfloat16": Optimizer(lambda: AdamW(dtype=torch.bfloat16), "AdamW", {"eps": 1e-8}, (3e-3, 2e-2)),
    "Muon": Optimizer(Muon, "Muon", {"momentum": 0.95}, (0.01, 0.05)),
    "Lion": Optimizer(Lion, "Lion", {"update_rule": "normalises", "update_size": "fixed"}, (3e-4, 3e-3)),
    "Adafactor": Optimizer(Adafactor, "Adafactor", {}, (0.01, 0.1)),
    "Shampoo": Optimizer(Shampoo, "Shampoo", {"update_rule": "normalises", "update_size": "fixed"}, (0.03, 0.2)),
}


# ------------------------------------------------------------------------------------------ train


@dataclass
class Clipper:
    """Clips the gradients of all trainings in place, each by its own kind and threshold."""

    trials: Sequence[Trial]

    def __post_init__(self) -> None:
        self.limits = {
            kind: torch.tensor([t.threshold if t.kind == kind else math.inf for t in self.trials], dtype=torch.float64)
            for kind in ("norm", "value", "parameter")
        }
        self.policies = [
            (make(), torch.tensor([i for i, t in enumerate(self.trials) if t.kind == "policy" and t.policy == name]))
            for name, make in POLICIES.items()
        ]

    def __call__(self, gradients: Weights, own: Tensor, norm: Tensor) -> None:
        """``own``: the norm of each parameter, (trainings, parameters); ``norm``: of all."""
        limit = self.limits["norm"].clone()
        for threshold, mine in self.policies:
            if len(mine):
                limit[mine] = threshold(norm[mine])
        together = (limit / (norm + 1e-6)).clamp(max=1.0)
        for at, gradient in enumerate(gradients.values()):
            alone = (self.limits["parameter"] / (own[:, at] + 1e-6)).clamp(max=1.0)
            gradient.mul_(_per((together * alone).float(), gradient))
            edge = _per(self.limits["value"].float(), gradient)
            gradient.copy_(torch.minimum(torch.maximum(gradient, -edge), edge))


def train(task: Task, optimizer: Optimizer, trials: Sequence[Trial], *, keep: bool = False) -> History:
    """Train all; a training whose gradient is not finite stops there and counts as lost."""
    side = SideBySide.begin(task, trials)
    weights, rates = side.weights, side.rates
    update, clip = optimizer.make(), Clipper(trials)
    held_out = side.each(task.held_out())
    alive = torch.ones(len(trials), dtype=torch.bool)
    shape = (STEPS, len(trials), len(weights))
    norms, losses = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
    kept = {
        name: np.full(shape if keep else (0, 0, 0), np.nan) for name in ("norm", "max", "zeros", "weight", "update")
    }
    looks: list[Array] = []
    every = max(1, STEPS // LOOKS)
    with torch.no_grad():
        before = task.loss(weights, held_out).double().numpy()
    for step in range(STEPS):
        loss, gradients = side.step(task)
        with torch.no_grad():
            own = torch.stack([g.flatten(1).double().norm(dim=1) for g in gradients.values()], 1)
            norm = own.norm(dim=1)
            norms[step], losses[step] = norm.numpy(), loss.detach().numpy()
            if keep:
                kept["norm"][step] = own.numpy()
                kept["zeros"][step] = torch.stack(
                    [(g.flatten(1) == 0).sum(dim=1) for g in gradients.values()], 1
                ).numpy()
                kept["max"][step] = torch.stack([g.flatten(1).abs().amax(dim=1) for g in gradients.values()], 1).numpy()
            alive &= torch.isfinite(norm)
            gradients = {name: g.nan_to_num(0.0, 0.0, 0.0).clone() for name, g in gradients.items()}
            clip(gradients, own.nan_to_num(0.0, 0.0, 0.0), norm.nan_to_num(0.0, 0.0, 0.0))
            sampled = keep and step % SAMPLED == 0
            old = {name: w.clone() for name, w in weights.items()} if sampled else {}
            update(weights, gradients, torch.where(alive, rates, torch.zeros_like(rates)))
            if sampled:
                kept["weight"][step] = torch.stack([w.flatten(1).norm(dim=1) for w in old.values()], 1).numpy()
                moved = [(weights[name] - w).flatten(1).norm(dim=1) for name, w in old.items()]
                kept["update"][step] = torch.stack(moved, 1).numpy()
            if (step + 1) % every == 0 and len(looks) < LOOKS:
                seen = task.loss(weights, held_out).double()
                looks.append(torch.where(alive, seen, torch.full_like(seen, math.nan)).numpy())
    layers = kept["norm"], kept["max"], kept["zeros"]
    return History(norms, losses, *layers, kept["weight"], kept["update"], np.array(looks), before)


# ----------------------------------------------------------------------------------------- advice


def advised(task: Task, optimizer: Optimizer, plain: History, at: int, trial: Trial) -> Recommendation:
    """What `recommend` says of the first part of a training without clipping."""
    shapes = {name: np.shape(value) for name, value in task.initial(np.random.default_rng(0)).items()}
    parameters = tuple(ParameterInfo(name=name, shape=shape) for name, shape in shapes.items())
    records = []
    for step in range(PILOT_STEPS):
        norm = float(plain.norms[step, at])
        sample = WeightStats(
            weight_norm=plain.weights[step, at].astype(np.float32),
            update_norm=plain.updates[step, at].astype(np.float32),
        )
        records.append(
            StepRecord(
                step=step,
                total_norm=norm,
                nonfinite=0 if math.isfinite(norm) else 1,
                loss=float(plain.losses[step, at]),
                learning_rates=(trial.rate,),
                layers=LayerStats(
                    parameters=parameters,
                    norm=plain.layer_norms[step, at].astype(np.float32),
                    abs_max=plain.layer_max[step, at].astype(np.float32),
                    zeros=plain.layer_zeros[step, at].astype(np.float32),
                ),
                weights=sample if step % SAMPLED == 0 else None,
            )
        )
        if not math.isfinite(norm):
            break
    with tempfile.TemporaryDirectory() as folder:
        settings = {"lr": trial.rate} | optimizer.settings
        return Run(write_run(Path(folder) / "run", records, optimizer.class_name, settings=settings)).recommend()


def follow(trial: Trial, advice: Recommendation) -> Trial:
    """The training that follows the advice."""
    if advice.clip is not None and advice.clip in POLICIES:
        return replace(trial, kind="policy", policy=advice.clip)
    if advice.max_norm is None:
        return trial
    return replace(trial, kind="norm", threshold=advice.max_norm)


# ----------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class Cell:
    """The mean held-out loss of every rule at one learning rate, and what was advised."""

    task: str
    optimizer: str
    rate: float
    losses: dict[str, float]
    advice: tuple[str, ...]
    said: tuple[str, ...]  # of value or norm, a word per seed

    @property
    def best(self) -> float:
        return min(loss for rule, loss in self.losses.items() if rule != "recommend")

    def best_of(self, kind: str) -> float:
        return min(loss for rule, loss in self.losses.items() if rule.split()[0] == kind)


def cells_of(task: Task, name: str) -> list[Cell]:
    """Train all of one task with one optimizer."""
    optimizer = OPTIMIZERS[name]
    plain_trials = [Trial(seed, rate) for rate in optimizer.rates for seed in range(SEEDS)]
    plain = train(task, optimizer, plain_trials, keep=True)
    first = slice(0, PILOT_STEPS)
    trials, labels, told = [], [], {}
    for at, base in enumerate(plain_trials):
        levels: dict[Kind, float] = {
            "norm": float(np.nanmedian(plain.norms[first, at])),
            "value": float(np.nanmedian(plain.layer_max[first, at].max(axis=1))),
            "parameter": float(np.nanmedian(plain.layer_norms[first, at])),
        }
        for kind, level in levels.items():
            trials += [replace(base, kind=kind, threshold=level * factor) for factor in FACTORS]
            labels += [f"{kind} x{factor:g}" for factor in FACTORS]
        trials += [replace(base, kind="policy", policy=policy) for policy in POLICIES]
        labels += [f"policy {policy}" for policy in POLICIES]
        told[at] = advised(task, optimizer, plain, at, base)
        trials.append(follow(base, told[at]))
        labels.append("recommend")
    scores = train(task, optimizer, trials).score()
    found = []
    for rate in optimizer.rates:
        mine = [at for at, trial in enumerate(plain_trials) if trial.rate == rate]
        losses = {"none": float(plain.score()[mine].mean())}
        for label in dict.fromkeys(labels):
            of = [i for i, other in enumerate(labels) if other == label and trials[i].rate == rate]
            losses[label] = float(scores[of].mean())
        answers = [told[at] for at in mine]
        found.append(
            Cell(
                task=task.name.rsplit("-", 1)[0],
                optimizer=name,
                rate=rate,
                losses=losses,
                advice=tuple(_short(advice) for advice in answers),
                said=tuple(_value_or_norm(advice) for advice in answers),
            )
        )
    return found


def _short(advice: Recommendation) -> str:
    return advice.clip or ("refused" if advice.max_norm is None else f"{advice.max_norm:g}")


def _value_or_norm(advice: Recommendation) -> str:
    """What the reasons say about clipping: by "value", "norm" or "parameter", or "can't tell"."""
    line = next((reason for reason in advice.reasons if reason.startswith("by value or by norm")), "")
    if not line or "can't tell" in line:
        return "can't tell"
    if ": per parameter" in line:
        return "parameter"
    return "norm" if ": by norm" in line else "value"


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def report(cells: Sequence[Cell]) -> str:
    """MODERN.md's tables."""
    kinds = ("none", "norm", "value", "parameter", "policy", "recommend")
    lines = ["## By optimizer\n"]
    lines += ["| optimizer | cells | " + " | ".join(kinds) + " |", "|" + "---|" * (len(kinds) + 2)]
    for name in (*OPTIMIZERS, "all"):
        own = [cell for cell in cells if name in ("all", cell.optimizer)]
        if own:
            regrets = [geometric_mean([cell.best_of(kind) / cell.best for cell in own]) for kind in kinds]
            lines.append(f"| {name} | {len(own)} | " + " | ".join(f"{regret:.3f}" for regret in regrets) + " |")
    lines += ["\n## Every cell\n"]
    lines += ["| task | optimizer | learning rate | best | " + " | ".join(kinds) + " | advice | said |"]
    lines += ["|" + "---|" * (len(kinds) + 6)]
    for cell in cells:
        best = min((loss, rule) for rule, loss in cell.losses.items() if rule != "recommend")[1]
        numbers = " | ".join(f"{cell.best_of(kind) / cell.best:.3f}" for kind in kinds)
        lines.append(
            f"| {cell.task} | {cell.optimizer} | {cell.rate:g} | {best} | {numbers} | {', '.join(cell.advice)}"
            f" | {', '.join(dict.fromkeys(cell.said))} |"
        )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(OPTIMIZERS)
    tasks = [task for name in TASKS for task in EVERY if task.name == name]
    cells = []
    for name in wanted:
        for task in tasks:
            file = CACHE / f"modern.{name.replace(' ', '-')}.{task.name}.json"
            if not file.exists():
                CACHE.mkdir(exist_ok=True)
                file.write_text(json.dumps([asdict(cell) for cell in cells_of(task, name)]))
            cells += [Cell(**cell) for cell in json.loads(file.read_text())]
            print(f"{name} {task.name}", file=sys.stderr, flush=True)
    print(report(cells))


if __name__ == "__main__":
    main()
