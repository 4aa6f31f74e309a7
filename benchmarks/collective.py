"""Compare how ranks are brought together: `torchrun --nproc-per-node 4 benchmarks/collective.py`.

Rounds of a training with ``ranks=True`` and with ``ranks="collective"`` take turns in the same processes. Each rank has
a copy of 300 parameters with four statistics and records every step; a step pauses for 20 ms, as if a device worked.
The processor times are of the training thread within `optimizer.step`, of gradwatch's own thread (which in rank 0 makes
the records as well), and of the whole process, with gloo's threads and the training. Bytes are those of the letters
that a rank sends, or what an all-reduce over a ring makes it send.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import gradwatch
from gradwatch.distributed import Mailbox, RankCollective
from gradwatch.recording.rank_sender import RankSender
from gradwatch.recording.recorder import Recorder

PARAMETERS, STEPS, PAUSE = 300, 100, 0.02
KINDS = ("True", "collective")

spent: dict[str, float] = defaultdict(float)


def timed(owner: Any, name: str, key: str) -> None:
    """Add up the processor time that a thread takes in a method."""
    original: Callable[..., Any] = getattr(owner, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[key] += time.thread_time() - began

    setattr(owner, name, method)


def count_bytes() -> None:
    """Add up what this rank sends."""
    send, reduce = Mailbox.send, RankCollective._reduce

    def counted_send(self: Mailbox, message: bytes) -> None:
        spent["bytes"] += len(message)
        send(self, message)

    def counted_reduce(self: RankCollective, values: Any, **how: Any) -> Any:
        ranks = dist.get_world_size()
        spent["bytes"] += 2 * (ranks - 1) / ranks * values.nbytes
        spent["reduces"] += 1
        return reduce(self, values, **how)

    Mailbox.send = counted_send  # type: ignore[method-assign]
    RankCollective._reduce = counted_reduce  # type: ignore[method-assign]


def round_of(kind: str, folder: Path) -> dict[str, float]:
    """Train and record; return what a step took."""
    torch.manual_seed(0)
    model = nn.ParameterList([nn.Parameter(torch.randn(16)) for _ in range(PARAMETERS)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, foreach=True)
    dist.barrier()
    spent.clear()
    ranks: Any = True if kind == "True" else kind
    whole = time.process_time()
    training = 0.0
    with gradwatch.attach(model, optimizer, folder / kind, ranks=ranks, weights_every=0, updates_every=0) as watch:
        for _ in range(STEPS):
            for parameter in model:
                parameter.grad = torch.ones_like(parameter)
            began = time.thread_time()
            optimizer.step()
            training += time.thread_time() - began
            time.sleep(PAUSE)
        watch.close()
    found = {"training": training, "process": time.process_time() - whole, **spent}
    dist.barrier()
    return {name: value / STEPS for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    timed(Recorder, "_work", "thread")
    timed(RankSender, "_work", "thread")
    count_bytes()
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            with tempfile.TemporaryDirectory() as folder:
                found = round_of(kind, Path(folder))
            if number:  # the first warms up
                rounds[kind].append(found)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, rounds)
    if dist.get_rank() == 0:
        show(everyone, options.rounds)
    dist.destroy_process_group()


def show(everyone: list[dict[str, list[dict[str, float]]]], rounds: int) -> None:
    """Print medians over the rounds, of rank 0 and of the other rank that took most."""
    print(f"{len(everyone)} processes, {rounds} rounds of {STEPS} steps, {PARAMETERS} parameters; a step took, median")
    print(f"{'ranks=':<12}{'':<8}training thread  own thread    whole process  bytes sent  all-reduces")

    def middle(rank: int, kind: str, name: str) -> float:
        return statistics.median(one.get(name, 0.0) for one in everyone[rank][kind])

    for kind in KINDS:
        others = range(1, len(everyone))
        for label, rank in (("rank 0", 0), ("other", max(others, key=lambda one: middle(one, kind, "thread")))):
            values = [middle(rank, kind, name) for name in ("training", "thread", "process")]
            print(
                f"{kind:<12}{label:<8}"
                + "".join(f"{1e6 * value:>9.0f} us   " for value in values)
                + f"{middle(rank, kind, 'bytes'):>10,.0f}{middle(rank, kind, 'reduces'):>10.2f}"
            )
    for name in ("training", "thread", "process"):
        ratios = [
            one[name] / other[name] for one, other in zip(everyone[0]["collective"], everyone[0]["True"], strict=True)
        ]
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"rank 0, {name}: collective over True {median:.2f} times (quartiles {low:.2f} and {high:.2f})")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
