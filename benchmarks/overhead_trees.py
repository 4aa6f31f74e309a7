"""Compare what recording costs in two checkouts: interleaved rounds, one process for each checkout.

    python benchmarks/overhead_trees.py OLD NEW [--models many,gpt,lstm] [--rounds 61] [--steps 2]

Each process imports the gradwatch and the benchmarks/overhead.py of its own checkout, and trains only when it is asked
for a round. The compiled part has to be built in both. A round gives every variant of either checkout a few steps in
turn, and the order of the two checkouts changes from round to round, so that a slow moment of the machine hits both.

Three clocks run: the wall clock, the CPU time of the training thread, and the CPU time of the whole process, which
counts gradwatch's background thread too. The CPU times hold on a machine that does other work at the same time.

The plain loop, which only calls `clip_grad_norm_`, is the control: it does the same work in both checkouts, so its
ratio shows how much of a difference is noise. The last column divides by it, round by round:
(NEW recording / NEW plain) / (OLD recording / OLD plain). Below 1, recording is faster in NEW. overhead_trees.txt is
the printed table.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

PLAIN = "clip_grad_norm_"
CLOCKS = ("wall clock", "CPU time of the training thread", "CPU time of the process")
VARIANTS = (PLAIN, "gradwatch, observing", "gradwatch, clip=")
WARM_UP = 3  # rounds that are not counted


def serve(model_name: str, steps: int, max_norm: float | None) -> None:
    """Train a round of the variant that each line of stdin names, and print its seconds by each clock."""
    import torch

    overhead: Any = importlib.import_module("overhead")
    here = Path.cwd()
    for module in (overhead, overhead.gradwatch):
        assert here in Path(module.__file__).parents, f"{module.__file__} is not of {here}"

    logging.disable(logging.WARNING)
    model = overhead.MODELS[model_name]
    torch.set_num_threads(model.threads)
    max_norm = overhead.threshold(model) if max_norm is None else max_norm
    model = dataclasses.replace(model, steps=steps)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = {}
        for number, name in enumerate(VARIANTS):
            variant, compiled = (overhead.BASES | overhead.OURS)[name]
            place = Path(folder) / str(number)
            place.mkdir()
            runs[name] = overhead.training(model, variant, place, max_norm, compiled)
            stack.callback(runs[name].close)
            next(runs[name])
        print(max_norm, "compiled" if overhead.fused.is_available() else "operators", flush=True)
        for line in sys.stdin:
            began = time.thread_time(), time.process_time()
            wall = next(runs[line.strip()])
            print(wall, time.thread_time() - began[0], time.process_time() - began[1], flush=True)


Seconds: TypeAlias = list[float]  # by each of `CLOCKS`


class Checkout:
    """The process that trains with one checkout.

    Attributes:
        max_norm: the threshold, which is found by training if it is not given.
        route: how gradients are read: by the compiled part or by PyTorch's operators.
    """

    def __init__(self, tree: Path, model: str, steps: int, max_norm: float | None = None) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "benchmarks")])}
        # -P keeps the folder of this file, which has an overhead.py too, out of the path.
        command = [sys.executable, "-P", __file__, "--serve", model, "--steps", str(steps)]
        command += [] if max_norm is None else ["--max-norm", str(max_norm)]
        self._process = subprocess.Popen(
            command, cwd=tree, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threshold, self.route = self._read().split()
        self.max_norm = float(threshold)

    def seconds(self, variant: str) -> Seconds:
        """Train a round of the variant, and return its seconds by each clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{variant}\n")
        self._process.stdin.flush()
        return [float(part) for part in self._read().split()]

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process ended: {self._process.args!r}")
        return line.strip()


def rounds(old: Checkout, new: Checkout, count: int) -> Iterator[dict[str, tuple[Seconds, Seconds]]]:
    """Yield the seconds of each variant in the old and in the new checkout, round by round."""
    for number in range(WARM_UP + count):
        times: dict[str, tuple[Seconds, Seconds]] = {}
        for name in VARIANTS:
            if number % 2:
                first, second = old.seconds(name), new.seconds(name)
                times[name] = first, second
            else:
                second, first = new.seconds(name), old.seconds(name)
                times[name] = first, second
        if number >= WARM_UP:
            yield times


def with_quarters(ratios: list[float]) -> str:
    ordered = sorted(ratios)
    quarter = len(ordered) // 4
    return f"{statistics.median(ordered):.3f} ({ordered[quarter]:.3f} to {ordered[-1 - quarter]:.3f})"


def table(trees: list[Path], model: str, count: int, steps: int) -> None:
    old = Checkout(trees[0], model, steps)
    new = Checkout(trees[1], model, steps, old.max_norm)
    found = list(rounds(old, new, count))
    for checkout in (old, new):
        checkout.close()
    for number, clock in enumerate(CLOCKS):
        each = statistics.median(times[PLAIN][1][number] for times in found) / steps
        routes = f"; old: {old.route}, new: {new.route}" if number == 0 else ""
        print(f"\n{model}, {clock}: {1e3 * each:.1f} ms a step{routes}")
        show([{name: (o[number], n[number]) for name, (o, n) in times.items()} for times in found])


def show(found: list[dict[str, tuple[float, float]]]) -> None:
    print(f"  {'':<22}{'new / old':>25}{'old / plain':>25}{'new / plain':>25}{'(new/plain) / (old/plain)':>28}")
    for name in VARIANTS:
        pairs = [(*times[name], *times[PLAIN]) for times in found]
        cells = [
            [new / old for old, new, _, _ in pairs],
            [old / plain for old, _, plain, _ in pairs],
            [new / plain for _, new, _, plain in pairs],
            [(new / new_plain) / (old / old_plain) for old, new, old_plain, new_plain in pairs],
        ]
        texts = [with_quarters(ratios) for ratios in cells]
        shown = texts if name != PLAIN else [texts[0], "", "", ""]
        print(f"  {name:<22}{shown[0]:>25}{shown[1]:>25}{shown[2]:>25}{shown[3]:>28}".rstrip(), flush=True)


def commit_of(tree: Path) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=tree, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trees", nargs="*", type=Path, metavar="TREE", help="two checkouts: the old and the new one")
    parser.add_argument("--models", default="many,gpt,lstm")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--steps", type=int, default=2, help="of a round")
    parser.add_argument("--max-norm", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.steps, options.max_norm)
        return
    if len(options.trees) != 2:
        parser.error("expected two checkouts")
    trees = [tree.resolve() for tree in options.trees]
    print(f"old {commit_of(trees[0])}, new {commit_of(trees[1])}; {options.rounds} rounds of {options.steps} steps")
    print("medians of ratios, with the quarters")
    for model in options.models.split(","):
        table(trees, model, options.rounds, options.steps)


if __name__ == "__main__":
    main()
