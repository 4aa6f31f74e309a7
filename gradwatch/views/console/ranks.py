"""The processes of a distributed training, in a report."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from gradwatch.analysis.summary import RankSummary, RunSummary
from gradwatch.text import count, number
from gradwatch.views.console.screen import Screen

_UNREMARKABLE = (0, 0, 0, 2.0)  # what `_deviation` gives at most for a rank that needs no line


def rank_lines(summary: RunSummary, screen: Screen, most: int = 8) -> list[Text]:
    """How far the ranks agree, and a line for each that deviates, the worst first."""
    if not summary.ranks:
        return []
    medians = np.array([np.nan if rank.median is None else rank.median for rank in summary.ranks])
    known = medians[np.isfinite(medians)]
    text = f"{count(len(summary.ranks), 'rank')} reported"
    if len(known):
        text += f", median norm of each from {number(float(known.min()))} to {number(float(known.max()))}"
    lines = screen.wrap("ranks  ", text, "bold")
    usual = float(np.median(known)) if len(known) else 1.0
    ranked = sorted(summary.ranks, key=lambda rank: _deviation(rank, usual, summary.steps), reverse=True)
    deviating = [rank for rank in ranked if _deviation(rank, usual, summary.steps) > _UNREMARKABLE]
    for rank in deviating[:most]:
        lines += screen.wrap(f"  rank {rank.rank}  ", "; ".join(_remarks(rank, summary.steps)), "dim")
    hidden = len(deviating) - most
    if hidden > 0:
        lines.append(Text(f"  {count(hidden, 'more rank')} deviate; --json lists every rank", "dim"))
    return lines


def _remarks(rank: RankSummary, steps: int) -> list[str]:
    remarks = [f"median {number(rank.median)}, max {number(rank.max)} at step {rank.max_step}"]
    if rank.differing_steps:
        remarks.append(f"gradients differ from the other ranks' at {count(rank.differing_steps, 'step')}")
    if rank.nonfinite_steps:
        remarks.append(f"not finite at {count(rank.nonfinite_steps, 'step')}")
    if rank.steps < steps:
        remarks.append(f"did not report at {count(steps - rank.steps, 'step')}")
    return remarks


def _deviation(rank: RankSummary, usual: float, steps: int) -> tuple[int, int, int, float]:
    """How far a rank stands out; the last entry is the factor between its median and the usual one."""
    factor = rank.median / usual if rank.median and usual else 1.0
    return rank.differing_steps, rank.nonfinite_steps, steps - rank.steps, max(factor, 1 / factor)
