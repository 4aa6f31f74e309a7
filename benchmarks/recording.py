"""What recording adds to a training step: ratios within one process, interleaved rounds, medians.

Three trainings of the same model take turns: with `clip_grad_norm_` alone, the same recorded, and
without clipping recorded. `python benchmarks/recording.py` prints the table of recording.txt.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

import gradwatch

ROUNDS, STEPS = 9, 20


class Many(nn.Module):
    """A thousand tensors of 4,096 elements, each used once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(64, 64) / 8) for _ in range(1000)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = torch.tanh(x @ part)
        return x


class Chars(nn.Module):
    """The LSTM of examples/char_rnn.py on random input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, num_layers=2, batch_first=True)
        self.out = nn.Linear(128, 96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0])


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1,000 tensors of 4k": (Many, (64, 64)),
    "LSTM, 10 tensors": (Chars, (32, 64, 32)),
    "MLP, 6 tensors": (small, (64, 64)),
}


def training(make: Callable[[], nn.Module], shape: tuple[int, ...], clip: bool, run: Path | None) -> Iterator[float]:
    """Train for ever; yield the seconds of each round of steps."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with nullcontext() if run is None else gradwatch.attach(model, optimizer, run):
        while True:
            start = time.perf_counter()
            for _ in range(STEPS):
                loss = model(torch.randn(shape)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            yield time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    print(f"{rounds} interleaved rounds of {STEPS} steps, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("median (smallest to largest) ratio to the same round of the step with clip_grad_norm_ alone\n")
    print(f"{'model':<22}{'ms a step':>10}  {'clipped, recorded':>24}  {'not clipped, recorded':>24}")
    for name, (make, shape) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                training(make, shape, True, None),
                training(make, shape, True, Path(folder) / "clipped"),
                training(make, shape, False, Path(folder) / "plain"),
            ]
            for run in runs:
                next(run)
            table = [[next(run) for run in runs] for _ in range(rounds)]
            for run in runs:
                run.close()
        base = statistics.median(row[0] for row in table) / STEPS * 1e3
        cells = [_ratios([row[column] / row[0] for row in table]) for column in (1, 2)]
        print(f"{name:<22}{base:>10.2f}  {cells[0]:>24}  {cells[1]:>24}")


def _ratios(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
