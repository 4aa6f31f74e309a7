"""The handle of a recording."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.errors import BadArgument
from gradwatch.measure import closed_form_of, route_of, updates_route_of
from gradwatch.record import StepRecord
from gradwatch.recording.open_loop import open_loop
from gradwatch.recording.optimizers import unwrapped, with_stand_ins
from gradwatch.recording.options import RecordingOptions
from gradwatch.recording.parameters import printable
from gradwatch.recording.recording import Recording
from gradwatch.recording.router import HookRouter
from gradwatch.text import exit_reason

if TYPE_CHECKING:
    from gradwatch.clip import Policy
    from gradwatch.recording.losses import BackwardLoss


class Watch:
    """The handle of a recording; `attach` makes it. Use it as a context or call `close`.

    Attributes:
        run: the folder of the run.
        policies: the policy that clips, by the name of the optimizer.

    >>> import torch
    >>> from gradwatch import attach
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with attach(model, optimizer, tmp_path / "watched") as watch:
    ...     loss = model(torch.ones(1, 2)).sum()
    ...     loss.backward()
    ...     optimizer.step()
    ...     watch.log(loss=loss)
    >>> watch.steps, watch.optimizers
    (1, ['0'])
    """

    def __init__(
        self, recording: Recording, router: HookRouter, options: RecordingOptions, policies: Mapping[str, Policy]
    ) -> None:
        """Hold a recording that is open; use `attach`, which checks its arguments and opens one."""
        self.run: Path = recording.run
        self.policies = dict(policies)
        self._recording = recording
        self._router = router
        self._options = options

    @property
    def steps(self) -> int:
        """The number of the next step; with several optimizers that of the furthest."""
        return self._recording.loops.furthest_step

    @property
    def last(self) -> StepRecord | None:
        """The latest record, which is a few steps old: its ``step`` says which. Reading it never waits.

        It has the total norm, the threshold, the coefficient and the loss, but no statistics of parameters. None before
        the first record, and on ranks that write no run.
        """
        return self._recording.last

    @property
    def optimizers(self) -> list[str]:
        """The names of the recorded optimizers, including those that the script has dropped."""
        return list(self._recording.loops.names)

    @property
    def models(self) -> list[nn.Module]:
        """The models that give the parameters their names, each once."""
        return list({id(model): model for model in self._recording.loops.models()}.values())

    @property
    def parameter_ids(self) -> set[int]:
        """The `id` of every parameter that an optimizer holds."""
        return set().union(*(loop.tracker.parameters.ids for loop in self._recording.loops))

    @property
    def route(self) -> str:
        """How gradients, and updates where they are known in closed form, are read on each kind of device, in words."""
        tables = [loop.tracker.parameters for loop in self._recording.loops]
        route = route_of([parameter for table in tables for parameter in table.parameters])
        known = [table for table in tables if table.optimizer is not None and closed_form_of(table.optimizer)]
        if not known:
            return route
        return f"{route}; updates by {updates_route_of([p for table in known for p in table.parameters])}"

    @property
    def steps_within_backward(self) -> bool:
        """Whether optimizers step during the backward pass."""
        return any(loop.steps_within_backward for loop in self._recording.loops)

    @property
    def overhead_seconds(self) -> float:
        """The time that the training thread has spent in gradwatch."""
        return self._recording.overhead_seconds

    def log(
        self,
        *,
        loss: float | Tensor | None = None,
        optimizer: str | None = None,
        validation_loss: float | Tensor | None = None,
    ) -> None:
        """Add the loss to a step: the last one, or the next one if you call this before its step.

        This does not wait for a tensor's value. Several calls for one step (micro-batches) give their
        mean. With several optimizers the loss goes to all of them, or to the named one. Without any
        call, the loss of a step is the sum of the tensors on which `backward` was called, divided by
        a GradScaler's scale.

        ``validation_loss`` is the loss on data that the training does not learn from, after the last step. `gradwatch
        recommend` tells from it where early stopping would have ended the training. It is read at once, and is kept
        if one process trains.
        """
        self._router.log(loss, optimizer)
        self._router.log_validation(validation_loss)

    def add(self, name: str, model: nn.Module, optimizer: Optimizer) -> None:
        """Record one more optimizer from now on. Its step numbers continue those that the run has of it.

        The name of an optimizer that the script has dropped may be used again.

        Raises:
            BadArgument: ``model`` is no module, ``optimizer`` no optimizer or recorded already, or another optimizer
                has the name. The recording goes on.
        """
        name, optimizer = printable(str(name)), unwrapped(optimizer)
        if not isinstance(model, nn.Module):
            raise BadArgument(f"model is a {type(model).__name__}; expected a torch.nn.Module.")
        if not isinstance(optimizer, Optimizer):
            raise BadArgument(f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer.")
        optimizer = with_stand_ins({name: optimizer}, model)[name]
        loops = self._recording.loops
        if self._recording.state == "recording":
            if loops.named(name):
                raise BadArgument(f"name is {name!r}, and an optimizer of this run has it; expected a new name.")
            if (recorded := loops.of(optimizer)) is not None:
                raise BadArgument(f"This optimizer is recorded already, as {recorded.tracker.name!r}.")
        options = self._options.for_later_optimizer()
        policy = self.policies.get(name)
        self._router.add(functools.partial(open_loop, name, model, optimizer, options=options, policy=policy))

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """Declare that the gradients are complete: the optimizer will use them, and nothing has clipped them.

        You need this only if the steps take a closure and ``clip`` has to clip them. Call it in the
        closure, after backward.
        """
        self._router.gradients_ready(unwrapped(optimizer))

    def count_earlier_backward(self, losses: Sequence[BackwardLoss]) -> None:
        """Account for a backward pass that ran before attaching; ``losses``: what it was called on."""
        self._router.count_earlier_backward(losses)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything recorded so far is on disk, for at most ``timeout`` seconds.

        Returns:
            False if that took longer.
        """
        return self._recording.flush(timeout)

    def close(self, reason: str = "closed") -> None:
        """End the recording and detach. Calling it again does nothing.

        Args:
            reason: kept as the reason why the attempt ended.
        """
        self._recording.close(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, SystemExit) and error.code:
            self.close(exit_reason(error.code))
        elif isinstance(error, GeneratorExit):  # a generator that trains was left, for example by `break`
            self.close("closed")
        else:
            self.close("closed" if kind is None else f"exception {kind.__name__}")
