"""The corpus: healthy and faulty trainings, labelled without looking at any gradient.

    python benchmarks/detection/corpus.py [--jobs 2] [tune|report]

It trains every `Job` that the cache lacks, recorded like any run, and writes an `outcome.json` beside each store:
where the fault was planted, in which parameter, and what became of the loss. Labels come from the construction or the
outcome, never from a statistic of a gradient.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tasks import REPORT, SEEN, TUNE, Batch, Player, Task, Variant, factor, mlp, rows, supervised, temporal_order_of
from torch import Tensor, nn
from torch.nn import functional

import gradwatch

CACHE = Path(__file__).parent / ".cache"
HEALTHY_STEPS, FAULTY_STEPS, AT, APART = 2000, 900, 400, 75

VARIANTS = (
    Variant(),
    Variant("clipped", clip=1.0),
    Variant("warmup-cosine", schedule="warmup-cosine"),
    Variant("restarts", schedule="restarts", clip=5.0),
    Variant("steps", schedule="steps"),
    Variant("accumulated", accumulate=2, schedule="warmup"),
    Variant("doubled", double_batch_at=0.5),
    Variant("thawed", thaw_at=0.4),
)
LADDERS = {"loss-weight": (3.0, 5.0, 10.0, 30.0, 100.0, 300.0), "bad-input": (3.0, 10.0, 30.0, 100.0)}
"""Faults of one batch, several doses in one run, `APART` steps from one another."""

STAYING = {
    "rate-step": (3.0, 10.0, 30.0, 100.0),
    "rate-ramp": (1.006, 1.02, 1.05),
    "rate-high": (10.0, 30.0, 100.0),
    "layer-once": (10.0, 100.0, 1000.0),
    "layer-stay": (10.0, 100.0, 1000.0),
    "backward-stay": (10.0, 100.0),
    "nan-parameter": (math.nan,),
    "nan-backward": (math.nan,),
    "inf-backward": (math.inf,),
    "nan-weight": (math.nan,),
    "layer-zero": (0.0,),
    "layer-fade": (1e-8,),
    "whole-fade": (1e-5,),
}


@dataclass(frozen=True)
class Job:
    """One training of the corpus."""

    split: str  # tune or report
    task: str
    variant: Variant
    fault: str | None = None
    dose: float = 1.0
    seed: int = 0

    @property
    def folder(self) -> Path:
        what = self.variant.name if self.fault is None else f"{self.fault}-{self.dose:g}"
        return CACHE / self.split / f"{self.task}.{what}.{self.seed}"

    @property
    def steps(self) -> int:
        return HEALTHY_STEPS if self.fault in (None, "no-clipping") else FAULTY_STEPS


# --------------------------------------------------------------------------- tasks that are faulty


def deep_sigmoid(v: Variant) -> Task:
    """A deep sigmoid network whose first layers learn nothing, the problem that ReLU and normalisation solve."""
    from sklearn import datasets

    x, y = datasets.make_circles(400, noise=0.05, factor=0.5, random_state=0)
    draw = rows(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    model = mlp(2, *[16] * 12, 2, activation=nn.Sigmoid)
    return supervised(model, functional.cross_entropy, draw, v, optimizer="momentum", rate=0.3, size=16, labels=2)


def deep_sigmoid_blobs(v: Variant) -> Task:
    from sklearn import datasets

    x, y = datasets.make_blobs(600, centers=4, n_features=2, random_state=0)
    draw = rows(torch.tensor(x / 10, dtype=torch.float32), torch.tensor(y))
    model = mlp(2, *[16] * 10, 4, activation=nn.Sigmoid)
    return supervised(model, functional.cross_entropy, draw, v, optimizer="sgd", rate=0.1, size=16, labels=4)


def deep_sigmoid_wine(v: Variant) -> Task:
    from sklearn import datasets

    data = datasets.load_wine()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    draw = rows(torch.tensor(x, dtype=torch.float32), torch.tensor(data.target))
    model = mlp(13, *[16] * 10, 3, activation=nn.Sigmoid)
    return supervised(model, functional.cross_entropy, draw, v, optimizer="adam", rate=1e-3, size=16, labels=3)


def deep_sigmoid_digits(v: Variant) -> Task:
    from tasks import digits

    model = mlp(64, *[24] * 14, 10, activation=nn.Sigmoid)
    return supervised(
        model, functional.cross_entropy, rows(*digits()), v, optimizer="momentum", rate=0.05, size=32, labels=10
    )


def temporal_order_unclipped(v: Variant) -> Task:
    """The task that clipping by norm was made for (Pascanu et al. 2013), unclipped, with exploding weights."""
    task = temporal_order_of(v, length=50, rate=0.5)
    with torch.no_grad():
        task.model.get_parameter("cell.weight_hh_l0").mul_(1.6)
    return task


UNCLIPPED = {"tune": {"temporal-order-50": temporal_order_unclipped}, "report": {}}
NATURAL = {
    "tune": {
        "deep-sigmoid-blobs": deep_sigmoid_blobs,
        "deep-sigmoid": deep_sigmoid,
        "deep-sigmoid-wine": deep_sigmoid_wine,
    },
    "report": {"deep-sigmoid-digits": deep_sigmoid_digits},
}
TWICE = tuple(SEEN)[:13]  # those of the first report, whose faults were recorded with two seeds
SPLITS = {"tune": TUNE | SEEN, "report": REPORT}


def task_of(job: Job) -> Task:
    torch.manual_seed(1000 + job.seed)
    return {**SPLITS[job.split], **NATURAL[job.split], **UNCLIPPED[job.split]}[job.task](job.variant)


# ------------------------------------------------------------------------------------------ faults


def before_relu(model: nn.Module) -> list[nn.Module]:
    """Return the modules that feed a ReLU."""
    chains = [list(module) for module in model.modules() if isinstance(module, nn.Sequential)]
    return [a for chain in chains for a, b in itertools.pairwise(chain) if isinstance(b, nn.ReLU)]


class Fault:
    """What goes wrong in a run, when and where. Without a kind nothing does."""

    def __init__(self, job: Job, task: Task) -> None:
        self.kind, self.dose = job.fault, job.dose
        doses = LADDERS.get(job.fault or "", (job.dose,))
        if job.fault == "bad-labels":
            doses = (1.0, 1.0, 1.0)
        self.steps = [AT + 17 * job.seed + APART * i for i in range(len(doses))]
        self.doses = doses
        self.start = self.steps[0]
        named = dict(task.model.named_parameters())
        matrices = [name for name, p in named.items() if p.dim() > 1 and "embed" not in name and name != "position"]
        self.name = matrices[(7 * job.seed + len(job.task) + len(job.fault or "")) % len(matrices)]
        self.parameter = named[self.name]
        module_name = self.name.rpartition(".")[0]
        self.module = task.model.get_submodule(module_name)
        self.own = [p for n, p in named.items() if n.rpartition(".")[0] == module_name]
        self.task = task
        self.norms: list[float] = []
        self.scale = 2.0**10
        if self.kind in ("nan-backward", "inf-backward", "backward-stay"):
            self.module.register_forward_hook(self._spoil_backward)
        self.now = -1

    def _spoil_backward(self, module: nn.Module, args: object, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        once = self.kind != "backward-stay"
        if out.requires_grad and (self.now == self.start if once else self.now >= self.start):
            out.register_hook(lambda gradient: gradient * self.dose)

    def rate(self, step: int) -> float:
        match self.kind:
            case "rate-step":
                return self.dose if step >= self.start else 1.0
            case "rate-ramp":
                return self.dose ** max(0, step - self.start)
            case "rate-high":
                return self.dose
        return 1.0

    def before(self, step: int) -> None:
        self.now = step
        with torch.no_grad():
            if self.kind == "nan-weight" and step == self.start:
                self.parameter.view(-1)[0] = math.nan
            if self.kind == "units-dead" and step == self.start:
                bias = before_relu(self.task.model)[0].get_parameter("bias")
                bias[: round(self.dose * len(bias))] = -1e4

    def batch(self, step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if step not in self.steps:
            return x, y
        dose = self.doses[self.steps.index(step)]
        if self.kind == "bad-input":
            return x * dose, y
        if self.kind == "nan-input":
            return torch.where(torch.arange(len(x)).view(-1, *[1] * (x.dim() - 1)) == 0, math.nan, x), y
        if self.kind == "bad-labels":
            assert self.task.labels is not None
            return x, torch.where(y >= 0, (y + 1 + y % 2) % self.task.labels, y)
        return x, y

    def loss_weight(self, step: int) -> float:
        if self.kind == "loss-weight" and step in self.steps:
            return self.doses[self.steps.index(step)]
        return 1.0

    def gradients(self, step: int) -> None:
        """Change the gradients between backward and clipping."""
        own = [p.grad for p in self.own if p.grad is not None]
        every = [p.grad for p in self.task.model.parameters() if p.grad is not None]
        at, since = step == self.start, step >= self.start
        if self.kind == "nan-parameter" and at and self.parameter.grad is not None:
            self.parameter.grad.view(-1)[0] = math.nan
        if (self.kind == "layer-once" and at) or (self.kind in ("layer-stay", "layer-fade", "layer-zero") and since):
            torch._foreach_mul_(own, self.dose)
        if self.kind == "whole-fade" and since:
            torch._foreach_mul_(every, self.dose)
        if self.kind == "fp16" and since:
            self.scale *= 1.05
            for gradient in every:
                gradient.copy_((gradient * self.scale).half().float() / self.scale)

    def zeroes(self, step: int) -> bool:
        return self.kind != "no-zero-grad" or step < self.start

    def threshold(self, plain: float | None) -> float | None:
        """Return the threshold for overclipping: a share of the typical norm of the first 50 steps."""
        if self.kind != "overclip":
            return plain
        return math.inf if len(self.norms) < 50 else self.dose * statistics.median(self.norms[:50])


# ------------------------------------------------------------------------------------------ a run


def train(job: Job) -> dict[str, Any]:
    """Train and record one job; return its outcome."""
    task = task_of(job)
    fault = Fault(job, task)
    torch.manual_seed(job.seed)
    modules = [player.module for player in task.players]
    model = modules[0] if len(modules) == 1 else nn.ModuleList(modules)
    optimizers = [player.optimizer for player in task.players]
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    frozen = [p for m in modules for p in first_half(m)] if job.variant.thaw_at else []
    for parameter in frozen:
        parameter.requires_grad_(False)
    losses: list[float] = []
    with gradwatch.attach(model, optimizers, job.folder) as watch:
        for step in range(job.steps):
            done = step / job.steps
            if job.variant.thaw_at is not None and done >= job.variant.thaw_at:
                for parameter in frozen:
                    parameter.requires_grad_(True)
            scheduled = factor(job.variant.schedule, done) * fault.rate(step)
            for optimizer, own in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, own, strict=True):
                    group["lr"] = rate * scheduled
            fault.before(step)
            batches = [fault.batch(step, *task.batch(done)) for _ in range(job.variant.accumulate)]
            of_each = [advance(player, batches, step, task, fault) for player in task.players]
            losses.append(of_each[0])
            if step % 500 == 499:
                watch.flush()
    return {
        "fault": job.fault,
        "steps": fault.steps if job.fault else [],
        "doses": list(fault.doses) if job.fault else [],
        "parameter": fault.name if job.fault else None,
        "healthy": bool(job.fault is None and all(map(math.isfinite, losses)) and task.healthy(losses)),
        "lost_at": lost_at(losses, fault.start) if job.fault else None,
        "losses": losses,
    }


def first_half(module: nn.Module) -> list[nn.Parameter]:
    parameters = list(module.parameters())
    return parameters[: len(parameters) // 2]


def advance(player: Player, batches: list[Batch], step: int, task: Task, fault: Fault) -> float:
    """Make one step of one optimizer, with its fault; return the loss without the fault's weight."""
    if fault.zeroes(step):
        player.optimizer.zero_grad()
    losses = []
    for batch in batches:
        loss = player.loss(batch) / len(batches)
        (loss * fault.loss_weight(step)).backward()
        losses.append(loss.item())
    if player is task.players[0]:
        fault.gradients(step)
    max_norm = fault.threshold(task.clip)
    if max_norm is not None:
        norm = nn.utils.clip_grad_norm_(player.module.parameters(), max_norm)
        fault.norms.append(float(norm))
    player.optimizer.step()
    return sum(losses)


def lost_at(losses: list[float], start: int) -> int | None:
    """Return the first step from ``start`` on with a loss that is not finite, or stays high for 20 steps.

    High means above the 90th percentile of the 200 losses before, by as much again as they scatter and by 0.3 of their
    median. This rule on the loss alone was written before any detector ran.
    """
    before = sorted(losses[max(0, start - 200) : start])
    if not before:
        return next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    middle, high = before[len(before) // 2], before[int(0.9 * len(before))]
    limit = high + max(high - middle, 0.3 * abs(middle))
    for i in range(start, len(losses)):
        window = losses[i : i + 20]
        if not math.isfinite(losses[i]) or (len(window) == 20 and all(not loss <= limit for loss in window)):
            return i
    return None


def jobs(split: str) -> Iterator[Job]:
    """Return every training of a split."""
    for task in SPLITS[split]:
        for variant in VARIANTS:
            for seed in range(1 if task in TUNE else 2):
                yield Job(split, task, variant, seed=seed)
        yield from _faulty(split, task, seeds=2 if task in TWICE else 1)
    for task in NATURAL[split]:
        for seed in range(4):
            yield Job(split, task, Variant(), "natural", seed=seed)
    for task in UNCLIPPED[split]:
        for seed in range(4):
            yield Job(split, task, Variant(), "no-clipping", seed=seed)


def _faulty(split: str, task: str, seeds: int) -> Iterator[Job]:
    plain = Variant()
    built = SPLITS[split][task](plain)
    ladders = ["loss-weight", *(["bad-input"] if built.dense else []), *(["bad-labels"] if built.labels else [])]
    for kind in ladders:
        for seed in range(2, 2 + seeds):
            yield Job(split, task, plain, kind, seed=seed)
    staying = dict(STAYING)
    if built.dense:
        staying["nan-input"] = (math.nan,)
    if before_relu(built.model):
        staying["units-dead"] = (0.6, 1.0)
    if isinstance(built.players[0].optimizer, torch.optim.SGD):
        staying["overclip"] = (0.1, 0.01)
    staying["no-zero-grad"] = (1.0,)
    staying["fp16"] = (1.05,)
    for kind, doses in staying.items():
        for dose in doses:
            for seed in range(2, 2 + (seeds if len(doses) == 1 else 1)):
                yield Job(split, task, plain, kind, dose, seed)


def record(job: Job) -> str:
    """Train a job into the cache, unless it is there already."""
    if (job.folder / "outcome.json").exists():
        return ""
    torch.set_num_threads(1)
    shutil.rmtree(job.folder, ignore_errors=True)
    began = time.perf_counter()
    outcome = {"task": job.task, "variant": job.variant.name, "dose": job.dose, "seed": job.seed, **train(job)}
    (job.folder / "outcome.json").write_text(json.dumps(outcome))
    return f"{job.folder.name}: {time.perf_counter() - began:.1f} s" + (
        f", healthy {outcome['healthy']}" if job.fault is None else f", lost at {outcome['lost_at']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("splits", nargs="*", default=["tune", "report"], metavar="tune|report")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    arguments = parser.parse_args()
    todo = [job for split in arguments.splits for job in jobs(split)]
    print(f"{len(todo)} trainings", file=sys.stderr)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for line in pool.imap_unordered(record, todo):
            if line:
                print(line, flush=True)


if __name__ == "__main__":
    main()
