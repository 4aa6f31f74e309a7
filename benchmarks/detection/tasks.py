"""The trainings of the corpus. Each is small and real, takes seconds on one core and generates its own data.

A `Task` has a model, its optimizers and a loss per step. A `Variant` adds something that misleads a careless detector,
for example a schedule, a clipping threshold, accumulation, a batch that doubles, unfrozen layers or a curriculum.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import inspect
import itertools
import json
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Variant:
    """The differences from the plain training of a task."""

    name: str = "plain"
    optimizer: str | None = None  # instead of the task's own
    rate: float = 1.0  # times the task's own
    clip: float | None = None  # max_norm
    schedule: str = "constant"  # warmup-cosine, restarts, steps, warmup
    accumulate: int = 1
    double_batch_at: float | None = None  # a share of the run
    thaw_at: float | None = None  # the first half of the parameters is frozen until then


@dataclass
class Player:
    """One optimizer and the loss that it minimises."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], Tensor]


@dataclass
class Task:
    players: list[Player]
    batch: Callable[[float], Batch]  # of the share of the run that is done
    clip: float | None = None
    dense: bool = True  # the inputs are numbers that can be scaled, not indices
    labels: int | None = None  # the targets are classes, and how many
    after_step: Callable[[], None] = lambda: None
    healthy: Callable[[list[float]], bool] = field(default=lambda losses: mean(losses[-100:]) < 0.8 * mean(losses[:20]))

    @property
    def model(self) -> nn.Module:
        return self.players[0].module


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def smooth(losses: list[float]) -> bool:
    """Whether no loss exceeds three times the median of the fifty losses before it."""
    return all(losses[i] <= 3 * sorted(losses[i - 50 : i])[25] for i in range(50, len(losses)))


def optimizer_of(name: str, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    match name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate)
        case "momentum":
            return torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=rate)
    raise ValueError(name)


def factor(schedule: str, done: float) -> float:
    """The factor of the learning rate after this share of the run."""
    match schedule:
        case "constant":
            return 1.0
        case "warmup":
            return min(1.0, done / 0.1 + 0.001)
        case "warmup-cosine":
            return min(1.0, done / 0.05 + 0.001) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        case "restarts":
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (4 * done % 1)))
        case "steps":
            return 0.1 ** int(3 * done)
    raise ValueError(schedule)


def supervised(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    batch: Callable[[int], Batch],
    variant: Variant,
    *,
    optimizer: str,
    rate: float,
    size: int,
    **task: object,
) -> Task:
    """A supervised task: a model, a criterion and batches of ``size``."""

    def sized(done: float) -> Batch:
        doubled = variant.double_batch_at is not None and done >= variant.double_batch_at
        return batch(2 * size if doubled else size)

    player = Player(
        model,
        optimizer_of(variant.optimizer or optimizer, list(model.parameters()), rate * variant.rate),
        lambda xy: criterion(model(xy[0]), xy[1]),
    )
    return Task([player], sized, clip=variant.clip, **task)  # type: ignore[arg-type]


def rows(x: Tensor, y: Tensor) -> Callable[[int], Batch]:
    """Draw random batches from a table."""

    def draw(size: int) -> Batch:
        chosen = torch.randint(len(x), (size,))
        return x[chosen], y[chosen]

    return draw


def digits() -> Batch:
    data = datasets.load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def text(module: object) -> Tensor:
    """The source code of a module of the standard library, as character codes."""
    source = inspect.getsource(module)  # type: ignore[arg-type]
    return torch.tensor([min(ord(c), 127) for c in source])


def windows(stream: Tensor, length: int) -> Callable[[int], Batch]:
    """Draw random windows of a text, with the same windows one character later as targets."""

    def draw(size: int) -> Batch:
        starts = torch.randint(len(stream) - length - 1, (size, 1))
        places = starts + torch.arange(length)
        return stream[places], stream[places + 1]

    return draw


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (wide, to) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(wide, to))
        if i < len(widths) - 2:
            layers += [*([nn.BatchNorm1d(to)] if norm else []), activation()]
    return nn.Sequential(*layers)


def token_loss(scores: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, -2), targets.flatten())


class Recurrent(nn.Module):
    def __init__(self, cell: Callable[..., nn.RNNBase], vocabulary: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.cell = cell(32, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dropout(self.cell(self.embed(x))[0]))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(
        self, embed: nn.Module, length: int, width: int, out: int, depth: int = 2, causal: bool = True
    ) -> None:
        super().__init__()
        self.embed = embed
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, 4, causal) for _ in range(depth)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, out)
        self.pooled = not causal

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.norm(self.blocks(x + self.position[: x.shape[1]]))
        return self.out(x.mean(1) if self.pooled else x)


# ------------------------------------------------------------------------------- tasks to tune on


def char_rnn(v: Variant) -> Task:
    model = Recurrent(nn.RNN, 128, 64)
    draw = windows(text(textwrap), 24)
    return supervised(model, token_loss, draw, v, optimizer="sgd", rate=0.5, size=16, dense=False, labels=128)


def char_lstm(v: Variant) -> Task:
    model = Recurrent(nn.LSTM, 128, 48, dropout=0.1)
    draw = windows(text(csv), 24)
    return supervised(model, token_loss, draw, v, optimizer="adamw", rate=3e-3, size=12, dense=False, labels=128)


def transformer_lm(v: Variant) -> Task:
    model = Transformer(nn.Embedding(128, 32), 24, 32, 128)
    draw = windows(text(json.decoder), 24)
    return supervised(model, token_loss, draw, v, optimizer="adamw", rate=2e-3, size=8, dense=False, labels=128)


def mlp_digits(v: Variant) -> Task:
    model = mlp(64, 96, 96, 10)
    draw = rows(*digits())
    return supervised(model, functional.cross_entropy, draw, v, optimizer="momentum", rate=0.02, size=32, labels=10)


def cnn_digits(v: Variant) -> Task:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10),
    )  # fmt: skip
    return supervised(
        model, functional.cross_entropy, rows(*digits()), v, optimizer="adam", rate=2e-3, size=16, labels=10
    )


def autoencoder(v: Variant) -> Task:
    model = mlp(64, 48, 12, 48, 64, activation=nn.GELU)
    x, _ = digits()
    return supervised(model, functional.mse_loss, rows(x, x), v, optimizer="adam", rate=2e-3, size=32)


def sine(v: Variant) -> Task:
    """Full-batch regression: the loss has no noise, and the gradients shrink towards zero as it is solved.

    Full-batch Adam can spike without a fault in the data (Bai et al. 2026). A run with such a spike is not healthy.
    """
    model = mlp(1, 40, 40, 1, activation=nn.Tanh)
    x = torch.linspace(-3, 3, 128)[:, None]
    y = torch.sin(x) + torch.sin(4 * x)
    return supervised(
        model, functional.mse_loss, lambda size: (x, y), v, optimizer="adam", rate=1e-3, size=128, healthy=smooth
    )


def temporal_order(v: Variant) -> Task:
    """Pascanu, Mikolov and Bengio 2013, section 4.1.1: which of two symbols came first. Clipped, as in the paper."""
    return temporal_order_of(replace(v, clip=v.clip or 1.0), length=20, rate=0.05)


def temporal_order_of(v: Variant, length: int, rate: float) -> Task:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.RNN(6, 50, batch_first=True), nn.Linear(50, 4)
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.1) if parameter.dim() > 1 else nn.init.zeros_(parameter)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0][:, -1])

    def draw(size: int) -> Batch:
        symbols = torch.randint(2, 6, (size, length))
        first, second = torch.randint(0, 2, (2, size))
        tenth = max(1, length // 10)
        symbols[torch.arange(size), torch.randint(tenth, 2 * tenth, (size,))] = first
        symbols[torch.arange(size), torch.randint(5 * tenth, 6 * tenth, (size,))] = second
        return functional.one_hot(symbols, 6).float(), first + 2 * second

    return supervised(
        Last(), functional.cross_entropy, draw, v, optimizer="sgd", rate=rate, size=20, labels=4,
        healthy=lambda losses: mean(losses[-100:]) < 1.02 * mean(losses[:20]),  # it may wait on its plateau
    )  # fmt: skip


def blobs(v: Variant) -> Task:
    x, y = datasets.make_blobs(600, centers=4, n_features=2, random_state=0)
    model = mlp(2, 16, 16, 16, 16, 4, activation=nn.Tanh)
    draw = rows(torch.tensor(x / 10, dtype=torch.float32), torch.tensor(y))
    return supervised(model, functional.cross_entropy, draw, v, optimizer="sgd", rate=0.1, size=16, labels=4)


def cancer(v: Variant) -> Task:
    """Logistic regression on real data."""
    data = datasets.load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    draw = rows(torch.tensor(x, dtype=torch.float32), torch.tensor(data.target))
    return supervised(
        nn.Sequential(nn.Linear(30, 2)),
        functional.cross_entropy,
        draw,
        v,
        optimizer="sgd",
        rate=0.05,
        size=16,
        labels=2,
    )


class CartPole:
    """The cart-pole of Barto, Sutton and Anderson 1983, several at once; a pole that falls is reset."""

    def __init__(self, many: int) -> None:
        self.state = torch.empty(many, 4).uniform_(-0.05, 0.05)
        self.age = torch.zeros(many)
        self.lived: list[float] = []

    def act(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reward of each pole and whether it fell."""
        x, speed, angle, turn = self.state.unbind(1)
        force = torch.where(right.bool(), 10.0, -10.0)
        pull = (force + 0.05 * turn**2 * angle.sin()) / 1.1
        spin = (9.8 * angle.sin() - angle.cos() * pull) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
        drive = pull - 0.05 * spin * angle.cos() / 1.1
        self.state = torch.stack([x + 0.02 * speed, speed + 0.02 * drive, angle + 0.02 * turn, turn + 0.02 * spin], 1)
        self.age += 1
        fell = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.21)
        over = fell | (self.age >= 200)
        self.lived += self.age[over].tolist()
        self.state = torch.where(over[:, None], torch.empty_like(self.state).uniform_(-0.05, 0.05), self.state)
        self.age = torch.where(over, 0.0, self.age)
        return torch.ones(len(fell)), over


def dqn(v: Variant) -> Task:
    """DQN (Mnih et al. 2015) on CartPole: replay, a target network, epsilon-greedy. Its norms always vary widely."""
    net, target, world = mlp(4, 48, 48, 2), mlp(4, 48, 48, 2), CartPole(4)
    memory: list[tuple[Tensor, ...]] = []
    count = [0]

    def batch(done: float) -> Batch:
        seen = world.state
        with torch.no_grad():
            right = net(seen).argmax(1)
        right = torch.where(torch.rand(4) < max(0.05, 1 - 3 * done), torch.randint(0, 2, (4,)), right)
        reward, over = world.act(right)
        memory.append((seen, right, reward, over, world.state))
        chosen = torch.randint(len(memory), (16,)).tolist()
        seen, right, reward, over, then = (torch.cat([memory[i][k] for i in chosen]) for k in range(5))
        with torch.no_grad():
            worth = reward + 0.99 * target(then).max(1).values * ~over
        count[0] += 1
        if count[0] % 100 == 1:
            target.load_state_dict(net.state_dict())
        return torch.cat([seen, right[:, None].float()], 1), worth

    def loss(xy: Batch) -> Tensor:
        values = net(xy[0][:, :4]).gather(1, xy[0][:, 4:].long())[:, 0]
        return functional.smooth_l1_loss(values, xy[1])

    player = Player(net, optimizer_of(v.optimizer or "adam", list(net.parameters()), 1e-3 * v.rate), loss)
    return Task(
        [player], batch, clip=v.clip, dense=False,
        healthy=lambda losses: mean(world.lived[-20:]) > 1.5 * mean(world.lived[:20]),
    )  # fmt: skip


# ------------------------------------------ tasks that were reported on once, and are seen since then


def gru_adding(v: Variant) -> Task:
    """Hochreiter and Schmidhuber 1997: the sum of two marked numbers of a sequence."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(2, 32, batch_first=True), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0][:, -1])[:, 0]

    def draw(size: int) -> Batch:
        numbers, marks = torch.rand(size, 25), torch.zeros(size, 25)
        marks[torch.arange(size), torch.randint(0, 12, (size,))] = 1
        marks[torch.arange(size), torch.randint(12, 25, (size,))] = 1
        return torch.stack([numbers, marks], 2), (numbers * marks).sum(1)

    return supervised(Last(), functional.mse_loss, draw, v, optimizer="adam", rate=2e-3, size=20)


def vit_digits(v: Variant) -> Task:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Linear(4, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.lift(x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4))

    model = Transformer(Patches(), 16, 32, 10, causal=False)
    return supervised(
        model, functional.cross_entropy, rows(*digits()), v, optimizer="adamw", rate=1e-3, size=16, labels=10
    )


def resnet_digits(v: Variant) -> Task:
    class Residual(nn.Module):
        def __init__(self, wide: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)
            self.conv2, self.norm2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))))

    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1), Residual(12), nn.MaxPool2d(2), Residual(12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    return supervised(
        model, functional.cross_entropy, rows(*digits()), v, optimizer="momentum", rate=0.02, size=16, labels=10
    )


def gan_ring(v: Variant) -> Task:
    """Eight Gaussians on a ring (Metz et al. 2017), with the losses of Goodfellow et al. 2014."""
    make, judge = mlp(8, 48, 48, 2), mlp(2, 48, 48, 1)

    def real(size: int = 64) -> Tensor:
        turn = torch.randint(0, 8, (size,)) * math.pi / 4
        return torch.stack([turn.cos(), turn.sin()], 1) + 0.05 * torch.randn(size, 2)

    def judged(xy: Batch) -> Tensor:
        fake = make(xy[1]).detach()
        return functional.softplus(-judge(xy[0])).mean() + functional.softplus(judge(fake)).mean()

    def made(xy: Batch) -> Tensor:
        return functional.softplus(-judge(make(xy[1]))).mean()

    def covers(losses: list[float]) -> bool:
        with torch.no_grad():
            x = make(torch.randn(500, 8))
        return bool(((x.norm(dim=1) - 1).abs() < 0.4).float().mean() > 0.6)

    name, rate = v.optimizer or "adam", 1e-3 * v.rate
    players = [
        Player(judge, optimizer_of(name, list(judge.parameters()), rate), judged),
        Player(make, optimizer_of(name, list(make.parameters()), rate), made),
    ]
    return Task(players, lambda done: (real(), torch.randn(64, 8)), clip=v.clip, healthy=covers)


def actor_critic(v: Variant) -> Task:
    """Advantage actor-critic on CartPole, eight poles, five steps at a time (Mnih et al. 2016)."""
    net, world = mlp(4, 48, 48, 3, activation=nn.Tanh), CartPole(8)

    def batch(done: float) -> Batch:
        seen, chose, rewards, overs = [], [], [], []
        with torch.no_grad():
            for _ in range(5):
                state = world.state
                right = (torch.rand(8) < net(state)[:, :2].softmax(1)[:, 1]).long()
                reward, over = world.act(right)
                seen.append(state)
                chose.append(right)
                rewards.append(reward)
                overs.append(over)
            worth = net(world.state)[:, 2]
            worths = []
            for reward, over in zip(reversed(rewards), reversed(overs), strict=True):
                worth = 0.1 * reward + 0.98 * worth * ~over
                worths.append(worth)
        return torch.cat([torch.cat(seen), torch.cat(chose)[:, None].float()], 1), torch.cat(worths[::-1])

    def loss(xy: Batch) -> Tensor:
        out, chose = net(xy[0][:, :4]), xy[0][:, 4].long()
        log = out[:, :2].log_softmax(1)
        better = (xy[1] - out[:, 2]).detach()
        policy = -(log.gather(1, chose[:, None])[:, 0] * better).mean()
        return policy + 0.5 * functional.mse_loss(out[:, 2], xy[1]) + 0.01 * (log.exp() * log).sum(1).mean()

    player = Player(net, optimizer_of(v.optimizer or "rmsprop", list(net.parameters()), 1e-3 * v.rate), loss)
    return Task(
        [player], batch, clip=v.clip, dense=False,
        healthy=lambda losses: mean(world.lived[-30:]) > 2 * mean(world.lived[:30]),
    )  # fmt: skip


def vae(v: Variant) -> Task:
    """Kingma and Welling 2014 with a KL weight that grows: a curriculum."""

    class Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = mlp(64, 48, 16), mlp(8, 48, 64)
            self.weight = 0.0

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            middle, log_var = self.encode(x).chunk(2, 1)
            code = middle + torch.randn_like(middle) * (0.5 * log_var).exp()
            divergence = -0.5 * (1 + log_var - middle**2 - log_var.exp()).sum(1).mean()
            return self.decode(code), divergence

    model, (x, _) = Vae(), digits()
    draw = rows(x, x)

    def loss(xy: Batch) -> Tensor:
        again, divergence = model(xy[0])
        return functional.mse_loss(again, xy[1], reduction="none").sum(1).mean() + model.weight * divergence

    def batch(done: float) -> Batch:
        model.weight = min(0.1, 0.3 * done)
        return draw(32)

    player = Player(model, optimizer_of(v.optimizer or "adam", list(model.parameters()), 1e-3 * v.rate), loss)
    return Task([player], batch, clip=v.clip)


def circles(v: Variant) -> Task:
    x, y = datasets.make_circles(400, noise=0.05, factor=0.5, random_state=0)
    draw = rows(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    model = mlp(2, 24, 24, 2, activation=nn.Sigmoid)
    return supervised(model, functional.cross_entropy, draw, v, optimizer="momentum", rate=0.3, size=16, labels=2)


def sparse_tags(v: Variant) -> Task:
    """Bags of words with rare tags: most labels are 0, and most rows of the embedding get no gradient."""
    words, tags = 400, 40
    theme = torch.randn(tags, 400).topk(8).indices

    def draw(size: int) -> Batch:
        rank = torch.rand(size, 1) ** 3  # common tags and rare ones
        tag = (rank * tags).long()
        bag = theme[tag[:, 0]][:, :6]
        noise = torch.randint(0, words, (size, 6))
        return torch.cat([bag, noise], 1), functional.one_hot(tag[:, 0], tags).float()

    model = nn.Sequential(nn.EmbeddingBag(words, 24), nn.Linear(24, tags))
    return supervised(
        model, functional.binary_cross_entropy_with_logits, draw, v, optimizer="adam", rate=3e-3, size=16, dense=False
    )


def forecast(v: Variant) -> Task:
    """The next value of a noisy sum of waves with jumps."""

    class Next(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0])

    time = torch.arange(3000.0)
    jumps = (torch.rand(3000) < 0.01) * 3 * torch.randn(3000)
    series = (torch.sin(time / 7) + 0.5 * torch.sin(time / 23) + 0.1 * torch.randn(3000) + jumps)[:, None]

    def draw(size: int) -> Batch:
        places = torch.randint(2970, (size, 1)) + torch.arange(24)
        return series[places], series[places + 1]

    return supervised(Next(), functional.mse_loss, draw, v, optimizer="adam", rate=3e-3, size=12)


def reverse_curriculum(v: Variant) -> Task:
    """A transformer that reverses a sequence. The sequences get longer during training."""
    model = Transformer(nn.Embedding(12, 32), 21, 32, 12)

    def batch(done: float) -> Batch:
        length = 3 + min(7, int(10 * done))
        x = torch.randint(2, 12, (12, length))
        line = torch.cat([x, torch.zeros(12, 1, dtype=torch.long), x.flip(1)], 1)
        targets = line[:, 1:].clone()
        targets[:, :length] = -100
        return line[:, :-1], targets

    player = Player(
        model,
        optimizer_of(v.optimizer or "adamw", list(model.parameters()), 2e-3 * v.rate),
        lambda xy: token_loss(model(xy[0]), xy[1]),
    )
    return Task([player], batch, clip=v.clip, dense=False, labels=12)


def contrastive(v: Variant) -> Task:
    """InfoNCE (van den Oord et al. 2018) between two noisy views of a digit."""
    model, (x, _) = mlp(64, 64, 64, 16, norm=True), digits()

    def draw(size: int) -> Batch:
        chosen = x[torch.randint(len(x), (size,))]
        return chosen + 0.2 * torch.randn_like(chosen), chosen + 0.2 * torch.randn_like(chosen)

    def loss(xy: Batch) -> Tensor:
        one, other = (functional.normalize(model(view), dim=1) for view in xy)
        return functional.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))

    player = Player(model, optimizer_of(v.optimizer or "adam", list(model.parameters()), 1e-3 * v.rate), loss)
    doubled = v.double_batch_at
    return Task([player], lambda done: draw(64 if doubled is not None and done >= doubled else 32), clip=v.clip)


def diabetes(v: Variant) -> Task:
    """Mean and variance of a real, noisy target."""
    data = datasets.load_diabetes()
    x = torch.tensor(data.data * 20, dtype=torch.float32)
    y = torch.tensor((data.target - data.target.mean()) / data.target.std(), dtype=torch.float32)
    model = mlp(10, 32, 32, 2)

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return functional.gaussian_nll_loss(out[:, 0], target, functional.softplus(out[:, 1]) + 1e-2)

    return supervised(
        model, loss, rows(x, y), v, optimizer="momentum", rate=2e-3, size=16,
        healthy=lambda losses: mean(losses[-100:]) < mean(losses[:20]) - 0.1,
    )  # fmt: skip


def word_rnn(v: Variant) -> Task:
    words = inspect.getsource(asyncio.base_events).split()
    common = {word: i + 1 for i, word in enumerate(sorted(set(words), key=words.count, reverse=True)[:299])}
    stream = torch.tensor([common.get(word, 0) for word in words])
    model = Recurrent(nn.GRU, 300, 40)
    return supervised(
        model, token_loss, windows(stream, 16), v, optimizer="momentum", rate=0.1, size=12, dense=False, labels=300
    )


# ----------------------------------------- tasks of the second report, which are seen since then too


def mixture_density(v: Variant) -> Task:
    """Bishop 1994: an inverse problem with several answers; the loss is a likelihood and may be negative."""
    model = mlp(1, 40, 40, 15, activation=nn.Tanh)

    def draw(size: int) -> Batch:
        y = torch.rand(size, 1) * 2 - 1
        return y + 0.3 * torch.sin(2 * math.pi * y) + 0.05 * torch.randn(size, 1), y

    def loss(out: Tensor, y: Tensor) -> Tensor:
        weights, middle, log_scale = out.chunk(3, 1)
        scale = functional.softplus(log_scale) + 1e-2
        logs = weights.log_softmax(1) - 0.5 * ((y - middle) / scale) ** 2 - scale.log()
        return -logs.logsumexp(1).mean()

    return supervised(
        model, loss, draw, v, optimizer="adam", rate=2e-3, size=64,
        healthy=lambda losses: mean(losses[-100:]) < mean(losses[:20]) - 0.3,
    )  # fmt: skip


def wine(v: Variant) -> Task:
    data = datasets.load_wine()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    draw = rows(torch.tensor(x, dtype=torch.float32), torch.tensor(data.target))
    return supervised(model, functional.cross_entropy, draw, v, optimizer="momentum", rate=0.01, size=16, labels=3)


def sort_gru(v: Variant) -> Task:
    """Read six numbers, then write them in order."""

    class Sorter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.read = nn.Embedding(10, 24), nn.GRU(24, 40, batch_first=True)
            self.write, self.out = nn.GRU(40, 40, batch_first=True), nn.Linear(40, 10)

        def forward(self, x: Tensor) -> Tensor:
            last = self.read(self.embed(x))[0][:, -1:]
            return self.out(self.write(last.expand(-1, x.shape[1], -1))[0])

    def draw(size: int) -> Batch:
        x = torch.randint(0, 10, (size, 6))
        return x, x.sort(1).values

    return supervised(Sorter(), token_loss, draw, v, optimizer="adam", rate=3e-3, size=24, dense=False, labels=10)


def conv_text(v: Variant) -> Task:
    """Classify lines of 40 characters by the module of the standard library that they come from."""
    streams = [text(module) for module in (textwrap, csv, json.decoder, inspect)]

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(128, 16)
            self.layers = nn.Sequential(
                nn.Conv1d(16, 32, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(32, 32, 3), nn.ReLU()
            )
            self.out = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layers(self.embed(x).transpose(1, 2)).amax(2))

    def draw(size: int) -> Batch:
        which = torch.randint(0, 4, (size,))
        lines = [(s := streams[i])[(at := int(torch.randint(len(s) - 40, ()))) : at + 40] for i in which.tolist()]
        return torch.stack(lines), which

    return supervised(
        Convolutions(), functional.cross_entropy, draw, v, optimizer="adamw", rate=2e-3, size=16, dense=False, labels=4
    )


def reinforce(v: Variant) -> Task:
    """REINFORCE (Williams 1992): eight walkers look for a door in a 5 x 5 room. Whole episodes, returns not scaled."""
    net = mlp(4, 32, 32, 4)
    moves = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
    lengths: list[float] = []

    def batch(done: float) -> Batch:
        place, door = torch.randint(0, 5, (8, 2)), torch.randint(0, 5, (8, 2))
        seen, chosen, alive = [], [], []
        walking = (place != door).any(1)
        for _ in range(15):
            view = torch.cat([place, door], 1).float() / 4
            with torch.no_grad():
                move = torch.multinomial(net(view).softmax(1).nan_to_num(0.25), 1)[:, 0]
            seen.append(view)
            chosen.append(move)
            alive.append(walking)
            place = torch.where(walking[:, None], (place + moves[move]).clamp(0, 4), place)
            walking = walking & (place != door).any(1)
        length = torch.stack(alive).float().sum(0)
        lengths.append(float(length.mean()))
        worth = (-length / 15).repeat(15, 1) * torch.stack(alive)
        return torch.cat([torch.cat(seen), torch.cat(chosen)[:, None].float()], 1), worth.flatten()

    def loss(xy: Batch) -> Tensor:
        log = net(xy[0][:, :4]).log_softmax(1)
        steps = (xy[1] != 0).float()
        better = (xy[1] - xy[1].sum() / steps.sum().clamp(min=1)) * steps
        picked = log.gather(1, xy[0][:, 4:].long())[:, 0]
        return -(picked * better).sum() / 8 + 0.01 * (log.exp() * log).sum(1).mean()

    player = Player(net, optimizer_of(v.optimizer or "adam", list(net.parameters()), 3e-3 * v.rate), loss)
    return Task(
        [player], batch, clip=v.clip, dense=False,
        healthy=lambda losses: mean(lengths[-100:]) < 0.8 * mean(lengths[:50]),
    )  # fmt: skip


def hinge_gan(v: Variant) -> Task:
    """Two moons made from noise, with the hinge losses of Lim and Ye 2017."""
    points = torch.tensor(datasets.make_moons(2000, noise=0.05, random_state=0)[0], dtype=torch.float32)
    make, judge = mlp(4, 32, 32, 2, activation=nn.SiLU), mlp(2, 32, 32, 1, activation=nn.SiLU)

    def judged(xy: Batch) -> Tensor:
        return functional.relu(1 - judge(xy[0])).mean() + functional.relu(1 + judge(make(xy[1]).detach())).mean()

    def made(xy: Batch) -> Tensor:
        return -judge(make(xy[1])).mean()

    def near(losses: list[float]) -> bool:
        with torch.no_grad():
            x = make(torch.randn(300, 4))
        return bool(torch.cdist(x, points).amin(1).median() < 0.25)

    name, rate = v.optimizer or "adam", 1e-3 * v.rate
    players = [
        Player(judge, optimizer_of(name, list(judge.parameters()), rate), judged),
        Player(make, optimizer_of(name, list(make.parameters()), rate), made),
    ]
    return Task(
        players, lambda done: (points[torch.randint(2000, (48,))], torch.randn(48, 4)), clip=v.clip, healthy=near
    )


def triplet(v: Variant) -> Task:
    """Triplets of digits with a margin: more and more of them cost nothing, and some batches at last nothing at all."""
    (x, y), model = digits(), mlp(64, 64, 32)
    of_class = [torch.nonzero(y == c)[:, 0] for c in range(10)]

    def draw(size: int) -> Batch:
        one, other = torch.randint(0, 10, (2, size))
        other = torch.where(other == one, (other + 1) % 10, other)

        def some(classes: Tensor) -> Tensor:
            return torch.stack([x[of_class[c][int(torch.randint(len(of_class[c]), ()))]] for c in classes.tolist()])

        return torch.stack([some(one), some(one)]), some(other)

    def loss(xy: Batch) -> Tensor:
        return functional.triplet_margin_loss(model(xy[0][0]), model(xy[0][1]), model(xy[1]), margin=0.5)

    doubled = v.double_batch_at
    player = Player(model, optimizer_of(v.optimizer or "adam", list(model.parameters()), 1e-3 * v.rate), loss)
    return Task([player], lambda done: draw(24 if doubled is not None and done >= doubled else 12), clip=v.clip)


def masked_lm(v: Variant) -> Task:
    """Guess the hidden characters of a window of text."""
    model = Transformer(nn.Embedding(128, 32), 24, 32, 128, causal=False)
    model.pooled = False
    window = windows(text(inspect), 24)

    def draw(size: int) -> Batch:
        x, _ = window(size)
        hidden = torch.rand(x.shape) < 0.2
        return torch.where(hidden, 0, x), torch.where(hidden, x, -100)

    return supervised(model, token_loss, draw, v, optimizer="adamw", rate=2e-3, size=10, dense=False, labels=128)


def poisson(v: Variant) -> Task:
    """Counts whose mean is the exponential of what is predicted: rare large counts pull hard."""
    direction = torch.randn(8)
    model = mlp(8, 24, 1)

    def draw(size: int) -> Batch:
        x = torch.randn(size, 8)
        return x, torch.poisson((0.4 * x @ direction).clamp(max=4).exp())[:, None]

    return supervised(
        model, functional.poisson_nll_loss, draw, v, optimizer="sgd", rate=5e-3, size=32,
        healthy=lambda losses: mean(losses[-100:]) < mean(losses[:20]) - 0.1,
    )  # fmt: skip


def flow(v: Variant) -> Task:
    """RealNVP (Dinh et al. 2017) of two moons."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(mlp(1, 24, 24, 2) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            volume = torch.zeros(len(x))
            for i, net in enumerate(self.nets):
                kept, moved = (x[:, :1], x[:, 1:]) if i % 2 else (x[:, 1:], x[:, :1])
                scale, shift = net(kept).chunk(2, 1)
                moved, volume = moved * scale.tanh().exp() + shift, volume + scale.tanh()[:, 0]
                x = torch.cat([kept, moved] if i % 2 else [moved, kept], 1)
            return 0.5 * (x**2).sum(1) - volume

    points = torch.tensor(datasets.make_moons(2000, noise=0.05, random_state=0)[0], dtype=torch.float32)
    return supervised(
        Flow(), lambda out, _: out.mean(), rows(points, points), v, optimizer="adam", rate=2e-3, size=48,
        healthy=lambda losses: mean(losses[-100:]) < mean(losses[:20]) - 0.2,
    )  # fmt: skip


def distil(v: Variant) -> Task:
    """A small net learns the soft answers of a larger one (Hinton et al. 2015)."""
    (x, y), teacher, model = digits(), mlp(64, 96, 10), mlp(64, 24, 10)
    learner = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    for _ in range(100):
        learner.zero_grad()
        functional.cross_entropy(teacher(x), y).backward()
        learner.step()
    with torch.no_grad():
        soft = (teacher(x) / 3).softmax(1)

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return 9 * functional.kl_div((out / 3).log_softmax(1), target, reduction="batchmean")

    return supervised(model, loss, rows(x, soft), v, optimizer="momentum", rate=0.01, size=24)


def counting_curriculum(v: Variant) -> Task:
    """An LSTM counts ones modulo three; the sequences grow by one symbol at a time."""

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0])

    model = Counter()

    def batch(done: float) -> Batch:
        ones = torch.randint(0, 2, (16, 4 + int(12 * done), 1))
        return ones.float(), ones[:, :, 0].cumsum(1) % 3

    player = Player(
        model,
        optimizer_of(v.optimizer or "adam", list(model.parameters()), 3e-3 * v.rate),
        lambda xy: token_loss(model(xy[0]), xy[1]),
    )
    return Task([player], batch, clip=v.clip, labels=3)


# ----------------------------------------------------------------------------- tasks to report on


def iris_hinge(v: Variant) -> Task:
    """A margin loss on real data: batches that cost nothing have no gradient at all."""
    data = datasets.load_iris()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    draw = rows(torch.tensor(x, dtype=torch.float32), torch.tensor(data.target))
    model = mlp(4, 24, 3, activation=nn.Tanh)
    return supervised(model, functional.multi_margin_loss, draw, v, optimizer="sgd", rate=0.1, size=16, labels=3)


def denoise(v: Variant) -> Task:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.LeakyReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Flatten(),
    )  # fmt: skip
    x, _ = digits()

    def draw(size: int) -> Batch:
        clean = x[torch.randint(len(x), (size,))]
        return clean + 0.3 * torch.randn_like(clean), clean

    return supervised(model, functional.l1_loss, draw, v, optimizer="adam", rate=2e-3, size=16)


def ngram(v: Variant) -> Task:
    """Bengio et al. 2003: the next character from the eight before it."""

    class Ngram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden, self.out = nn.Embedding(128, 12), nn.Linear(96, 64), nn.Linear(64, 128)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.hidden(self.embed(x).flatten(1)).tanh())

    stream = text(argparse)

    def draw(size: int) -> Batch:
        places = torch.randint(len(stream) - 9, (size, 1)) + torch.arange(9)
        return stream[places[:, :8]], stream[places[:, 8]]

    return supervised(
        Ngram(), functional.cross_entropy, draw, v, optimizer="momentum", rate=0.05, size=48, dense=False, labels=128
    )


def deep_sets(v: Variant) -> Task:
    """Zaheer et al. 2017: the spread of a set of numbers."""

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = mlp(1, 32, 32), mlp(32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.all(self.each(x[..., None]).mean(1))[:, 0]

    def draw(size: int) -> Batch:
        x = torch.randn(size, 12) * (2 * torch.rand(size, 1))
        return x, x.std(1)

    return supervised(Sets(), functional.huber_loss, draw, v, optimizer="adam", rate=2e-3, size=32)


def graph(v: Variant) -> Task:
    """Kipf and Welling 2017 on a random graph of four communities, all nodes at every step, with dropout."""
    community = torch.arange(120) % 4
    edge = torch.rand(120, 120) < torch.where(community[:, None] == community, 0.15, 0.02)
    adjacency = (edge | edge.T | torch.eye(120, dtype=torch.bool)).float()
    degree = adjacency.sum(1).rsqrt()
    mixing = degree[:, None] * adjacency * degree

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.drop = nn.Linear(16, 24), nn.Linear(24, 4), nn.Dropout(0.4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(mixing @ self.drop(self.first(mixing @ x).relu()))

    features = functional.one_hot(community, 16).float() + 2 * torch.randn(120, 16)
    return supervised(
        Graph(), functional.cross_entropy, lambda size: (features, community), v, optimizer="adam", rate=5e-3, size=120,
        labels=4,
    )  # fmt: skip


def differential_equation(v: Variant) -> Task:
    """Raissi et al. 2019: u'' = -u with u(0) = 0 and u'(0) = 1, through a second backward."""
    model = mlp(1, 32, 32, 1, activation=nn.Tanh)

    def loss(xy: Batch) -> Tensor:
        x = xy[0].clone().requires_grad_()
        u = model(x)
        first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
        return ((second + u) ** 2).mean() + u[0, 0] ** 2 + (first[0, 0] - 1) ** 2

    def batch(done: float) -> Batch:
        x = torch.cat([torch.zeros(1, 1), 4 * torch.rand(63, 1)])
        return x, x

    player = Player(model, optimizer_of(v.optimizer or "adam", list(model.parameters()), 2e-3 * v.rate), loss)
    return Task([player], batch, clip=v.clip, dense=False)


def in_context(v: Variant) -> Task:
    """Garg et al. 2022: a transformer reads pairs of another linear function each time and goes on."""
    model = Transformer(nn.Linear(4, 32), 10, 32, 1)

    def draw(size: int) -> Batch:
        x, w = torch.randn(size, 10, 3), torch.randn(size, 3, 1)
        y = x @ w
        before = torch.cat([torch.zeros(size, 1, 1), y[:, :-1]], 1)
        return torch.cat([x, before], 2), y

    return supervised(
        model, functional.mse_loss, draw, v, optimizer="adamw", rate=1e-3, size=24,
        healthy=lambda losses: mean(losses[-100:]) < 0.95 * mean(losses[:20]),
    )  # fmt: skip


def quantile(v: Variant) -> Task:
    """The ninetieth percentile of a real target."""
    data = datasets.load_diabetes()
    x = torch.tensor(data.data * 20, dtype=torch.float32)
    y = torch.tensor((data.target - data.target.mean()) / data.target.std(), dtype=torch.float32)

    def loss(out: Tensor, target: Tensor) -> Tensor:
        error = target - out[:, 0]
        return torch.maximum(0.9 * error, -0.1 * error).mean()

    return supervised(mlp(10, 24, 1), loss, rows(x, y), v, optimizer="momentum", rate=5e-3, size=16)


def same_digit(v: Variant) -> Task:
    """Whether two images show the same digit; few pairs do."""
    (x, y), body, head = digits(), mlp(64, 48, 24), nn.Linear(24, 1)
    model = nn.ModuleDict({"body": body, "head": head})

    def loss(xy: Batch) -> Tensor:
        one, other = body(xy[0][:, :64]), body(xy[0][:, 64:])
        return functional.binary_cross_entropy_with_logits(head((one - other).abs())[:, 0], xy[1])

    def batch(done: float) -> Batch:
        size = 48 if v.double_batch_at is not None and done >= v.double_batch_at else 24
        one, other = torch.randint(len(x), (2, size))
        return torch.cat([x[one], x[other]], 1), (y[one] == y[other]).float()

    player = Player(model, optimizer_of(v.optimizer or "rmsprop", list(model.parameters()), 5e-4 * v.rate), loss)
    return Task([player], batch, clip=v.clip)


def temporal_difference(v: Variant) -> Task:
    """TD(0) of a random walk (Sutton 1988) with its own guesses as targets."""
    model = mlp(1, 32, 32, 1, activation=nn.Tanh)

    def batch(done: float) -> Batch:
        place = torch.randint(1, 20, (16, 1)).float()
        then = place + torch.where(torch.rand(16, 1) < 0.5, 1.0, -1.0)
        with torch.no_grad():
            guess = model(then / 10 - 1)
        worth = torch.where(then == 20, 1.0, torch.where(then == 0, 0.0, guess))
        return place / 10 - 1, worth

    player = Player(
        model,
        optimizer_of(v.optimizer or "sgd", list(model.parameters()), 0.1 * v.rate),
        lambda xy: functional.mse_loss(model(xy[0]), xy[1]),
    )

    def learnt(losses: list[float]) -> bool:
        with torch.no_grad():
            guess = model(torch.arange(1.0, 20.0)[:, None] / 10 - 1)[:, 0]
        return bool((guess - torch.arange(1, 20) / 20).abs().mean() < 0.2)

    return Task([player], batch, clip=v.clip, dense=False, healthy=learnt)


TUNE = {
    "char-rnn": char_rnn,
    "char-lstm": char_lstm,
    "transformer-lm": transformer_lm,
    "mlp-digits": mlp_digits,
    "cnn-digits": cnn_digits,
    "autoencoder": autoencoder,
    "sine": sine,
    "temporal-order": temporal_order,
    "blobs": blobs,
    "cancer": cancer,
    "dqn": dqn,
}
SEEN = {
    "gru-adding": gru_adding,
    "vit-digits": vit_digits,
    "resnet-digits": resnet_digits,
    "gan-ring": gan_ring,
    "actor-critic": actor_critic,
    "vae": vae,
    "circles": circles,
    "sparse-tags": sparse_tags,
    "forecast": forecast,
    "reverse-curriculum": reverse_curriculum,
    "contrastive": contrastive,
    "diabetes": diabetes,
    "word-rnn": word_rnn,
    "mixture-density": mixture_density,
    "wine": wine,
    "sort-gru": sort_gru,
    "conv-text": conv_text,
    "reinforce": reinforce,
    "hinge-gan": hinge_gan,
    "triplet": triplet,
    "masked-lm": masked_lm,
    "poisson": poisson,
    "flow": flow,
    "distil": distil,
    "counting-curriculum": counting_curriculum,
}
REPORT = {
    "iris-hinge": iris_hinge,
    "denoise": denoise,
    "ngram": ngram,
    "deep-sets": deep_sets,
    "graph": graph,
    "differential-equation": differential_equation,
    "in-context": in_context,
    "quantile": quantile,
    "same-digit": same_digit,
    "temporal-difference": temporal_difference,
}
