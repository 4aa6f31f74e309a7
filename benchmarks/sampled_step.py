"""Measure the processor time that sampling the weights adds to a step, by the compiled pass and by PyTorch's operators.

    python benchmarks/sampled_step.py [--models 150,1000,gpt] [--steps 12] | tee benchmarks/sampled_step.txt

Each step samples and counts the entries of the gradients by magnitude; by default one step in 50 does the former, and
one in 100 the latter. The two ways take turns in one process and one thread. A number is the median of its part over
the steps, with the quarters. "before" is what precedes the step: the norms of the weights, and the copy of a sample.
"after" is the comparison with the weights after it. Gradients are random, which makes no difference to what is read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from overhead import MODELS
from torch import nn

from gradwatch.measure import magnitudes, measure
from gradwatch.recording import alignment
from gradwatch.recording.weight_sampler import WeightSampler

SQUARES = {"150": 150, "1000": 1000}
"""Models of matrices of 64 x 64, by name; the others are those of overhead.py."""


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name not in SQUARES:
        return MODELS[name].make()
    return nn.ParameterList([nn.Parameter(torch.randn(64, 64)) for _ in range(SQUARES[name])])


def timed(taken: list[float], work: Callable[..., Any], *given: Any) -> Any:
    began = time.thread_time()
    found = work(*given)
    taken.append(1e3 * (time.thread_time() - began))
    return found


def take_turns(name: str, steps: int) -> tuple[list[nn.Parameter], dict[tuple[str, str], list[float]]]:
    """The milliseconds of each part at each step, by way and part."""
    parameters = list(model(name).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    sampler = WeightSampler(every=1)
    for step in range(2 * steps + 4):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        way = ("compiled", "operators")[step % 2]
        is_compiled = way == "compiled"
        with (
            mock.patch.object(alignment, "compares_steps", lambda answer=is_compiled: answer),
            mock.patch.object(magnitudes, "counts_magnitudes", lambda answer=is_compiled: answer),
        ):
            own = found if step >= 4 else defaultdict(list)  # the first steps warm up
            gradients = [parameter.grad for parameter in parameters]
            measured = measure(gradients)
            timed(own[way, "magnitudes"], sampler.magnitudes, 0, measured, gradients, None)
            sample = timed(own[way, "before"], sampler.before, 0, None, parameters, optimizer)
            optimizer.step()
            timed(own[way, "after"], sampler.after, sample, parameters, optimizer)
    return parameters, found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="150,1000,gpt")
    parser.add_argument("--steps", type=int, default=12, help="of each way")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, load {os.getloadavg()[0]:.0f}; milliseconds")
    for name in given.models.split(","):
        parameters, found = take_turns(name, given.steps)
        print(f"\n{name}: {len(parameters)} tensors, {sum(p.numel() for p in parameters) / 1e6:.1f} M entries")
        for way in ("operators", "compiled"):
            cells = []
            for part in ("before", "after", "magnitudes"):
                low, middle, high = statistics.quantiles(found[way, part], n=4)
                cells.append(f"{part} {middle:6.2f} ({low:.2f} to {high:.2f})")
            print(f"  {way:<10}{'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
