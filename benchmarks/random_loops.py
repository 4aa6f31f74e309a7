"""Random training loops, each with and without the recording, while parts of gradwatch are made to fail.

    python benchmarks/random_loops.py --loops 3000
    python benchmarks/random_loops.py --first 0 --loops 1000 --save a.json    # in parts, on a busy machine
    python benchmarks/random_loops.py --table a.json b.json c.json

Each loop is drawn from its seed: framework, shape of the loop, optimizer, precision, accumulation, clipping, bad
batches, exceptions of the training, and a fault of gradwatch at a random moment. It is trained twice, alone and
recorded. Weights, optimizer state, gradients, losses, returned norms, the states of three random number generators,
the exception that ended it and the exit code have to be equal bit for bit, and nothing of gradwatch may stay behind.
``--seed S --only N`` repeats one loop. Where ``attach(clip=...)`` clips, the loop alone calls the same policy.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import contextlib
import copy
import dataclasses
import faulthandler
import functools
import gc
import hashlib
import importlib
import io
import json
import logging
import math
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch import clip as policies
from gradwatch.recording import lifecycle

FULL_ENDS = 0.1
"""Share of the loops in processes of their own at whose end the whole interpreter is taken apart."""

PACKAGE = str(Path(gradwatch.__file__).parent)


class Lookahead(torch.optim.Optimizer):
    """An optimizer around another that moves half of the way every second step."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.05)
        self.param_groups = self.inner.param_groups
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for slow, p in zip(self.slow, (p for g in self.param_groups for p in g["params"]), strict=False):
                p.copy_(slow.lerp_(p, 0.5))
        return loss


FRAMEWORKS = {"plain": 30, "trainer-like": 4, "accelerate": 3, "lightning": 2}
SHAPES = {
    "usual": 8,
    "zero last": 3,
    "never zeroed": 1,
    "zeroed in place": 2,
    "clip before backward": 1,
    "clip after step": 1,
    "large batches left out": 3,
    "closure": 2,
    "closure evaluated twice": 1,
    "two passes an update": 2,
    "no optimizer": 1,
    "steps within backward": 1,
    "two optimizers": 2,
    "frozen and thawed": 1,
    "group added": 1,
    "state loaded": 1,
    "copied": 1,
    "checkpointed": 1,
}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True, amsgrad=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adadelta": torch.optim.Adadelta,
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "Rprop": torch.optim.Rprop,
    "Adafactor": torch.optim.Adafactor,
    "Lookahead": Lookahead,
}
PRECISIONS = {"float32": 8, "float64": 1, "bfloat16": 1, "autocast": 2, "scaler": 4}
CLIPS = {
    "none": 4,
    "norm": 6,
    "norm, error": 1,
    "norm of order inf": 1,
    "value": 2,
    "pair": 1,
    "drop-in": 2,
    "by hand": 1,
    "policy in loop": 2,
    "attach": 5,
    "skip_nonfinite": 2,
}
FAULTS = {
    "none": 3,
    "folder removed": 2,
    "disk full": 2,
    "store raises": 2,
    "recorder's thread raises": 3,
    "recorder's thread raises anywhere": 3,
    "detector raises": 2,
    "hooks raise": 4,
    "on_event raises": 2,
}
ENDS = {"completed": 8, "exception": 2, "exception caught": 2, "SystemExit": 1, "SIGTERM": 1, "KeyboardInterrupt": 1}
POLICIES: dict[str, Callable[[], Any]] = {
    "NormClip": lambda: policies.NormClip(0.5),
    "ValueClip": lambda: policies.ValueClip(0.05),
    "LayerNormClip": lambda: policies.LayerNormClip(0.2),
    "AutoClip": lambda: policies.AutoClip(percentile=50),
    "QuantileClip": lambda: policies.QuantileClip(unclipped=0.5),
    "ZClip": lambda: policies.ZClip(warm_up=2),
    "AGC": lambda: policies.AGC(0.02),
    "AdaGC": lambda: policies.AdaGC(start=2),
}


class PlantedFault(Exception):
    """What no code of gradwatch expects."""


class Interruption(Exception):
    """What the training itself raises."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One loop."""

    seed: str
    framework: str
    shape: str
    optimizer: str
    precision: str
    accumulation: int
    clip: str
    policy: str
    bad: dict[int, float]
    steps: int
    fault: str
    fault_at: int
    end: str
    end_at: int
    attach_at: int
    closes: bool
    logs: str
    options: dict[str, Any]
    is_process: bool = False

    @property
    def calls_ours(self) -> bool:
        """Whether gradwatch is asked to change gradients."""
        return self.clip in ("attach", "skip_nonfinite", "policy in loop", "drop-in")


def draw(seed: int, number: int, process_share: float) -> Plan:
    """The loop of this number."""
    rng = random.Random(f"{seed}/{number}")

    def of(table: dict[str, int]) -> str:
        return rng.choices(list(table), list(table.values()))[0]

    steps = rng.randrange(3, 12)
    is_process = rng.random() < process_share
    ends = ENDS if is_process else {name: n for name, n in ENDS.items() if name != "SIGTERM"}
    framework, clip = of(FRAMEWORKS), of(CLIPS)
    shape = of(SHAPES) if framework == "plain" else "usual"
    if shape in ("steps within backward", "no optimizer", "closure", "closure evaluated twice", "two passes an update"):
        clip = rng.choice(("none", "norm", "value", "drop-in"))  # no moment at which a policy could act
    precision = of(PRECISIONS)
    optimizer = rng.choice(list(OPTIMIZERS))
    if shape not in ("usual", "zero last", "large batches left out") or optimizer == "Lookahead":
        precision = rng.choice(("float32", "float64", "bfloat16", "autocast"))
    options = {
        "weights_every": rng.choice((0, 1, 3, 50)),
        "stats": rng.choice((("norm",), ("norm", "nonfinite"), ("norm", "abs_max", "nonfinite", "zeros"))),
    }
    if clip not in ("attach", "skip_nonfinite"):
        options["every"] = rng.choice((1, 1, 1, 2, 3))
    return Plan(
        seed=f"{seed}/{number}",
        framework=framework,
        shape=shape,
        optimizer=optimizer,
        precision=precision,
        accumulation=rng.choice((1, 1, 1, 2, 3)),
        clip=clip,
        policy=rng.choice(list(POLICIES)),
        bad={
            rng.randrange(steps): rng.choice((math.nan, math.inf, 1e3, 1e30)) for _ in range(rng.choice((0, 0, 1, 2)))
        },
        steps=steps,
        fault=of(FAULTS),
        fault_at=rng.randrange(steps),
        end=of(ends),
        end_at=rng.randrange(steps),
        attach_at=rng.choice((0, 0, 0, rng.randrange(steps))),
        closes=rng.random() < 0.8,
        logs=rng.choice(("no", "before", "after")),
        options=options,
        is_process=is_process,
    )


# ------------------------------------------------------------------------------------------ faults


class Planter:
    """Raises an exception in one of the calls between functions of gradwatch, in one of its threads.

    Hooks only pass a call on to guarded code. Generators are also called to be closed, where nothing can catch
    an exception. Where gradwatch acts on updates, what acts is left whole: a protection that fails itself is
    told to the user and not made up for.
    """

    PASSES_ON = ("guarded", "harmless", "in_own_thread", "enter", "leave", "inside")
    ACTS = ("measure", "clip", "update_gate.py", "parameters.py", "pending.py", "loops.py", "router.py", "stepping.py")

    def __init__(self, at: int, *, spares_protection: bool) -> None:
        self.left, self.spares_protection = at, spares_protection
        self.where: str | None = None

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if event != "call" or not code.co_filename.startswith(PACKAGE) or self.where is not None or caller is None:
            return
        name = code.co_filename.removeprefix(PACKAGE)
        if not caller.f_code.co_filename.startswith(PACKAGE) or name.startswith("/recording/hooks"):
            return
        if (
            code.co_flags & CO_GENERATOR
            or code.co_name in self.PASSES_ON
            or name.endswith(("lifecycle.py", "attach.py"))
        ):
            return
        if self.spares_protection and any(f"/{part}" in name for part in self.ACTS):
            return
        self.left -= 1
        if self.left == 0:
            self.where = f"{name}:{code.co_name}"
            raise PlantedFault(self.where)

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


def raising(*_: object, **__: object) -> Any:
    raise PlantedFault


class Faults:
    """Makes a part of gradwatch fail, from the moment that the plan names to the end of the loop."""

    def __init__(self, plan: Plan, run: Path) -> None:
        self.plan, self.run = plan, run
        self.has_begun = False
        self._undo: list[Callable[[], None]] = []
        self._rng = random.Random(plan.seed)
        self.planter = Planter(self._rng.randrange(1, 120), spares_protection=plan.calls_ours)

    def at_attach(self) -> None:
        """Before gradwatch starts its thread."""
        if self.plan.fault == "recorder's thread raises anywhere":
            threading.settrace(self.planter)
            self._undo.append(lambda: threading.settrace(None))  # type: ignore[arg-type]

    def before_step(self, step: int, watch: gradwatch.Watch | None) -> None:
        if watch is None or self.has_begun or step < self.plan.fault_at:
            return
        self.has_begun = True
        match self.plan.fault:
            case "folder removed":
                watch.flush(5.0)
                shutil.rmtree(self.run, ignore_errors=True)
            case "disk full":
                self._fill_disk()
            case "store raises":
                error = self._rng.choice((OSError(28, "No space left on device"), PlantedFault("the store")))
                self._replace("gradwatch.store.writer", "StoreWriter", "append", error)
            case "recorder's thread raises":
                places: tuple[tuple[str, str, str], ...] = (
                    ("gradwatch.recording.batch_writer", "BatchWriter", "commit"),
                    ("gradwatch.recording.snapshots", "Snapshots", "save"),
                    ("gradwatch.recording.recorder", "Recorder", "_take"),
                    ("gradwatch.recording.recorder", "Recorder", "_work"),
                )
                self._replace(*self._rng.choice(places), PlantedFault("the recorder"))
            case "detector raises":
                places = (
                    ("gradwatch.detect.spike", "Spike", "update"),
                    ("gradwatch.recording.judge", "Judge", "see"),
                )
                self._replace(*self._rng.choice(places), PlantedFault("a detector"))

    def during_step(self) -> contextlib.AbstractContextManager[None]:
        if self.has_begun and self.plan.fault == "hooks raise":
            return self.planter.planted()
        return contextlib.nullcontext()

    def end(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _fill_disk(self) -> None:
        """No file of this process may grow beyond what the store has now, which is what a full disk does."""
        size = max((path.stat().st_size for path in self.run.glob("*")), default=0) if self.run.exists() else 0
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + self._rng.choice((0, 4096, 40_000)), hard))
        self._undo.append(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))

    def _replace(self, module: str, owner: str, name: str, error: Exception) -> None:
        def fails(*_: object, **__: object) -> Any:
            raise error

        kind = getattr(sys.modules[module], owner)
        original = getattr(kind, name)
        setattr(kind, name, fails)
        self._undo.append(lambda: setattr(kind, name, original))


# ---------------------------------------------------------------------------------------- the loops


class Net(nn.Module):
    """Small, with weights of one and two dimensions, one that gets no gradient, and noise."""

    def __init__(self, *, is_checkpointed: bool) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)
        self.unused = nn.Parameter(torch.ones(3))
        self.drop = nn.Dropout(0.1)
        self.is_checkpointed = is_checkpointed

    def body(self, x: Tensor) -> Tensor:
        return self.drop(torch.tanh(self.norm(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.body, x.requires_grad_(), use_reentrant=True) if self.is_checkpointed else self.body(x)
        assert isinstance(hidden, Tensor)
        out: Tensor = self.last(hidden)
        return out


class Training:
    """One loop, alone or recorded. `seen` is what the training itself could observe."""

    def __init__(self, plan: Plan, run: Path | None, *, is_reference: bool) -> None:
        self.plan, self.run, self.is_reference = plan, run, is_reference
        self.seen: list[Any] = []
        self.watch: gradwatch.Watch | None = None
        self.faults = Faults(plan, run or Path())
        self.policy: Any = None
        self.events = 0
        dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(plan.precision, torch.float32)
        self.dtype = dtype
        self.model: nn.Module = Net(is_checkpointed=plan.shape == "checkpointed").to(dtype)
        self.parameters = list(self.model.parameters())
        make = OPTIMIZERS[plan.optimizer]
        self.optimizers: list[Any] = []
        if plan.shape == "two optimizers":
            self.optimizers = [make(self.parameters[:2]), make(self.parameters[2:])]
        elif plan.shape == "steps within backward":
            self.optimizers = [torch.optim.SGD([p], lr=0.05, momentum=0.5) for p in self.parameters]
            for one, p in zip(self.optimizers, self.parameters, strict=True):
                p.register_post_accumulate_grad_hook(functools.partial(step_and_drop, one))
        elif plan.shape == "group added":
            self.optimizers = [make(self.parameters[:4])]
        elif plan.shape != "no optimizer":
            self.optimizers = [make(self.parameters)]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=plan.precision == "scaler")
        self.accelerator: Any = None
        if plan.framework == "accelerate":
            self.accelerator = accelerator()
            self.model = self.accelerator.prepare_model(self.model)
            self.optimizers = [self.accelerator.prepare_optimizer(one) for one in self.optimizers]

    # ------------------------------------------------------------------------- what gradwatch does

    def attach(self) -> None:
        plan = self.plan
        if self.is_reference or self.run is None:
            self.stand_in()
            return
        self.faults.at_attach()
        options = dict(plan.options)
        if plan.clip == "attach":
            options["clip"] = POLICIES[plan.policy]()
        if plan.clip == "skip_nonfinite":
            options["skip_nonfinite"] = True
        if plan.fault == "on_event raises":
            options["on_event"] = raising
        given = self.optimizers if len(self.optimizers) > 1 else self.optimizers[0] if self.optimizers else None
        self.watch = gradwatch.attach(self.model, given, self.run, **options)

    def stand_in(self) -> None:
        """In the loop alone: what `attach` does to the updates of a recorded one, at the same moment."""
        for one in (getattr(one, "optimizer", one) for one in self.optimizers):
            if self.plan.clip == "attach":
                one.register_step_pre_hook(functools.partial(clip_before_step, POLICIES[self.plan.policy]()))
            elif self.plan.clip == "skip_nonfinite":
                one.register_step_pre_hook(skip_before_step)

    # ------------------------------------------------------------------------------------ one step

    def batch(self, step: int) -> Tensor:
        x = torch.randn(4, 6, dtype=self.dtype)
        return x * self.plan.bad.get(step, 1.0)

    def loss(self, step: int) -> Tensor:
        if self.plan.end.startswith("exception") and step == self.plan.end_at and random.random() < 0.5:
            raise Interruption(f"the forward of step {step}")
        with torch.autocast("cpu", enabled=self.plan.precision == "autocast"):
            loss = self.model(self.batch(step)).float().square().mean()
        return loss / self.plan.accumulation

    def backward(self, loss: Tensor) -> None:
        self.seen.append(loss.detach().clone())
        if self.accelerator is not None:
            self.accelerator.backward(loss)
        else:
            self.scaler.scale(loss).backward()

    def clip(self) -> float:
        """Clip as the plan says; return the norm if there is one."""
        kind, parameters = self.plan.clip, [p for p in self.parameters if p.grad is not None]
        norm: Any = None
        if kind in ("norm", "norm, error", "norm of order inf"):
            order = math.inf if kind == "norm of order inf" else 2.0
            if self.accelerator is not None:
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5, order)
            else:
                source = self.model.parameters() if random.random() < 0.5 else self.parameters
                norm = clip_grad_norm_(source, 0.5, order, error_if_nonfinite=kind == "norm, error")
        elif kind == "value":
            clip_grad_value_(self.parameters, 0.05)
        elif kind == "pair":
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            torch.nn.utils.clip_grads_with_norm_(parameters, 0.5, norm)
        elif kind == "drop-in":
            norm = policies.clip_grad_norm_(self.parameters, 0.5)
        elif kind == "by hand":
            for p in parameters:
                p.grad.mul_(0.5)
        elif kind == "policy in loop":
            self.policy = self.policy or POLICIES[self.plan.policy]()
            norm = self.policy(self.parameters)
        self.seen.append(None if norm is None else norm.detach().clone())
        return 0.0 if norm is None else float(norm)

    def unscale(self) -> None:
        if self.plan.precision == "scaler" and self.accelerator is None and random.random() < 0.8:
            for one in self.optimizers:
                self.scaler.unscale_(one)

    def step_optimizers(self) -> None:
        for one in self.optimizers:
            if self.plan.precision != "scaler" or self.accelerator is not None:
                one.step()
            else:
                self.scaler.step(one)
        if self.accelerator is None:
            self.scaler.update()

    def zero(self, *, to_none: bool = True) -> None:
        for one in self.optimizers:
            one.zero_grad(set_to_none=to_none)
        if not self.optimizers:
            self.model.zero_grad(set_to_none=to_none)

    def closure(self, step: int, times: list[int]) -> Tensor:
        self.zero()
        loss = self.loss(step)
        loss.backward()
        self.seen.append(loss.detach().clone())
        if self.plan.clip != "none":
            self.clip()
        times.append(1)
        return loss

    def step_with_closure(self, step: int) -> None:
        (optimizer,) = self.optimizers
        times: list[int] = []
        if self.plan.shape == "closure evaluated twice":
            optimizer.step(lambda: (self.closure(step, times), self.closure(step, times))[1])
        else:
            optimizer.step(lambda: self.closure(step, times))

    def two_passes(self, step: int) -> None:
        self.zero()
        self.backward(self.loss(step))
        self.clip()
        moved = [(p, p.grad * 0.05) for p in self.parameters if p.grad is not None]
        with torch.no_grad():
            for p, by in moved:
                p.add_(by)
        self.zero()
        self.backward(self.loss(step))
        self.clip()
        with torch.no_grad():
            for p, by in moved:
                p.sub_(by)
        self.step_optimizers()

    def between_steps(self, step: int) -> None:
        """What some loops do before a step."""
        shape = self.plan.shape
        if shape == "frozen and thawed":
            self.parameters[0].requires_grad_(step % 4 != 2)
        elif shape == "group added" and step == 2:
            self.optimizers[0].add_param_group({"params": self.parameters[4:]})
        elif shape == "state loaded" and step == 2:
            self.optimizers[0].load_state_dict(copy.deepcopy(self.optimizers[0].state_dict()))
        elif shape == "copied" and step == 2:
            copied, _ = copy.deepcopy((self.model, self.optimizers[0])), pickle.dumps(self.model.state_dict())
            self.seen += [p.detach().clone() for p in copied[0].parameters()]

    def make_step(self, step: int) -> None:
        plan = self.plan
        if plan.shape.startswith("closure"):
            self.step_with_closure(step)
        elif plan.shape == "two passes an update":
            self.two_passes(step)
        else:
            self.plain_step(step)

    def plain_step(self, step: int) -> None:
        shape = self.plan.shape
        if shape not in ("zero last", "never zeroed"):
            self.zero(to_none=shape != "zeroed in place")
        if shape == "clip before backward":
            self.clip()
        for _ in range(self.plan.accumulation):
            self.backward(self.loss(step))
        if self.plan.end.startswith("exception") and step == self.plan.end_at:
            raise Interruption(f"step {step}")
        if shape != "steps within backward":
            self.unscale()
            self.update()
        if shape == "zero last":
            self.zero()

    def update(self) -> None:
        shape = self.plan.shape
        norm = 0.0
        if shape not in ("clip before backward", "clip after step"):
            norm = self.clip()
        if shape == "large batches left out" and not norm <= 2.0:
            if self.plan.precision == "scaler":
                self.zero()
                self.scaler.update() if self.scaler._per_optimizer_states else None
            return
        if shape == "no optimizer":
            with torch.no_grad():
                for p in self.parameters:
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=0.05)
        else:
            self.step_optimizers()
        if shape == "clip after step":
            self.clip()

    # ------------------------------------------------------------------------------------ the loop

    def train(self) -> None:
        plan = self.plan
        for step in range(plan.steps):
            if step == plan.attach_at:
                self.attach()
            self.faults.before_step(step, self.watch)
            self.between_steps(step)
            if plan.end == "SIGTERM" and step == plan.end_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if plan.end in ("SystemExit", "KeyboardInterrupt") and step == plan.end_at:
                raise SystemExit(7) if plan.end == "SystemExit" else KeyboardInterrupt
            with self.faults.during_step():
                try:
                    self.make_step(step)
                except Interruption:
                    if plan.end != "exception caught":
                        raise
                self.log(step)

    def log(self, step: int) -> None:
        if self.watch is not None and self.plan.logs != "no":
            self.watch.log(loss=float(step))

    def finish(self) -> None:
        self.faults.end()
        if self.watch is not None:
            self.watch.close("the loop ended")
        self.watch = None

    def state(self) -> list[Any]:
        """All that a training leaves behind."""
        tensors: list[Any] = [p.detach().clone() for p in self.parameters]
        tensors += [None if p.grad is None else p.grad.clone() for p in self.parameters]
        for one in self.optimizers:
            states = one.state_dict()["state"]
            tensors += [(key, name, value) for key in sorted(states) for name, value in sorted(states[key].items())]
        tensors.append(sorted((k, v) for k, v in self.scaler.state_dict().items()))
        return tensors


def step_and_drop(optimizer: torch.optim.Optimizer, parameter: Tensor) -> None:
    optimizer.step()
    parameter.grad = None


def clip_before_step(policy: Any, optimizer: torch.optim.Optimizer, *_: object) -> None:
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    if getattr(optimizer, "grad_scale", None) is None and any(p.grad is not None for p in owned):
        policy(owned)


def skip_before_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    if any(p.grad is not None and not p.grad.isfinite().all() for p in owned):
        for p in owned:
            p.grad = None


@functools.cache
def accelerator() -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=True)


class LightningTraining(Training):
    """The loop is that of Lightning's Trainer; the callback records it."""

    def train(self) -> None:
        import lightning.pytorch as pl

        plan, outer = self.plan, self

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = outer.model

            def training_step(self, batch: Tensor, index: int) -> Tensor:
                step = index // plan.accumulation
                if plan.end == "exception" and step == plan.end_at:
                    raise Interruption(f"step {step}")
                outer.faults.before_step(step, outer.watch_of_callback())
                loss = outer.model(batch[0] * plan.bad.get(step, 1.0)).float().square().mean()
                outer.seen.append(loss.detach().clone())
                return loss

            def configure_optimizers(self) -> Any:
                return outer.optimizers

        callbacks = []
        if self.run is not None and not self.is_reference:
            from gradwatch.integrations.lightning import GradWatchCallback

            self.faults.at_attach()
            callbacks.append(GradWatchCallback(self.run, **plan.options))
        self.callbacks = callbacks
        data = torch.utils.data.TensorDataset(torch.randn(plan.steps * plan.accumulation * 4, 6, dtype=self.dtype))
        clips = {"norm": ("norm", 0.5), "value": ("value", 0.05)}.get(plan.clip, (None, None))
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,  # type: ignore[arg-type]
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accumulate_grad_batches=plan.accumulation,
            gradient_clip_val=clips[1],
            gradient_clip_algorithm=clips[0],
            precision={"float64": "64-true", "bfloat16": "bf16-true", "autocast": "bf16-mixed"}.get(plan.precision, 32),  # type: ignore[arg-type]
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(data, 4, shuffle=True))

    def watch_of_callback(self) -> gradwatch.Watch | None:
        return self.callbacks[0].watch if self.callbacks else None

    def finish(self) -> None:
        super().finish()
        watch = self.watch_of_callback()
        if watch is not None:
            watch.close("the loop ended")


# -------------------------------------------------------------------------------------- comparison


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a training comes to; equal where every bit is."""

    exception: str
    observed: str
    state: str
    randomness: str


def bits(value: Any) -> bytes:
    """A value as bytes, so that NaN equals the same NaN."""
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1)
        return f"{value.dtype}{tuple(value.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(bits, value)) + b"]"
    return repr(value).encode()


def digest(value: Any) -> str:
    return hashlib.blake2b(bits(value), digest_size=12).hexdigest()


def seed_all(plan: Plan) -> None:
    if plan.framework != "plain":  # to import a framework may draw random numbers
        importlib.import_module("lightning.pytorch" if plan.framework == "lightning" else "accelerate")
    number = int.from_bytes(hashlib.blake2b(plan.seed.encode(), digest_size=4).digest(), "little")
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def outcome_of(plan: Plan, run: Path | None) -> tuple[Outcome, Training]:
    """Train; with a run recorded."""
    seed_all(plan)
    kind = LightningTraining if plan.framework == "lightning" else Training
    training = kind(plan, run, is_reference=run is None)
    exception = "none"
    try:
        training.train()
    except BaseException as error:
        if isinstance(error, gradwatch.GradwatchError | PlantedFault):
            raise
        exception = f"{type(error).__name__}: {error}"
        if plan.is_process:
            raise
    finally:
        if not plan.is_process or exception == "none":
            training.faults.end()
    randomness = ", ".join(map(digest, (torch.get_rng_state(), random.getstate(), list(np.random.get_state()))))
    outcome = Outcome(exception, digest(training.seen), digest(training.state()), randomness)
    if plan.closes or not plan.is_process:
        training.finish()
    return outcome, training


def left_behind() -> list[str]:
    """What of gradwatch is still in place after a loop."""
    found = [f"open: {run}" for run in lifecycle.open_runs()]
    for name, one in (
        ("backward", torch.autograd.backward),
        ("zero_grad", torch.optim.Optimizer.zero_grad),
        ("unscale_", torch.amp.GradScaler.unscale_),
        ("scaler.step", torch.amp.GradScaler.step),
    ):
        if "gradwatch" in getattr(getattr(one, "__code__", None), "co_filename", ""):
            found.append(f"hook: {name}")
    found += [f"thread: {t.name}" for t in threading.enumerate() if t.name == "gradwatch"]
    return found


def compare(plan: Plan, folder: Path) -> tuple[list[str], bool]:
    """The differences between the loop alone and recorded, and whether its fault came to pass."""
    alone, _ = outcome_of(plan, None)
    said = io.StringIO()
    with quiet(said):
        recorded, training = outcome_of(plan, folder)
    fired = plan.fault != "none" and (training.faults.planter.where is not None or training.faults.has_begun)
    different = [
        f"{field.name}: {getattr(alone, field.name)} alone, {getattr(recorded, field.name)} recorded"
        for field in dataclasses.fields(Outcome)
        if getattr(alone, field.name) != getattr(recorded, field.name)
    ]
    if different and (where := training.faults.planter.where):
        different.append(f"the fault was planted in {where}")
    if different:
        different += [line for line in said.getvalue().splitlines()[:5] if line]
    return different + left_behind(), fired


@contextlib.contextmanager
def quiet(said: io.StringIO) -> Iterator[None]:
    """Take what gradwatch says."""
    handler = logging.StreamHandler(said)
    logger = logging.getLogger("gradwatch")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)


# --------------------------------------------------------------------------------------- processes


def exit_of(plan: Plan, run: Path | None, report: Path) -> tuple[int, str]:
    """Train in a forked process that ends as a script ends; return its exit status and what it reports."""
    pid = os.fork()
    if pid == 0:
        raise InChild(plan, run, report)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), report.read_text() if report.exists() else "ended before"


class InChild(BaseException):
    """Carries a forked child out of the parent's frames, so that it ends as a script does."""

    def train(self) -> None:
        plan, run, report = self.args
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        outcome, training = outcome_of(plan, run)
        globals()["_kept"] = training  # as a script's globals are, until the interpreter ends
        report.write_text(repr(outcome))


def compare_processes(plan: Plan, folder: Path) -> tuple[list[str], bool]:
    alone = exit_of(plan, None, folder.with_suffix(".alone"))
    recorded = exit_of(plan, folder, folder.with_suffix(".recorded"))
    return [] if alone == recorded else [f"exit {alone} alone, {recorded} recorded"], plan.fault != "none"


# ------------------------------------------------------------------------------------------- table


def all_loops(seed: int, numbers: range | list[int], process_share: float) -> dict[str, Any]:
    """Train all; return the counts, and the loops that differ."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: dict[int, list[str]] = {}
    folder = tempfile.mkdtemp()  # no context manager, which would end in forked children too

    for number in numbers:
        plan = draw(seed, number, process_share)
        run = Path(folder) / str(number)
        differences, fired = (compare_processes if plan.is_process else compare)(plan, run)
        shutil.rmtree(run, ignore_errors=True)
        for name in ("framework", "shape", "optimizer", "precision", "clip", "end"):
            counts[name][getattr(plan, name)] += 1
        counts["fault"][plan.fault] += fired or plan.fault == "none"
        counts["run"]["in a process of its own" if plan.is_process else "in this process"] += 1
        if differences:
            failures[number] = differences
            print(f"loop {number}: {plan}\n  " + "\n  ".join(differences), file=sys.stderr, flush=True)
        if number % 20 == 19:
            gc.collect()
        if number % 250 == 249:
            print(f"{number + 1} loops, {len(failures)} differ", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return {"counts": counts, "failures": failures}


def show(found: dict[str, Any], seed: int) -> None:
    total = sum(found["counts"]["run"].values())
    print(
        f"{total} random loops of seed {seed}, each alone and recorded, in {found['seconds']:.0f} s of CPU"
        f" (torch {torch.__version__})"
    )
    print(f"loops that differ in one bit, in an exception or in an exit code: {len(found['failures'])}\n")
    for name, counter in found["counts"].items():
        note = " (loops in which it came to pass)" if name == "fault" else ""
        print(f"{name}{note}")
        for key, count in sorted(counter.items(), key=lambda item: (-item[1], item[0])):
            print(f"  {count:5d}  {key}")
    for number, differences in found["failures"].items():
        print(f"loop {number}: " + "; ".join(differences))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--loops", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="write what was found instead of the table")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of what was saved")
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of the loops to train")
    parser.add_argument("--processes", type=float, default=0.06, help="share of the loops in processes of their own")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    began = time.process_time()
    numbers = options.only or range(options.first, options.first + options.loops)
    found = together(options.table) if options.table else all_loops(options.seed, numbers, options.processes)
    found.setdefault("seconds", time.process_time() - began)
    if options.save:
        options.save.write_text(json.dumps(found))
    else:
        show(found, options.seed)
    return 1 if found["failures"] else 0


def together(files: list[Path]) -> dict[str, Any]:
    """What several parts have found."""
    parts = [json.loads(file.read_text()) for file in files]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for part in parts:
        for name, counter in part["counts"].items():
            counts[name].update(counter)
    failures = {number: found for part in parts for number, found in part["failures"].items()}
    return {"counts": counts, "failures": failures, "seconds": sum(part["seconds"] for part in parts)}


def end_at_once(code: int) -> None:
    """End as the interpreter does, without the two seconds in which it takes PyTorch apart."""
    sys.stdout.flush()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(code)


def end_in_child(child: InChild) -> None:
    """Train; the process ends by whatever the training raises."""
    plan: Plan = child.args[0]
    ends_fully = random.Random(plan.seed).random() < FULL_ENDS
    try:
        child.train()
    except SystemExit as error:
        if ends_fully:
            raise
        end_at_once(error.code if isinstance(error.code, int) else 1)
    except Exception:
        if ends_fully:
            raise
        traceback.print_exc()
        end_at_once(1)
    if not ends_fully:
        end_at_once(0)


if __name__ == "__main__":
    try:
        status = main()
    except InChild as child:
        status, in_child = 0, child
    else:
        in_child = None  # type: ignore[assignment]
    if in_child is not None:
        end_in_child(in_child)
    sys.exit(status)
