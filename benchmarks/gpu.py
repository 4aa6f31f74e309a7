"""Everything that needs a GPU, in one command and under ten minutes.

    python benchmarks/gpu.py [--quick] > benchmarks/gpu.txt      (make gpu)

1. The tests that only run with a CUDA device.
2. The kernel: bytes a second beside the card's peak, for 1 M to 1 G entries in 1 to 10,000 tensors.
3. A step of GPT-2-medium with AdamW (fused): bare, PyTorch's clipping, gradwatch observing beside it, and `clip=`;
   eager and compiled. Interleaved rounds, medians of ratios.
4. What waits: PyTorch warns of each synchronisation (torch.cuda.set_sync_debug_mode).
5. Memory: the peak of each variant above what was held before.

What can't run on this machine is said. `--device cpu --quick` goes through the same code without a GPU, for a test of
this script.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import gradwatch
from gradwatch.clip import NormClip
from gradwatch.measure import measure

ROOT = Path(__file__).parents[1]
GOAL_BANDWIDTH, GOAL_OBSERVING, GOAL_CLIP = 0.85, 1.01, 1.00
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PEAKS = {
    "H100": 3350e9,
    "H200": 4800e9,
    "A100": 2039e9,
    "B200": 8000e9,
    "L40": 864e9,
    "L4": 300e9,
    "A10": 600e9,
    "T4": 320e9,
    "4090": 1008e9,
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


def tests() -> None:
    files = ["tests/unit/measure/test_cuda.py", "tests/unit/measure/test_triton.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print("Tests:", done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:])


def bandwidth(device: torch.device, quick: bool) -> None:
    """Print gigabytes a second of `measure`, launches included, over as many tensors as named."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    peak = peak_of(name)
    print()
    print(
        f"Kernel on {name}, peak {'not known' if peak is None else f'{peak / 1e9:.0f} GB/s'}, goal {GOAL_BANDWIDTH:.0%}"
    )
    print("   entries  tensors  dtype     GB/s  of the peak")
    for entries in (2**16,) if quick else (2**20, 2**24, 2**27, 2**30):
        for tensors in (1, 100) if quick else (1, 1_000, 10_000):
            for dtype_name, dtype in DTYPES.items():
                gradients = [torch.ones(entries // tensors, dtype=dtype, device=device) for _ in range(tensors)]
                seconds = _seconds(functools.partial(measure, gradients), device, rounds=3 if quick else 20)
                speed = entries * dtype.itemsize / seconds
                share = "not known" if peak is None else f"{speed / peak:.0%}"
                print(f"{entries:>10} {tensors:>8}  {dtype_name:<5} {speed / 1e9:>8.0f}  {share}")
                del gradients


def _seconds(action: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median time of an action, until the device has done it."""
    times = []
    for round_ in range(rounds + 3):
        finish(device)
        start = time.perf_counter()
        action()
        finish(device)
        if round_ >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


Step = Callable[[], None]
VARIANTS = ("bare", "clip_grad_norm_", "observing", "clip=")


@contextlib.contextmanager
def training(variant: str, device: torch.device, *, quick: bool, compiled: bool = False) -> Iterator[Step]:
    """Give one step of a variant, with a model, an optimizer and, where it records, a run of its own."""
    width, layers, heads, vocabulary, length = (64, 2, 4, 512, 32) if quick else (1024, 24, 16, 50_257, 512)
    torch.manual_seed(0)
    model = Gpt(width, layers, heads, vocabulary, length).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    ids = torch.randint(0, vocabulary, (2 if quick else 4, length), device=device)
    call = torch.compile(model) if compiled else model
    own_clip = variant in ("clip_grad_norm_", "observing")
    with contextlib.ExitStack() as stack:
        if variant in ("observing", "clip="):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            clip = NormClip(1.0) if variant == "clip=" else None
            stack.enter_context(gradwatch.attach(model, optimizer, Path(folder) / "run", clip=clip))
        yield _step(call, model, optimizer, ids, own_clip=own_clip)


def _step(
    call: Callable[[Tensor], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, *, own_clip: bool
) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(ids.device.type, torch.bfloat16):
            loss = call(ids)
        loss.backward()
        if own_clip:
            clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def ratios(device: torch.device, quick: bool) -> None:
    """Print each variant's step beside the step with PyTorch's clipping."""
    for compiled in (False,) if quick else (False, True):
        with contextlib.ExitStack() as stack:
            steps = {
                name: stack.enter_context(training(name, device, quick=quick, compiled=compiled)) for name in VARIANTS
            }
            for step in steps.values():
                _block(step, device, 3)
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(3 if quick else 15):
                for name, step in steps.items():
                    times[name].append(_block(step, device, 2 if quick else 5))
        base = times["clip_grad_norm_"]
        print()
        model, mode = "a small GPT" if quick else "GPT-2-medium", "compiled" if compiled else "eager"
        print(f"A step of {model}, AdamW fused, {mode}, beside PyTorch's clipping")
        print(f"(goals: observing {GOAL_OBSERVING}, clip= {GOAL_CLIP:.2f})")
        for name, own in times.items():
            ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
            print(f"  {name:<18} {statistics.median(own) * 1e3:>9.2f} ms  x{ratio:.3f}")


def _block(step: Step, device: torch.device, count: int) -> float:
    finish(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    finish(device)
    return (time.perf_counter() - start) / count


def synchronisations(device: torch.device, quick: bool) -> None:
    """Count what PyTorch warns of in 20 steps of each variant."""
    print()
    if device.type != "cuda":
        print("Synchronisations: not counted, there is no CUDA device")
        return
    for name in VARIANTS:
        with training(name, device, quick=quick) as step:
            _block(step, device, 5)
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                for _ in range(20):
                    step()
            torch.cuda.set_sync_debug_mode("default")
            count = sum("synchroniz" in str(each.message) for each in seen)
            print(f"Synchronisations in 20 steps, {name}: {count}")


def memory(device: torch.device, quick: bool) -> None:
    """Print the peak of each variant alone."""
    if device.type != "cuda":
        print("Memory: not measured, there is no CUDA device")
        return
    for name in VARIANTS:
        with training(name, device, quick=quick) as step:
            _block(step, device, 1)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            _block(step, device, 60)
            peak = torch.cuda.max_memory_allocated() - before
        print(f"Memory, {name}: {peak / 2**20:.0f} MiB above what was held before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device: nothing was measured.")
        sys.exit(1)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}")
        tests()
    else:
        print(f"PyTorch {torch.__version__} on {device}: no figure below is of a GPU")
    bandwidth(device, options.quick)
    ratios(device, options.quick)
    synchronisations(device, options.quick)
    memory(device, options.quick)
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        print("NCCL (DDP, fully_shard): not run, there is one GPU")


if __name__ == "__main__":
    main()
