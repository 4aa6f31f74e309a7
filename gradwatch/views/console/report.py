"""`gradwatch report`: the verdict, curves, clipping, events and layers of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.text import Text

from gradwatch.analysis.history import ResumePoint
from gradwatch.analysis.statistics.owners import dominant
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.ranks import NO_PARTS
from gradwatch.analysis.summary import AS_THE_OPTIMIZER_GOT_THEM, RunSummary
from gradwatch.text import count, duration, number, optimizer_label, run_state, share, step_range, which_optimizer
from gradwatch.views.console.draw import Axis, axis_of, chart, cut_legend, loss_axis_of, with_axis
from gradwatch.views.console.events import event_groups
from gradwatch.views.console.findings import cause_lines, finding_lines, next_lines, step_lines
from gradwatch.views.console.layers import layer_strip, layer_table
from gradwatch.views.console.ranks import rank_lines
from gradwatch.views.console.replay import replayed_lines
from gradwatch.views.console.screen import SEVERITY_STYLES, Screen

LAYERS, EVENT_GROUPS, STRIP_ROWS, FINDINGS = 12, 8, 16, 6
MOST_SETTINGS = 12
"""How many layers, groups of events, rows of the heat map and findings a report shows by default."""


def report(summary: RunSummary, screen: Screen, layers: int = LAYERS) -> Group:
    """The whole of `gradwatch report`, with up to ``layers`` rows in the table of layers."""
    return Group(*report_lines(summary, screen, layers))


def report_lines(
    summary: RunSummary,
    screen: Screen,
    layers: int = LAYERS,
    strip_rows: int = STRIP_ROWS,
    groups: int = EVENT_GROUPS,
) -> list[Text]:
    """The report line by line, its sections parted by empty lines."""
    return parted(report_sections(summary, screen, layers, strip_rows, groups))


def report_sections(summary: RunSummary, screen: Screen, layers: int, strip_rows: int, groups: int) -> list[list[Text]]:
    """The sections of a report that have a line: at least what run it is, its curves, and the next step."""
    sections = [
        headline(summary, screen),
        finding_lines(summary, screen, min(FINDINGS, groups)),
        [
            *norm_lines(summary, screen),
            *loss_lines(summary, screen),
            clipping_line(summary, screen),
            *owner_lines(summary, screen),
            *weight_lines(summary, screen),
            *update_lines(summary, screen),
            *rank_lines(summary, screen),
            *noise_lines(summary, screen),
        ],
        event_groups(summary.events, screen, groups, len(summary.optimizers) > 1, summary.resume_points),
        replayed_lines(summary.replays, screen),
        layer_table(summary, screen, layers),
        layer_strip(summary, screen, strip_rows),
        next_lines(summary, screen),
    ]
    return [[part for line in section for part in screen.fold(line)] for section in sections if section]


def brief_sections(summary: RunSummary, screen: Screen, layers: int, height: int = 4) -> list[list[Text]]:
    """The report for a small screen: the verdict, its curves, the layers that matter most, and the next step.

    The curve of the norm has ``height`` lines, that of the loss half as many.
    """
    curves = [*norm_lines(summary, screen, height), *loss_lines(summary, screen, height // 2)]
    sections = [
        [*_verdict_lines(summary, screen), *_fact_lines(summary, screen), *_optimizer_lines(summary, screen)],
        [*curves, clipping_line(summary, screen)],
        layer_table(summary, screen, layers),
        step_lines(summary, screen),
    ]
    return [[part for line in section for part in screen.fold(line)] for section in sections if section]


def parted(sections: Sequence[Sequence[Text]]) -> list[Text]:
    """The lines of all sections with an empty line between two sections."""
    lines = [line for section in sections for line in (Text(), *section)]
    return lines[1:]


# ------------------------------------------------------------------------------- what run it is


def headline(summary: RunSummary, screen: Screen) -> list[Text]:
    """The verdict with its reason, facts about the run, and notes about what it lacks."""
    lines = _verdict_lines(summary, screen)
    lines += cause_lines(summary, screen)
    lines += _fact_lines(summary, screen)
    if summary.config:
        lines += screen.wrap("  config  ", config_text(summary.config), "dim", "dim")
    if summary.note or summary.tags:
        lines += screen.wrap("  note  ", " ".join([summary.note, *(f"#{tag}" for tag in summary.tags)]).strip(), "dim")
    for note in _notes(summary):
        lines += screen.wrap("  ", note)
    if summary.damaged_rows:
        damaged = f"{count(summary.damaged_rows, 'row')} of the store damaged and left out"
        lines += screen.wrap("  ", damaged, style="red")
    return lines


def _verdict_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    style = SEVERITY_STYLES[summary.verdict]
    return screen.wrap(f"{screen.ink.pick('●', '*')} {summary.verdict.upper()}  ", summary.reason, style, style)


def _fact_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    return screen.wrap("  ", screen.ink.pick(" · ", " | ").join(_facts(summary)), style="dim")


def config_text(config: Mapping[str, object], most: int = MOST_SETTINGS) -> str:
    """The first settings of a config, and how many there are besides.

    >>> config_text({"lr": 0.1, "depth": 4}, most=1)
    'lr=0.1, and 1 more setting; --json has all'
    """
    shown = [f"{name}={value}" for name, value in list(config.items())[:most]]
    more = len(config) - len(shown)
    return ", ".join([*shown, *([f"and {count(more, 'more setting')}; --json has all"] if more else [])])


def _facts(summary: RunSummary) -> list[str]:
    facts = [
        summary.run,
        summary.model,
        optimizer_label(summary.optimizer_class, summary.learning_rate, summary.highest_learning_rate),
        f"{step_range(summary.first_step, summary.last_step)} ({summary.steps} recorded)",
        duration(summary.seconds) if summary.seconds else "",  # an imported history may have no times
        _state(summary),
        f"{summary.attempts} attempts" if summary.attempts > 1 else "",
    ]
    return [fact for fact in facts if fact]


def _state(summary: RunSummary) -> str:
    """That it runs or was interrupted; a finding tells every other end that is not the plain one."""
    is_told = summary.running or summary.ended == "exception KeyboardInterrupt"
    return run_state(summary.ended, running=summary.running) if is_told else ""


def _optimizer_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The first line of `which_optimizer`."""
    which = which_optimizer(summary.optimizer, summary.optimizers)
    return screen.wrap("  ", which)[:1] if which else []


def _notes(summary: RunSummary) -> list[str]:
    notes = []
    if summary.seams:
        notes.append(_resumed(summary.seams))
    if which := which_optimizer(summary.optimizer, summary.optimizers):
        notes.append(f"{which}; --optimizer shows another")
    if summary.dropped_steps:
        notes.append(f"{count(summary.dropped_steps, 'step')} dropped: too late to be recorded")
    if summary.skipped_steps:
        notes.append(f"{count(summary.skipped_steps, 'step')} skipped (no update)")
    return notes


def _resumed(points: Sequence[ResumePoint], most: int = 3) -> str:
    """The latest of the points at which the run was resumed."""
    earlier = len(points) - most
    more = f"; and {count(earlier, 'time')} before" if earlier > 0 else ""
    return "; ".join(str(point) for point in points[-most:]) + more


# -------------------------------------------------------------------------------------- the curves


def norm_lines(summary: RunSummary, screen: Screen, height: int = 4) -> list[Text]:
    """The total norm before clipping: its numbers and its curve."""
    if not summary.has_norms:
        return [Text("total norm  not known: the history has none", "dim")]
    norm, norms = summary.total_norm, summary.series.total_norm
    head = Text("total norm", "bold")
    head.append(f" {summary.moment}   " if screen.width >= 100 else "  ", "dim")
    for label, value in (("median", norm.median), ("p99", norm.p99), ("max", norm.max)):
        head.append(f"{label} ", "dim").append(f"{number(value)}  ")
    if norm.max_step is not None:
        head.append("at step ", "dim").append(f"{norm.max_step}  ")
    head.append("last ", "dim").append(number(norm.last))
    lines = [head, *_curve(norms, summary.series.nonfinite, screen, height, axis_of(norms))]
    if summary.nonfinite_steps:
        of_all = f"{summary.nonfinite_steps} of {count(summary.steps, 'step')}"
        lines.append(Text(f"  {screen.ink.nan} NaN or infinite at {of_all}", "red"))
    return lines


def loss_lines(summary: RunSummary, screen: Screen, height: int = 2) -> list[Text]:
    """The loss: its numbers and its curve, or how to log it."""
    loss = summary.loss
    if loss is None and summary.ended == "imported":
        return [Text("loss  not known: the history has none", "dim")]
    if loss is None:
        return [Text("loss  not logged; watch.log(loss=loss) adds it", "dim")]
    head = Text("loss", "bold")
    last = "last finite" if loss.nonfinite_steps else "last"
    if loss.min_step is not None:
        of = f" (median of {loss.last_count})" if loss.last_count > 1 else ""
        for label, value, how in (("first", loss.first, ""), (last, loss.last, of), ("min", loss.min, "")):
            head.append(f"  {label} ", "dim").append(number(value)).append(how, "dim")
        head.append("  at step ", "dim").append(str(loss.min_step))
    if loss.nonfinite_steps:
        head.append(f"  not finite at {count(loss.nonfinite_steps, 'step')}", "red")
    losses, bad = summary.series.loss, summary.series.loss_nonfinite
    return [head, *_curve(losses, bad, screen, height, loss_axis_of(losses), "magenta")]


def _curve(
    values: Array, bad: NDArray[np.bool_], screen: Screen, height: int, axis: Axis, style: str = "cyan"
) -> list[Text]:
    lines = chart(values, bad, screen.width - 10, height, screen.ink, axis, style)
    for line in lines:
        line.rstrip()
    return [*with_axis(lines, axis, screen.ink), *cut_legend(lines, axis, screen.ink)]


# ------------------------------------------------------------------------------ clipping and weights


def clipping_line(summary: RunSummary, screen: Screen) -> Text:
    """How the run was clipped, at which threshold and how often."""
    line, clipping = Text("clipping", "bold"), summary.clipping
    if clipping.kind is None and summary.moment == AS_THE_OPTIMIZER_GOT_THEM:
        return line.append("  not known: the script changes the gradients without a clip call", "dim")
    if clipping.kind is None and not clipping.is_known:
        return line.append("  not known: the history does not say", "dim")
    if clipping.kind is None:
        return line.append("  none", "dim")
    if clipping.policy is not None:
        line.append("  by ", "dim").append(screen.ink.safe(clipping.policy))
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


def weight_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The sampled weights: how large updates were and which weights grew most."""
    weights = summary.weights
    if weights is None:
        return []
    text = f"update_ratio median {number(weights.median_update_ratio)}, largest {number(weights.max_update_ratio)}"
    if weights.max_update_parameter is not None:
        text += f" in {weights.max_update_parameter} at step {weights.max_update_step}"
    if weights.max_growth is not None:
        text += f"; grown most x {number(weights.max_growth)} in {weights.max_growth_parameter}"
    return screen.wrap("weights  ", f"{text} ({count(weights.samples, 'sample')})", "bold")


def update_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The updates as the optimizer computed them, and how far its second moment lagged behind the gradient."""
    updates = summary.updates
    if updates is None:
        return []
    parts = []
    if updates.max_update_ratio is not None:
        parts.append(
            f"update_ratio of all weights median {number(updates.median_update_ratio)},"
            f" largest {number(updates.max_update_ratio)} at step {updates.max_update_step}"
        )
    if updates.max_rms_ratio is not None:
        where = "" if updates.max_rms_parameter is None else f" in {updates.max_rms_parameter}"
        parts.append(
            f"rms_ratio of a parameter median {number(updates.median_rms_ratio)},"
            f" largest {number(updates.max_rms_ratio)}{where} at step {updates.max_rms_step}"
        )
    recorded = f"({count(updates.steps, 'step')})"
    return screen.wrap("updates  ", f"{'; '.join(parts)} {recorded}".strip(), "bold")


def noise_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The gradient noise scale and its trend, or why it is not known; nothing of a training with one batch a step."""
    noise = summary.noise
    if noise is None or noise.why == NO_PARTS:
        return []
    if noise.of is None:
        return screen.wrap("noise scale  ", f"not known: {noise.why}", "dim", "dim")
    unit = "micro-batches" if noise.of == "micro-batch" else "batches of a rank"
    text = f"{number(noise.last)} {unit} at the end, {number(noise.first)} at the start, at most {number(noise.max)}"
    return screen.wrap("noise scale  ", f"{text}; its trend says more than its value", "bold")


_OF_GROUPING = {"parameter": "", "kind": "all layers of kind ", "depth": "the layer "}


def owner_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """Who owns the norm, where one part of the model has most of it."""
    return [
        line
        for owner in dominant(summary.norm_owners)
        for line in screen.wrap(
            "owner  ",
            f"{_OF_GROUPING[owner.by]}{owner.name}: {share(owner.share)} of the squared norm,"
            f" {share(owner.entries)} of the entries",
            "bold",
        )
    ]
