"""Training loops of single weights, spelled as sequences of operations.

`backward(3)` gives the weight "w" a gradient of exactly 3, from a loss of 30 unless another is given, so that a
table can name the record that a sequence should leave. Everything goes through `gradwatch.attach`, the
functions of torch that a script would call, and the store.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

import gradwatch
from gradwatch.store import StoreReader

MakeOptimizer: TypeAlias = Callable[[list[nn.Parameter]], Any]


def sgd(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Loop:
    """A model of named weights of one entry each, its optimizers, and a scaler where there is a loss scale."""

    def __init__(
        self,
        run: Path,
        optimizers: Mapping[str, str],
        make: MakeOptimizer = sgd,
        loss_scale: float | None = None,
        init: Callable[[Loop], None] | None = None,
        **options: Any,
    ) -> None:
        """``optimizers`` gives the names of each one's weights, one letter each."""
        names = "".join(dict.fromkeys("".join(optimizers.values())))
        self.model = nn.ParameterDict({name: nn.Parameter(torch.ones(1, dtype=torch.float64)) for name in names})
        self.stranger = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.optimizers = {name: make([self.model[w] for w in weights]) for name, weights in optimizers.items()}
        self.scaler = torch.amp.GradScaler("cpu", init_scale=loss_scale or 1.0, enabled=loss_scale is not None)
        if init is not None:
            init(self)
        attached = None if None in self.optimizers.values() else self.optimizers
        self.watch = gradwatch.attach(
            self.model, attached, run, weights_every=options.pop("weights_every", 0), **options
        )

    @property
    def optimizer(self) -> Any:
        """The only one, or the first."""
        return next(iter(self.optimizers.values()))

    def weights(self, names: str) -> list[nn.Parameter]:
        return [self.model[name] for name in names or self.model]


Operation: TypeAlias = Callable[[Loop], Any]


def play(operations: Sequence[Operation], **setting: Any) -> dict[str, list[dict[str, Any]]]:
    """Carry the operations out while a watch records; return each optimizer's records."""
    with folder_in_memory() as run:
        loop = Loop(run, **({"optimizers": {"0": "w"}} | setting))
        with contextlib.suppress(Stop), loop.watch:
            for operation in operations:
                operation(loop)
        return records_of(run, list(loop.optimizers))


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder for a run, in memory where the system has such a place: a short run mostly waits for the disk."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "run"


COLUMNS = ("max_norm", "clip_value", "clip_coef", "cut_entries", "nonfinite", "loss", "loss_scale", "skipped")


def records_of(run: Path, optimizers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    with StoreReader(run) as reader:
        return {
            name: [
                {"step": record.step, "total_norm": record.total_norm, "clip_fault": record.clip_fault}
                | {column: getattr(record, column) for column in COLUMNS}
                | {
                    "norms": {
                        p.name: float(n) for p, n in zip(record.layers.parameters, record.layers.norm, strict=True)
                    }
                }
                for record in reader.records(name)
            ]
            for name in optimizers
        }


# ------------------------------------------------------------------------- the records expected


def rec(total_norm: float, loss: float | None = None, **columns: Any) -> dict[str, Any]:
    """A record; what is not named is as in a step that nothing clipped, skipped or scaled."""
    plain = {
        "max_norm": None,
        "clip_value": None,
        "clip_coef": 1.0,
        "cut_entries": None,
        "nonfinite": 0 if math.isfinite(total_norm) else 1,
        "loss_scale": None,
        "skipped": False,
        "clip_fault": None,
    }
    unknown = columns.keys() - plain.keys() - {"step", "norms"}
    assert not unknown, unknown
    return plain | {"total_norm": total_norm, "loss": loss} | columns


def clipped(total_norm: float, to: float, loss: float | None = None, **columns: Any) -> dict[str, Any]:
    """A record of a step clipped by norm, with the coefficient of `torch.nn.utils.clip_grad_norm_`."""
    coefficient = min(1.0, to / (total_norm + 1e-6))
    return rec(total_norm, loss, **{"max_norm": to, "clip_coef": coefficient} | columns)


def assert_records(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> None:
    """Every column of every record; steps count from 0 and norms of parameters are compared where they are named."""
    assert [record["step"] for record in found] == [r.get("step", at) for at, r in enumerate(expected)]
    for record, wanted in zip(found, expected, strict=True):
        for column, value in wanted.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            approx = pytest.approx(value, rel=1e-6, nan_ok=True) if number or column == "norms" else value
            assert record[column] == approx, f"{column} of step {record['step']}"


# ------------------------------------------------------------------------------- the operations


def backward(gradient: float, loss: float | None = None, of: str = "w") -> Operation:
    """Add the gradient to each of the weights named, from a loss of ten times as much unless it is given."""
    return backward_of(dict.fromkeys(of, gradient), 10 * gradient if loss is None else loss)


def backward_of(gradients: Mapping[str, float], loss: float) -> Operation:
    def call(loop: Loop) -> Tensor:
        made = loss_of(loop, gradients, loss)
        loop.scaler.scale(made).backward()
        return made

    return call


def loss_of(loop: Loop, gradients: Mapping[str, float], loss: float) -> Tensor:
    made: Tensor = _Loss.apply(loss, list(gradients.values()), *(loop.model[name] for name in gradients))
    return made


class _Loss(torch.autograd.Function):
    """A loss of the value and with the gradients that are wanted, infinite ones included."""

    @staticmethod
    def forward(ctx: Any, loss: float, gradients: list[float], *weights: Tensor) -> Tensor:
        ctx.gradients = [torch.full_like(weight, gradient) for gradient, weight in zip(gradients, weights, strict=True)]
        return torch.tensor(float(loss), dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> Any:
        return None, None, *(gradient * of_loss for gradient in ctx.gradients)


def backward_of_another_model(loss: float) -> Operation:
    return lambda loop: (loop.stranger * loss).sum().backward()


def backward_that_raises(gradient: float) -> Operation:
    """The gradient reaches the weight and then a hook of the script raises."""

    def call(loop: Loop) -> None:
        def fail(_: Tensor) -> None:
            raise Stop

        handle = loop.weights("")[0].register_post_accumulate_grad_hook(fail)
        with contextlib.suppress(Stop):
            backward(gradient)(loop)
        handle.remove()

    return call


def clip_norm(max_norm: float, of: str = "", **options: Any) -> Operation:
    return lambda loop: clip_grad_norm_(loop.weights(of), max_norm, **options)


def clip_norm_or_raise(max_norm: float) -> Operation:
    """As a loop that goes on where torch refuses a norm that is not finite."""

    def call(loop: Loop) -> None:
        with contextlib.suppress(RuntimeError):
            clip_grad_norm_(loop.weights(""), max_norm, error_if_nonfinite=True)

    return call


def clip_value(value: float, of: str = "") -> Operation:
    return lambda loop: clip_grad_value_(loop.weights(of), value)


def clip_nothing(max_norm: float) -> Operation:
    return lambda loop: clip_grad_norm_([], max_norm)


def clip_stranger(max_norm: float) -> Operation:
    return lambda loop: clip_grad_norm_([loop.stranger], max_norm)


def zero_grad(set_to_none: bool = True) -> Operation:
    return lambda loop: [one.zero_grad(set_to_none=set_to_none) for one in loop.optimizers.values()]


def model_zero_grad(set_to_none: bool = True) -> Operation:
    return lambda loop: loop.model.zero_grad(set_to_none=set_to_none)


def step(optimizer: str = "0") -> Operation:
    return lambda loop: loop.optimizers[optimizer].step()


def step_with(*evaluations: Sequence[Operation], optimizer: str = "0") -> Operation:
    """A step whose closure is evaluated once for each of the sequences."""

    def call(loop: Loop) -> None:
        at = 0

        def closure() -> Tensor:
            nonlocal at
            at += 1
            results = [operation(loop) for operation in evaluations[at - 1]]
            return next((r for r in results if isinstance(r, Tensor) and r.requires_grad), torch.zeros(()))

        one = loop.optimizers[optimizer]
        assert isinstance(one, Evaluates) or len(evaluations) == 1
        if isinstance(one, Evaluates):
            one.evaluations = len(evaluations)
        one.step(closure)
        assert at == len(evaluations)

    return call


class Evaluates(torch.optim.Optimizer):
    """Evaluates its closure several times within a step, as LBFGS does, and updates by the last gradient."""

    evaluations = 1

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any) -> Any:
        with torch.enable_grad():
            losses = [closure() for _ in range(self.evaluations)]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])
        return losses[0]


def perturb(by: float) -> Operation:
    """Move the weights, as SAM does between its two passes."""

    def call(loop: Loop) -> None:
        with torch.no_grad():
            for weight in loop.weights(""):
                weight.add_(by)

    return call


def add_to_gradient(amount: float) -> Operation:
    def call(loop: Loop) -> None:
        for weight in loop.weights(""):
            assert weight.grad is not None
            weight.grad += amount

    return call


def unscale(optimizer: str = "0") -> Operation:
    return lambda loop: loop.scaler.unscale_(loop.optimizers[optimizer])


def scaler_step(optimizer: str = "0") -> Operation:
    return lambda loop: loop.scaler.step(loop.optimizers[optimizer])


def update() -> Operation:
    return lambda loop: loop.scaler.update()


def log(loss: Any, optimizer: str | None = None) -> Operation:
    return lambda loop: loop.watch.log(loss=loss, optimizer=optimizer)


def flush() -> Operation:
    return lambda loop: loop.watch.flush()


def do(change: Callable[[Loop], Any]) -> Operation:
    """Anything else, by a function of the loop."""
    return change


def expect_error(error: type[BaseException], *operations: Operation) -> Operation:
    """The script catches an exception that an operation raises, and goes on."""

    def call(loop: Loop) -> None:
        with pytest.raises(error):
            for operation in operations:
                operation(loop)

    return call


class Stop(Exception):
    """Raised by a loop of these tests."""


def stop() -> Operation:
    """The script raises and nothing catches it."""

    def call(loop: Loop) -> None:
        raise Stop

    return call
