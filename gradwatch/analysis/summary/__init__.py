"""Every number that a view may show of a run, computed once.

The terminal, the JSON, the notebook and the page read a `RunSummary`. None of them computes a number of its own,
so two views of one run cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from gradwatch.analysis.diagnosis import Finding, find
from gradwatch.analysis.diagnosis.facts import Facts, State, read_facts
from gradwatch.analysis.diagnosis.next_action import next_action
from gradwatch.analysis.display import as_html
from gradwatch.analysis.history import ResumePoint, RunReader
from gradwatch.analysis.long_runs import ACCURACY
from gradwatch.analysis.notes import read_notes
from gradwatch.analysis.replays.result import Replay, read_replays
from gradwatch.analysis.statistics.clipping import ClippingSummary, clipping_summary
from gradwatch.analysis.statistics.layers import LayerSummary, layer_summaries, most_relevant
from gradwatch.analysis.statistics.losses import LossSummary, loss_summary
from gradwatch.analysis.statistics.magnitudes import Magnitudes, magnitudes
from gradwatch.analysis.statistics.norms import NormSummary, norm_summary
from gradwatch.analysis.statistics.owners import NormOwner, norm_owners
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.ranks import (
    NoiseSummary,
    RankSummary,
    last_known,
    noise_summary,
    rank_summaries,
)
from gradwatch.analysis.statistics.series import Series, step_series
from gradwatch.analysis.statistics.updates import UpdateSummary, update_summary
from gradwatch.analysis.statistics.weights import WeightSummary, weight_summary
from gradwatch.analysis.summary.verdict import Verdict, judge, shown_optimizer
from gradwatch.errors import EmptyRun, RunNotFound
from gradwatch.record import NOT_LOGGED, Event

__all__ = [
    "AS_THE_OPTIMIZER_GOT_THEM",
    "ClippingSummary",
    "LayerSummary",
    "LossSummary",
    "NoiseSummary",
    "NormOwner",
    "NormSummary",
    "RankSummary",
    "RunSummary",
    "Series",
    "UpdateSummary",
    "WeightSummary",
    "summarize",
]

AS_THE_OPTIMIZER_GOT_THEM = "as the optimizer got them"
"""The `RunSummary.moment` of a script that changes its gradients without a clip call."""

PACE_STEPS = 200  # steps whose mean duration predicts the time left


MAGNITUDE_SAMPLES = 100  # of the histograms that a summary holds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSummary:
    """A run in numbers. Norms are L2 norms of the gradient at `moment`, usually before clipping.

    >>> from gradwatch import Run
    >>> summary = Run(example_run).summary()
    >>> summary.steps, summary.total_norm.median, summary.layers[0].name
    (400, 1.0, 'rnn.weight')
    """

    run: str
    model: str
    optimizer: str
    optimizer_class: str
    optimizers: tuple[str, ...]
    steps: int
    first_step: int
    last_step: int
    attempts: int
    resume_points: tuple[ResumePoint, ...]
    config: Mapping[str, Any]  # the hyperparameters that were given to `attach`
    note: str  # as `gradwatch note` wrote it
    tags: tuple[str, ...]
    seconds: float  # from the first to the last step
    total_steps: int | None  # of the whole training, where that was given
    seconds_left: float | None  # until total_steps, at the pace of the latest steps
    running: bool
    ended: str | None
    verdict: Verdict
    reason: str
    next: str
    moment: str  # of the norms: before clipping, after clipping, as the optimizer got them, unknown, or not logged
    total_norm: NormSummary
    loss: LossSummary | None
    learning_rate: float | None  # the last
    highest_learning_rate: float | None  # of all steps: a schedule often ends near 0
    clipping: ClippingSummary
    weights: WeightSummary | None
    updates: UpdateSummary | None = None  # as the optimizer computed them; None where they were not recorded
    norm_owners: tuple[NormOwner, ...] = ()  # the parts with the largest shares of the squared norm
    ranks: tuple[RankSummary, ...]  # empty where the ranks were not recorded
    noise_scale: float | None  # the last, in batches of one rank or in micro-batches
    noise: NoiseSummary | None = None  # how it went over the run
    nonfinite_steps: int
    skipped_steps: int
    dropped_steps: int
    damaged_rows: int  # of the store, left out because they do not match their checksum
    events: tuple[Event, ...]
    findings: tuple[Finding, ...]  # of the whole run, ordered by consequence
    replays: tuple[Replay, ...] = ()  # of captured steps, by step
    layers: tuple[LayerSummary, ...]
    quantile_error: float | None = None  # largest relative error of medians and p99 of layers; None: they are exact
    most_relevant: tuple[int, ...] = field(repr=False)  # indices of layers, the most relevant first
    series: Series = field(repr=False)
    path: Path | None = field(default=None, repr=False)  # of the run

    @property
    def has_norms(self) -> bool:
        """Whether norms of the gradient are known, as they are of every run but some imported histories."""
        return self.moment != NOT_LOGGED

    @property
    def seams(self) -> tuple[ResumePoint, ...]:
        """The older name of ``resume_points``."""
        return self.resume_points

    @property
    def magnitudes(self) -> Magnitudes | None:
        """The histograms of the most relevant layer's entries, read when asked for; None: not counted, or run gone."""
        if self.path is None or not self.most_relevant:
            return None
        try:
            with closing(RunReader(self.path)) as reader:
                at = self.most_relevant[:1]
                found = magnitudes(reader, self.series, self.optimizer, at, most=MAGNITUDE_SAMPLES)
        except RunNotFound:
            return None
        return found if len(found.step) else None

    @property
    def telling(self) -> tuple[int, ...]:
        """The older name of ``most_relevant``."""
        return self.most_relevant

    def _repr_html_(self) -> str | None:
        """How a notebook shows the summary."""
        return as_html(self)


def summarize(
    reader: RunReader, optimizer: str | None = None, *, layers: bool = True, facts: Facts | None = None
) -> RunSummary:
    """Compute the summary of a run over the steps of one optimizer.

    If None, it is the optimizer of the gravest finding, or the first one that has steps.

    Without ``layers`` the summary holds nothing about single parameters, and no ``weights``; the memory needed
    then does not grow with the model. ``facts`` are those of the run, if they were read.

    Raises:
        EmptyRun: no step is recorded.
    """
    facts = read_facts(reader) if facts is None else facts
    findings = find(facts)
    name = _optimizer(reader, optimizer, facts, findings)
    steps = _recorded_steps(facts, name, reader.path)
    events, is_imported, ending = facts.events, facts.is_imported, facts.ending
    del facts  # of a long run they take memory
    series = step_series(reader, name, steps, layers=layers)
    update_ratios, each = pd.DataFrame(), tuple[LayerSummary, ...]()
    if layers:
        update_ratios = reader.layers("update_ratio", name)
        each = layer_summaries(reader, name, series, update_ratios)
    attempts = reader.attempts()
    relevant = most_relevant(each, events)
    meta, notes = reader.meta(), read_notes(reader.path)
    moment = meta.get("moment", "unknown")
    warned = sum(event.severity != "info" for event in events)
    verdict, reason = judge(findings, len(steps), len(events), warned, has_norms=moment != NOT_LOGGED)
    noise, scales = noise_summary(reader, name)
    is_changed = _is_changed_by_script(findings, name)
    clipping = clipping_summary(steps, meta.get(f"clip.{name}"), is_known=not (is_imported or is_changed))
    total = int(meta["total_steps"]) if "total_steps" in meta else None
    return RunSummary(
        run=reader.name,
        model=meta.get("model", ""),
        optimizer=name,
        optimizer_class=reader.optimizers.get(name, ""),
        optimizers=tuple(reader.optimizers),
        steps=len(steps),
        first_step=int(steps.index[0]),
        last_step=int(steps.index[-1]),
        attempts=len(attempts),
        resume_points=tuple(reader.resume_points(name)),
        config=reader.config(),
        note=notes.note,
        tags=notes.tags,
        seconds=_elapsed(steps["wall_time"]),
        total_steps=total,
        seconds_left=_seconds_left(steps, total),
        running=ending.state == "running",
        ended=attempts[-1].reason if attempts else None,
        verdict=verdict,
        reason=reason,
        next=next_action(findings, clipped_fraction=clipping.clipped_fraction),
        moment=AS_THE_OPTIMIZER_GOT_THEM if is_changed else moment,
        total_norm=norm_summary(series.total_norm, series.step),
        loss=loss_summary(steps),
        learning_rate=_last(steps["learning_rate"].to_numpy()),
        highest_learning_rate=_highest(steps["learning_rate"]),
        clipping=clipping,
        weights=weight_summary(update_ratios, each),
        updates=update_summary(reader, name, steps) if layers else None,
        norm_owners=norm_owners(reader, name) if layers else (),
        ranks=rank_summaries(reader, name),
        noise_scale=last_known(scales),
        noise=noise,
        nonfinite_steps=int(series.nonfinite.sum()),
        skipped_steps=int(steps["skipped"].sum()),
        dropped_steps=sum(attempt.dropped for attempt in attempts),
        damaged_rows=reader.damaged_rows,
        events=events,
        findings=findings,
        replays=read_replays(reader.path),
        layers=each,
        quantile_error=None if series.long_layers is None else ACCURACY,
        most_relevant=relevant,
        series=series,
        path=reader.path,
    )


def _optimizer(reader: RunReader, optimizer: str | None, facts: Facts, findings: tuple[Finding, ...]) -> str:
    if optimizer is not None:
        return reader.optimizer(optimizer)
    with_steps = [one.name for one in facts.optimizers if len(one.frame)]
    return shown_optimizer(findings, with_steps) or reader.optimizer()


def _recorded_steps(facts: Facts, optimizer: str, path: Path) -> pd.DataFrame:
    steps = facts.frame_of(optimizer)
    if steps is None or steps.empty:
        others = any(len(one.frame) for one in facts.optimizers)
        of_one = f"holds no step of optimizer {optimizer}, while others made some."
        raise EmptyRun(f"{str(path)!r} {of_one if others else _why_empty(facts.ending.state)}")
    return steps


def _why_empty(state: State) -> str:
    if state == "running":
        return (
            "holds no step yet. Is the training still before its first optimizer.step()?"
            " Records reach the disk within a second."
        )
    if state == "killed":
        return "holds no step: its process is gone, killed before its first step or within half a second of it."
    return "holds no step: no optimizer made one before the training ended."


def _is_changed_by_script(findings: tuple[Finding, ...], optimizer: str) -> bool:
    """Whether the script changed the gradients itself, with no clip call that gradwatch sees."""
    return any(finding.code == "clipped-by-script" and finding.optimizer == optimizer for finding in findings)


def _seconds_left(steps: pd.DataFrame, total: int | None) -> float | None:
    """The remaining steps times the mean duration of the latest `PACE_STEPS` of the last attempt."""
    if total is None:
        return None
    latest = steps[steps["attempt"] == steps["attempt"].iloc[-1]].iloc[-PACE_STEPS:]
    made = int(latest.index[-1] - latest.index[0])
    left = max(0, total - 1 - int(latest.index[-1]))
    if made < 1:
        return None
    return left * _elapsed(latest["wall_time"]) / made


def _elapsed(times: pd.Series) -> float:
    """From the first to the last. A step before which the clock was set back counts as none."""
    went = times.diff().iloc[1:]
    return float(times.iloc[-1] - times.iloc[0]) if not (went < 0).any() else float(went[went > 0].sum())


def _highest(values: pd.Series) -> float | None:
    highest = float(values.max())
    return None if math.isnan(highest) else highest


def _last(values: Array) -> float | None:
    return float(values[-1]) if len(values) and not math.isnan(values[-1]) else None
