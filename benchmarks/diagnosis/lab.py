"""What the cases of the diagnosis benchmark share: data, networks, and a loop that records.

A case is a function `f(place, broken)` that trains something small into ``place.run``. With
``broken`` it holds one planted fault; without, it is the healthy twin of the same training. Code,
optimizer, parameter and step of the fault are known by construction and stand in the decorator.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

import gradwatch

STEPS = 300

Batch = tuple[Tensor, Tensor]
bce = functional.binary_cross_entropy_with_logits


@dataclass(frozen=True)
class Place:
    """Where a case records, and with which seed."""

    run: Path
    seed: int = 0

    def watch(self, model: nn.Module, optimizer: object, **options: object) -> gradwatch.Watch:
        """Record this model's optimizer, or several."""
        return gradwatch.attach(model, optimizer, self.run, **options)  # type: ignore[arg-type]

    def script(self, text: str, kill: bool = False) -> None:
        """Run a script under `gradwatch run`, as a user would."""
        file = self.written(text)
        command = [sys.executable, "-m", "gradwatch", "run", "--run", str(self.run), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert kill or done.returncode in (0, 1), done.stderr

    def written(self, text: str) -> Path:
        """Write a script beside the run."""
        self.run.parent.mkdir(parents=True, exist_ok=True)
        file = self.run.parent / f"{self.run.name}.py"
        file.write_text("import torch\ntorch.set_num_threads(1)\ntorch.manual_seed(0)\n" + textwrap.dedent(text))
        return file

    def imported(self, rows: Sequence[dict[str, object]]) -> None:
        """A history that a Hugging Face Trainer left behind becomes the run."""
        self.run.parent.mkdir(parents=True, exist_ok=True)
        file = self.run.parent / f"{self.run.name}-trainer_state.json"
        file.write_text(json.dumps({"log_history": list(rows), "global_step": rows[-1]["step"]}))
        command = [sys.executable, "-m", "gradwatch", "import", str(file), str(self.run)]
        subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Case:
    """A planted fault and its healthy twin.

    Attributes:
        kind: of the issue's list: "nothing is trained", "clipping that harms", ...
        code: the finding that should come first, or None where both forms are healthy.
        also: codes that are right as well, for faults that have two names.
        optimizer: that the finding names, where the run has several.
        parameter: a part of the name of a parameter that the finding names; "" for any.
        step: at which the fault begins, give or take ``within``; None where that means nothing.
        twin: whether the healthy form is trained too.
        twin_may: codes that the healthy form may carry without being told wrongly.
    """

    name: str
    kind: str
    train: Callable[[Place, bool], None]
    code: str | None
    also: tuple[str, ...] = ()
    optimizer: str | None = None
    parameter: str = ""
    step: int | None = None
    within: int = 5
    twin: bool = True
    twin_may: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two runs of one training, ``train(place, False)`` and ``train(place, True)``, that part where it is known.

    ``train(place, False)`` once more is the twin: it has to be equal to the bit.

    Attributes:
        step: at which they part, give or take ``within``, by the counter of the optimizer that parts first.
        sources: of `Difference.source`, what may differ first there.
        parameter: a part of the name of the parameter that differs; "" for any.
        optimizer: that parts first, where there are several.
    """

    train: Callable[[Place, bool], None]
    step: int
    sources: tuple[str, ...]
    parameter: str = ""
    optimizer: str | None = None
    within: int = 0


@dataclass(frozen=True)
class Gate:
    """A training over which `gradwatch check` with these arguments has to fail, and whose healthy form has to pass."""

    train: Callable[[Place, bool], None]
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """A training whose advice has to stay within known bounds.

    Without ``changes`` it is that of ``train(place, True)`` over that of ``train(place, False)``, runs that are alike
    but for one step, seed or row. With them it is what `gradwatch recommend --if` says of ``train(place, False)``
    after the changes, over what it says without.

    Attributes:
        changes: arguments of `--if`.
        low, high: bounds of the one threshold over the other.
    """

    train: Callable[[Place, bool], None]
    changes: tuple[str, ...] = ()
    low: float = 0.5
    high: float = 2.0


@dataclass(frozen=True)
class ByValue:
    """A training whose large steps lie in single entries, ``train(place, True)``, or in all of them.

    `gradwatch recommend` has to give a threshold by value for the first form and none for the second.
    """

    train: Callable[[Place, bool], None]


class Cases:
    """The cases of one half, in the order in which they are written."""

    def __init__(self) -> None:
        self.all: list[Case] = []

    def __call__(
        self, kind: str, code: str | None, **labels: object
    ) -> Callable[[Callable[[Place, bool], None]], Callable[[Place, bool], None]]:
        def add(train: Callable[[Place, bool], None]) -> Callable[[Place, bool], None]:
            self.all.append(Case(name=train.__name__, kind=kind, train=train, code=code, **labels))  # type: ignore[arg-type]
            return train

        return add


# ------------------------------------------------------------------------------------------- data


def digits(seed: int, size: int = 64) -> Iterator[Batch]:
    """Handwritten digits of scikit-learn: (size, 64) in [0, 1], and their classes."""
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(x), (size,), generator=generator)
        yield x[rows], y[rows]


def text(seed: int, size: int = 16, length: int = 32) -> Iterator[Batch]:
    """Bytes of a module of the standard library, and the bytes that follow them."""
    data = torch.frombuffer(bytearray(inspect.getsource(textwrap).encode("ascii", "replace")), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(data) - length - 1, (size,), generator=generator)
        rows = torch.stack([data[s : s + length + 1] for s in starts.tolist()])
        yield rows[:, :-1], rows[:, 1:]


def plane(seed: int, size: int = 64, width: int = 8, noise: float = 0.1) -> Iterator[Batch]:
    """A linear function of ``width`` numbers, with noise."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(width, generator=generator)
    while True:
        x = torch.randn(size, width, generator=generator)
        yield x, x @ weights + noise * torch.randn(size, generator=generator)


# --------------------------------------------------------------------------------------- networks


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


class Parts(nn.Module):
    """Named parts, joined by a function: what most scripts write as a class."""

    def __init__(self, join: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.join = join
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.join(self, *inputs)


class Weight(nn.Module):
    """A lone parameter with a name."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.norm(self.first(x.view(-1, 1, 8, 8))).relu(), 2)
        return self.head(functional.max_pool2d(self.second(x).relu(), 2).flatten(1))


class Lstm(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = (
            nn.Embedding(256, 24),
            nn.LSTM(24, width, batch_first=True),
            nn.Linear(width, 256),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(mask, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2, self.feed = nn.LayerNorm(width), mlp(width, 4 * width, width, act=nn.GELU)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.feed(self.norm2(x))


class Gpt(nn.Module):
    def __init__(self, width: int = 32, depth: int = 2, length: int = 32) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)
        self.register_buffer("future", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h, self.future)
        return self.head(self.norm(h))


def classify(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def next_byte(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def squared(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]).squeeze(-1) - batch[1]).square().mean()


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Make one update by the gradient of this loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(
    place: Place,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    steps: int = STEPS,
    clip: float | None = None,
    change: Callable[[int, Batch], Batch] = lambda step, batch: batch,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    zero: Callable[[], None] | None = None,
    **options: object,
) -> None:
    """The loop that most people write."""
    with place.watch(model, optimizer, **options) as watch:
        for step in range(steps):
            loss = loss_of(model, change(step, next(batches)))
            (zero or optimizer.zero_grad)()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            watch.log(loss=loss)


def clip_after_the_step(
    place: Place,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    steps: int = STEPS,
    broken: bool,
) -> None:
    """A loop that clips too late, and its twin."""
    with place.watch(model, optimizer) as watch:
        for _ in range(steps):
            loss = loss_of(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if not broken:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if broken:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            watch.log(loss=loss)


def clip_before_unscaling(
    place: Place,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    broken: bool,
) -> None:
    """A loop that clips gradients which are still scaled, and its twin."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = loss_of(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if not broken:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# --------------------------------------------------------------------------------------- histories


def trained_by_a_trainer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    steps: int,
    every: int,
    clip: float | None = None,
    change: Callable[[int, Batch], Batch] = lambda step, batch: batch,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> list[dict[str, object]]:
    """Train, and log as a Trainer with ``logging_steps=every`` does.

    The loss of a row is the mean of its steps, to four digits, and a NaN counts as the mean before it
    (``logging_nan_inf_filter``); norm and learning rate are those of the last step.
    """
    rows: list[dict[str, object]] = []
    total = 0.0
    for step in range(steps):
        loss = loss_of(model, change(step, next(batches)))
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), torch.inf if clip is None else clip)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        if schedule is not None:
            schedule.step()
        total += float(loss.detach()) if loss.isfinite() else total / (1 + step % every)
        if (step + 1) % every == 0:
            row = {"step": step + 1, "loss": round(total / every, 4), "grad_norm": float(norm), "learning_rate": rate}
            rows.append(row | {"epoch": round((step + 1) / 100, 2)})
            total = 0.0
    return rows


def trainer_rows(
    losses: list[float], norms: list[float], *, every: int, rate: float, rows_an_epoch: int
) -> list[dict[str, object]]:
    """The log of a Hugging Face Trainer."""
    rows = zip(losses, norms, strict=True)
    return [
        {"step": every * (i + 1), "loss": loss, "grad_norm": norm, "learning_rate": rate, "epoch": i / rows_an_epoch}
        for i, (loss, norm) in enumerate(rows)
    ]
