"""How early do the detectors of updates tell of a spike of the loss that grows by itself?

    python benchmarks/lead_time.py record FOLDER [--tasks a,b] [--seeds 2]
    python benchmarks/lead_time.py report FOLDER [--every 10]

No spike is injected. The trainings are short and at the edge: Adam with beta2 = 0.999 and no warm-up, weights in
bfloat16, an embedding without normalisation, rates just below divergence (Bai et al. 2025, arXiv:2506.04805, had such
spikes in small networks). Each has a healthy twin with a tenth of the rate. `record` trains and records them, `report`
replays the detectors over the runs.

An onset is defined by the loss alone: it exceeds the 90th percentile of the 50 steps before by half, at three of five
steps, and 60 steps apart from the onset before. A detector tells of it where it raises an event 2 to 20 steps before.
Chance is the share of windows of the same length that hold an event, at all places of the same runs that are not
within 60 steps of an onset. False warnings are counted in the healthy twins, for 10,000 steps. Some twins have onsets
of their own, which count as the others do; what is within 20 steps before or 60 steps after one is not healthy.

These networks are so small that the updates of all parameters are read at every step. With `--every N` the detectors
get what they have of a large model: all updates at every N-th step, and at the others those of the first and the last
matrix (sentinels), or nothing.

The limits in gradwatch/detect/updates.py were chosen on the tasks of `TUNING` and fixed before those of `UNSEEN` were
evaluated. lead_time.txt is the printed table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradwatch
from gradwatch.detect import Detector, Spike, StaleSecondMoment, UpdateSpike
from gradwatch.record import SentinelStats, StepRecord

STEPS = 1500
LEAST, MOST = 2, 20
"""Steps before an onset within which an event tells of it."""

APART = 60
RISE = 1.5


class Sine(nn.Module):
    """Fits a sum of sines, all data at each step, as in Bai et al."""

    def __init__(self, depth: int = 1, act: type[nn.Module] = nn.Tanh, width: int = 50) -> None:
        super().__init__()
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), act())]
        self.net = nn.Sequential(nn.Linear(1, width), act(), *hidden, nn.Linear(width, 1))
        self.x = torch.linspace(-1, 1, 100)[:, None]
        self.y = torch.sin(3 * self.x) + torch.sin(7 * self.x)

    def loss(self) -> torch.Tensor:
        x = self.x.to(next(self.parameters()).dtype)
        return (self.net(x).float() - self.y).square().mean()


class Rows(nn.Module):
    """Classifies points by noisy labels, in batches or all at each step."""

    def __init__(self, batch: int | None = 64, width: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(20, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )
        self.batch = batch
        count = 2048 if batch else 256
        teacher = torch.randn(20, 10)
        self.x = torch.randn(count, 20)
        self.y = (self.x @ teacher + 0.5 * torch.randn(count, 10)).argmax(1)

    def loss(self) -> torch.Tensor:
        at = torch.randint(len(self.x), (self.batch,)) if self.batch else torch.arange(len(self.x))
        return nn.functional.cross_entropy(self.net(self.x[at]), self.y[at])


class Words(nn.Module):
    """Learns sentences of Zipf-distributed words by heart: an embedding without normalisation, one layer, a head."""

    def __init__(self, vocabulary: int = 200, width: int = 48, *, recurrent: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, width, batch_first=True) if recurrent else None
        self.mix, self.head = nn.Linear(width, width), nn.Linear(width, vocabulary)
        self.ids = torch.multinomial(1.0 / torch.arange(1, vocabulary + 1), 24 * 12, replacement=True).view(24, 12)

    def loss(self) -> torch.Tensor:
        x = self.embedding(self.ids[:, :-1])
        x = torch.cumsum(x, 1) if self.rnn is None else self.rnn(x)[0]
        logits = self.head(torch.relu(self.mix(x))).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), self.ids[:, 1:].flatten())


@dataclass(frozen=True)
class Task:
    model: Callable[[], nn.Module]
    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    dtype: torch.dtype = torch.float32
    kind: type[torch.optim.Adam] = torch.optim.Adam


TUNING = {
    "sine": Task(Sine, 0.01),
    "rows": Task(Rows, 0.03),
    "words": Task(Words, 0.02),
}
UNSEEN = {
    "relu": Task(lambda: Sine(3, nn.ReLU), 0.01, kind=torch.optim.AdamW),
    "bfloat16": Task(lambda: Sine(2), 0.01, dtype=torch.bfloat16),
    "whole": Task(lambda: Rows(None), 0.03),
    "gru": Task(lambda: Words(recurrent=True), 0.03),
    "beta2": Task(lambda: Sine(2, nn.GELU), 0.01, betas=(0.9, 0.9999)),
}
TASKS = TUNING | UNSEEN


def record(task: Task, rate: float, seed: int, folder: Path) -> None:
    torch.manual_seed(seed)
    model = task.model().to(task.dtype)
    optimizer = task.kind(model.parameters(), lr=rate, betas=task.betas)
    with gradwatch.attach(model, optimizer, folder, updates_every=1) as watch:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = model.loss()  # type: ignore[operator]
            loss.backward()
            optimizer.step()
            watch.log(loss=loss.item())


def onsets(losses: np.ndarray) -> list[int]:
    """The steps at which the loss begins to stand out, by the loss alone."""
    found: list[int] = []
    for step in range(100, len(losses) - 5):
        limit = RISE * np.quantile(losses[step - 50 : step], 0.9)
        is_out = losses[step] > limit and (losses[step : step + 5] > limit).sum() >= 3
        if is_out and (not found or step - found[-1] > APART):
            found.append(step)
    return found


def alarms(make: Callable[[], Detector], records: list[StepRecord]) -> list[int]:
    """The steps at which a detector begins an event."""
    detector = make()
    return sorted({event.step for record in records for event in detector.update(record)})


def as_of_a_large_model(record: StepRecord, every: int, *, sentinels: bool) -> StepRecord:
    """The record without the updates of all but the first and the last matrix, unless ``every`` divides its step."""
    if record.step % every == 0 or record.updates is None or record.layers is None:
        return record
    matrices = [at for at, info in enumerate(record.layers.parameters) if len(info.shape) >= 2]
    at = np.array([matrices[0], matrices[-1]])
    found = record.updates
    few = SentinelStats(
        position=at.astype(np.float32),
        update_norm=found.update_norm[at],
        weight_norm=found.weight_norm[at],
        rms_ratio=None if found.rms_ratio is None else found.rms_ratio[at],
    )
    return replace(record, updates=None, update_norm=None, weight_norm=None, sentinels=few if sentinels else None)


DETECTORS: dict[str, Callable[[], Detector]] = {
    "update-spike": UpdateSpike,
    "stale-second-moment": StaleSecondMoment,
    "spike (norms)": Spike,
}


@dataclass
class Score:
    told: int = 0
    onsets: int = 0
    windows: int = 0
    hit: int = 0
    false: int = 0
    steps: int = 0
    leads: tuple[int, ...] = ()

    def line(self) -> str:
        chance = self.hit / self.windows if self.windows else float("nan")
        told = self.told / self.onsets if self.onsets else float("nan")
        rate = 1e4 * self.false / self.steps if self.steps else float("nan")
        lead = int(np.median(self.leads)) if self.leads else 0
        return (
            f"{self.told:>4} of {self.onsets:<4} {told:>6.0%} {chance:>8.0%} {told - chance:>+9.0%} {lead:>6}"
            f" {self.false:>6} in {self.steps:<7} {rate:>6.1f}"
        )


def score(
    folder: Path, names: list[str], make: Callable[[], Detector], every: int = 1, *, sentinels: bool = True
) -> Score:
    total = Score()
    for path in sorted(folder.iterdir()):
        task, _, rest = path.name.partition("-")
        if task not in names:
            continue
        run = gradwatch.Run(path)
        records = [as_of_a_large_model(record, every, sentinels=sentinels) for record in run.records()]
        losses = run.steps()["loss"].to_numpy()
        raised = alarms(make, records)
        found = onsets(losses)
        if rest.startswith("healthy"):
            is_calm = np.ones(len(records), bool)
            for onset in found:
                is_calm[max(0, onset - MOST) : onset + APART] = False
            total.false += int(is_calm[raised].sum())
            total.steps += int(is_calm.sum())
        total.onsets += len(found)
        for onset in found:
            leads = [onset - step for step in raised if LEAST <= onset - step <= MOST]
            total.told += bool(leads)
            total.leads += (max(leads),) if leads else ()
        for end in range(100 + MOST, len(losses), MOST):
            if all(abs(end - onset) > APART + MOST for onset in found):
                total.windows += 1
                total.hit += any(LEAST <= end - step <= MOST for step in raised)
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["record", "report"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="read all updates at such steps only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.tasks.split(",")
    if options.what == "record":
        for name in names:
            for seed in range(options.seeds):
                for kind, factor in (("edge", 1.0), ("healthy", 0.1)):
                    path = options.folder / f"{name}-{kind}-{seed}"
                    if not path.exists():
                        record(TASKS[name], factor * TASKS[name].rate, seed, path)
                        print(path.name, flush=True)
        return
    columns = f"{'told':>12} {'':>6} {'chance':>8} {'beyond':>9} {'lead':>6} {'false in healthy':>17} {'/10,000':>8}"
    print(f"{'':<36}{columns}")
    for title, group in (("tuning", TUNING), ("unseen", UNSEEN)):
        chosen = [name for name in group if name in names]
        for detector, make in DETECTORS.items():
            for sentinels in (True,) if options.every == 1 else (True, False):
                name = f"{title}: {detector}" + ("" if sentinels else ", none")
                found = score(options.folder, chosen, make, options.every, sentinels=sentinels)
                print(f"{name:<36}{found.line()}", flush=True)


if __name__ == "__main__":
    main()
