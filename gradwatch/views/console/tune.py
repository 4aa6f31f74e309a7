"""`gradwatch tune`: the loss that each threshold led to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from gradwatch.script.tune import Trial, Tuning
from gradwatch.text import count, number, share
from gradwatch.views.console.screen import Screen

_NUMBER_COLUMNS = 48  # the columns of numbers and the margin beside the bars
_SHORTEST_BAR = 10


def tuning(found: Tuning, screen: Screen) -> Group:
    """The verdict, then the loss at each threshold as a bar."""
    lines = [Text(f"{'threshold':>10}  {'steps':>7}  {'clipped':>8}  {'loss':>9}", "bold")]
    trials = found.final()
    longest = max((trial.steps for trial in trials), default=0)
    lengths = _bar_lengths(trials, longest, max(_SHORTEST_BAR, screen.width - _NUMBER_COLUMNS))
    for trial, length in zip(trials, lengths, strict=True):
        lines.append(_trial(trial, longest, length, trial.max_norm == found.best, screen))
    caption = "loss: median of the last fifth recorded, or printed; bars start at the lowest loss"
    return Group(
        *_verdict(found, screen), *_clip_fault(found, screen), Text(), *lines, *screen.wrap("", caption, style="dim")
    )


def _clip_fault(found: Tuning, screen: Screen) -> list[Text]:
    """A warning if the threshold would change nothing where the script clips now."""
    if found.clip_fault is None:
        return []
    text = f"the script's own clip call has no effect: {found.clip_fault}. gradwatch clipped in its place here"
    return screen.wrap("  ", text, style="yellow")


def _verdict(found: Tuning, screen: Screen) -> list[Text]:
    lead = f"{screen.ink.pick('●', '*')} "
    lines = screen.wrap(lead, found.verdict, "green" if found.matters else "yellow")
    if not found.matters:
        return lines
    if found.low is not None and found.low != found.high:
        upper = "no clipping" if math.isinf(found.high or 0.0) else number(found.high)
        lines.append(Text(f"  anything from {number(found.low)} to {upper} did as well, within the noise"))
    if found.best is not None and math.isfinite(found.best):
        lines.append(Text(f"  torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={found.best:g})", "cyan"))
    return lines


def _trial(trial: Trial, longest: int, bar_length: int, best: bool, screen: Screen) -> Text:
    threshold = "none" if math.isinf(trial.max_norm) else number(trial.max_norm)
    line = f"{threshold:>10}  {trial.made:>7}  {share(trial.clipped_fraction):>8}  "
    if trial.loss is None:
        return Text(f"{line}{'lost':>9}", "red")
    line += f"{number(trial.loss, 4):>9}"
    if trial.steps < longest:
        return Text(f"{line}  not among the best after {count(trial.made, 'step')}", "dim")
    return Text(f"{line}  {screen.ink.pick('█', '#') * bar_length}", "green" if best else "")


def _bar_lengths(trials: Sequence[Trial], longest: int, room: int) -> list[int]:
    """One character for the lowest loss of the longest trials, ``room`` for the highest."""
    losses = [math.nan if trial.loss is None else trial.loss for trial in trials]
    known = [loss for loss, trial in zip(losses, trials, strict=True) if math.isfinite(loss) and trial.steps == longest]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if not high > low:
        return [room] * len(trials)
    return [1 + round((room - 1) * (min(loss, high) - low) / (high - low)) if loss >= low else 1 for loss in losses]
