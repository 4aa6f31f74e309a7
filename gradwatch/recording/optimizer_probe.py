"""Find out whether an optimizer's update follows the size of its gradient, by trying a copy of it.

Classes of `torch.optim` are known. For any other class, a fresh copy with the same settings makes a few steps
on a tiny matrix, once with a gradient and once with a thousand times that gradient. The probe does not touch
the training: not its parameters, state or random state, not its step hooks, and not its output.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import random
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.detect.optimizers import EPS_RULE, UPDATE_RULE, UPDATE_SIZE, EpsRule, UpdateRule

SIDE = 8
"""Rows and columns of the matrix that is stepped."""

BURN_IN, STEPS = 8, 2
"""Steps of one trial that are not measured, and that are. Some optimizers leave the first step out, and RAdam makes
its first five as SGD does."""

GRADIENT_SIZE = 1e-2
"""Size of the entries of the smaller gradient."""

FACTOR = 1000.0
"""How much larger the other gradient is."""

FOLLOWS_FROM, NORMALISES_TO = 300.0, 3.0
"""Ratio of the two updates from which they follow the gradient, and up to which they don't. An update between
the two does neither."""

STEPS_AFTER = 24
"""Steps after one with a larger gradient, by which the momentum has forgotten it."""

FIXED_WITHIN = 1.5
"""Ratio of the largest to the smallest of updates that are all of one size. Muon's iterations leave a scatter."""

EPS_FRACTION = 1 / 4
"""A size below eps: of the gradient's entries, or of the norm of the matrix."""

MOST_SECONDS = 1.0
"""After this the trials end, and nothing is known."""

FADED_TO = 1 / 2
"""An update that is smaller than this, compared with that of a large gradient, has been weakened by eps."""

_probing = threading.local()
_known: weakref.WeakKeyDictionary[Optimizer, dict[str, str]] = weakref.WeakKeyDictionary()


def is_probing() -> bool:
    """Whether this thread is trying an optimizer now, so that one which is constructed is not the script's."""
    return getattr(_probing, "active", False)


def probed_settings(optimizer: Optimizer) -> dict[str, str]:
    """Return what to store of an optimizer beside its own settings: `UPDATE_RULE`, `UPDATE_SIZE`, `EPS_RULE` if known.

    Empty where a trial is not possible: the class can't be constructed from its settings, needs another device, takes
    too long, or may talk to other processes.

    >>> probed_settings(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    {'update_rule': 'follows-gradient'}
    """
    if optimizer not in _known:
        _known[optimizer] = _probe(optimizer)
    return dict(_known[optimizer])


def _probe(optimizer: Optimizer) -> dict[str, str]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return {}  # a step of this class might wait for other ranks
    found: dict[str, str] = {}
    with _undisturbed(), contextlib.suppress(Exception):
        make = _maker(optimizer)
        usual = _update(make, GRADIENT_SIZE)
        rule = _update_rule(usual, _update(make, FACTOR * GRADIENT_SIZE))
        if rule is not None:
            found[UPDATE_RULE] = rule
        if rule == "normalises":
            found[UPDATE_SIZE] = "fixed" if _has_one_size(make) else "varies"
        eps = optimizer.defaults.get("eps")
        if rule == "normalises" and isinstance(eps, float) and 0 < eps < GRADIENT_SIZE / FACTOR:
            eps_rule = _eps_rule(make, eps, FADED_TO * usual)
            if eps_rule is not None:
                found[EPS_RULE] = eps_rule
    return found


def _update_rule(small: float, large: float) -> UpdateRule | None:
    if not small > 0 or not large > 0:
        return None
    if large / small >= FOLLOWS_FROM:
        return "follows-gradient"
    return "normalises" if 1 / NORMALISES_TO <= large / small <= NORMALISES_TO else None


def _has_one_size(make: Callable[[Tensor], Optimizer]) -> bool:
    """Whether a gradient among much smaller ones makes an update of their size, and none of another size later.

    Adam's update grows with it, and is smaller long after it, for the average of squares is still large.
    """
    scales = [1.0] * BURN_IN + [1.0, FACTOR] + [1.0] * STEPS_AFTER
    moves = [float(torch.linalg.vector_norm(move)) for move in _moves(make, [GRADIENT_SIZE * s for s in scales])]
    usual = moves[BURN_IN:]
    return min(usual) > 0 and max(usual) <= FIXED_WITHIN * min(usual)


def _eps_rule(make: Callable[[Tensor], Optimizer], eps: float, faded: float) -> EpsRule | None:
    """Return of what size eps is a floor: the one that weakens the update when it falls below eps."""
    if not _update(make, 2 * SIDE * eps) > faded:
        return None
    if _update(make, EPS_FRACTION * eps) < faded:  # the norm of this matrix is still twice eps
        return "per-entry"
    return "per-matrix" if _update(make, EPS_FRACTION * eps / SIDE) < faded else None


def _update(make: Callable[[Tensor], Optimizer], size: float) -> float:
    """Return how far a fresh copy moves a fresh matrix by random gradients whose entries have this size."""
    moves = _moves(make, [size] * (BURN_IN + STEPS))
    return float(torch.linalg.vector_norm(sum(moves[BURN_IN:], torch.zeros(()))))


def _moves(make: Callable[[Tensor], Optimizer], sizes: Sequence[float]) -> list[Tensor]:
    """Return the update of each step of a fresh copy on a fresh matrix.

    Raises:
        TimeoutError: the trials of this optimizer have taken too long.
    """
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(SIDE, SIDE, generator=generator)
    parameter = torch.nn.Parameter(weights)
    optimizer: Any = make(parameter)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()  # schedule-free optimizers have modes
    step = _step_without_hooks(optimizer)
    moves = []
    for size in sizes:
        before = parameter.detach().clone()
        parameter.grad = size * torch.randn(SIDE, SIDE, generator=generator)
        step()
        moves.append(parameter.detach() - before)
        if time.monotonic() > _probing.until:
            raise TimeoutError
    return moves


def _maker(optimizer: Optimizer) -> Callable[[Tensor], Optimizer]:
    """Return what makes a fresh optimizer of the same class and settings for one parameter.

    Weight decay is left out, for it moves weights whatever their gradient is; a learning rate of 0, as at the
    start of a warm-up, is replaced by that of the constructor.
    """
    kind: Any = type(optimizer)
    group = _plain({name: value for name, value in optimizer.param_groups[0].items() if name != "params"})
    settings = _plain(optimizer.defaults) | group
    if "weight_decay" in settings:
        settings["weight_decay"] = group["weight_decay"] = 0.0
    if not settings.get("lr"):
        settings["lr"] = group["lr"] = _plain(optimizer.defaults).get("lr") or 1e-3
    accepted = inspect.signature(kind).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    options = {name: value for name, value in settings.items() if takes_any or name in accepted}

    def make(parameter: Tensor) -> Optimizer:
        try:
            made: Optimizer = kind([{**group, "params": [parameter]}], **options)
        except (TypeError, ValueError, AssertionError, KeyError):
            made = kind([parameter], **options)
        return made

    return make


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy settings; tensors become numbers, so that nothing is shared with the training."""
    return {
        name: value.item() if isinstance(value, Tensor) and value.numel() == 1 else copy.deepcopy(value)
        for name, value in values.items()
        if not (isinstance(value, Tensor) and value.numel() != 1) and name not in ("foreach", "fused", "capturable")
    }


def _step_without_hooks(optimizer: Optimizer) -> Callable[[], object]:
    """Return the optimizer's step; PyTorch wraps it in one that calls the hooks of the whole process."""
    step: Any = type(optimizer).step
    inner = getattr(step, "__wrapped__", step) if getattr(step, "hooked", False) else step
    required = [p for p in inspect.signature(inner).parameters.values() if p.default is p.empty]
    needs_closure = any(p.name == "closure" for p in required)
    if needs_closure:
        return lambda: inner(optimizer, lambda: torch.zeros(()))
    return lambda: inner(optimizer)


class _OtherThreadsOnly(io.TextIOBase):
    """Passes on what other threads print and drops what this one does."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the random states, the printed output and the settings of PyTorch as they were."""
    numpy: Any = sys.modules.get("numpy")
    of_python, of_numpy, of_torch = random.getstate(), numpy and numpy.random.get_state(), torch.get_rng_state()
    dtype, _probing.active, _probing.until = torch.get_default_dtype(), True, time.monotonic() + MOST_SECONDS
    try:
        with (
            contextlib.redirect_stdout(_OtherThreadsOnly(sys.stdout)),
            contextlib.redirect_stderr(_OtherThreadsOnly(sys.stderr)),
            warnings.catch_warnings(),
            torch.device("cpu"),
            torch.enable_grad(),
            _eagerly(),
        ):
            warnings.simplefilter("ignore")
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        _probing.active = False
        torch.set_default_dtype(dtype)
        random.setstate(of_python)
        torch.set_rng_state(of_torch)
        if numpy:
            numpy.random.set_state(of_numpy)


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    """Run compiled functions as they are written: compiling a step for a trial would take far longer than it."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
