"""A run, its events, its recommendation and several runs beside each other, for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.text import Text

from gradwatch.analysis.history import ResumePoint
from gradwatch.analysis.recommend import Agreement, Recommendation
from gradwatch.analysis.summary import LayerSummary, RankSummary, RunSummary
from gradwatch.record import SEVERITIES, Event
from gradwatch.script.doctor import Diagnosis
from gradwatch.script.tune import Tuning
from gradwatch.views.draw import (
    Array,
    Ink,
    beside,
    bounds_of,
    chart,
    count,
    fit,
    heat,
    heat_legend,
    number,
    printable,
    seconds,
    share,
)

Column: TypeAlias = tuple[str, int, Callable[[LayerSummary], str]]

NARROWEST, WIDEST = 80, 140

_COLOURS = {"healthy": "green", "info": "dim", "warning": "yellow", "critical": "bold red"}


@dataclass(frozen=True, slots=True)
class ConsoleReport:
    """How to show a summary. Options go here; the data goes to the methods, which print nothing."""

    width: int = 80
    ink: Ink = field(default_factory=Ink)
    layers: int = 12

    @classmethod
    def on(cls, console: Console, layers: int = 12) -> ConsoleReport:
        """For a console's width, between 80 and 140 columns, and what it can show."""
        return cls(width=max(NARROWEST, min(console.width, WIDEST)), ink=Ink.of(console), layers=layers)

    # ------------------------------------------------------------------------------------- report

    def report(self, summary: RunSummary) -> Group:
        """The whole of `gradwatch report`."""
        return Group(
            *self._verdict(summary),
            Text(),
            *self._norm(summary),
            *self._loss(summary),
            self._clipping(summary),
            *self._weights(summary),
            *self._ranks(summary),
            Text(),
            *self._event_groups(summary),
            Text(),
            *self._layers(summary),
            Text(),
            *self._strip(summary),
            Text(),
            *self._wrapped("next: ", summary.next, "bold"),
        )

    def _verdict(self, summary: RunSummary) -> list[Text]:
        mark = self.ink.pick("●", "*")
        lines = self._wrapped(
            f"{mark} {summary.verdict.upper()}  ", summary.reason, _COLOURS[summary.verdict], rest=None
        )
        sep = self.ink.pick(" · ", " | ")
        facts = [
            summary.run,
            *([summary.model] if summary.model else []),
            f"{summary.optimizer_class or 'optimizer'} lr {number(summary.learning_rate)}",
            f"steps {summary.first_step} to {summary.last_step} ({summary.steps} recorded)",
            seconds(summary.seconds),
        ]
        if summary.running:
            facts.append("still running, or ended without a word")
        if summary.attempts > 1:
            facts.append(f"attempt {summary.attempts}")
        lines += self._wrapped("  ", sep.join(facts), "", rest="dim")
        if summary.seams:
            lines += self._wrapped("  ", _told(summary.seams), "")
        if len(summary.optimizers) > 1:
            others = ", ".join(summary.optimizers)
            lines += self._wrapped("  ", f"optimizer {summary.optimizer} of {others}; --optimizer shows another", "")
        if summary.dropped_steps:
            lines += self._wrapped(
                "  ",
                f"{count(summary.dropped_steps, 'step')} dropped: the disk did not take them, or a rank was not heard",
                "",
            )
        if summary.damaged_rows:
            damaged = f"{count(summary.damaged_rows, 'row')} of the store damaged and left out: restore it from a copy"
            lines += self._wrapped("  ", damaged, "red")
        if summary.skipped_steps:
            lines += self._wrapped("  ", f"{summary.skipped_steps} steps were skipped (no update)", "")
        return lines

    def _norm(self, summary: RunSummary) -> list[Text]:
        norm = summary.total_norm
        head = Text("total norm", "bold")
        head.append(" before clipping   " if self.width >= 100 else "  ", "dim")
        for label, value in (("median", norm.median), ("p99", norm.p99), ("max", norm.max)):
            head.append(f"{label} ", "dim").append(number(value) + "  ")
        if norm.max_step is not None:
            head.append("at step ", "dim").append(f"{norm.max_step}  ")
        head.append("last ", "dim").append(number(norm.last))
        lines = [head, *self._curve(summary.series.total_norm, summary.series.nonfinite, height=4)]
        if summary.nonfinite_steps:
            lines.append(
                Text(
                    f"  {self.ink.nan} NaN or infinite at {summary.nonfinite_steps} of {count(summary.steps, 'step')}",
                    "red",
                )
            )
        return lines

    def _loss(self, summary: RunSummary) -> list[Text]:
        loss = summary.loss
        if loss is None:
            return [Text("loss  not logged; watch.log(loss=loss) adds it", "dim")]
        head = Text("loss", "bold")
        for label, value in (("first", loss.first), ("last", loss.last), ("min", loss.min)):
            head.append(f"  {label} ", "dim").append(number(value))
        head.append("  at step ", "dim").append(str(loss.min_step))
        if loss.nonfinite_steps:
            head.append(f"  not finite at {count(loss.nonfinite_steps, 'step')}", "red")
        bad = ~np.isfinite(summary.series.loss) & summary.series.nonfinite
        return [head, *self._curve(summary.series.loss, bad, height=2, style="magenta")]

    def _curve(
        self,
        values: Array,
        bad: NDArray[np.bool_],
        height: int,
        style: str = "cyan",
    ) -> list[Text]:
        """A chart with its largest and smallest value at the left."""
        low, high = bounds_of(values)
        lines = chart(values, bad, self.width - 10, height, self.ink, (low, high), style)
        labels = [number(high), *[""] * (height - 2), number(low)]
        bar = self.ink.pick("┤", "|")
        for line in lines:
            line.rstrip()
        return [
            Text.assemble((f"{label:>8}", "dim"), (bar, "dim"), line) for label, line in zip(labels, lines, strict=True)
        ]

    def _clipping(self, summary: RunSummary) -> Text:
        clipping = summary.clipping
        line = Text("clipping", "bold")
        if clipping.kind is None:
            return line.append("  none", "dim")
        if clipping.policy is not None:
            line.append("  by ", "dim").append(printable(clipping.policy))
        if clipping.kind != "policy":
            line.append(f"  by {clipping.kind} at ", "dim").append(number(clipping.threshold))
        if clipping.threshold_min != clipping.threshold_max:
            line.append(f" ({number(clipping.threshold_min)} to {number(clipping.threshold_max)})", "dim")
        line.append("  clipped_fraction ", "dim").append(share(clipping.clipped_fraction))
        if clipping.kind != "value":
            line.append("  mean clip_coef ", "dim").append(number(clipping.mean_clip_coef))
        if clipping.cut_fraction is not None:
            line.append("  entries cut ", "dim").append(share(clipping.cut_fraction))
        return line

    def _weights(self, summary: RunSummary) -> list[Text]:
        weights = summary.weights
        if weights is None:
            return []
        text = f"update_ratio median {number(weights.median_update_ratio)}, largest {number(weights.max_update_ratio)}"
        if weights.max_update_parameter is not None:
            text += f" in {weights.max_update_parameter} at step {weights.max_update_step}"
        if weights.max_growth is not None:
            text += f"; grown most x {number(weights.max_growth)} in {weights.max_growth_parameter}"
        return self._wrapped("weights  ", f"{text} ({count(weights.samples, 'sample')})", "bold")

    def _ranks(self, summary: RunSummary, most: int = 8) -> list[Text]:
        """Those that stand out first, where there are many."""
        if not summary.ranks:
            return []
        medians = np.array([np.nan if rank.median is None else rank.median for rank in summary.ranks])
        text = f"{len(summary.ranks)} heard"
        if np.isfinite(medians).any():
            ends = f"{number(float(np.nanmin(medians)))} to {number(float(np.nanmax(medians)))}"
            text += f", median norm of what each has {ends}"
        if summary.noise_scale is not None:
            text += f"; noise scale {number(summary.noise_scale)} batches of a rank"
        lines = self._wrapped("ranks  ", text, "bold", rest="")
        usual = float(np.nanmedian(medians)) if np.isfinite(medians).any() else 1.0
        ranked = sorted(summary.ranks, key=lambda r: _stands_out(r, usual, summary.steps), reverse=True)
        for rank in [r for r in ranked[:most] if _stands_out(r, usual, summary.steps) > (0, 0, 0, 2.0)]:
            said = [f"median {number(rank.median)}, max {number(rank.max)} at step {rank.max_step}"]
            if rank.differing_steps:
                said.append(f"gradients that are not the others' at {count(rank.differing_steps, 'step')}")
            if rank.nonfinite_steps:
                said.append(f"not finite at {count(rank.nonfinite_steps, 'step')}")
            if rank.steps < summary.steps:
                said.append(f"not heard at {count(summary.steps - rank.steps, 'step')}")
            lines += self._wrapped(f"  rank {rank.rank}  ", "; ".join(said), "dim", rest="")
        return lines

    def _event_groups(self, summary: RunSummary, most: int = 8) -> list[Text]:
        groups = grouped(summary.events)
        if not groups:
            return [Text.assemble(("events", "bold"), ("  none", "dim"))]
        lines = [Text("events", "bold")]
        for events in groups[:most]:
            first = events[0]
            steps = span(first) if len(events) == 1 else f"{len(events)} times, steps {first.step} to {events[-1].step}"
            lines += self._wrapped(
                f"  {first.severity:<9}{first.kind:<12} ",
                f"{steps}: {first.message}",
                _COLOURS[first.severity],
                rest="",
            )
        if len(groups) > most:
            lines.append(Text(f"  {len(groups) - most} more kinds; `gradwatch events` lists every event", "dim"))
        return lines

    def newest(self, summary: RunSummary) -> list[Text]:
        """The newest event on a line of its own, if there is one."""
        if not summary.events:
            return []
        last = summary.events[-1]
        lead = f"newest event  {last.severity} {last.kind} at step {last.step}: "
        return self._wrapped(lead, last.message, _COLOURS[last.severity], rest="")[:2]

    # ------------------------------------------------------------------------------------- doctor

    def diagnosis(self, found: Diagnosis) -> Group:
        """The whole of `gradwatch doctor`, below what the script printed."""
        ended = ", ended by an exception of its own" if found.failed else ""
        lines = [Text(), Text(f"{printable(found.script)}{ended}", "bold")]
        marks = {"fine": self.ink.pick("✓", "+"), "note": self.ink.pick("·", "-"), "problem": self.ink.pick("✗", "x")}
        styles = {"fine": "green", "note": "dim", "problem": "bold red"}
        for finding in found.findings:
            head = f"  {marks[finding.mark]} {finding.about:<12} "
            lines += self._wrapped(head, finding.text, styles[finding.mark], rest="")
        return Group(*lines)

    # ------------------------------------------------------------------------------------- layers

    def _layers(self, summary: RunSummary) -> list[Text]:
        if not summary.layers:
            return [Text.assemble(("layers", "bold"), ("  not recorded", "dim"))]
        shown = summary.telling[: self.layers]
        columns = _columns(self.width, [summary.layers[i] for i in shown])
        name_width = min(max((len(summary.layers[i].name) for i in shown), default=5), 36 if self.width >= 110 else 22)
        history = self.width - name_width - 2 - sum(width + 1 for _, width, _ in columns)
        head = "layer".ljust(name_width + 1) + "".join(f"{title:>{width}} " for title, width, _ in columns)
        lines = [Text.assemble((head + " history", "bold"))]
        for index in shown:
            layer = summary.layers[index]
            line = Text(fit(layer.name, name_width, self.ink) + " ")
            for _, width, value in columns:
                line.append(f"{value(layer):>{width}} ")
            norms = summary.series.layer_norm[:, index].astype(float)
            bad = summary.series.layer_nonfinite[:, index]
            line.append(" ").append_text(chart(norms, bad, history, 1, self.ink)[0] if len(norms) else Text())
            lines.append(line)
        hidden = len(summary.layers) - len(shown)
        if hidden > 0:
            lines.append(Text(f"{hidden} more; --layers {len(summary.layers)} shows all", "dim"))
        return lines

    def _strip(self, summary: RunSummary, rows: int = 16) -> list[Text]:
        if not summary.layers:
            return []
        """Every layer in the model's order, neighbours joined where there are more than ``rows``."""
        count = len(summary.layers)
        joined = groupby(range(count), key=lambda i: i * min(rows, count) // count)
        groups = [list(group) for _, group in joined]
        labels = [_group_label([summary.layers[i].name for i in group]) for group in groups]
        name_width = min(max((len(label) for label in labels), default=5), 30 if self.width >= 110 else 22)
        width = self.width - name_width - 1
        head = Text("layer x step", "bold").append("  largest norm, beside the layer's own median", "dim")
        lines = [head]
        for label, group in zip(labels, groups, strict=True):
            relative, bad = _relative(summary, group)
            line = Text(fit(label, name_width, self.ink) + " ")
            lines.append(line.append_text(heat(relative, bad, 1.0, width, self.ink)))
        return [*lines, heat_legend(self.ink)]

    # ------------------------------------------------------------------------------- other commands

    def events(self, events: Sequence[Event]) -> Group:
        """Every event, in order."""
        if not events:
            return Group(Text("No events.", "green"))
        lines = []
        for event in events:
            lead = f"step {event.step:<8}{event.severity:<9}{event.kind:<12} "
            lasted = "" if event.until in (None, event.step) else f" (until step {event.until})"
            lines += self._wrapped(lead, event.message + lasted, _COLOURS[event.severity], rest="")
        return Group(*lines)

    def recommendation(self, advice: Recommendation) -> Group:
        """The threshold, why, what others would have done, and the line to paste."""
        if advice.refused is not None:
            lead = f"{self.ink.pick('○', 'o')} no recommendation  "
            return Group(*self._wrapped(lead, advice.refused, "yellow", rest=""), *self._first(advice))
        head = Text(f"{self.ink.pick('●', '*')} ", "bold green")
        span = Text(f"anything from {number(advice.low)} to {number(advice.high)} is supported")
        headline = [head]
        if advice.clip is None:
            head.append(f"max_norm {number(advice.max_norm)}").append("   ", "").append_text(span)
        else:
            head.append(f"{advice.clip} ").append("or ", "").append(f"max_norm {number(advice.max_norm)}")
            headline.append(Text("  of thresholds ", "dim").append_text(span).append("; this one", "dim"))
        head.append(f"   confidence {advice.confidence}", "dim")
        would = Text("  would have clipped ", "dim").append(share(advice.clipped_fraction), "")
        would.append(" of the steps that decided, mean clip_coef ", "dim").append(number(advice.mean_clip_coef), "")
        sure = Text("  a history can't prove it: `gradwatch tune SCRIPT` finds one by experiment", "dim")
        bullet = f"  {self.ink.pick('•', '-')} "
        reasons = [line for reason in advice.reasons for line in self._wrapped(bullet, reason, "dim", rest="")]
        paste = [Text(f"  {line}", "cyan", no_wrap=False) for line in advice.apply.values()]
        tables = [[Text(), *lines] for lines in (self._phases(advice), self._what_if(advice)) if lines]
        return Group(
            *headline,
            would,
            *([] if advice.confidence == "high" else [sure]),
            Text(),
            *reasons,
            *self._first(advice),
            *(line for lines in tables for line in lines),
            Text(),
            Text("paste", "bold"),
            *paste,
        )

    def agreement(self, found: Agreement) -> Group:
        """The advice for all runs, then a line for each."""
        lines = [Text(f"{'threshold':>10}  {'from':>8}  {'to':>8}  confidence  run", "bold")]
        for advice in found.each:
            if advice.refused is not None:
                lines.append(Text(f"{'refused':>10}  {'':>8}  {'':>8}  {'':10}  {printable(advice.run)}", "yellow"))
                continue
            lines.append(
                Text(
                    f"{number(advice.max_norm):>10}  {number(advice.low):>8}  {number(advice.high):>8}"
                    f"  {advice.confidence:10}  {printable(advice.run)}"
                )
            )
        return Group(self.recommendation(found.together), Text(), *lines)

    def _first(self, advice: Recommendation) -> list[Text]:
        """What to change before clipping."""
        if not advice.fix_first:
            return []
        bullet = f"  {self.ink.pick('•', '-')} "
        lines = [line for text in advice.fix_first for line in self._wrapped(bullet, text, "yellow", rest="")]
        return [Text(), Text("look at this first", "bold"), *lines]

    def _phases(self, advice: Recommendation) -> list[Text]:
        if not advice.phases:
            return []
        lines = [Text(f"{'steps':>17}  {'clipped':>8}  {'mean coef':>9}", "bold")]
        for phase in advice.phases:
            steps = f"{phase.first_step} to {phase.last_step}"
            lines.append(Text(f"{steps:>17}  {share(phase.clipped_fraction):>8}  {number(phase.mean_clip_coef):>9}"))
        return lines

    def _what_if(self, advice: Recommendation) -> list[Text]:
        if not advice.what_if:
            return []
        at_worst = f"at norm {number(advice.worst_norm)}"
        lines = [Text(f"{'threshold':>10}  {'clipped':>8}  {'mean coef':>9}  {at_worst:>15}", "bold")]
        for row in advice.what_if:
            text = (
                f"{number(row.threshold):>10}  {share(row.clipped_fraction):>8}  {number(row.mean_clip_coef):>9}"
                f"  {'x ' + number(row.worst_clip_coef):>15}  {self._bar(row.clipped_fraction)}  {row.label}"
            )
            lines.append(Text(text, "green" if row.threshold == advice.max_norm else ""))
        return lines

    def _bar(self, part: float, width: int = 10) -> str:
        """A share as a bar of a fixed width.

        >>> ConsoleReport(ink=Ink(ascii=True))._bar(0.5)
        '#####     '
        """
        return (self.ink.pick("█", "#") * round(width * part)).ljust(width)

    def tuning(self, found: Tuning) -> Group:
        """The loss against the threshold, as bars, and what follows from it."""
        final = found.final()
        longest = max(trial.steps for trial in final)
        losses = [trial.loss for trial in final if trial.loss is not None and trial.steps == longest]
        low, high = min(losses, default=0.0), max(losses, default=1.0)
        room = max(10, self.width - 48)
        mark = self.ink.pick("█", "#")
        lines = [Text(f"{'threshold':>10}  {'steps':>7}  {'clipped':>8}  {'loss':>9}", "bold")]
        for trial in final:
            threshold = "none" if math.isinf(trial.max_norm) else number(trial.max_norm)
            style = "green" if trial.max_norm == found.best else ""
            line = f"{threshold:>10}  {trial.made:>7}  {share(trial.clipped_fraction):>8}  "
            if trial.loss is None:
                lines.append(Text(f"{line}{'lost':>9}", "red"))
                continue
            if trial.steps < longest:
                lines.append(Text(f"{line}{trial.loss:>9.4g}  not among the best at {trial.made} steps", "dim"))
                continue
            length = room if high == low else 1 + round((room - 1) * (trial.loss - low) / (high - low))
            lines.append(Text(f"{line}{trial.loss:>9.4g}  {mark * length}", style))
        about = "loss: the median of the last fifth recorded, or printed; bars begin at the least"
        lead = f"{self.ink.pick('●', '*')} "
        style = "green" if found.matters else "yellow"
        verdict = self._wrapped(lead, found.verdict, style, rest="")
        if found.matters and found.low is not None and found.low != found.high:
            upper = "no clipping" if math.isinf(found.high or 0.0) else number(found.high)
            verdict.append(Text(f"  anything from {number(found.low)} to {upper} did as well, as far as can be told"))
        if found.best is not None and math.isfinite(found.best) and found.matters:
            verdict.append(
                Text(f"  torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={found.best:g})", "cyan")
            )
        return Group(*verdict, Text(), *lines, Text(about, "dim"))

    def comparison(self, summaries: Sequence[RunSummary]) -> Group:
        """Runs side by side: norm and loss on shared axes, then the numbers."""
        across = max(1, min(len(summaries), self.width // 38))
        rows = [summaries[i : i + across] for i in range(0, len(summaries), across)]
        lines: list[Text] = []
        for row in rows:
            lines += self._curves_beside(summaries, row, "total norm", "total_norm", "cyan")
            lines += self._curves_beside(summaries, row, "loss", "loss", "magenta")
            lines.append(Text())
        return Group(*lines, *self._numbers(summaries))

    def _curves_beside(
        self, everyone: Sequence[RunSummary], row: Sequence[RunSummary], title: str, name: str, style: str
    ) -> list[Text]:
        low, high = bounds_of(*(getattr(s.series, name) for s in everyone))
        longest = max(s.steps for s in everyone)
        width = self.width // len(row) - 12
        panels = []
        for summary in row:
            values = getattr(summary.series, name)
            bad = summary.series.nonfinite if name == "total_norm" else ~np.isfinite(values) & summary.series.nonfinite
            columns = max(1, round(width * summary.steps / longest))
            lines = chart(values, bad, columns, 6, self.ink, (low, high), style)
            labels = [number(high), "", "", "", "", number(low)]
            bar = self.ink.pick("┤", "|")
            panel = [Text(fit(f"{title}: {summary.run}", width + 9, self.ink), "bold")]
            for label, line in zip(labels, lines, strict=True):
                panel.append(Text.assemble((f"{label:>8}", "dim"), (bar, "dim"), line))
                panel[-1].pad_right(width + 9 - len(panel[-1]))
            panels.append(panel)
        return beside(panels)

    def _numbers(self, summaries: Sequence[RunSummary]) -> list[Text]:
        facts: list[tuple[str, list[str]]] = [
            ("verdict", [s.verdict for s in summaries]),
            ("steps", [str(s.steps) for s in summaries]),
            ("median norm", [number(s.total_norm.median) for s in summaries]),
            ("p99 norm", [number(s.total_norm.p99) for s in summaries]),
            ("max norm", [number(s.total_norm.max) for s in summaries]),
            ("at step", [str(s.total_norm.max_step) for s in summaries]),
            ("threshold", [number(s.clipping.threshold) for s in summaries]),
            ("clipped", [share(s.clipping.clipped_fraction) for s in summaries]),
            ("not finite", [str(s.nonfinite_steps) for s in summaries]),
            ("loss first", [number(s.loss.first if s.loss else None) for s in summaries]),
            ("loss last", [number(s.loss.last if s.loss else None) for s in summaries]),
        ]
        name_width = max(12, *(min(len(s.run), 30) for s in summaries))
        fitting = max(1, (self.width - name_width) // 10)
        lines: list[Text] = []
        for start in range(0, len(facts), fitting):
            part = facts[start : start + fitting]
            widths = [max(len(title), *(len(v) for v in values)) for title, values in part]
            head = "run".ljust(name_width) + "".join(f"  {t:>{w}}" for (t, _), w in zip(part, widths, strict=True))
            lines.append(Text(head, "bold"))
            for i, summary in enumerate(summaries):
                line = Text(fit(summary.run, name_width, self.ink))
                for (title, values), w in zip(part, widths, strict=True):
                    line.append(f"  {values[i]:>{w}}", _COLOURS[summary.verdict] if title == "verdict" else "")
                lines.append(line)
        return lines

    def _wrapped(self, lead: str, text: str, style: str, rest: str | None = "") -> list[Text]:
        """A text after its lead, wrapped to the width and indented under itself; ``rest`` styles the text."""
        text = printable(text)
        if self.ink.ascii:
            text = text.encode("ascii", "replace").decode()
        indent = " " * len(lead)
        lines = textwrap.wrap(text, self.width - len(lead), break_long_words=True) or [""]
        body_style = style if rest is None else rest
        return [Text.assemble((lead if i == 0 else indent, style), (line, body_style)) for i, line in enumerate(lines)]


def span(event: Event) -> str:
    """The steps of an event, as far as they are known.

    >>> span(Event(step=3, kind="spike", severity="info", message="", until=7))
    'steps 3 to 7'
    """
    return f"step {event.step}" if event.until in (None, event.step) else f"steps {event.step} to {event.until}"


def grouped(events: Sequence[Event]) -> list[list[Event]]:
    """Events of one kind and severity together, the worst first, then by step."""
    groups: dict[tuple[int, str], list[Event]] = {}
    for event in events:
        groups.setdefault((-SEVERITIES.index(event.severity), event.kind), []).append(event)
    return sorted(groups.values(), key=lambda group: (-SEVERITIES.index(group[0].severity), group[0].step))


def _columns(width: int, layers: Sequence[LayerSummary]) -> list[Column]:
    """Title, width and text of the columns that fit, the most useful first."""
    columns: list[Column] = [
        ("median", 7, lambda layer: number(layer.median)),
        ("max", 7, lambda layer: number(layer.max)),
    ]
    columns.append(("at step", 8, lambda layer: "-" if layer.max_step is None else str(layer.max_step)))
    if width >= 90:
        columns.insert(1, ("p99", 7, lambda layer: number(layer.p99)))
        columns.append(("last", 7, lambda layer: number(layer.last)))
    if width >= 110:
        columns.append(("zeros", 6, lambda layer: share(layer.zero_fraction)))
        columns.append(("update", 7, lambda layer: number(layer.update_ratio)))
    if any(layer.nonfinite_steps for layer in layers):
        columns.append(("NaN", 5, lambda layer: str(layer.nonfinite_steps)))
    return columns


def _stands_out(rank: RankSummary, usual: float, steps: int) -> tuple[int, int, int, float]:
    """How much there is to say of a rank; the last is how far its median lies from the usual one, as a factor."""
    factor = rank.median / usual if rank.median and usual else 1.0
    return rank.differing_steps, rank.nonfinite_steps, steps - rank.steps, max(factor, 1 / factor)


def _group_label(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def _relative(summary: RunSummary, group: Sequence[int]) -> tuple[Array, NDArray[np.bool_]]:
    """The norms of a group of layers, each beside its own median, and where any is not finite."""
    medians = np.array([summary.layers[i].median or np.nan for i in group])
    table = summary.series.layer_norm[:, group].astype(float) / medians
    largest = np.max(np.where(np.isfinite(table), table, -np.inf), axis=1, initial=-np.inf)
    bad = np.asarray(summary.series.layer_nonfinite[:, group].any(axis=1), bool)
    return np.where(largest == -np.inf, np.nan, largest), bad


def _told(seams: Sequence[ResumePoint], most: int = 3) -> str:
    more = f"; and {len(seams) - most} times before" if len(seams) > most else ""
    return "; ".join(str(seam) for seam in seams[-most:]) + more
