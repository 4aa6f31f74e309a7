"""What the training thread does on a device for gradwatch: operators launched, copies begun, and values waited for.

    python benchmarks/launches.py > benchmarks/launches.txt

No device is needed. The model lies on PyTorch's meta device, whose tensors have no values, so that reading one is an
error; a dispatch mode counts what each thread asks of PyTorch. Each row is the difference between a training with an
option and the same training without gradwatch, in operators and copies a step, after the first steps. The optimizer is
AdamW where no other is named. An operator on
tensors without values is not a launch on a card, but stands for one or a few. The Triton kernel takes the place of the
operators that measure on CUDA, with two launches for each dtype.

The recorder's thread is not counted: it collects numbers when their copies are complete. The copies themselves are
stood in for, since the meta device has none: their values are zeros. `capture=True` and GradScaler do not run on the
meta device; the tests in tests/stand_in count what they wait for.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradwatch
from gradwatch import clip
from gradwatch.measure import devices
from gradwatch.recording import losses, opened_sink

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item", "unique")
"""Operators whose answer decides what the host does next, so that it waits for the device."""
VIEWS = ("detach", "view", "unbind", "select", "slice", "reshape", "alias", "t", "transpose", "expand", "as_strided")
"""Operators that only describe memory."""
STEPS, WARM_UP = 12, 6
DEVICE = "meta"  # tests/gpu trains the same on a real one

Train = Callable[[nn.Module, Any, "gradwatch.Watch | None", int], None]


@dataclass
class Counts(TorchDispatchMode):
    """Counts operators by kind in the thread that entered it."""

    operators: int = 0
    copies: int = 0
    waits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if _is_copy_to_host(name, args, kwargs or {}):
            self.waits.append("copy to the host")
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if _waits_to_copy(name, args, kwargs or {}):
            self.waits.append(name)
        elif any(_is_meta(arg) for arg in args):
            if name in WAITS:
                self.waits.append(name)
            elif name not in VIEWS:
                self.operators += 1
        return func(*args, **(kwargs or {}))

    def copy(self, values: Tensor) -> Tensor:
        """Stand in for a copy to the host that is begun."""
        self.copies += 1
        return torch.zeros(values.shape, dtype=values.dtype)


def _is_copy_to_host(name: str, args: Any, kwargs: Any) -> bool:
    """Whether values are read from the device, which PyTorch can't do on meta."""
    return name == "_to_copy" and args[0].is_meta and str(kwargs.get("device")) == "cpu"


def _waits_to_copy(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operator copies from the host with a wait: unless told otherwise, and always for an index."""
    if name in ("index", "index_put", "index_put_"):
        return _is_meta(args[0]) and any(each is not None and not each.is_meta for each in args[1])
    if name == "_to_copy":
        to_device = str(kwargs.get("device")) == DEVICE and not args[0].is_meta
        return to_device and not kwargs.get("non_blocking")
    return name == "copy_" and _is_meta(args[0]) and not args[1].is_meta and not (args[2:] and args[2])


class _Complete:
    """An event of copies that are complete."""

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def _is_meta(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_is_meta(each) for each in value)
    return isinstance(value, Tensor) and value.is_meta


def _is_meta_device(device: torch.device) -> bool:
    return device.type == "meta"


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Count in this thread, and let tensors on the meta device have copies as a device's have."""
    counts = Counts()
    with (
        mock.patch.object(devices, "copies_behind", _is_meta_device),
        mock.patch.object(opened_sink, "copies_behind", _is_meta_device),
        mock.patch.object(losses, "has_values", return_value=True),
        mock.patch.object(devices, "_copy_behind", counts.copy),
        mock.patch.object(devices, "_pinned", lambda values: values),
        mock.patch.object(devices, "_mark", return_value=_Complete()),
    ):
        yield counts


def model() -> nn.Module:
    return nn.Sequential(nn.Embedding(64, 16), nn.Linear(16, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 64)).to(
        DEVICE
    )


def plain(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    backward(net)
    optimizer.step()


def backward(net: nn.Module) -> Tensor:
    loss = net(torch.zeros(4, 8, dtype=torch.long, device=DEVICE)).square().mean()
    loss.backward()
    return loss


def clipped(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    backward(net)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def drop_in(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    backward(net)
    (nn.utils if watch is None else clip).clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def by_value(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    backward(net)
    nn.utils.clip_grad_value_(net.parameters(), 1.0)
    optimizer.step()


def accumulated(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    for _ in range(3):
        backward(net)
    optimizer.step()


def logged(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    loss = backward(net)
    if watch is not None:
        watch.log(loss=loss)
    optimizer.step()


def dropped(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    optimizer.zero_grad()
    backward(net)
    if step % 2:
        optimizer.zero_grad()
        backward(net)
    optimizer.step()


def by_closure(net: nn.Module, optimizer: torch.optim.Optimizer, watch: gradwatch.Watch | None, step: int) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        return backward(net)

    optimizer.step(closure)  # type: ignore[arg-type]


def two(net: nn.Module, optimizers: list[torch.optim.Optimizer], watch: gradwatch.Watch | None, step: int) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
        backward(net)
        optimizer.step()


def halves(net: nn.Module) -> list[torch.optim.Optimizer]:
    parameters = list(net.parameters())
    return [torch.optim.SGD(parameters[::2], 0.1), torch.optim.AdamW(parameters[1::2], 0.1)]


def within_backward(net: nn.Module, optimizers: Any, watch: gradwatch.Watch | None, step: int) -> None:
    backward(net)


def one_each(net: nn.Module) -> list[torch.optim.Optimizer]:
    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    optimizers: dict[Tensor, torch.optim.Optimizer] = {p: torch.optim.SGD([p], 0.1) for p in net.parameters()}
    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(step)
    return list(optimizers.values())


def by_hand(net: nn.Module, optimizer: None, watch: gradwatch.Watch | None, step: int) -> None:
    net.zero_grad()
    backward(net)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=0.1)


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), 0.1),
    "AdamW, foreach": lambda net: torch.optim.AdamW(net.parameters(), 0.1, foreach=True),
    "Adagrad": lambda net: torch.optim.Adagrad(net.parameters(), 0.1),
    "Adamax": lambda net: torch.optim.Adamax(net.parameters(), 0.1),
    "NAdam": lambda net: torch.optim.NAdam(net.parameters(), 0.1),
    "RAdam": lambda net: torch.optim.RAdam(net.parameters(), 0.1),
    "RMSprop": lambda net: torch.optim.RMSprop(net.parameters(), 0.1),
}

OPTIONS: dict[str, tuple[Train, dict[str, Any]]] = {
    "observing": (plain, {"weights_every": 0}),
    "observing, updates read every step": (plain, {"weights_every": 0, "updates_every": 1}),
    "observing, weights sampled every step": (plain, {"weights_every": 1}),
    "recorder='process'": (plain, {"weights_every": 0, "recorder": "process"}),
    "clip_grad_norm_ of PyTorch": (clipped, {"weights_every": 0}),
    "clip_grad_norm_ of gradwatch.clip": (drop_in, {"weights_every": 0}),
    "clip_grad_value_ of PyTorch": (by_value, {"weights_every": 0}),
    "accumulation of three": (accumulated, {"weights_every": 0}),
    "watch.log(loss)": (logged, {"weights_every": 0}),
    "gradients dropped": (dropped, {"weights_every": 0}),
    "clip=NormClip(1.0)": (plain, {"weights_every": 0, "clip": clip.NormClip(1.0)}),
    "clip=ValueClip(1.0)": (plain, {"weights_every": 0, "clip": clip.ValueClip(1.0)}),
    "clip=LayerNormClip(1.0)": (plain, {"weights_every": 0, "clip": clip.LayerNormClip(1.0)}),
    "clip=AutoClip()": (plain, {"weights_every": 0, "clip": clip.AutoClip()}),
    "clip=QuantileClip()": (plain, {"weights_every": 0, "clip": clip.QuantileClip()}),
    "clip=ZClip()": (plain, {"weights_every": 0, "clip": clip.ZClip()}),
    "clip=AGC()": (plain, {"weights_every": 0, "clip": clip.AGC()}),
    "clip=AdaGC()": (plain, {"weights_every": 0, "clip": clip.AdaGC()}),
    "clip=SkipOutliers()": (plain, {"weights_every": 0, "clip": clip.SkipOutliers()}),
    "skip_nonfinite=True": (plain, {"weights_every": 0, "skip_nonfinite": True}),
}
LOOPS: dict[str, tuple[Train, Callable[[nn.Module], Any]]] = {
    "a closure": (by_closure, OPTIMIZERS["SGD"]),
    "two optimizers": (two, halves),
    "optimizers within backward": (within_backward, one_each),
    "no optimizer": (by_hand, lambda net: None),
}
"""Loops that need optimizers of their own."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training: operators and copies a step beyond those of the bare training, and what was waited for."""

    operators: float
    copies: float
    waits: tuple[str, ...]
    recorded: int


def count(train: Train, options: dict[str, Any], make: Callable[[nn.Module], torch.optim.Optimizer]) -> Row:
    """Train twice, with and without gradwatch, and return the difference."""
    bare = _bare(train, make, model)
    counts, recorded = _run(train, make, options)
    waits = list(counts.waits)
    for name in bare.waits:
        waits.remove(name)
    steps = STEPS - WARM_UP
    return Row(
        operators=(counts.operators - bare.operators) / steps,
        copies=(counts.copies - bare.copies) / steps,
        waits=tuple(waits),
        recorded=recorded,
    )


@functools.cache
def _bare(train: Train, make: Callable[[nn.Module], torch.optim.Optimizer], net: Callable[[], nn.Module]) -> Counts:
    return _run(train, make, None)[0]


def _run(
    train: Train, make: Callable[[nn.Module], torch.optim.Optimizer], options: dict[str, Any] | None
) -> tuple[Counts, int]:
    net = model()
    optimizer = make(net)
    with counting() as counts, tempfile.TemporaryDirectory() as folder:
        watch = None if options is None else gradwatch.attach(net, optimizer, Path(folder) / "run", **options)
        with counts:
            for step in range(STEPS):
                if step == WARM_UP:
                    counts.operators, counts.copies = 0, 0
                train(net, optimizer, watch, step)
        if watch is not None:
            watch.close()
        recorded = 0 if watch is None else len(gradwatch.Run(Path(folder) / "run").steps())
    return counts, recorded


def rows() -> Iterator[tuple[str, Train, dict[str, Any], Callable[[nn.Module], Any]]]:
    """The rows of the table: label, loop, options of `attach`, and what makes the optimizer."""
    for label, (train, options) in OPTIONS.items():
        yield label, train, options, OPTIMIZERS["AdamW"]
    train, options = OPTIONS["observing"]
    for label, make in OPTIMIZERS.items():
        if label != "AdamW":
            yield f"observing, {label}", train, options, make
    for label, (train, make) in LOOPS.items():
        yield f"observing, {label}", train, options, make


def line(label: str, row: Row) -> str:
    """A row as docs/devices.md has it."""
    waits = ", ".join(sorted(set(row.waits))) or "none"
    return f"| {label} | {waits} | {row.operators:.0f} | {row.copies:.1f} |"


def main() -> None:
    tensors = len(list(model().parameters()))
    print(f"PyTorch {torch.__version__}, a model of {tensors} tensors; operators and copies are those of a step")
    print()
    print("| option | waits | operators | copies |")
    print("|---|---|---|---|")
    for label, train, options, make in rows():
        print(line(label, count(train, options, make)), flush=True)


if __name__ == "__main__":
    main()
