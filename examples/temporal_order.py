"""The experiment that made gradient clipping known, in small: does an RNN learn in which order A and B came?

    python examples/temporal_order.py                   # without and with clipping, a minute on 2 cores
    gradwatch compare runs/temporal-order-none runs/temporal-order-1

From Pascanu, Mikolov, Bengio 2013, section 4.1.1: two markers among distractors, a tanh RNN of 50 units, plain SGD at
learning rate 0.01. The training is too short for either network to learn everything. Without clipping the network
often stays at 75% wrong, as bad as guessing. benchmarks/temporal_order has the whole experiment, with every length
and seed and other ways to clip.
"""

import argparse
import math

import torch
from torch import nn

import gradwatch

SYMBOLS, CLASSES, UNITS, BATCH = 6, 4, 50, 20


class LastState(nn.Module):
    """An RNN whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(SYMBOLS, UNITS, batch_first=True)
        self.out = nn.Linear(UNITS, CLASSES)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                nn.init.zeros_(parameter) if "bias" in name else nn.init.normal_(parameter, std=0.01)
            # 15 connections a unit, scaled so that the state neither fades nor explodes.
            connected = torch.rand(UNITS, UNITS).argsort(1) < 15
            recurrent = torch.randn(UNITS, UNITS) * connected
            self.rnn.get_parameter("weight_hh_l0").copy_(recurrent * 0.95 / torch.linalg.eigvals(recurrent).abs().max())

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(nn.functional.one_hot(symbols, SYMBOLS).float())
        return self.out(states[:, -1])


def sequences(length: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences with A or B at two places among four distractors, and a class for each of AA, BA, AB, BB."""
    symbols = torch.randint(2, SYMBOLS, (count, length), generator=generator)
    tenth, rows = max(1, length // 10), torch.arange(count)
    first = tenth + torch.randint(tenth, (count,), generator=generator)
    second = length // 2 + torch.randint(tenth, (count,), generator=generator)
    marks = torch.randint(2, (count, 2), generator=generator)
    symbols[rows, first], symbols[rows, second] = marks[:, 0], marks[:, 1]
    return symbols, marks[:, 0] + 2 * marks[:, 1]


def train(max_norm: float, options: argparse.Namespace) -> float:
    """Train one network; return the share of 2,000 fresh sequences that it gets wrong."""
    torch.manual_seed(options.seed)
    model = LastState()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(options.seed)
    run = f"{options.runs}/temporal-order-{'none' if math.isinf(max_norm) else f'{max_norm:g}'}"
    clip = None if math.isinf(max_norm) else gradwatch.clip.NormClip(max_norm)
    with gradwatch.attach(model, optimizer, run, clip=clip):
        for _ in range(options.steps):
            symbols, labels = sequences(options.length, BATCH, generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(symbols), labels).backward()
            optimizer.step()
    symbols, labels = sequences(options.length, 2000, generator)
    with torch.no_grad():
        return float((model(symbols).argmax(1) != labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=35)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs")
    options = parser.parse_args()
    for max_norm in (math.inf, 1.0):
        wrong = train(max_norm, options)
        print(f"max_norm {max_norm:g}: {wrong:.1%} of fresh sequences wrong after {options.steps} updates")


if __name__ == "__main__":
    main()
