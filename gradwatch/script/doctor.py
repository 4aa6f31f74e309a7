"""`gradwatch doctor`: run a few steps of a training script and report what gradwatch can observe.

The script runs as under `gradwatch run`, into a temporary run, and is stopped after a few optimizer steps. It
has the side effects that it always has; for example, it writes its files.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gradwatch.analysis.run import Run
from gradwatch.errors import GradwatchError
from gradwatch.script.imports import after_import
from gradwatch.script.launch import Program, run_until, show, why_nothing
from gradwatch.script.plan import RecordingPlan
from gradwatch.script.processes import counted_processes
from gradwatch.text import count, number, optimizer_label, share

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from gradwatch.recording.hooks import ClipCall
    from gradwatch.recording.watch import Watch
    from gradwatch.script.discover import Discovery

Mark: TypeAlias = Literal["fine", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Observation:
    """Something that gradwatch can observe, or that it can't."""

    mark: Mark
    about: str
    text: str


@dataclass(frozen=True, slots=True)
class Examination:
    """The observations of a few steps of a script."""

    script: str
    observations: tuple[Observation, ...]
    failed: bool  # the script ended with an exception of its own

    @property
    def has_problem(self) -> bool:
        return any(observation.mark == "problem" for observation in self.observations)


COST_GOAL = 0.03  # of a step: what recording may take, as docs/benchmarks.md has it
LEAST_ADDED = 1.5  # calls of backward for each step: some steps have several
LATE_OPTIMIZERS = 20  # made after the first step: a loop that makes them may let none of them step twice
SHORT_STEP = 0.01  # seconds: of a shorter one the part of recording that every model has is more than the goal
WARM_STEPS = 20  # steps: in fewer, what PyTorch and gradwatch do once weighs too much to judge the cost

# Codes of findings that a few steps always have. The last is reported with the clip calls.
_NOT_OF_A_FEW_STEPS = {"too-short", "died", "killed", "ineffective-clipping"}
# Codes of findings that are information in a few steps, and may be a fault of the training.
_NOTED = {"dead-parameters", "zero-gradients"}


class _Enough(BaseException):
    """Stops the script from within its optimizer step."""


def examine(program: Program, steps: int = 5) -> Examination:
    """Run the program in this process until an optimizer has made ``steps`` steps or the program ends.

    It ends sooner where the program keeps making optimizers. The program prints as usual.
    """
    with tempfile.TemporaryDirectory(prefix="gradwatch-") as folder:
        found: list[_Listener] = []
        after_import("torch", lambda: found.append(_Listener(Path(folder), steps)))
        with counted_processes() as started:
            # The recording asks at its end which parameters a living optimizer holds, and which models there are.
            error = run_until(program, _Enough, lambda: _close(found))
        if error is not None:
            show(error, program)
        nothing = [Observation("problem", "steps", f"none: {why_nothing([])}")]
        observations = found[0].observations() if found else nothing
        return Examination(program.argv[0], (*observations, *told_by_processes(len(started))), error is not None)


def _close(listeners: Sequence[_Listener]) -> None:
    for listener in listeners:
        listener.close()


@dataclass(slots=True)
class _Site:
    """A line that calls a clipping function."""

    function: str
    threshold: float | None  # None: the policy chooses it
    calls: int = 0


class _Listener:
    """Observes the hooks, beside the discovery that records the run."""

    def __init__(self, folder: Path, steps: int) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from gradwatch.recording.hooks import TapError, listen_to_backward, listen_to_clip_calls, listen_to_grad_scaler
        from gradwatch.script.discover import Discovery

        self._folder, self._wanted = folder, steps
        self._discovery: Discovery = Discovery(RecordingPlan(run=folder))
        self._sites: dict[str, _Site] = {}
        self._backwards = 0
        self._has_closure = False
        self._losses: list[weakref.ref[Tensor]] = []  # that backward was called on since the last step
        self._repeated = 0  # steps before which backward was called on the same loss again
        self._is_repeated = False
        self._first_optimizers: int | None = None  # made before the first step
        self._scales: list[float] = []
        self._unscaled = self._was_unscaled = False
        self._route = ""
        self._stray: list[str] = []
        self._clock: list[tuple[float, float]] = []  # at each step: the time, and the seconds spent in gradwatch so far
        register_optimizer_step_post_hook(self._after_step)
        listen_to_backward(self)
        listen_to_grad_scaler(self)
        with contextlib.suppress(TapError):  # the recording warns of it
            listen_to_clip_calls(self)

    # ----------------------------------------------------------------------------- called by hooks

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._has_closure |= any(map(callable, (*args[1:], *kwargs.values())))
        self._repeated += self._is_repeated
        self._is_repeated = False
        self._losses.clear()
        self._stop_if_enough()

    def _stop_if_enough(self) -> None:
        watch = self._discovery.watch
        if watch is None or not watch.steps:
            return
        if len(self._clock) < watch.steps:
            self._clock.append((time.perf_counter(), watch.overhead_seconds))
        if self._first_optimizers is None:
            self._first_optimizers = self._discovery.optimizers_seen
        keeps_making = self._discovery.optimizers_seen >= self._first_optimizers + LATE_OPTIMIZERS
        if (watch.steps >= self._wanted or keeps_making) and not watch.steps_within_backward:
            raise _Enough

    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        # Optimizers that step within the previous backward have all stepped by now.
        watch = self._discovery.watch
        if watch is not None and watch.steps >= self._wanted:
            raise _Enough
        self._backwards += 1
        self._is_repeated |= any(loss() is tensor for loss in self._losses for tensor in tensors)
        self._losses += map(weakref.ref, tensors)

    def after_backward(self) -> None:
        watch = self._discovery.watch
        if watch is not None and watch.steps_within_backward and watch.steps:
            self._clock.append((time.perf_counter(), watch.overhead_seconds))

    def before_norm(self, call: ClipCall) -> None:
        """Required of a listener."""

    def before_clip(self, call: ClipCall) -> None:
        by_norm = call.max_norm is not None
        threshold = call.max_norm if by_norm else call.clip_value
        function = call.policy or ("clip_grad_norm_" if by_norm else "clip_grad_value_")
        site = _Site(function, None if threshold is None else float(threshold))
        self._sites.setdefault(_caller(), site).calls += 1

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        """In a loop without an optimizer a clip call is a step."""
        if not self._discovery.optimizers_seen:
            self._stop_if_enough()

    def clip_failed(self, call: ClipCall) -> None:
        """The exception reaches the script."""

    def before_unscale(self, optimizer: Optimizer) -> None:
        self._unscaled = True

    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        """Nothing to observe."""

    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        self._scales.append(float(scale))
        self._was_unscaled = self._unscaled

    def after_scaled_step(self, optimizer: Optimizer) -> None:
        self._unscaled = False  # the step itself unscales if the loop did not
        self._stop_if_enough()

    # -------------------------------------------------------------------------------- the report

    def close(self) -> None:
        """End the recording. What only a living model or an open recording can tell is asked before."""
        watch = self._discovery.watch
        if watch is not None:
            self._route, self._stray = watch.route, _outside(watch)
        self._discovery.close("doctor")

    def observations(self) -> list[Observation]:
        watch = self._discovery.watch
        if watch is None or not watch.steps:
            nothing = Observation("problem", "steps", f"none: {why_nothing([self._discovery])}")
            return [nothing, *(told_by_findings(Run(self._folder)) if self._is_written() else [])]
        run = Run(self._folder)
        found = self._about_steps(run)
        for name in run.optimizers:
            found += self._about_optimizer(run, name)
        if self._stray:
            text = f"parameters that require gradients and are in no optimizer: {_some(self._stray)}"
            found.append(Observation("note", "optimizers", text))
        found += told_by_findings(run)
        found += self._about_clipping(run)
        found += self._about_scaling(run)
        found += self._unseen(run)
        return [*found, told_by_clock(self._clock, self._route)]

    def _is_written(self) -> bool:
        """Whether there is a run: the recording begins with the first backward after an optimizer was made."""
        with contextlib.suppress(GradwatchError):
            return bool(Run(self._folder).optimizers)
        return False

    def _about_steps(self, run: Run) -> list[Observation]:
        made = len(run.steps())
        each = self._backwards / made
        of = f" of {len(run.optimizers)} optimizers" if len(run.optimizers) > 1 else ""
        text = f"{made} recorded{of}, {count(self._backwards, 'call')} of backward"
        found = [Observation("fine", "steps", text)]
        if self._repeated:
            text = f"backward is called again on the same loss before {self._repeated} of {count(made, 'step')}"
            found.append(Observation("problem", "steps", f"{text}: its gradient counts once for each call"))
        elif each >= LEAST_ADDED and self._has_closure:
            found.append(Observation("fine", "steps", f"about {number(each, 2)} calls of the closure for each step"))
        elif each >= LEAST_ADDED:
            text = f"about {number(each, 2)} calls of backward for each step: their gradients add up"
            found.append(Observation("note", "steps", f"{text}, as they should for micro-batches or parts of a loss"))
        return found

    def _about_optimizer(self, run: Run, name: str) -> list[Observation]:
        steps = run.steps(name)
        infos = run.parameters(name)
        about = f"optimizer {name}"
        if steps.empty:
            return [Observation("note", about, f"{optimizer_label(run.optimizers[name])} has made no step yet")]
        norms = run.layers("norm", name)
        present = run.layers("nonfinite", name).notna().iloc[-1]
        absent = [parameter for parameter in norms.columns if not present[parameter]]
        entries = sum(info.numel for info in infos)
        rate = steps["learning_rate"].iloc[-1]
        sizes = f"{count(len(infos), 'parameter')} with {entries:,} {'entry' if entries == 1 else 'entries'}"
        last = f"total norm {number(steps['total_norm'].iloc[-1])} at the last"
        text = (
            f"{optimizer_label(run.optimizers[name])}, {sizes}, lr"
            f" {'not known' if math.isnan(rate) else f'{number(rate, 6)}'}; {count(len(steps), 'step')}, {last}"
        )
        found = [Observation("fine", about, text)]
        if absent:
            found.append(Observation("note", about, f"no gradient at the last step: {_some(absent)}"))
        unnamed = [info.name for info in infos if info.name.startswith("group")]
        if unnamed:
            found.append(
                Observation(
                    "note", about, f"parameters that belong to no module, named by their group: {_some(unnamed)}"
                )
            )
        return found

    def _about_clipping(self, run: Run) -> list[Observation]:
        steps = run.steps()
        found = [
            Observation(
                "fine", "clipping", f"{site.function} at {where}{_told(site.threshold)}, {count(site.calls, 'call')}"
            )
            for where, site in self._sites.items()
        ]
        by_script = told_by_changes(run)
        if not found:
            return by_script or [Observation("note", "clipping", "no clipping function was called")]
        found += [*told_by_clip_faults(run), *by_script]
        in_force = int((steps["max_norm"].notna() | steps["clip_value"].notna()).sum())
        text = (
            f"reached the gradient at {in_force} of {len(steps)} steps and changed it at {int(steps['clipped'].sum())}"
        )
        return [*found, Observation("fine" if in_force else "note", "clipping", text)]

    def _about_scaling(self, run: Run) -> list[Observation]:
        if not self._scales:
            return []
        skipped = int(run.steps()["skipped"].sum())
        how = "the loop calls unscale_" if self._was_unscaled else "scaler.step calls unscale_"
        level, left_out = number(self._scales[-1]), count(skipped, "step")
        text = f"GradScaler at {level}, {how}; {left_out} skipped. Norms are recorded unscaled"
        return [Observation("fine", "scaling", text)]

    def _unseen(self, run: Run) -> list[Observation]:
        assert self._discovery.watch is not None
        found = []
        if self._discovery.watch.steps_within_backward:
            found.append(
                "optimizers step within backward: each gradient is measured just before its update, and they can't be"
                " clipped together"
            )
        if "NoOptimizer" in run.optimizers.values():
            found.append(
                "the loop has no optimizer: a step is recorded at each clip call, and the update is not observed"
            )
        return [Observation("note", "unseen", text) for text in found]


def _outside(watch: Watch) -> list[str]:
    """The parameters that require gradients and that no recorded optimizer updates."""
    own = watch.parameter_ids
    return [
        name
        for model in watch.models
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in own
    ]


def told_by_findings(run: Run) -> list[Observation]:
    """The findings of warning or worse, and a few of information, but for those that a few steps always have.

    An optimizer beside others that step may make its first step later, which is noted.
    """
    left_out = _NOT_OF_A_FEW_STEPS | ({"no-steps"} if len(run.steps()) else set())
    return [
        Observation(
            "note" if finding.severity == "info" else "problem", "diagnosis", f"{finding.what}: {finding.remedy}"
        )
        for finding in run.diagnosis()
        if (finding.severity != "info" or finding.code in _NOTED) and finding.code not in left_out
    ]


def told_by_changes(run: Run) -> list[Observation]:
    """That the script changes gradients by itself, so that the recorded norms are those after it."""
    return [
        Observation("note", "clipping", finding.what)
        for finding in run.diagnosis()
        if finding.code == "clipped-by-script"
    ]


def told_by_clip_faults(run: Run) -> list[Observation]:
    """Clip calls that do not do what they are meant to do."""
    return [
        Observation("note" if one.severity == "info" else "problem", "clipping", f"{one.what}: {one.remedy}")
        for one in run.diagnosis()
        if one.code == "ineffective-clipping"
    ]


def told_by_clock(clock: Sequence[tuple[float, float]], route: str) -> Observation:
    """What recording costs. ``clock``: at each step the time, and the seconds spent in gradwatch so far."""
    if len(clock) < 2:
        return Observation("note", "cost", f"not known after one step; gradients are read by {route}")
    # Medians, for the first steps make what later ones use again.
    wall, ours = (median(b - a for a, b in pairwise(column)) for column in zip(*clock, strict=True))
    is_met = ours <= COST_GOAL * wall
    steps = len(clock) - 1
    of = f", the median of {steps} steps" if steps > 1 else ""
    text = (
        f"{number(1e3 * ours)} ms of {number(1e3 * wall)} ms a step in the training thread ({share(ours / wall)}){of}"
    )
    if not is_met:
        text += f"; the goal is {share(COST_GOAL)}"
    if not is_met and wall < SHORT_STEP:
        text += ", which steps this short can't meet: a part of the time is the same for any model"
    elif not is_met and steps < WARM_STEPS:
        text += f". The first steps are slow: `gradwatch doctor --steps {5 * WARM_STEPS}` measures more"
    return Observation("fine" if is_met else "note", "cost", f"{text}; gradients are read by {route}")


def told_by_processes(started: int) -> list[Observation]:
    """That a training in the processes which the script starts was not looked at."""
    if not started:
        return []
    processes = count(started, "process", "processes")
    text = f"the script started {processes}; doctor does not look at trainings there, `gradwatch run` records them"
    return [Observation("note", "unseen", text)]


def _caller() -> str:
    """File and line of the innermost frame outside torch and gradwatch."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module not in ("torch", "gradwatch", "contextlib"):
            return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


def _short(path: str) -> str:
    """A path relative to the current folder, or to the folder from which its package is imported."""
    for base in (Path.cwd(), *(Path(entry) for entry in sys.path if entry)):
        if Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return path


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _told(threshold: float | None) -> str:
    return "" if threshold is None else f", threshold {number(threshold, 6)}"
