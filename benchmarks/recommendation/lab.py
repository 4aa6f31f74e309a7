"""Many trainings of one task, side by side: the first axis of every tensor is the training.

A training has a seed (for its weights and data), a learning rate and a rule for the threshold. Trainings of one seed
see the same batches, which are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weights = dict[str, Tensor]
Batch = tuple[Tensor, ...]
LOOKS = 40  # at the held-out loss, over a training
LAST = 6  # of these count
SAMPLED = 50


class Task(Protocol):
    """A task to learn. Losses have a row per training."""

    @property
    def name(self) -> str: ...
    @property
    def optimizer(self) -> str:
        """SGD, Momentum, Adam or AdamW."""

    @property
    def rates(self) -> tuple[float, ...]: ...
    @property
    def steps(self) -> int: ...

    def initial(self, generator: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """The weights of one training."""
        ...

    def batch(self, generator: np.random.Generator) -> Batch:
        """A batch of one seed."""
        ...

    def held_out(self) -> Batch:
        """What every training is judged on, without corruption."""
        ...

    def validation(self) -> Batch:
        """What a script could print a loss on: neither learnt from nor judged on, with what corruption there is."""
        ...

    def loss(self, weights: Weights, batch: Batch) -> Tensor:
        """The mean loss of each training; every tensor of the batch has the trainings first."""
        ...


class Threshold(Protocol):
    """Computes the threshold of each training from its norm at this step."""

    def __call__(self, norm: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Trial:
    """One training to run."""

    seed: int
    rate: float
    max_norm: float = math.inf  # used if there is no policy
    policy: str = ""  # key into the policies handed to `train`


@dataclass
class History:
    """The results of the trainings, a column per training."""

    norms: NDArray[np.float64]  # (steps, trainings), before clipping
    losses: NDArray[np.float64]  # of the batches
    layers: dict[str, NDArray[np.float64]]  # (steps, trainings) norms by parameter
    weights: dict[str, NDArray[np.float64]]  # (steps, trainings) weight norms, every `SAMPLED` steps, else NaN
    updates: dict[str, NDArray[np.float64]]  # the same of the change by the step
    looks: NDArray[np.float64]  # (LOOKS, trainings), held out
    checks: NDArray[np.float64]  # the same of the validation
    before: NDArray[np.float64]  # held out, of the untrained network

    def score(self) -> NDArray[np.float64]:
        """Return the mean of the last looks; a lost training gets the loss of its untrained network."""
        return self.capped()[-LAST:].mean(axis=0)

    def capped(self) -> NDArray[np.float64]:
        """The looks, where not a number or worse than untrained the loss of the untrained network."""
        return np.where(np.isfinite(self.looks), np.minimum(self.looks, self.before), self.before)


class AnyTrial(Protocol):
    """A training of a seed at a learning rate, whatever else it has."""

    @property
    def seed(self) -> int: ...
    @property
    def rate(self) -> float: ...


@dataclass(frozen=True)
class SideBySide:
    """Trainings of one task at the beginning; those of one seed have the same weights and see the same batches."""

    weights: Weights  # (trainings, ...)
    rates: Tensor  # (trainings,)
    of_seed: Tensor  # (trainings,): which stream each sees
    streams: Sequence[np.random.Generator]  # one for each seed

    @classmethod
    def begin(cls, task: Task, trials: Sequence[AnyTrial]) -> SideBySide:
        seeds = sorted({trial.seed for trial in trials})
        of_seed = torch.tensor([seeds.index(trial.seed) for trial in trials])
        started = [task.initial(np.random.default_rng([seed, 1])) for seed in seeds]
        weights = {
            name: torch.stack([torch.tensor(one[name], dtype=torch.float32) for one in started])[of_seed]
            .clone()
            .requires_grad_()
            for name in started[0]
        }
        streams = [np.random.default_rng([seed, 2]) for seed in seeds]
        return cls(weights, torch.tensor([trial.rate for trial in trials]), of_seed, streams)

    def each(self, data: Batch) -> Batch:
        """The same data for every training."""
        return tuple(part.expand(len(self.rates), *part.shape) for part in data)

    def step(self, task: Task) -> tuple[Tensor, Weights]:
        """The loss of each training on its next batch, and the gradients."""
        drawn = [task.batch(stream) for stream in self.streams]
        batch = tuple(torch.stack(parts)[self.of_seed] for parts in zip(*drawn, strict=True))
        loss = task.loss(self.weights, batch)
        gradients = torch.autograd.grad(loss.sum(), list(self.weights.values()))
        return loss, dict(zip(self.weights, gradients, strict=True))


def train(
    task: Task,
    trials: Sequence[Trial],
    steps: int | None = None,
    policies: Mapping[str, Callable[[], Threshold]] | None = None,
    keep_layers: bool = False,
    decay: float = 0.0,
) -> History:
    """Train all, with a weight decay. A training whose gradient is not finite stops and counts as lost."""
    steps = steps or task.steps
    side = SideBySide.begin(task, trials)
    weights, rates = side.weights, side.rates
    fixed = torch.tensor([trial.max_norm for trial in trials], dtype=torch.float64)
    choices: list[tuple[Threshold, Tensor]] = [
        (make(), torch.tensor([i for i, trial in enumerate(trials) if trial.policy == name]))
        for name, make in (policies or {}).items()
        if any(trial.policy == name for trial in trials)
    ]
    update = update_rule(task.optimizer, decay)
    held_out, validation = side.each(task.held_out()), side.each(task.validation())
    alive = torch.ones(len(trials), dtype=torch.bool)
    norms, losses = np.full((steps, len(trials)), np.nan), np.full((steps, len(trials)), np.nan)
    looks: list[NDArray[np.float64]] = []
    checks: list[NDArray[np.float64]] = []
    names = list(weights) if keep_layers else []
    layers, sizes, updates = ({name: np.full((steps, len(trials)), np.nan) for name in names} for _ in range(3))
    every = max(1, steps // LOOKS)
    with torch.no_grad():
        before = task.loss(weights, held_out).double().numpy()
    for step in range(steps):
        loss, gradients = side.step(task)
        with torch.no_grad():
            own = {name: gradient.flatten(1).double().norm(dim=1) for name, gradient in gradients.items()}
            norm = torch.stack(list(own.values())).norm(dim=0)
            norms[step], losses[step] = norm.numpy(), loss.detach().numpy()
            for name in names:
                layers[name][step] = own[name].numpy()
            before_step = {name: weights[name].clone() for name in names} if step % SAMPLED == 0 else {}
            alive &= torch.isfinite(norm)
            limit = fixed.clone()
            for threshold, mine in choices:
                limit[mine] = threshold(norm[mine])
            factor = torch.where(alive, (limit / (norm + 1e-6)).clamp(max=1.0), torch.zeros_like(norm)).float()
            update(weights, gradients, factor, torch.where(alive, rates, torch.zeros_like(rates)))
            for name, old in before_step.items():
                sizes[name][step] = old.flatten(1).norm(dim=1).numpy()
                updates[name][step] = (weights[name] - old).flatten(1).norm(dim=1).numpy()
            if (step + 1) % every == 0 and len(looks) < LOOKS:
                for data, kept in ((held_out, looks), (validation, checks)):
                    seen = task.loss(weights, data).double()
                    kept.append(torch.where(alive, seen, torch.full_like(seen, math.nan)).numpy())
    return History(norms, losses, layers, sizes, updates, np.array(looks), np.array(checks), before)


def _times(factor: Tensor, tensor: Tensor) -> Tensor:
    scaled = tensor * factor.view(-1, *[1] * (tensor.dim() - 1))
    return scaled.nan_to_num(0.0, 0.0, 0.0)


def update_rule(optimizer: str, decay: float = 0.0) -> Sgd | Adam:
    """The rule of an optimizer by its name. Only AdamW keeps weight decay out of the gradient."""
    if optimizer in ("SGD", "Momentum"):
        return Sgd(0.9 if optimizer == "Momentum" else 0.0, decay)
    return Adam(decay, apart=optimizer == "AdamW")


class Sgd:
    """`torch.optim.SGD` of each training."""

    def __init__(self, momentum: float, decay: float = 0.0) -> None:
        self.momentum, self.decay, self.buffers = momentum, decay, Weights()

    def __call__(self, weights: Weights, gradients: Weights, factor: Tensor, rates: Tensor) -> None:
        for name, weight in weights.items():
            step = _times(factor, gradients[name])
            if self.decay:
                step = step + self.decay * weight
            if self.momentum:
                old = self.buffers.get(name)
                step = step if old is None else old * self.momentum + step
                self.buffers[name] = step
            weight.sub_(_times(rates, step))


class Adam:
    """`torch.optim.Adam` of each training, with its defaults; ``apart``: `torch.optim.AdamW`."""

    def __init__(self, decay: float = 0.0, *, apart: bool = False) -> None:
        self.decay, self.apart = decay, apart
        self.first, self.second, self.step = Weights(), Weights(), 0

    def __call__(self, weights: Weights, gradients: Weights, factor: Tensor, rates: Tensor) -> None:
        self.step += 1
        for name, weight in weights.items():
            gradient = _times(factor, gradients[name])
            if self.decay and self.apart:
                weight.sub_(_times(rates * self.decay, weight))
            elif self.decay:
                gradient = gradient + self.decay * weight
            first = self.first.setdefault(name, torch.zeros_like(weight)).lerp_(gradient, 0.1)
            second = self.second.setdefault(name, torch.zeros_like(weight))
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            deviation = (second / (1 - 0.999**self.step)).sqrt_() + 1e-8
            weight.sub_(_times(rates / (1 - 0.9**self.step), first / deviation))
