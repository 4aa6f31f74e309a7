"""`gradwatch recommend`: a threshold with its reasons, and the effect of other thresholds."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from gradwatch.analysis.recommend import Agreement, ChangedAdvice, Recommendation
from gradwatch.text import number, share, which_optimizer
from gradwatch.views.console.draw import bar
from gradwatch.views.console.screen import Screen


def recommendation(advice: Recommendation, screen: Screen, after: ChangedAdvice | None = None) -> Group:
    """The threshold, its reasons, a what-if table and the line to paste; or why there is none.

    ``after`` is the threshold after changes, with its reasons, and comes last.
    """
    return Group(*_lines(advice, screen), *([] if after is None else _after(after, screen)))


def _after(after: ChangedAdvice, screen: Screen) -> list[Text]:
    changes = screen.ink.safe(", ".join(f"{key}={value}" for key, value in after.changes.items()))
    head = Text(f"if {changes}: ", "bold")
    if after.max_norm is None:
        head.append("no recommendation", "yellow")
    else:
        policy = "" if after.clip is None else f"{after.clip} or "
        head.append(f"{policy}max_norm {number(after.max_norm)}", "bold green")
        head.append(f"   anything from {number(after.low)} to {number(after.high)} is supported", "dim")
    return [Text(), head, *screen.items(tuple(screen.ink.safe(reason) for reason in after.reasons))]


def agreement(found: Agreement, screen: Screen) -> Group:
    """The advice for all runs together, then a line for each run."""
    lines = [Text(f"{'threshold':>10}  {'from':>8}  {'to':>8}  confidence  run", "bold")]
    for advice in found.each:
        run = screen.ink.safe(advice.run)
        if advice.refused is not None:
            lines.append(Text(f"{'refused':>10}  {'':>8}  {'':>8}  {'':10}  {run}", "yellow"))
            continue
        numbers = f"{number(advice.max_norm):>10}  {number(advice.low):>8}  {number(advice.high):>8}"
        lines.append(Text(f"{numbers}  {advice.confidence:10}  {run}"))
    return Group(*_lines(found.together, screen), Text(), *lines)


def _lines(advice: Recommendation, screen: Screen) -> list[Text]:
    if advice.refused is not None:
        lead = f"{screen.ink.pick('○', 'o')} no recommendation  "
        return [*screen.wrap(lead, advice.refused, "yellow"), *_about(advice, screen), *_fix_first(advice, screen)]
    tables = [[Text(), *table] for table in (_phases(advice), _what_if(advice, screen)) if table]
    return [
        *_headline(advice, screen),
        *_prediction(advice),
        *_by_value(advice),
        *_about(advice, screen),
        Text(),
        *screen.items(advice.reasons),
        *_fix_first(advice, screen),
        *(line for table in tables for line in table),
        Text(),
        Text("paste", "bold"),
        *(Text(f"  {line}", "cyan", no_wrap=False) for line in advice.apply.values()),
    ]


def _headline(advice: Recommendation, screen: Screen) -> list[Text]:
    head = Text(f"{screen.ink.pick('●', '*')} ", "bold green")
    supported = Text(f"anything from {number(advice.low)} to {number(advice.high)} is supported", "")
    confidence = (f"   confidence {advice.confidence}", "dim")
    if advice.clip is None:
        return [
            head.append(f"max_norm {number(advice.max_norm)}").append("   ", "").append(supported).append(*confidence)
        ]
    head.append(f"{advice.clip} or max_norm {number(advice.max_norm)}").append(*confidence)
    return [head, Text("  as a fixed threshold, ", "dim").append(supported)]


def _about(advice: Recommendation, screen: Screen) -> list[Text]:
    """Which of several optimizers the advice is about."""
    which = which_optimizer(advice.optimizer, advice.optimizers)
    return screen.wrap("  ", f"for {which}; --optimizer chooses another", style="dim") if which else []


def _prediction(advice: Recommendation) -> list[Text]:
    would = Text("  would have clipped ", "dim").append(share(advice.clipped_fraction), "")
    would.append(" of the steps it is based on, mean clip_coef ", "dim").append(number(advice.mean_clip_coef), "")
    if advice.confidence == "high":
        return [would]
    return [would, Text("  a history can't prove it: `gradwatch tune SCRIPT` finds one by experiment", "dim")]


def _by_value(advice: Recommendation) -> list[Text]:
    """The threshold by value that stands beside the one by norm."""
    if advice.clip_value is None:
        return []
    text = Text("  or by value: ", "dim").append(f"clip_value {number(advice.clip_value)}", "bold green")
    return [text.append("   single entries carry the steps that stood out", "dim")]


def _fix_first(advice: Recommendation, screen: Screen) -> list[Text]:
    """What to change before clipping."""
    if not advice.fix_first:
        return []
    return [Text(), Text("look at this first", "bold"), *screen.items(advice.fix_first, "yellow")]


def _phases(advice: Recommendation) -> list[Text]:
    """What the threshold would have done in each part of the run."""
    if not advice.phases:
        return []
    lines = [Text(f"{'steps':>17}  {'clipped':>8}  {'mean coef':>9}", "bold")]
    for phase in advice.phases:
        steps = f"{phase.first_step} to {phase.last_step}"
        lines.append(Text(f"{steps:>17}  {share(phase.clipped_fraction):>8}  {number(phase.mean_clip_coef):>9}"))
    return lines


def _what_if(advice: Recommendation, screen: Screen) -> list[Text]:
    """What other thresholds would have done."""
    if not advice.what_if:
        return []
    at_worst = f"at norm {number(advice.worst_norm)}"
    lines = [Text(f"{'threshold':>10}  {'clipped':>8}  {'mean coef':>9}  {at_worst:>17}", "bold")]
    for row in advice.what_if:
        text = (
            f"{number(row.threshold):>10}  {share(row.clipped_fraction):>8}  {number(row.mean_clip_coef):>9}"
            f"  {'x ' + number(row.worst_clip_coef):>17}  {bar(row.clipped_fraction, 10, screen.ink)}  {row.label}"
        )
        lines.append(Text(text, "green" if row.threshold == advice.max_norm else ""))
    return lines
