"""The JSON of each command. NaN and infinity become the strings "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.differences import Difference
from gradwatch.analysis.recommend import Agreement, ChangedAdvice, Recommendation
from gradwatch.analysis.replays.result import Replay
from gradwatch.analysis.replays.wording import answers, headline
from gradwatch.analysis.summary import RunSummary
from gradwatch.record import Event
from gradwatch.script.tune import Tuning
from gradwatch.text import NO_OPTIMIZER_CLASSES
from gradwatch.views.encode import dumps

__all__ = ["agreement", "check", "comparison", "dumps", "events", "findings", "recommendation", "report", "tuning"]

_MORE_OF_A_REPORT = (
    "reason",
    "next",
    "moment",
    "model",
    "optimizer",
    "optimizer_class",
    "optimizers",
    "first_step",
    "last_step",
    "attempts",
    "config",
    "note",
    "tags",
    "seconds",
    "total_steps",
    "seconds_left",
    "running",
    "ended",
    "dropped_steps",
    "damaged_rows",
    "learning_rate",
    "highest_learning_rate",
    "noise_scale",
    "quantile_error",
)
_CONTRACT_OF_A_RECOMMENDATION = (
    "max_norm",
    "low",
    "high",
    "policy",
    "clipped_fraction",
    "confidence",
    "refused",
    "reasons",
    "apply",
)
_MORE_OF_A_RECOMMENDATION = (
    "run",
    "optimizer",
    "optimizers",
    "clip",
    "mean_clip_coef",
    "usable_steps",
    "worst_norm",
    "clip_value",
    "record_at",
    "tail_index",
    "tail_low",
    "tail_high",
)


def events(found: Iterable[Event]) -> list[dict[str, Any]]:
    """`gradwatch events --json`."""
    return [event.as_dict() for event in found]


def findings(found: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings of `gradwatch report --json` and `check --json`."""
    return [finding.as_dict() for finding in found]


def check(summary: RunSummary, faults: Sequence[str]) -> dict[str, Any]:
    """`gradwatch check --json`."""
    return {
        "run": summary.run,
        "healthy": not faults,
        "verdict": summary.verdict,
        "faults": list(faults),
        "findings": findings(summary.findings),
    }


def comparison(summaries: Sequence[RunSummary], partings: Sequence[Sequence[Difference]]) -> list[dict[str, Any]]:
    """`gradwatch compare --json`: a report of each run; ``differs`` says where it parts from the first run."""
    each = [report(summary) for summary in summaries]
    for one, found in zip(each[1:], partings, strict=True):
        one["differs"] = [{"from": summaries[0].run, "bit_equal": d.bit_equal, **asdict(d)} for d in found]
    return each


def replays(found: Iterable[Replay]) -> list[dict[str, Any]]:
    """Each replay with its sentences: ``headline``, and ``answers`` as pairs of a label and a text."""
    return [
        one.as_dict() | {"headline": headline(one), "answers": [[each.label, each.text] for each in answers(one)]}
        for one in found
    ]


def report(summary: RunSummary) -> dict[str, Any]:
    """`gradwatch report --json`: the keys of the contract first, in its order, then the rest."""
    contract = {
        "run": summary.run,
        "steps": summary.steps,
        "verdict": summary.verdict,
        "total_norm": asdict(summary.total_norm) | ({} if summary.has_norms else {"last": None}),
        "clipping": asdict(summary.clipping),
        "nonfinite_steps": summary.nonfinite_steps,
        "skipped_steps": summary.skipped_steps,
        "events": events(summary.events),
        "findings": findings(summary.findings),
        "layers": [asdict(layer) for layer in summary.layers],
    }
    more = {name: getattr(summary, name) for name in _MORE_OF_A_REPORT}
    if summary.optimizer_class in NO_OPTIMIZER_CLASSES:
        more["optimizer_class"] = "no optimizer"
    more["seams"] = [asdict(seam) for seam in summary.seams]
    more["replays"] = replays(summary.replays)
    more["ranks"] = [asdict(rank) for rank in summary.ranks]
    more["norm_owners"] = [asdict(owner) for owner in summary.norm_owners]
    parts = {name: getattr(summary, name) for name in ("loss", "weights", "updates", "noise")}
    return contract | more | {name: None if part is None else asdict(part) for name, part in parts.items()}


def recommendation(advice: Recommendation, after: ChangedAdvice | None = None) -> dict[str, Any]:
    """`gradwatch recommend --json`: the keys of the contract first, in its order, then the rest.

    With ``--if`` the key ``after`` holds the threshold after the changes, its range and its reasons.
    """
    return (
        {name: getattr(advice, name) for name in _CONTRACT_OF_A_RECOMMENDATION + _MORE_OF_A_RECOMMENDATION}
        | {"first": advice.fix_first}
        | {"phases": [asdict(phase) for phase in advice.phases]}
        | {"what_if": [asdict(row) for row in advice.what_if]}
        | ({} if after is None else {"after": asdict(after)})
    )


def agreement(found: Agreement) -> dict[str, Any]:
    """`gradwatch recommend RUN RUN --json`: the advice for all runs, each run's own, and how far they differ."""
    return recommendation(found.together) | {
        "spread": found.spread,
        "runs": [recommendation(advice) for advice in found.each],
    }


def tuning(found: Tuning) -> dict[str, Any]:
    """`gradwatch tune --json`: the verdict of an experiment and every trial."""
    return asdict(found)
