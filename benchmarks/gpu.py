"""Everything that needs a GPU, in one command and under ten minutes.

    python benchmarks/gpu.py --to benchmarks/gpu.txt      (make gpu)

It runs from a checkout, with the PyTorch of the Python that runs it. Where there is no CUDA device it says why, writes
nothing and ends with an error.

1. The tests that only run with a CUDA device (tests/gpu), in parallel where pytest-xdist is installed.
2. The kernel: bytes a second beside the card's peak by data sheet, for 1 M to 1 G entries in 1 to 10,000 tensors. Once
   as gradwatch calls it, Python included, and once as the replay of a CUDA graph, which is the device's part alone.
   Beside it, PyTorch's own norm of one tensor and of many.
   Then loads of 8 and of 16 bytes for half precision, and the kernel that scales gradients beside PyTorch's operator.
   Then what reading the updates of GPT-2-medium takes by the kernel and by PyTorch's operators.
3. What waits: PyTorch warns of each synchronisation (torch.cuda.set_sync_debug_mode).
4. Memory: the peak of each variant above what was held before.
5. A step of GPT-2-medium with AdamW (fused): bare, PyTorch's clipping, gradwatch observing beside it, and `clip=`; with
   large batches, where the device is busy, with a small one, where launching is what takes time, and compiled.
   Interleaved rounds; ratios to PyTorch's clipping are medians over the rounds.
6. DistributedDataParallel and fully_shard over NCCL, where there are two GPUs (benchmarks/ranks.py).

Each part has a share of `--minutes`, and what is left over goes to the next. What does not fit into its time or into
the card's memory is left out and named. On a card each part is a process of its own: one that fails, hangs or leaves
the card in an error state costs its own figures alone, and the script ends with an error. Each line is written when it
is known, so that whoever is stopped keeps what came before. `--device cpu --quick` goes through the same code without
a GPU, for a test of this script.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

ROOT = Path(__file__).parents[1]
if importlib.util.find_spec("gradwatch") is None:
    sys.path.insert(0, str(ROOT))

import gradwatch  # noqa: E402
from gradwatch.clip import NormClip  # noqa: E402
from gradwatch.measure import measure, measure_updates, routes, updates_route_of  # noqa: E402
from gradwatch.measure.routes import runs_triton  # noqa: E402
from gradwatch.recording.sentinels import ENTRIES, Sentinels  # noqa: E402
from gradwatch.recording.weight_sampler import usual_updates_every  # noqa: E402

GOAL_BANDWIDTH, GOAL_OBSERVING, GOAL_CLIP = 0.85, 1.01, 1.00
GOAL_UPDATES = 0.005
"""Of a step: half of what observing may take."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PEAKS = {
    "H100 PCIe": 2000e9,
    "H100 NVL": 3900e9,
    "H100": 3350e9,
    "H200": 4800e9,
    "A100-PCIE-40GB": 1555e9,
    "A100-SXM4-40GB": 1555e9,
    "A100 80GB PCIe": 1935e9,
    "A100": 2039e9,
    "B200": 8000e9,
    "L40": 864e9,
    "L4": 300e9,
    "A10": 600e9,
    "T4": 320e9,
    "V100": 900e9,
    "5090": 1792e9,
    "4090": 1008e9,
    "3090": 936e9,
}
"""Bytes a second by data sheet, of the first name that the card's name holds."""


class Gpt(nn.Module):
    """The decoder of GPT-2: medium is 24 layers of width 1,024 with 16 heads, 355 million parameters."""

    def __init__(self, width: int, layers: int, heads: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(length, width) / 50)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x, src_mask=self.mask, is_causal=True)
        logits = nn.functional.linear(self.norm(x), self.tokens.weight)
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_of(name: str) -> float | None:
    return next((peak for part, peak in PEAKS.items() if part in name), None)


PARTS = {
    "tests": 0.35,
    "kernel": 0.5,
    "loads": 0.52,
    "updates": 0.55,
    "waits": 0.6,
    "memory": 0.66,
    "step": 0.92,
    "ranks": 1.0,
}
"""By which share of the time each part has ended."""


class Deadline:
    """When a part has to end.

    Attributes:
        left_out: what there was no time or memory for.
    """

    def __init__(self, end: float) -> None:
        self._end = end
        self.left_out: list[str] = []

    @property
    def seconds(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def allows(self, what: str) -> bool:
        if self.seconds > 0:
            return True
        self.left_out.append(f"{what} (no time left)")
        return False

    @contextlib.contextmanager
    def within_memory(self, what: str, device: torch.device) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            self.left_out.append(f"{what} (more than the card's memory)")
        _let_go(device)


def tests(device: torch.device, deadline: Deadline) -> None:
    if device.type == "cuda":
        files = [f"tests/gpu/test_{name}.py" for name in ("measuring", "waits", "training")]
        print("Tests:", run_tests(files, deadline.seconds), flush=True)
    else:
        deadline.left_out.append("tests (no CUDA device)")


def run_tests(files: Sequence[str], seconds: float) -> str:
    """Run tests for this long at most; return what pytest says last."""
    workers = ["-n", str(min(6, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *workers, *files]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile("w+") as output:
        running = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": paths}
        )
        stopped = ""
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            stopped = f" (stopped after {seconds:.0f} s, before their end)"
            running.send_signal(signal.SIGINT)
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    found = [line for line in lines if " passed" in line or " failed" in line or " skipped" in line]
    return "\n".join([(found or lines or ["no output"])[-1].strip("= ") + stopped, *failed])


# ------------------------------------------------------------------------------------------- the kernel


def bandwidth(device: torch.device, quick: bool, deadline: Deadline) -> None:
    """Print gigabytes a second, read from memory: the cache is overwritten before each."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    peak = peak_of(name)
    print()
    print(f"The kernel on {name}, peak {'not known' if peak is None else f'{peak / 1e9:.0f} GB/s'} by data sheet,")
    print(f"goal {GOAL_BANDWIDTH:.0%}: GB/s and share of the peak, on the device alone; then as called")
    print("   entries  tensors  dtype   device alone     as called    PyTorch's norm")
    for entries in (2**18,) if quick else (2**20, 2**24, 2**27, 2**30):
        for tensors in (1, 100) if quick else (1, 150, 1_000, 10_000):
            for dtype_name, dtype in DTYPES.items():
                if entries // tensors < 1000 or (dtype_name == "fp16" and tensors > 1):
                    continue  # fp16 takes the same way as bf16
                row = f"{entries:>10} {tensors:>8}  {dtype_name:<5}"
                if deadline.allows(f"the kernel on {row}"):
                    with deadline.within_memory(f"the kernel on {row}", device):
                        print(row + _speeds(entries, tensors, dtype, device, peak, quick), flush=True)


def _speeds(
    entries: int, tensors: int, dtype: torch.dtype, device: torch.device, peak: float | None, quick: bool
) -> str:
    gradients = [torch.randn(entries // tensors, device=device).to(dtype) for _ in range(tensors)]
    return "".join(_speed(action, gradients, device, peak, quick) for action in _actions(gradients, device))


def _actions(gradients: list[Tensor], device: torch.device) -> list[Callable[[], object] | None]:
    called = functools.partial(measure, gradients)
    norm = functools.partial(torch._foreach_norm, gradients)
    alone: Callable[[], object] | None = None
    if runs_triton(device, "read gradients") and device.type == "cuda":
        from gradwatch.measure.fused_triton import measure_triton

        alone = _alone(functools.partial(measure_triton, gradients), device)
    return [alone, called, norm]


def _alone(action: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return the replay of what an action launches, without the Python that prepares it."""
    action()  # compiles, and makes the plan
    if device.type != "cuda":
        return action
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


TILES = {"8 bytes": ({"BLOCK": 512, "LANES": 512, "NARROW": 512}, {"BLOCK": 512}), "16 bytes": None}
"""How wide the kernels load half precision: as they did once, and as they do."""


def loads(device: torch.device, quick: bool, deadline: Deadline) -> None:
    """Print what reading and scaling take by narrower and by wider loads, and PyTorch's scaling."""
    if not runs_triton(device, "read gradients"):
        deadline.left_out.append("loads (no Triton kernel)")
        return
    print()
    print("bfloat16 in 150 tensors by loads of 8 and 16 bytes: GB/s read, and GB/s read and written by scaling")
    print("   entries  loads      reading  scaling  scaling by 1  PyTorch's scaling")
    for entries in (2**18,) if quick else (2**24, 2**27, 2**30):
        for name, tiles in TILES.items():
            row = f"{entries:>10}  {name:<8}"
            if deadline.allows(f"loads on {row}"):
                with deadline.within_memory(f"loads on {row}", device):
                    print(row + _by_loads(entries, tiles, device, quick), flush=True)


def _by_loads(
    entries: int, tiles: tuple[dict[str, int], dict[str, int]] | None, device: torch.device, quick: bool
) -> str:
    from gradwatch.measure import fused_triton

    gradients = [torch.randn(entries // 150, device=device).to(torch.bfloat16) for _ in range(150)]
    found = fused_triton.readable(range(150), gradients)
    factors = [torch.full((), value, device=device) for value in (1.001, 1.0)]
    actions: tuple[tuple[int, Callable[[], object]], ...] = (
        (1, functools.partial(fused_triton.measure_triton, gradients, found)),
        (2, functools.partial(fused_triton.scale_triton, found, factors[0])),
        (2, functools.partial(fused_triton.scale_triton, found, factors[1])),
        (2, functools.partial(torch._foreach_mul_, gradients, factors[0])),
    )
    usual = fused_triton.READ_TILES[2], fused_triton.SCALE_TILES[2]
    fused_triton.READ_TILES[2], fused_triton.SCALE_TILES[2] = tiles or usual
    try:
        seconds = [_seconds(_alone(action, device), device, rounds=3 if quick else 15) for _, action in actions]
    finally:
        fused_triton.READ_TILES[2], fused_triton.SCALE_TILES[2] = usual
    size = sum(gradient.nbytes for gradient in gradients)
    speeds = [passes * size / taken / 1e9 for (passes, _), taken in zip(actions, seconds, strict=True)]
    return "".join(f"{speed:>{width}.0f}" for speed, width in zip(speeds, (9, 9, 14, 19), strict=True))


def _speed(
    action: Callable[[], object] | None,
    gradients: list[Tensor],
    device: torch.device,
    peak: float | None,
    quick: bool,
) -> str:
    if action is None:
        return f"{'-':>15}"
    seconds = _seconds(action, device, rounds=3 if quick else 15)
    speed = sum(gradient.nbytes for gradient in gradients) / seconds
    return f"{speed / 1e9:>8.0f} {'' if peak is None else f'{speed / peak:>5.0%}':>6}"


def _seconds(action: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median time of an action, on the device where there is one."""
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            action()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    over_cache = torch.empty(2**28, dtype=torch.int8, device=device)
    pairs = []
    for _ in range(rounds + 3):
        over_cache.zero_()
        start_event, end_event = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start_event.record()
        action()
        end_event.record()
        torch.cuda.synchronize()
        pairs.append((start_event, end_event))
    return statistics.median(start.elapsed_time(end) for start, end in pairs[3:]) / 1e3


# --------------------------------------------------------------------------------------------- a step

Step = Callable[[], None]
TIMED = 10
"""Steps of a block, which follow two that are not timed."""
OBSERVING = "observing"
VARIANTS = ("bare", "clip_grad_norm_", OBSERVING, "observing, no weights", "observing, capture", "clip=")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model and a batch."""

    title: str
    batch: int
    length: int
    compiled: bool = False
    small: bool = False


SETTINGS = (
    Setting(title="GPT-2-medium, batch 8 x 1024 tokens", batch=8, length=1024),
    Setting(title="GPT-2-medium, batch 1 x 128 tokens", batch=1, length=128),
    Setting(title="GPT-2-medium, batch 8 x 1024 tokens, compiled", batch=8, length=1024, compiled=True),
)
QUICK = Setting(title="a small GPT, batch 2 x 32 tokens", batch=2, length=32, small=True)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model, its optimizer and a batch, which all variants train in turn."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ids: Tensor

    @staticmethod
    def of(setting: Setting, device: torch.device) -> Training:
        width, layers, heads, vocabulary = (64, 2, 4, 512) if setting.small else (1024, 24, 16, 50_257)
        torch.manual_seed(0)
        with torch.device(device):
            model = Gpt(width, layers, heads, vocabulary, setting.length)
        ids = torch.randint(0, vocabulary, (setting.batch, setting.length), device=device)
        if setting.compiled:
            model.compile()
        return Training(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True), ids=ids)

    @contextlib.contextmanager
    def variant(self, name: str, **more: Any) -> Iterator[Step]:
        """Give one step of a variant; what records has a run of its own, which ends with the block."""
        with contextlib.ExitStack() as stack:
            if name.startswith(OBSERVING) or name == "clip=":
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                clip = NormClip(1.0) if name == "clip=" else None
                options = {"clip": clip, "capture": name.endswith("capture"), **more}
                if name.endswith("no weights"):
                    options |= {"weights_every": 0, "updates_every": 0}
                watch = gradwatch.attach(self.model, self.optimizer, Path(folder) / "run", **options)
                stack.enter_context(watch)
            yield _step(self.model, self.optimizer, self.ids, own_clip=name not in ("bare", "clip="))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, *, own_clip: bool) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(ids.device.type, torch.bfloat16):
            loss = model(ids)
        loss.backward()
        if own_clip:
            clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def all_ratios(settings: Sequence[Setting], device: torch.device, quick: bool, deadline: Deadline) -> None:
    for at, setting in enumerate(settings):
        if deadline.allows(setting.title):
            # An equal share of the time that is left.
            own = Deadline(time.monotonic() + deadline.seconds / (len(settings) - at))
            with deadline.within_memory(setting.title, device):
                ratios(setting, device, quick, own)
            deadline.left_out += own.left_out


def ratios(setting: Setting, device: torch.device, quick: bool, deadline: Deadline) -> None:
    """Print each variant's step beside the step with PyTorch's clipping."""
    training = Training.of(setting, device)
    # Hooks on modules make the compiler begin anew.
    variants = tuple(name for name in VARIANTS if not (setting.compiled and name.endswith("capture")))
    times: dict[str, list[float]] = {name: [] for name in variants}
    turns = 3 if quick else 9
    for turn in range(turns):
        if turn > 2 and not deadline.allows(f"{setting.title}: {turns - turn} of {turns - 1} rounds"):
            break
        first = turn % len(variants)
        for name in variants[first:] + variants[:first]:
            with training.variant(name, weights_every=TIMED) as step:
                _block(step, device, 2)
                times[name].append(_block(step, device, TIMED))
        if turn == 0:
            times = {name: [] for name in variants}  # kernels were compiled, memory was taken
    base = times["clip_grad_norm_"]
    print()
    print(f"A step of {setting.title}, AdamW fused, beside PyTorch's clipping")
    print(
        f"(goals: observing {GOAL_OBSERVING}, clip= {GOAL_CLIP:.2f}; weights sampled every {TIMED} steps, not every 50)"
    )
    for name, own in times.items():
        quarters = statistics.quantiles([a / b for a, b in zip(own, base, strict=True)], n=4)
        print(
            f"  {name:<24} {statistics.median(own) * 1e3:>9.2f} ms  x{quarters[1]:.3f}"
            f"  (quarters {quarters[0]:.3f} to {quarters[2]:.3f})",
            flush=True,
        )


def _block(step: Step, device: torch.device, count: int) -> float:
    finish(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    finish(device)
    return (time.perf_counter() - start) / count


def _let_go(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def updates(setting: Setting, device: torch.device, quick: bool, deadline: Deadline) -> None:
    """Print what reading the updates takes, of all parameters and of the sentinels, beside a step."""
    print()
    with deadline.within_memory("reading updates", device):
        _read_updates(Training.of(setting, device), setting.title, device, 3 if quick else 15)


def _read_updates(training: Training, title: str, device: torch.device, rounds: int) -> None:
    optimizer, parameters = training.optimizer, list(training.model.parameters())
    with training.variant("bare") as step:
        _block(step, device, 2)
        seconds = _block(step, device, TIMED)
    every = usual_updates_every(len(parameters), at_once=True)
    print(f"Reading updates of {title}: {len(parameters)} parameters, every {every} steps, sentinels at the others")
    print(f"(goal: {GOAL_UPDATES:.1%} of a step of {seconds * 1e3:.1f} ms; by the host's clock, and by the device's)")
    for left in (False, True) if runs_triton(device, "read updates") else (False,):
        with _without_kernel() if left else contextlib.nullcontext():
            _print_reading(optimizer, parameters, device, rounds, every, seconds)


@contextlib.contextmanager
def _without_kernel() -> Iterator[None]:
    """Have PyTorch's operators read updates, as they do where the kernel fails."""
    before = set(routes._failed)
    routes._failed.add("read updates")
    try:
        yield
    finally:
        routes._failed.intersection_update(before)


def _print_reading(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    device: torch.device,
    rounds: int,
    every: int,
    seconds: float,
) -> None:
    calls = (
        functools.partial(measure_updates, optimizer, parameters),
        functools.partial(measure_updates, optimizer, parameters, ENTRIES, Sentinels().among(parameters)),
    )
    on_device = [_seconds(call, device, rounds) for call in calls]
    on_host = [_host_seconds(call, device, rounds) for call in calls]
    share = max((times[0] + (every - 1) * times[1]) / every for times in (on_device, on_host)) / seconds
    print(
        # Asked afterwards: a kernel that fails says so and leaves the rest to PyTorch's operators.
        f"  {updates_route_of(parameters)}: all {on_host[0] * 1e3:.2f} and {on_device[0] * 1e3:.2f} ms, sentinels"
        f" {on_host[1] * 1e3:.2f} and {on_device[1] * 1e3:.2f} ms: {share:.2%} of a step at most",
        flush=True,
    )


def _host_seconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median time that a call takes the thread that makes it; the device is idle before."""
    times = []
    for _ in range(rounds):
        finish(device)
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronisations(setting: Setting, device: torch.device, deadline: Deadline) -> None:
    """Count what PyTorch warns of in 60 steps of each variant, by thread."""
    print()
    if device.type != "cuda":
        deadline.left_out.append("synchronisations (no CUDA device)")
        return
    with deadline.within_memory("synchronisations", device):
        _count_synchronisations(Training.of(setting, device), device, deadline)


def _count_synchronisations(training: Training, device: torch.device, deadline: Deadline) -> None:
    for name in VARIANTS:
        if not deadline.allows(f"synchronisations of {name}"):
            continue
        counts = {"training": 0, "recorder": 0}
        with training.variant(name) as step, warnings.catch_warnings():
            _block(step, device, 5)
            warnings.simplefilter("always")
            warnings.showwarning = functools.partial(_count, counts)  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            for _ in range(60):
                step()
            torch.cuda.set_sync_debug_mode("default")
        why = " (it reads the norm of each step)" if name.endswith("capture") else ""
        print(f"Synchronisations in 60 steps, {name}: {counts['training']} in the training thread{why}", flush=True)


def _count(counts: dict[str, int], message: Warning, *_: object, **__: object) -> None:
    if "synchroniz" in str(message):
        counts["training" if threading.current_thread() is threading.main_thread() else "recorder"] += 1


def memory(setting: Setting, device: torch.device, deadline: Deadline) -> None:
    """Print the peak of each variant alone."""
    if device.type != "cuda":
        deadline.left_out.append("memory (no CUDA device)")
        return
    print()
    with deadline.within_memory("memory", device):
        _measure_memory(Training.of(setting, device), device, deadline)


def _measure_memory(training: Training, device: torch.device, deadline: Deadline) -> None:
    for name in VARIANTS:
        if not deadline.allows(f"memory of {name}"):
            continue
        with training.variant(name) as step:
            _block(step, device, 1)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            _block(step, device, 60)
            peak = torch.cuda.max_memory_allocated() - before
        print(f"Memory, {name}: {peak / 2**20:.1f} MiB above what was held before", flush=True)


def ranks(device: torch.device, deadline: Deadline) -> None:
    """Train with two processes, each on a card of its own."""
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        deadline.left_out.append("DistributedDataParallel and fully_shard over NCCL (no second GPU)")
        return
    print()
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "benchmarks" / "ranks.py")]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command, "--device", "cuda", "--rounds", "20"],
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline.seconds,
        )
    except subprocess.TimeoutExpired:
        deadline.left_out.append("DistributedDataParallel and fully_shard over NCCL (no time left)")
        return
    print(done.stdout if done.returncode == 0 else f"NCCL: failed\n{done.stderr[-2000:]}", flush=True)


class _Both:
    """Writes to two files, at once: whoever is stopped keeps what was printed before."""

    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> None:
        for file in self._files:
            file.write(text)
        self.flush()

    def flush(self) -> None:
        for file in self._files:
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together (default: 9.5)")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write what is printed to a file as well")
    parser.add_argument("--apart", action="store_true", help="each part in a process of its own, as on a card")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        kept = "" if options.to is None else f" {options.to} is as it was."
        print(f"There is no CUDA device that PyTorch can use: {_why_no_device()} Nothing was measured.{kept}")
        print("`--device cpu --quick` goes through the same code on the CPU, to see that it runs.")
        sys.exit(1)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    with contextlib.ExitStack() as stack:
        if options.to is not None:
            both: Any = _Both(sys.stdout, stack.enter_context(options.to.open("w")))
            stack.enter_context(contextlib.redirect_stdout(both))
        if options.within:
            (name,) = options.only
            deadline = Deadline(time.monotonic() + 60 * options.minutes)
            _parts(device, options.quick)[name](deadline)
            print(LEFT_OUT + json.dumps(deadline.left_out))
            return
        apart = options.apart or device.type == "cuda"
        failed = run_all(device, options.quick, options.only or list(PARTS), options.minutes, apart=apart)
    sys.exit(1 if failed else 0)


LEFT_OUT = "left out: "
GRACE = 20.0
"""Seconds that a part may take beyond its time, for what it has begun."""


def run_all(device: torch.device, quick: bool, chosen: Sequence[str], minutes: float, *, apart: bool) -> list[str]:
    """Run the chosen parts; return those that failed."""
    began = time.monotonic()
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, driver {_driver()}, CUDA {torch.version.cuda}, Python", end=" ")
        print(f"{sys.version.split()[0]}, PyTorch {torch.__version__}, Triton {_triton()}", flush=True)
    else:
        print(f"PyTorch {torch.__version__} on {device}: no figure below is of a GPU")
    left_out: list[str] = []
    failed = []
    for name in chosen:
        share = 1.0 if len(chosen) == 1 else PARTS[name]
        deadline = Deadline(began + 60 * minutes * share)
        if deadline.allows(name):
            run = functools.partial(_run_apart, name, device, quick) if apart else _parts(device, quick)[name]
            try:
                run(deadline)
            except Exception as error:
                failed.append(name)
                print(f"\nThe part {name} failed: {type(error).__name__}: {str(error)[-1500:]}", flush=True)
        left_out += deadline.left_out
    print(f"\nIn {(time.monotonic() - began) / 60:.1f} minutes.")
    if failed:
        print("Failed: " + ", ".join(failed))
    if left_out:
        print("Not measured: " + "; ".join(left_out))
    return failed


def _parts(device: torch.device, quick: bool) -> dict[str, Callable[[Deadline], None]]:
    settings = (QUICK,) if quick else SETTINGS
    return {
        "tests": functools.partial(tests, device),
        "kernel": functools.partial(bandwidth, device, quick),
        "loads": functools.partial(loads, device, quick),
        "updates": functools.partial(updates, settings[0], device, quick),
        "waits": functools.partial(synchronisations, settings[-2:][0], device),
        "memory": functools.partial(memory, settings[-2:][0], device),
        "step": functools.partial(all_ratios, settings, device, quick),
        "ranks": functools.partial(ranks, device),
    }


def _run_apart(name: str, device: torch.device, quick: bool, deadline: Deadline) -> None:
    """Run a part in a process of its own, and print its lines as they come."""
    command = [sys.executable, __file__, "--device", str(device), "--only", name, "--within"]
    command += ["--minutes", str(deadline.seconds / 60), *(["--quick"] if quick else [])]
    with tempfile.TemporaryFile("w+") as errors:
        # A session of its own: what the part has started ends with it.
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        stop = threading.Timer(deadline.seconds + GRACE, os.killpg, (running.pid, signal.SIGKILL))
        stop.start()
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith(LEFT_OUT):
                deadline.left_out += json.loads(line.removeprefix(LEFT_OUT))
            else:
                print(line, end="", flush=True)
        status = running.wait()
        was_stopped = not stop.is_alive()
        stop.cancel()
        errors.seek(0)
        said = errors.read()
    if said:
        print(said[-3000:], file=sys.stderr, flush=True)
    if warned := [line for line in said.splitlines() if "triton-not-used" in line]:
        print(f"Part {name}: {warned[0]}", flush=True)
    if status:
        raise RuntimeError("it was stopped after its time" if was_stopped else said or f"it ended with {status}")


def _why_no_device() -> str:
    """What a person with a card can do about it."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is built for the CPU alone; install the build for your CUDA version."
    return f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, and the driver is {_driver()}."


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return "not installed"
    return str(triton.__version__)


if __name__ == "__main__":
    main()
