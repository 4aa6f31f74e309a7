"""Pascanu, Mikolov, Bengio 2013, figure 7: how often a tanh RNN learns the temporal-order task, by length.

    python benchmarks/temporal_order/experiment.py            # lengths 20 to 75, under two hours on two cores
    python benchmarks/temporal_order/experiment.py --short    # length 20, fewer updates, three minutes
    python benchmarks/temporal_order/experiment.py --print    # the table of the last run

Plain SGD, learning rate 0.01, batches of 20, tanh units, the authors' ``smart_tanh`` initialisation. All methods of
one seed start from the same weights and see the same sequences. Every 1,000 updates a network is tested; it has
learnt the task when it gets less than 1% of 10,000 fresh sequences wrong. A network is lost when its gradient is not
finite, except with SGD-C and SGD-CR: there the authors' code shrinks W by 2% of the learning rate instead
(`authors_rule`). Thresholds were fixed before the first run. 1.0 and 4 are the paper's, 15 is Mikolov's (per example,
as he trained), policies have their defaults, and 0.1 and 1 for entries were not tried beforehand.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from network import BATCH, NAMES, error_rate, initial, sequences, step
from torch import Tensor

from gradwatch.clip import AutoClip, ZClip

HERE = Path(__file__).parent
RATE, EVERY, FRESH, LEARNT = 0.01, 1_000, 10_000, 0.01
LENGTHS, CAP, SEEDS = (20, 35, 50, 75), 30_000, 10

Threshold = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """What a method does to the gradients."""

    name: str
    threshold: Callable[[], Threshold] | None = None  # of the total norm
    limit: float = math.inf  # of entries of the error at the hidden state
    clip_value: float = math.inf  # of entries of the gradients
    omega: float = 0.0
    authors_rule: bool = False


def fixed(max_norm: float) -> Callable[[], Threshold]:
    return lambda: lambda norm: torch.full_like(norm, max_norm)


METHODS = (
    Method("SGD"),
    Method("SGD-C, norm 1", fixed(1.0), authors_rule=True),
    Method("SGD-CR, norm 1, regulariser 4", fixed(1.0), omega=4.0, authors_rule=True),
    Method("value 0.1", clip_value=0.1),
    Method("hidden state 15", limit=15.0),
    Method("hidden state 1", limit=1.0),
    Method("AutoClip, percentile 10", lambda: AutoClip(10).threshold),
    Method("AutoClip, percentile 90", lambda: AutoClip(90).threshold),
    Method("ZClip", lambda: ZClip().threshold),
)


@dataclass
class Outcome:
    """One network: when it learnt the task, when it was lost, and its last error rate."""

    method: str
    length: int
    seed: int
    learnt_at: int | None = None
    lost_at: int | None = None
    updates: int = 0
    error: float = 1.0
    clipped: int = 0  # updates, or for hidden states those in which an error was cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--cap", type=int, default=CAP)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.short:
        args.lengths, args.cap, args.results = (20,), 5_000, HERE / "short.json"
    if not args.print:
        for length in args.lengths:
            keep(args.results, train(length, args.cap, args.seeds), args.cap)
    print(table(json.loads(args.results.read_text())))


class Field:
    """Every method with every seed, at one length. Networks that have learnt or are lost leave."""

    def __init__(self, length: int, seeds: int) -> None:
        self.length, self.seeds = length, seeds
        self.outcomes = [Outcome(method.name, length, seed) for method in METHODS for seed in range(seeds)]
        self.active = torch.arange(len(self.outcomes))
        self.seed = torch.arange(seeds).repeat(len(METHODS))
        self.method = torch.arange(len(METHODS)).repeat_interleave(seeds)
        started = [initial(seed, "smart_tanh") for seed in self.seed.tolist()]
        self.weights = {name: torch.stack([one[name] for one in started]) for name in NAMES}
        self.limits, self.values, self.omega, self.ruled = (
            torch.tensor([getattr(METHODS[m], setting) for m in self.method.tolist()])
            for setting in ("limit", "clip_value", "omega", "authors_rule")
        )
        self.thresholds = {m: method.threshold() for m, method in enumerate(METHODS) if method.threshold}
        self.streams = [np.random.default_rng([seed, length]) for seed in range(seeds)]

    def update(self, number: int) -> None:
        """Update all active networks once."""
        drawn = [sequences(stream, self.length, BATCH) for stream in self.streams]
        symbols, labels = (torch.stack(part)[self.seed[self.active]] for part in zip(*drawn, strict=True))
        now = {name: value[self.active] for name, value in self.weights.items()}
        made = step(now, symbols, labels, self.limits[self.active], self.omega[self.active])
        norm = torch.stack([g.flatten(1).double().norm(dim=1) for g in made.gradients.values()]).norm(dim=0)
        clipped = self._clip(made.gradients, norm) | (made.cut > 0)
        ruled = self.ruled[self.active] & (~torch.isfinite(norm) | (norm > 1e10))
        for name, gradient in made.gradients.items():
            gradient[ruled] = 0.02 * now["W"][ruled] if name == "W" else 0.0
            self.weights[name][self.active] = now[name] - RATE * gradient
        lost = ~torch.isfinite(norm) & ~ruled
        for place, hit, gone in zip(self.active.tolist(), clipped.tolist(), lost.tolist(), strict=True):
            outcome = self.outcomes[place]
            outcome.clipped, outcome.updates = outcome.clipped + hit, number + 1
            outcome.lost_at = number if gone else None
        self.active = self.active[~lost]

    def _clip(self, gradients: dict[str, Tensor], norm: Tensor) -> Tensor:
        """Clip by norm and by value, in place; return which networks were clipped."""
        factor = torch.ones_like(norm)
        for m, threshold in self.thresholds.items():
            mine = self.method[self.active] == m
            if mine.any():
                # A policy sees the norms of every seed at every update, so that histories stay in place.
                seeds = self.seed[self.active][mine]
                seen = torch.full((self.seeds,), math.nan, dtype=torch.float64)
                seen[seeds] = norm[mine]
                factor[mine] = (threshold(seen)[seeds] / (norm[mine] + 1e-6)).clamp(max=1.0)
        clipped = factor < 1
        for gradient in gradients.values():
            shape = (-1, *[1] * (gradient.dim() - 1))
            most = self.values[self.active].view(shape)
            gradient.mul_(factor.float().view(shape))
            clipped |= (gradient.abs() > most).flatten(1).any(1)
            gradient.copy_(torch.minimum(torch.maximum(gradient, -most), most))
        return clipped


def train(length: int, cap: int, seeds: int) -> list[Outcome]:
    """Train all methods and seeds of one length."""
    field = Field(length, seeds)
    began = time.monotonic()
    for number in range(cap):
        field.update(number)
        if (number + 1) % EVERY == 0:
            field.active = look(field.weights, field.active, field.outcomes, length, number + 1)
            say(length, number + 1, field.outcomes, time.monotonic() - began)
        if not len(field.active):
            break
    return field.outcomes


def look(weights: dict[str, Tensor], active: Tensor, outcomes: list[Outcome], length: int, update: int) -> Tensor:
    """Test on 500 fresh sequences, and on 10,000 if few are wrong; return the networks that have not learnt yet."""
    fresh = np.random.default_rng([length, update, 1])
    staying = []
    for place in active.tolist():
        one = {name: value[place : place + 1] for name, value in weights.items()}
        symbols, labels = sequences(fresh, length, 500)
        rate = float(error_rate(one, symbols[None], labels[None]))
        if rate < 3 * LEARNT:
            symbols, labels = sequences(fresh, length, FRESH)
            rate = float(error_rate(one, symbols[None], labels[None]))
        outcomes[place].error = rate
        if rate < LEARNT:
            outcomes[place].learnt_at = update
        else:
            staying.append(place)
    return torch.tensor(staying, dtype=torch.int64)


def say(length: int, update: int, outcomes: list[Outcome], seconds: float) -> None:
    learnt = {m.name: sum(o.learnt_at is not None for o in outcomes if o.method == m.name) for m in METHODS}
    lost = sum(o.lost_at is not None for o in outcomes)
    print(f"L={length} {update} updates, {seconds:.0f} s, lost {lost}, learnt {learnt}", file=sys.stderr, flush=True)


def keep(file: Path, outcomes: list[Outcome], cap: int) -> None:
    """Add the outcomes to the file. A length that was run before is replaced."""
    old = json.loads(file.read_text()) if file.exists() else {"cap": cap, "outcomes": []}
    lengths = {outcome.length for outcome in outcomes}
    kept = [one for one in old["outcomes"] if one["length"] not in lengths]
    file.write_text(json.dumps({"cap": cap, "outcomes": kept + [vars(outcome) for outcome in outcomes]}) + "\n")


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927).

    >>> [round(end, 2) for end in wilson(7, 10)]
    [0.4, 0.89]
    """
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(results: dict[str, object]) -> str:
    """Return a Markdown table with a row per method and a column per length."""
    outcomes = [Outcome(**one) for one in results["outcomes"]]  # type: ignore[attr-defined]
    lengths = sorted({outcome.length for outcome in outcomes})
    lines = [
        "| method | " + " | ".join(f"length {length}" for length in lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for method in METHODS:
        cells = []
        for length in lengths:
            runs = [o for o in outcomes if o.method == method.name and o.length == length]
            learnt = [o.learnt_at for o in runs if o.learnt_at is not None]
            low, high = wilson(len(learnt), len(runs))
            cell = f"{len(learnt)}/{len(runs)} [{low:.2f}, {high:.2f}]"
            if learnt:
                cell += f", {np.median(learnt) / 1000:.0f}k"
            gone = sum(o.lost_at is not None for o in runs)
            if gone:
                cell += f", {gone} lost"
            share = sum(o.clipped for o in runs) / max(1, sum(o.updates for o in runs))
            cells.append(cell + (f", {share:.0%} clipped" if method.name != "SGD" else ""))
        lines.append(f"| {method.name} | " + " | ".join(cells) + " |")
    head = (
        "# Which methods learn temporal order\n\nPrinted by `python benchmarks/temporal_order/experiment.py`, which"
        " explains the set-up. It is figure 7 of Pascanu, Mikolov, Bengio 2013, with other ways to clip.\n\n"
        f"Networks that learnt within {results['cap']:,} updates, with the Wilson 95% interval of that share, the"
        " median number of updates they took, how many were lost to a non-finite gradient, and the share of updates"
        " at which something was clipped.\n\n"
    )
    return head + "\n".join(lines)


if __name__ == "__main__":
    main()
