"""The demonstration: a recurrent network that explodes, and the same with the advice taken.

The task is the adding problem (Hochreiter, Schmidhuber 1997): of 50 random numbers two are marked,
and the network is to say their sum after the last. A tanh RNN with 50 units learns it by SGD. As
it begins to remember over 50 steps its gradient grows, and without clipping one step too far ends
it. Nothing is arranged: of seeds 0 to 5 five exploded within 8,000 steps, at steps 3,857 to 5,476
(the seed, the processor and its number of threads all move the step). So that the demonstration has
something to show, a seed that does not explode is followed by the next, up to `SEEDS` of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradwatch.recording.watch import attach

STEPS = 8000
SEEDS = 3
LENGTH = 50
LEARNING_RATE = 0.07
BATCH = 20
UNITS = 50


class Adder(nn.Module):
    """A tanh RNN with a linear output; the recurrent weights start orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, UNITS, batch_first=True)
        self.out = nn.Linear(UNITS, 1)
        nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))

    def forward(self, sequence: Tensor) -> Tensor:
        states, _ = self.rnn(sequence)
        answer: Tensor = self.out(states[:, -1])
        return answer.squeeze(1)


def adding_problem(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (batch, length, 2) of a number and a mark, and the sum of the two marked numbers.

    >>> x, y = adding_problem(3, 10, torch.Generator().manual_seed(0))
    >>> x.shape, bool(torch.allclose((x[..., 0] * x[..., 1]).sum(1), y))
    (torch.Size([3, 10, 2]), True)
    """
    numbers = torch.rand(batch, length, generator=generator)
    marks = torch.zeros(batch, length)
    rows = torch.arange(batch)
    marks[rows, torch.randint(0, length // 2, (batch,), generator=generator)] = 1
    marks[rows, torch.randint(length // 2, length, (batch,), generator=generator)] = 1
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(1)


def train(
    run: str | os.PathLike[str],
    *,
    max_norm: float | None = None,
    steps: int = STEPS,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> int:
    """Train and record; stop where the loss is no longer finite. Return the number of steps made."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Adder()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    with attach(model, optimizer, run) as watch:
        for step in range(steps):
            inputs, target = adding_problem(BATCH, LENGTH, generator)
            loss = nn.functional.mse_loss(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            watch.log(loss=loss)
            if on_step is not None:
                on_step(step, loss.item())
            if not math.isfinite(loss.item()):
                return step + 1
    return steps
