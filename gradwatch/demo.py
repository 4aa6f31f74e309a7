"""The training of `gradwatch demo`: a recurrent network that explodes unless it is clipped.

The task is the adding problem (Hochreiter and Schmidhuber, "Long short-term memory", Neural
Computation 9(8), 1997, section 5.4): two of 50 random numbers are marked, and the network outputs
their sum after the last. A tanh RNN with 50 units learns the task by SGD. As it learns to remember
over 50 steps, its gradient grows, and without clipping one step goes too far and ends the training.

Nothing is staged: of seeds 0 to 5, five exploded within 8,000 steps, at steps 3,857 to 5,476. The
step depends on the seed, the processor and its number of threads, so a seed may survive; the demo
then tries the next, up to `SEEDS` of them.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gradwatch.recording.attach import attach

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
        self.rnn = nn.RNN(2, UNITS)  # time first, which takes a third less time than batch first
        self.out = nn.Linear(UNITS, 1)
        nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))

    def forward(self, sequence: Tensor) -> Tensor:
        """The answers (batch,) to sequences (batch, length, 2)."""
        _, last = self.rnn(sequence.transpose(0, 1))
        answer: Tensor = self.out(last[0])
        return answer.squeeze(1)


def adding_problem(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw sequences (batch, length, 2) of numbers and marks, and the sum (batch,) of the two marked numbers.

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
    """Train and record until the loss is no longer finite; return the number of steps.

    The training uses one thread: its tensors are so small that more threads only wait for each other.

    Args:
        run: the folder to record into.
        max_norm: clip by norm at this threshold; None does not clip.
        steps: optimizer steps of the whole training.
        seed: of the weights and the data.
        on_step: called after each step with its number and its loss.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Adder()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    with _one_thread(), attach(model, optimizer, run) as watch:
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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
