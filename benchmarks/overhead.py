"""Measure what recording every step adds to training, beside other tools: median ratios over interleaved rounds.

    python benchmarks/overhead.py [--models many,gpt,lstm] [--rounds 19] [--peers 0] [--only VARIANT ...]

By default the updates of all parameters are read at every so many steps (16 parameters a step on average);
`updates_every=0` leaves them out. Both stand in the table.

Other tools that are not installed are left out (lightning, tensorboard, wandb, trackio, mlflow). Every variant trains
its own model, in one process, and hears only its own recording. A round gives each of them a few steps in turn, so that
a slow moment of the machine hits all. gradwatch must finish its background work within its own round. Other tools
continue in the background, so they are measured afterwards, in rounds of their own, and in fewer of them, because they
differ by more. overhead.txt is the printed table, and overhead_recorders.txt that of `--recorders --peers 0`.

The last column is the processor time that the recorder's thread took for a step, in milliseconds. It runs beside the
training where there is a processor for it.

`--only VARIANT`, once for each, leaves out the other variants of gradwatch and the other tools, so that the time goes
into rounds. Each row then ends in the 95% interval of its median, from a bootstrap over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

import gradwatch
from gradwatch.clip import NormClip
from gradwatch.measure import fused, routes, updates
from gradwatch.recording.recording import Recording

LEARNING_RATE = 0.0  # the optimizer does the same work, but the weights and so the norms stay


class Many(nn.Module):
    """A thousand tensors of 4,096 entries, each used once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(64, 64) / 8) for _ in range(1000)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = torch.tanh(x @ part)
        return 1e8 * x.square().mean()  # the gradients are far above the 1e-6 that clipping adds to their norm


class Gpt(nn.Module):
    """Twelve layers of width 336, 148 tensors, 17 million parameters."""

    def __init__(self, width: int = 336, layers: int = 12, vocabulary: int = 2048) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 6, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        self.mask = nn.Transformer.generate_square_subsequent_mask(64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight
        for block in self.blocks:
            x = block(x, src_mask=self.mask, is_causal=True)
        return nn.functional.cross_entropy(self.head(self.norm(x))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


class Lstm(nn.Module):
    """Two layers of 512, 11 tensors, 5.3 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(2048, 512), nn.LSTM(512, 512, 2, batch_first=True)
        self.head = nn.Linear(512, 30)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out = self.head(self.lstm(self.tokens(ids))[0])
        return nn.functional.cross_entropy(out.flatten(0, 1), ids.flatten() % 30)


@dataclass(frozen=True)
class Model:
    about: str
    make: Callable[[], nn.Module]
    data: Callable[[], torch.Tensor]
    threads: int
    steps: int  # a round


MODELS = {
    "many": Model("1,000 tensors of 4k (4.1 M), 1 thread", Many, lambda: torch.randn(64, 64), 1, 8),
    "gpt": Model("GPT, 148 tensors, 17 M, 2 threads", Gpt, lambda: torch.randint(2048, (4, 64)), 2, 4),
    "lstm": Model("LSTM, 11 tensors, 5.3 M, 2 threads", Lstm, lambda: torch.randint(2048, (16, 32)), 2, 8),
}


@dataclass
class Training:
    """What a variant gets. It returns what to do between backward and step, and after a round."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    folder: Path
    max_norm: float
    stack: contextlib.ExitStack
    step: int = 0

    def named(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]

    def norms(self) -> list[float]:
        return torch.stack(torch._foreach_norm([grad for _, grad in self.named()])).tolist()


RESAMPLES = 4000
"""Bootstrap samples behind an interval."""

Times: TypeAlias = dict[str, list[float]]
Threads: TypeAlias = dict[str, float]  # milliseconds a step, of those variants that have one
Between: TypeAlias = Callable[[], object]
After: TypeAlias = Callable[[], object]
Variant: TypeAlias = Callable[[Training], tuple[Between, After]]


def nothing() -> None:
    """The callback of a variant that has nothing to do."""


def bare(t: Training) -> tuple[Between, After]:
    return nothing, nothing


def torch_clip(t: Training) -> tuple[Between, After]:
    return lambda: clip_grad_norm_(t.model.parameters(), t.max_norm), nothing


def ours_clipping(t: Training, updates_every: int | None = None) -> tuple[Between, After]:
    policy = NormClip(t.max_norm)
    watch = gradwatch.attach(t.model, t.optimizer, t.folder, clip=policy, updates_every=updates_every)
    t.stack.enter_context(watch)
    return nothing, watch.flush


def ours_observing(t: Training, updates_every: int | None = None) -> tuple[Between, After]:
    watch = t.stack.enter_context(gradwatch.attach(t.model, t.optimizer, t.folder, updates_every=updates_every))
    return lambda: clip_grad_norm_(t.model.parameters(), t.max_norm), watch.flush


def ours_by_process(t: Training) -> tuple[Between, After]:
    watch = t.stack.enter_context(gradwatch.attach(t.model, t.optimizer, t.folder, recorder="process"))
    return lambda: clip_grad_norm_(t.model.parameters(), t.max_norm), watch.flush


def without_updates(variant: Callable[..., tuple[Between, After]]) -> Variant:
    return functools.partial(variant, updates_every=0)


def lightning_norms(t: Training) -> tuple[Between, After]:
    from lightning.pytorch.utilities import grad_norm

    def between() -> None:
        grad_norm(t.model, norm_type=2)
        clip_grad_norm_(t.model.parameters(), t.max_norm)

    return between, nothing


def tensorboard_scalars(t: Training) -> tuple[Between, After]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(t.folder))

    def between() -> None:
        for (name, _), norm in zip(t.named(), t.norms(), strict=True):
            writer.add_scalar(f"grad/{name}", norm, t.step)
        clip_grad_norm_(t.model.parameters(), t.max_norm)

    return between, writer.flush


def tensorboard_histograms(t: Training) -> tuple[Between, After]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(t.folder))

    def between() -> None:
        for name, grad in t.named():
            writer.add_histogram(f"grad/{name}", grad, t.step)
        clip_grad_norm_(t.model.parameters(), t.max_norm)

    return between, writer.flush


def wandb_watch(t: Training) -> tuple[Between, After]:
    import wandb

    run = wandb.init(mode="offline", dir=str(t.folder), settings=wandb.Settings(silent=True, console="off"))
    run.watch(t.model, log="gradients", log_freq=1)
    t.stack.callback(run.finish)

    def between() -> None:
        clip_grad_norm_(t.model.parameters(), t.max_norm)
        run.log({"step": t.step})

    return between, nothing


def trackio_log(t: Training) -> tuple[Between, After]:
    import trackio

    with contextlib.redirect_stdout(sys.stderr):
        trackio.init(project="overhead", embed=False)
    t.stack.callback(trackio.finish)

    def between() -> None:
        trackio.log({name: norm for (name, _), norm in zip(t.named(), t.norms(), strict=True)})
        clip_grad_norm_(t.model.parameters(), t.max_norm)

    return between, nothing


def mlflow_log(t: Training) -> tuple[Between, After]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{t.folder}/mlflow.db")
    mlflow.start_run()
    t.stack.callback(mlflow.end_run)

    def between() -> None:
        values = {name: norm for (name, _), norm in zip(t.named(), t.norms(), strict=True)}
        mlflow.log_metrics(values, step=t.step)
        clip_grad_norm_(t.model.parameters(), t.max_norm)

    return between, nothing


BASES: dict[str, tuple[Variant, bool]] = {"torch alone": (bare, True), "clip_grad_norm_": (torch_clip, True)}
OURS: dict[str, tuple[Variant, bool]] = {  # and whether the compiled part is used
    "gradwatch, clip=": (ours_clipping, True),
    "gradwatch, observing": (ours_observing, True),
    "gradwatch, observing, recorder='process'": (ours_by_process, True),
    "gradwatch, clip=, updates_every=0": (without_updates(ours_clipping), True),
    "gradwatch, observing, updates_every=0": (without_updates(ours_observing), True),
    "gradwatch, clip=, no compiled part": (ours_clipping, False),
    "gradwatch, observing, no compiled part": (ours_observing, False),
}
RECORDERS = ("gradwatch, observing", "gradwatch, observing, recorder='process'")
PEERS: dict[str, tuple[Variant, str]] = {
    "Lightning grad_norm": (lightning_norms, "lightning"),
    "TensorBoard scalars": (tensorboard_scalars, "tensorboard"),
    "TensorBoard histograms": (tensorboard_histograms, "tensorboard"),
    "wandb.watch, log_freq=1": (wandb_watch, "wandb"),
    "trackio.log": (trackio_log, "trackio"),
    "mlflow.log_metrics": (mlflow_log, "mlflow"),
}


def training(model: Model, variant: Variant, folder: Path, max_norm: float, compiled: bool) -> Generator[float]:
    """Train without end; yield the seconds of each round."""
    torch.manual_seed(0)
    module = model.make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    with contextlib.ExitStack() as stack:
        t = Training(module, optimizer, folder, max_norm, stack)
        with route(compiled):
            between, after = variant(t)
        while True:
            with route(compiled), alone(folder):
                began = time.perf_counter()
                for _ in range(model.steps):
                    optimizer.zero_grad()
                    module(model.data()).backward()
                    between()
                    optimizer.step()
                    t.step += 1
                after()
                seconds = time.perf_counter() - began
            yield seconds


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no recording but the one in this folder hear the hooks.

    Those of `backward` and of clip calls are of the process: otherwise every training, also one that is not recorded,
    would pay for the recordings of all others.
    """
    original = Recording.guarded

    def guarded(self: Recording, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self.run == folder:
            original(self, method, *args, **kwargs)

    with mock.patch.object(Recording, "guarded", guarded):
        yield


@contextlib.contextmanager
def route(compiled: bool) -> Iterator[None]:
    """Read gradients with the compiled part or with PyTorch's operators."""
    available = fused.is_available if compiled else lambda: False
    reads = fused.reads_updates if compiled else lambda: False
    with (
        mock.patch.object(routes, "is_available", available),
        mock.patch.object(updates, "reads_updates", reads),
    ):
        yield


def threshold(model: Model) -> float:
    """Return a threshold that about one step in ten exceeds, at the start as at the end, because the weights stay."""
    torch.manual_seed(0)
    module = model.make()
    norms = []
    for _ in range(100):
        module.zero_grad()
        module(model.data()).backward()
        norms.append(float(get_total_norm([p.grad for p in module.parameters() if p.grad is not None])))
    return sorted(norms)[-11]


def table(
    model: Model,
    ours: dict[str, tuple[Variant, bool]],
    rounds: int,
    rounds_of_peers: int,
    *,
    with_intervals: bool = False,
) -> None:
    torch.set_num_threads(model.threads)
    max_norm = threshold(model)
    times, threads = measured(model, BASES | ours, rounds, max_norm)
    print(f"\n{model.about}: {1e3 * statistics.median(times['torch alone']) / model.steps:.1f} ms a step")
    last = f"{'95% of this median':>24}" if with_intervals else ""
    print(f"  {'':<40}{'to the bare step':>24}{'to clip_grad_norm_':>26}{last}{'thread, ms':>12}")
    show(times, threads, with_intervals=with_intervals)
    peers = {n: (v, True) for n, (v, package) in PEERS.items() if importlib.util.find_spec(package) is not None}
    if rounds_of_peers and peers:
        show(*measured(model, BASES | peers, rounds_of_peers, max_norm), only=list(peers))


def measured(
    model: Model, variants: dict[str, tuple[Variant, bool]], rounds: int, max_norm: float
) -> tuple[Times, Threads]:
    """Return the seconds of each round of each variant, and what its recorder's thread took."""
    with tempfile.TemporaryDirectory() as folder:
        runs, clocks = {}, {}
        for number, (name, (variant, compiled)) in enumerate(variants.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            runs[name] = training(model, variant, place, max_norm, compiled)
            before = recorders()
            next(runs[name])
            for one in recorders() - before:
                clocks[name] = time.pthread_getcpuclockid(one)
        begun = {name: time.clock_gettime(clock) for name, clock in clocks.items()}
        times: Times = {name: [] for name in runs}
        for number in range(rounds):
            # Each begins a round in its turn, so that none always follows the same other one.
            first = number % len(runs)
            for name in [*list(runs)[first:], *list(runs)[:first]]:
                times[name].append(next(runs[name]))
        a_step = 1e3 / max(1, rounds * model.steps)
        threads = {name: a_step * (time.clock_gettime(clock) - begun[name]) for name, clock in clocks.items()}
        for run in runs.values():
            run.close()
    return times, threads


def recorders() -> set[int]:
    """The recorders' threads."""
    return {one.ident for one in threading.enumerate() if one.name == "gradwatch" and one.ident is not None}


def show(times: Times, threads: Threads, only: Sequence[str] | None = None, *, with_intervals: bool = False) -> None:
    for name in only or times:
        cells = [ratios(times[name], times[base]) for base in BASES]
        last = f"{interval(times[name], times['clip_grad_norm_']):>24}" if with_intervals else ""
        thread = f"{threads[name]:>12.2f}" if name in threads else ""
        print(f"  {name:<40}{cells[0]:>24}{cells[1]:>26}{last}{thread}", flush=True)


def interval(times: list[float], base: list[float]) -> str:
    """The 95% interval of the median of the ratios, from a bootstrap over the rounds."""
    found = np.array(times) / np.array(base)
    samples = np.random.default_rng(0).choice(found, (RESAMPLES, len(found)))
    low, high = np.quantile(np.median(samples, axis=1), (0.025, 0.975))
    return f"{low:.3f} to {high:.3f}"


def ratios(times: list[float], base: list[float]) -> str:
    """The median and the quarters of the ratios of two series of times."""
    found = sorted(a / b for a, b in zip(times, base, strict=True))
    quarter = len(found) // 4
    return f"{statistics.median(found):.3f} ({found[quarter]:.3f} to {found[-1 - quarter]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--models", default="many,gpt,lstm")
    parser.add_argument("--peers", type=int, default=11, help="rounds of the peers; 0: without them")
    parser.add_argument("--recorders", action="store_true", help="only observing, by the thread and by the process")
    parser.add_argument(
        "--only", action="append", choices=OURS, metavar="VARIANT", help=f"of gradwatch: {', '.join(OURS)}; repeatable"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ |= {"WANDB_MODE": "offline", "TRACKIO_DIR": tempfile.mkdtemp()}
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, {os.cpu_count()} processors")
    print(f"compiled part: {fused.is_available()}")
    rounds_of_peers = 0 if options.only else options.peers
    of_peers = f", {rounds_of_peers} of the peers" if rounds_of_peers else ""
    print(f"medians of interleaved rounds ({options.rounds}{of_peers}), with the quarters")
    for name in options.models.split(","):
        chosen = options.only or (RECORDERS if options.recorders else list(OURS))
        ours = {one: OURS[one] for one in chosen}
        table(MODELS[name], ours, options.rounds, rounds_of_peers, with_intervals=bool(options.only))


if __name__ == "__main__":
    main()
