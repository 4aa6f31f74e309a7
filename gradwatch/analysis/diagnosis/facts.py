"""The facts about a run that the rules of the diagnosis share: read once, and frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.frames import is_loss_nonfinite, is_nonfinite
from gradwatch.analysis.history import RunReader, is_imported
from gradwatch.analysis.replays.result import Replay, read_replays
from gradwatch.analysis.statistics.lone_spikes import lone_spikes
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory, optimizer_history
from gradwatch.analysis.statistics.quantiles import Array, chosen_of
from gradwatch.analysis.statistics.validation import validation_losses
from gradwatch.capture import CaptureInfo
from gradwatch.record import EMBEDDINGS_KEY, FROZEN_KEY, Event, ParameterInfo
from gradwatch.store.columns import equals

MAX_SAMPLED_NORMS = 1_000_000  # norms of parameters read for the diagnosis of one optimizer
MAX_SAMPLED_STEPS = 400  # steps

Fact = TypeVar("Fact")
State: TypeAlias = Literal["running", "killed", "closed", "exit", "exception", "signal", "stopped", "fault", "imported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the last attempt of the run ended."""

    state: State
    detail: str = ""  # the type of the exception, the name of the signal, the kind of event it was stopped on


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimizerFacts:
    """The record of one optimizer.

    Attributes:
        frame: `RunReader.steps` of it, in order of steps.
        norms: of each parameter's gradient, (sampled steps, parameters); NaN without a gradient.
        present: whether each parameter had a gradient, as ``norms``.
        weights, updates: sampled L2 norms of the weights and of their updates, (samples, parameters).
        has_rivals: whether the run has other optimizers: the loss of one may rise while another learns.
        carried_steps: steps at which backward added to the gradients of the step before; None: not recorded.
        changed_steps: steps at which something other than a clip call changed the gradients between backward and
            the optimizer's step; None: not recorded.
        mixed_steps: steps at which backward added to what the backward of another optimizer's step had left; None: not
            recorded.
        dropped_steps: steps at which every gradient was gone that backward had written; None: not recorded.
        carried_in: of the parameters that were looked at, those whose gradients are carried where others are not.
        moved_without_steps: it made no step, and the script wrote into its parameters.
        trained_instead: the class of a model with parameters of the same shapes that got gradients, where these did
            not, and that no optimizer holds; None: there was none.
        frozen: names of the parameters that did not require a gradient, as far as is known.
    """

    name: str
    class_name: str
    settings: Mapping[str, Any]
    parameters: tuple[ParameterInfo, ...]
    frame: pd.DataFrame
    events: tuple[Event, ...]
    history: OptimizerHistory
    norms: pd.DataFrame
    present: pd.DataFrame
    weights: pd.DataFrame
    updates: pd.DataFrame
    has_rivals: bool
    carried_steps: int | None
    changed_steps: int | None
    mixed_steps: int | None = None
    dropped_steps: int | None = None
    frozen: frozenset[str] = frozenset()
    carried_in: tuple[str, ...] = ()
    moved_without_steps: bool = False
    trained_instead: str | None = None

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Step numbers, (steps,)."""
        return self.frame.index.to_numpy(np.int64)

    @cached_property
    def total_norm(self) -> Array:
        """Total norms before clipping, (steps,); NaN also where they are not known."""
        return self.frame["total_norm"].to_numpy(float)

    @property
    def has_norms(self) -> bool:
        """Whether total norms are known, as they are of every run but some imported histories."""
        return self.history.has_norms

    @cached_property
    def nonfinite(self) -> NDArray[np.bool_]:
        """Whether a gradient or the total norm is NaN or infinite, (steps,)."""
        return is_nonfinite(self.frame)

    @cached_property
    def loss_nonfinite(self) -> NDArray[np.bool_]:
        """Whether a loss was logged that is NaN or infinite, (steps,)."""
        return is_loss_nonfinite(self.frame)

    @cached_property
    def loss(self) -> Array:
        """Losses, (steps,); NaN without a loss, and where the loss was NaN."""
        return self.frame["loss"].to_numpy(float)

    @cached_property
    def loss_logged(self) -> NDArray[np.bool_]:
        """Whether a loss is known, (steps,)."""
        return self.frame["loss_logged"].to_numpy(bool)

    @cached_property
    def skipped(self) -> NDArray[np.bool_]:
        """Whether the update did not happen, (steps,)."""
        return self.frame["skipped"].to_numpy(bool)

    @cached_property
    def span(self) -> tuple[int, int] | None:
        """The first and the last step; None without a step."""
        return (int(self.steps[0]), int(self.steps[-1])) if len(self.steps) else None

    @cached_property
    def lone_spikes(self) -> list[tuple[int, float]]:
        """Step and ratio to its neighbours of each step that stands out."""
        usable = np.isfinite(self.total_norm) & (self.total_norm > 0) & ~self.skipped
        told = {e.step for e in self.events if e.kind in ("spike", "explosion") and e.severity != "info"}
        return lone_spikes(chosen_of(self.steps, usable), chosen_of(self.total_norm, usable), told)

    @cached_property
    def update_ratios(self) -> pd.DataFrame:
        """Update norm over weight norm of each matrix, (samples, matrices); NaN where a matrix is 0 or not finite.

        Biases and gains begin near 0, where a large share means little, so they are left out.
        """
        common = self.updates.index.intersection(self.weights.index)
        weights, updates = self.weights.loc[common], self.updates.loc[common]
        matrices = [info.name for info in self.parameters if len(info.shape) > 1 and info.name in weights.columns]
        return (updates / weights.where(weights > 0))[matrices].replace([np.inf, -np.inf], np.nan)

    @cached_property
    def entries(self) -> Array:
        """Number of entries of each parameter, (parameters,)."""
        return np.array([float(info.numel) for info in self.parameters])

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the model's order."""
        return [info.name for info in self.parameters]


def computed_once(fact: Callable[[OptimizerFacts], Fact]) -> Callable[[OptimizerFacts], Fact]:
    """A fact that several rules ask for, computed once for each optimizer: a `cached_property` outside the class."""

    @wraps(fact)
    def remembered(optimizer: OptimizerFacts) -> Fact:
        known = vars(optimizer)
        if fact.__qualname__ not in known:
            known[fact.__qualname__] = fact(optimizer)
        found: Fact = known[fact.__qualname__]
        return found

    return remembered


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """The record of a run, by optimizer."""

    optimizers: tuple[OptimizerFacts, ...]
    events: tuple[Event, ...]
    ending: Ending
    is_imported: bool
    without_optimizer: tuple[str, ...]  # parameters that got gradients and that no optimizer holds
    captures: tuple[CaptureInfo, ...] = ()  # bad steps that were kept
    replays: tuple[Replay, ...] = ()  # of those that were replayed
    run: str = ""  # as a command names it
    validation: pd.Series[float] = field(
        default_factory=lambda: pd.Series(dtype=float)
    )  # losses of validations, by step

    embeddings: frozenset[str] = frozenset()  # names of parameters, as far as is known
    dropout: float = 0.0  # the largest share of units that the model drops at each step

    @property
    def several(self) -> bool:
        """Whether a sentence has to name its optimizer."""
        return len(self.optimizers) > 1

    @property
    def furthest(self) -> OptimizerFacts | None:
        """The optimizer that has come furthest by its own counter, of equals the first; None without a step."""
        return max((one for one in self.optimizers if one.span), key=lambda one: int(one.steps[-1]), default=None)

    def frame_of(self, name: str) -> pd.DataFrame | None:
        """`RunReader.steps` of one optimizer; None: the run has no optimizer of that name."""
        return next((optimizer.frame for optimizer in self.optimizers if optimizer.name == name), None)

    def time_of(self, optimizer: str | None, step: int | None) -> float:
        """The clock at a step of an optimizer, in seconds since the epoch; 0 where that is not known."""
        frame = None if optimizer is None else self.frame_of(optimizer)
        if frame is None or step is None or step not in frame.index:
            return 0.0
        times = frame.loc[[step], "wall_time"].to_numpy(float)
        return float(np.nan_to_num(times[0]))

    def of(self, optimizer: OptimizerFacts) -> str:
        """How a sentence names an optimizer: " of optimizer critic", or nothing if it is the only one."""
        return f" of optimizer {optimizer.name}" if self.several else ""

    def by(self, optimizer: OptimizerFacts) -> str:
        """How a sentence begins: "optimizer critic (Adam)", or "the optimizer (Adam)" if it is the only one."""
        kind = f" ({optimizer.class_name})" if optimizer.class_name else ""
        return f"optimizer {optimizer.name}{kind}" if self.several else f"the optimizer{kind}"


def read_facts(reader: RunReader) -> Facts:
    """Read what the rules need, in bounded memory for a model of any size."""
    meta = reader.meta()
    events = tuple(reader.events())
    frame = reader.steps_to_read()
    optimizers = tuple(_optimizer_facts(reader, name, frame, events, meta) for name in reader.optimizers)
    return Facts(
        optimizers=optimizers,
        events=events,
        ending=_ending(reader, meta),
        is_imported=is_imported(meta),
        without_optimizer=tuple(json.loads(meta.get("parameters_without_optimizer", "[]"))),
        captures=tuple(reader.captures()),
        replays=read_replays(reader.path),
        run=str(reader.path),
        validation=validation_losses(meta),
        embeddings=frozenset(json.loads(meta.get(EMBEDDINGS_KEY, "[]"))),
        dropout=float(meta.get("dropout") or 0.0),
    )


def _optimizer_facts(
    reader: RunReader, name: str, frame: pd.DataFrame, events: tuple[Event, ...], meta: Mapping[str, str]
) -> OptimizerFacts:
    mine = equals(np.asarray(frame["optimizer"].array, object), name)  # once where all are of one: pandas looks at each
    own = frame if mine.all() else frame[mine]  # a copy of a long run takes memory
    parameters = reader.parameters(name)
    norms, present = _sampled_norms(reader, name, len(own), len(parameters))
    return OptimizerFacts(
        name=name,
        class_name=reader.optimizers[name],
        settings=reader.settings(name),
        parameters=parameters,
        frame=own,
        events=tuple(event for event in events if event.optimizer == name),
        history=optimizer_history(reader, name, own),
        norms=norms,
        present=present,
        weights=reader.layers("weight_norm", name),
        updates=reader.layers("update_norm", name),
        has_rivals=len(reader.optimizers) > 1,
        carried_steps=_count(meta, f"carried_steps.{name}"),
        carried_in=tuple(json.loads(meta.get(f"carried_in.{name}", "[]"))),
        changed_steps=_count(meta, f"changed_steps.{name}"),
        mixed_steps=_count(meta, f"mixed_steps.{name}"),
        dropped_steps=_count(meta, f"dropped_steps.{name}"),
        moved_without_steps=f"moved_without_steps.{name}" in meta,
        trained_instead=meta.get(f"trained_instead.{name}"),
        frozen=frozenset(json.loads(meta.get(FROZEN_KEY, "[]"))),
    )


def _sampled_norms(reader: RunReader, name: str, steps: int, parameters: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Norms and presence of gradients at an even sample of the steps, (samples, parameters) each."""
    most = max(16, min(MAX_SAMPLED_STEPS, MAX_SAMPLED_NORMS // max(1, parameters)))
    # Rows of several optimizers take turns: an odd distance meets the rows of each of them.
    one_of = max(1, len(reader.optimizers) * steps // most) | 1
    norms = reader.layers("norm", name, one_of=one_of)
    if norms.empty and one_of > 1:
        one_of = 1
        norms = reader.layers("norm", name)
    counts = reader.layers("nonfinite", name, one_of=one_of)
    present = counts.notna() if counts.shape == norms.shape else norms.notna()
    return norms, present


def _count(meta: Mapping[str, str], key: str) -> int | None:
    return int(meta[key]) if meta.get(key, "").isdecimal() else None


def _ending(reader: RunReader, meta: Mapping[str, str]) -> Ending:
    if is_imported(meta):
        return Ending(state="imported")
    attempts = reader.attempts()
    if not attempts or attempts[-1].ended is None:
        return Ending(state="running" if reader.is_being_written() else "killed")
    first, _, detail = (attempts[-1].reason or "").partition(" ")
    known: tuple[State, ...] = ("exception", "signal", "fault", "exit", "killed")
    states: dict[str, State] = {state: state for state in known}
    if first == "stopped":
        return Ending(state="stopped", detail=detail.removeprefix("on "))
    return Ending(state=states.get(first, "closed"), detail=detail)
