"""A recorded history -> the clipping threshold that it supports, with its reasons, or a refusal.

benchmarks/recommendation/RESULTS.md explains where the rules come from, and measures them on unseen tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradwatch.analysis.diagnosis import PAGES, Finding, find
from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.schedule import FULL_RATE
from gradwatch.analysis.history import RunReader
from gradwatch.analysis.recommend import wording
from gradwatch.analysis.recommend.advice import Agreement, Confidence, Phase, Recommendation, WhatIf
from gradwatch.analysis.recommend.aggregate import aggregate
from gradwatch.analysis.recommend.changes import ChangedAdvice, Setup, advise_after, parse_changes
from gradwatch.analysis.recommend.entries import value_or_norm
from gradwatch.analysis.recommend.rule import MAX_DRIFT_DOWN, MAX_DRIFT_UP, choose, decisive, step_bound
from gradwatch.analysis.recommend.what_if import clipped_fraction, curve, mean_clip_coef, phases, table, two_digits
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory, beside_others, optimizer_history
from gradwatch.analysis.statistics.progress import drift
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.ranks import last_known, noise_scale
from gradwatch.analysis.statistics.tail import tail_index
from gradwatch.analysis.summary import RunSummary
from gradwatch.analysis.summary.verdict import shown_optimizer

__all__ = [
    "Agreement",
    "ChangedAdvice",
    "Phase",
    "Recommendation",
    "WhatIf",
    "parse_changes",
    "recommend",
    "recommend_after",
    "recommend_for_all",
    "recommend_with_curve",
    "tail_index",
]

MIN_USABLE_STEPS = 300
NO_FAULT_OF_THE_MODEL = {"died", "killed", "too-short", "recording-stopped", "norms-after-clipping"}  # codes
LOST = {"diverged", "nonfinite-loss", "nonfinite-gradient", "nonfinite-weights"}  # codes
BESIDE_CLIPPING = {"overfitting", "dropout-noise"}  # codes
NO_MATTER_OF_CLIPPING = {"operation", "signal", "script"}  # cures
CEILING_SHARE = 0.1  # of the norms at one ceiling: they were recorded after clipping
NINETIETH_OF_NORMAL = 1.2816  # the 90th percentile of a standard normal distribution


def recommend(reader: RunReader, optimizer: str | None = None) -> Recommendation:
    """Advise on ``max_norm`` from the norms before clipping of one optimizer.

    If None, it is the one that `summarize` shows.
    """
    name, history, findings = _history_and_findings(reader, optimizer)
    return _completed(reader, name, history, findings)


def recommend_after(
    reader: RunReader, changes: Mapping[str, str], optimizer: str | None = None
) -> tuple[Recommendation, ChangedAdvice]:
    """The advice as it is, and after changes of learning rate, batch size, weight decay or optimizer.

    Args:
        reader: the run.
        changes: as `parse_changes` gives them.
        optimizer: its name; as in `recommend`.
    """
    name, history, findings = _history_and_findings(reader, optimizer)
    advice = _completed(reader, name, history, findings)
    decay = reader.settings(name).get("weight_decay")
    noise, ranks = last_known(noise_scale(reader, name)), reader.ranks("norm", name).shape[1]
    setup = Setup(
        weight_decay=float(decay) if isinstance(decay, int | float) else None,
        noise_scale=noise / ranks if noise is not None and ranks else None,
    )
    return advice, advise_after(history, setup, changes, advice.refused)


def recommend_with_curve(reader: RunReader, summary: RunSummary) -> tuple[Recommendation, tuple[WhatIf, ...]]:
    """The advice for a summary's optimizer, and the effect of thresholds on both sides of all its norms.

    The findings are those of the summary, so that the run is not diagnosed again. The curve is over the steps that
    the advice is based on, and exists also where the advice is refused.
    """
    history = beside_others(optimizer_history(reader, summary.optimizer), reader, summary.optimizer)
    findings = _concerning(summary.findings, summary.optimizer)
    advice = _completed(reader, summary.optimizer, history, findings)
    return advice, curve(history, advice.max_norm)


def recommend_for_all(readers: Sequence[RunReader], optimizer: str | None = None) -> Agreement:
    """Advise on one threshold for several runs of one training; see `aggregate`."""
    return aggregate([recommend(reader, optimizer) for reader in readers])


def _completed(
    reader: RunReader, optimizer: str, history: OptimizerHistory, findings: Sequence[Finding]
) -> Recommendation:
    """The advice with the optimizer it is about, whether to clip by value or by norm, and what helps beside it."""
    advice = replace(_recommend(history, findings), optimizer=optimizer, optimizers=tuple(reader.optimizers))
    if advice.max_norm is None:
        return advice
    how = value_or_norm(reader, optimizer, history, advice.max_norm)
    more = (how.reason, *_beside_clipping(findings))
    return replace(advice, reasons=(*advice.reasons, *more), clip_value=how.clip_value)


def _beside_clipping(findings: Sequence[Finding]) -> list[str]:
    """The findings that are no fault and about which clipping does nothing: early stopping, a warm-up, dropout."""
    return [
        wording.fix_first(finding)
        for finding in findings
        if finding.severity == "info" and (finding.code in BESIDE_CLIPPING or FULL_RATE in finding.evidence)
    ]


def _history_and_findings(
    reader: RunReader, optimizer: str | None
) -> tuple[str, OptimizerHistory, tuple[Finding, ...]]:
    """The name and the history of one optimizer, and the findings that concern it."""
    facts = read_facts(reader)
    found = find(facts)
    name = optimizer
    if name is None:
        name = shown_optimizer(found, [one.name for one in facts.optimizers if len(one.frame)])
    name = reader.optimizer(name)
    known = next((one.history for one in facts.optimizers if one.name == name), None)
    history = optimizer_history(reader, name) if known is None else known
    return name, beside_others(history, reader, name), _concerning(found, name)


def _concerning(findings: Sequence[Finding], optimizer: str) -> tuple[Finding, ...]:
    """The findings about one optimizer, and those about the whole run."""
    return tuple(finding for finding in findings if finding.optimizer in (optimizer, None))


def _recommend(history: OptimizerHistory, findings: Sequence[Finding]) -> Recommendation:
    faults = [f for f in findings if f.severity != "info" and f.code not in NO_FAULT_OF_THE_MODEL]
    fix_first = tuple(wording.fix_first(finding) for finding in faults)
    refusal = _hopeless(findings) or _unseen(findings) or _refusal(history)
    if refusal is not None:
        return replace(_refused(history, *refusal), fix_first=fix_first)
    is_lost = any(fault.code in LOST for fault in faults)
    return replace(_advise(history, is_lost), fix_first=fix_first)


def _hopeless(findings: Sequence[Finding]) -> tuple[str, float | None] | None:
    """Why no threshold can help: the gravest finding is critical, and its cure is another."""
    first = next(iter(findings), None)
    if first is None or first.severity != "critical" or PAGES[first.code].cure not in NO_MATTER_OF_CLIPPING:
        return None
    return wording.hopeless(first), None


def _unseen(findings: Sequence[Finding]) -> tuple[str, float | None] | None:
    """Why no threshold can be advised where the script itself changed the gradients before they were measured."""
    changed = next((finding for finding in findings if finding.code == "clipped-by-script"), None)
    return None if changed is None else (f"{changed.what}: {changed.remedy}", None)


def _refusal(history: OptimizerHistory) -> tuple[str, float | None] | None:
    """Why no threshold is supported, and the threshold at which to record another run; None where one is."""
    norms = history.norms
    if not history.has_norms:
        return wording.NO_NORMS, None
    if history.moment == "after clipping" or (len(norms) >= MIN_USABLE_STEPS and _piled_up(norms)):
        return wording.AFTER_CLIPPING, None
    if history.nonfinite > history.steps // 2:
        return wording.not_finite(history), None
    if len(norms) < MIN_USABLE_STEPS:
        lost_at, record_at = _lost_at(history), _record_at(history)
        return wording.too_few(history, MIN_USABLE_STEPS, lost_at, record_at), record_at
    moved = drift(norms)
    if not history.is_adaptive and not 1 / MAX_DRIFT_DOWN < moved < MAX_DRIFT_UP:
        return wording.drifting(moved), None
    return None


def _lost_at(history: OptimizerHistory) -> int | None:
    """The step at which a training was lost, or at which it ended non-finite."""
    if history.lost_at is not None:
        return history.lost_at.step
    return int(history.frame.index[-1]) if history.ended_nonfinite else None


def _record_at(history: OptimizerHistory) -> float | None:
    """The threshold at which to record another run, after one that was lost too early to judge; None if unknown."""
    lost_at = _lost_at(history)
    if lost_at is None and not history.spikes:
        return None
    before = history.norms
    if lost_at is not None:
        before = history.frame["total_norm"].to_numpy(float)[history.frame.index.to_numpy() < lost_at]
        before = before[np.isfinite(before) & (before > 0)]
    bounds = [bound for bound in (step_bound(history), float(np.median(before)) if len(before) else None) if bound]
    return two_digits(min(bounds)) if bounds else None


def _piled_up(norms: Array) -> bool:
    """Whether many norms lie at one ceiling, as they do after clipping."""
    return bool(np.mean(norms > norms.max() * (1 - 1e-3)) > CEILING_SHARE)


def _refused(history: OptimizerHistory, why: str, record_at: float | None) -> Recommendation:
    return Recommendation(
        run=history.run,
        max_norm=None,
        low=None,
        high=None,
        clipped_fraction=None,
        mean_clip_coef=None,
        confidence="low",
        refused=why,
        reasons=(),
        usable_steps=len(history.norms),
        record_at=record_at,
    )


def _advise(history: OptimizerHistory, is_lost: bool) -> Recommendation:
    norms = history.norms
    tail = tail_index(history.every_norm if len(history.every_norm) >= MIN_USABLE_STEPS else norms)
    choice = choose(history, tail[0])
    decided = decisive(norms)
    number, low, high = (two_digits(value) for value in (choice.number, choice.low, choice.high))
    return Recommendation(
        run=history.run,
        max_norm=number,
        low=min(low, number),
        high=max(high, number),
        clip=choice.clip,
        clipped_fraction=clipped_fraction(decided, number),
        mean_clip_coef=mean_clip_coef(decided, number),
        confidence=_confidence(history),
        refused=None,
        reasons=wording.reasons(history, choice, number, tail, is_lost),
        phases=phases(history, number),
        what_if=table(decided, history.worst, number, low, high),
        usable_steps=len(norms),
        worst_norm=history.worst,
        tail_index=tail[0],
        tail_low=tail[1],
        tail_high=tail[2],
    )


def _confidence(history: OptimizerHistory) -> Confidence:
    norms = history.norms
    moved = drift(norms)
    moved = max(moved, 1 / moved)
    logs = np.log(norms)
    deviation = float(np.quantile(logs, 0.9) - np.median(logs)) / NINETIETH_OF_NORMAL
    norms_alone = step_bound(history) is None and not history.is_adaptive
    if norms_alone or len(norms) < 600 or moved > 3 or deviation > 1.5:
        return "low"
    if len(norms) >= 2000 and moved < 1.5 and deviation < 1.0 and not history.unstable:
        return "high"
    return "medium"
