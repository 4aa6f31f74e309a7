"""Every number that anyone may show of a run, computed once.

The terminal, the JSON and whatever comes later read a `RunSummary`; none computes a number of its
own, so two views of one run can't disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.run import ResumePoint, Run
from gradwatch.errors import EmptyRun
from gradwatch.record import SEVERITIES, Event, Floats

AT_ONCE = 4_000_000  # norms read from the store at a time
Verdict = str  # healthy, warning or critical

_VERDICTS: dict[str, Verdict] = {"info": "healthy", "warning": "warning", "critical": "critical"}
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSummary:
    """Of the finite norms of a run; None where there is none."""

    median: float | None
    p99: float | None
    max: float | None
    max_step: int | None
    last: float | None  # the last one, NaN and infinity included


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSummary:
    """Of the losses that were logged. First and last are medians over a hundredth of them, 20 at most."""

    first: float | None
    last: float | None
    min: float | None
    min_step: int | None
    nonfinite_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippingSummary:
    """How the run was clipped."""

    kind: str | None  # norm, value, norm+value; policy: by one without a threshold; None: not clipped
    policy: str | None  # of gradwatch, with its settings, where `attach` clipped
    threshold: float | None  # the last one in force
    threshold_min: float | None
    threshold_max: float | None
    clipped_fraction: float | None  # share of steps clipped
    mean_clip_coef: float | None  # over all steps with a finite coefficient
    cut_fraction: float | None  # value clipping: mean share of entries cut


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSummary:
    """The sampled weights: updates out of proportion and weights that run away."""

    samples: int
    median_update_ratio: float | None  # over all samples of all parameters
    max_update_ratio: float | None
    max_update_step: int | None
    max_update_parameter: str | None
    max_growth: float | None  # largest `weight_growth` of a parameter
    max_growth_parameter: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSummary:
    """One process of a training by several: its own gradient before the reduction, or what it holds of it."""

    rank: int
    steps: int  # at which it was heard
    median: float | None
    max: float | None
    max_step: int | None
    nonfinite_steps: int
    differing_steps: int  # with a gradient that is not what the other ranks have


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One parameter's gradient over the run, before clipping."""

    name: str
    numel: int
    median: float | None
    p99: float | None
    max: float | None
    max_step: int | None
    last: float | None
    zero_fraction: float | None  # mean share of entries that are exactly 0
    nonfinite_steps: int
    absent_steps: int  # steps without a gradient
    update_ratio: float | None  # median of the samples
    weight_growth: float | None  # last weight norm sampled over the first


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """What is drawn: one entry a step, NaN where a value is not known."""

    step: NDArray[np.int64]
    total_norm: Array
    max_norm: Array
    clip_coef: Array
    left_norm: Array  # total_norm x clip_coef: what clipping left; NaN where entries were clipped by value
    clipped: NDArray[np.bool_]
    loss: Array
    loss_nonfinite: NDArray[np.bool_]  # logged, and NaN or infinite
    learning_rate: Array
    nonfinite: NDArray[np.bool_]
    layer_norm: Floats  # (steps, parameters); without any where `summarize` was told to leave the layers out
    layer_nonfinite: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSummary:
    """A run in numbers. Norms are of the gradient before clipping."""

    run: str
    model: str
    optimizer: str
    optimizer_class: str
    optimizers: tuple[str, ...]
    steps: int
    first_step: int
    last_step: int
    attempts: int
    seams: tuple[ResumePoint, ...]
    seconds: float
    total_steps: int | None  # of the whole training, where it was said
    seconds_left: float | None  # to the last of them, at the pace of the latest steps
    running: bool
    ended: str | None
    verdict: Verdict
    reason: str
    next: str
    total_norm: NormSummary
    loss: LossSummary | None
    learning_rate: float | None
    clipping: ClippingSummary
    weights: WeightSummary | None
    ranks: tuple[RankSummary, ...]  # empty where they were not heard
    noise_scale: float | None  # the last, in batches of one rank
    nonfinite_steps: int
    skipped_steps: int
    dropped_steps: int
    damaged_rows: int  # of the store, left out because they are not as they were written
    events: tuple[Event, ...]
    layers: tuple[LayerSummary, ...]
    telling: tuple[int, ...] = field(repr=False)  # indices of layers, the most telling first
    series: Series = field(repr=False)

    def _repr_html_(self) -> str:
        """In a notebook."""
        from gradwatch.views.notebook import render

        return render(self)


def summarize(run: Run, optimizer: str | None = None, *, layers: bool = True) -> RunSummary:
    """Compute the summary of a run, over the steps of one optimizer, the first if none is named.

    Without ``layers`` all that is about single parameters is left out, ``weights`` too: what is
    held in memory then does not grow with the model.

    Raises:
        EmptyRun: no step of it is recorded.
    """
    name = run.optimizer(optimizer)
    steps = run.steps(name)
    if steps.empty:
        raise EmptyRun(
            f"{str(run.path)!r} holds no step yet. Is the training still before its first optimizer.step()?"
            " Records reach the disk within a second."
        )
    events = tuple(run.events())
    series = _series(run, name, steps, layers)
    update_ratios = run.layers("update_ratio", name) if layers else pd.DataFrame()
    each = _layers(run, name, series, update_ratios) if layers else ()
    attempts = run.attempts()
    verdict, reason = judge(events, len(steps))
    meta = run.meta()
    clipping = _clipping(steps, meta.get(f"clip.{name}"))
    total = int(meta["total_steps"]) if "total_steps" in meta else None
    return RunSummary(
        run=run.name,
        model=meta.get("model", ""),
        optimizer=name,
        optimizer_class=run.optimizers.get(name, ""),
        optimizers=tuple(run.optimizers),
        steps=len(steps),
        first_step=int(steps.index[0]),
        last_step=int(steps.index[-1]),
        attempts=len(attempts),
        seams=tuple(run.seams(name)),
        seconds=float(steps["wall_time"].iloc[-1] - steps["wall_time"].iloc[0]),
        total_steps=total,
        seconds_left=None if total is None else _seconds_left(steps, total),
        running=bool(attempts) and attempts[-1].ended is None,
        ended=attempts[-1].reason if attempts else None,
        verdict=verdict,
        reason=reason,
        next=_next(events, clipping),
        total_norm=_norm_summary(series.total_norm, series.step),
        loss=_loss(steps),
        learning_rate=_last(steps["learning_rate"].to_numpy()),
        clipping=clipping,
        weights=_weight_summary(update_ratios, each),
        ranks=_ranks(run, name),
        noise_scale=_last_known(run.noise_scale(name)),
        nonfinite_steps=int(series.nonfinite.sum()),
        skipped_steps=int(steps["skipped"].sum()),
        dropped_steps=sum(attempt.dropped for attempt in attempts),
        damaged_rows=run.damaged_rows,
        events=events,
        layers=each,
        telling=most_relevant(each, events),
        series=series,
    )


def judge(events: Sequence[Event], steps: int) -> tuple[Verdict, str]:
    """The verdict with its reason: the first of the worst events.

    >>> judge([], 10)
    ('healthy', 'no warning in 10 steps')
    """
    worst = max((SEVERITIES.index(event.severity) for event in events), default=0)
    verdict = _VERDICTS[SEVERITIES[worst]]
    if verdict == "healthy":
        noted = f"; {len(events)} noted" if events else ""
        return verdict, f"no warning in {steps} steps{noted}"
    first = next(event for event in events if event.severity == SEVERITIES[worst])
    return verdict, _sentence(first)


_SENTENCES = {
    "explosion": "exploded at step {step}",
    "nonfinite": "gradients not finite at step {step}",
    "spike": "norm spiked at step {step}",
    "vanishing": "gradients vanished by step {step}",
    "dead": "no gradient reached a parameter by step {step}",
    "overclipping": "clipped at most steps by step {step}",
    "desync": "ranks parted at step {step}",
    "ineffective-clipping": "clipping did not act as it was meant to at step {step}",
}


def _sentence(event: Event) -> str:
    if event.kind == "nonfinite" and event.message.startswith("norm overflow"):
        return f"the norm overflowed at step {event.step}, and every gradient with it"
    if event.kind == "nonfinite" and event.message.startswith("the loss"):
        return f"the loss was no longer finite at step {event.step}"
    text = _SENTENCES.get(event.kind, event.kind + " at step {step}").format(step=event.step)
    if event.kind == "nonfinite" and event.origin == "weights":
        return f"{text}: the weights of {event.parameter} were not before it"
    if event.origin == "loss":
        return f"{text}, with the loss"
    where = f", first in {event.parameter}" if event.parameter else ""
    if event.origin == "backward":
        where += "; the loss was" if event.kind == "nonfinite" else "; the loss did not rise"
    return text + where


_LOOK_AT = {
    "backward": "look at the backward of the parameter named: a root, a logarithm or a division at 0",
    "weights": "look at the update before that step: it left weights that are not finite",
    "loss": "look at what enters the loss at that step",
    None: "look at what enters the loss at that step",
}


def _next(events: Sequence[Event], clipping: ClippingSummary) -> str:
    """The next thing to do, by the worst that was found."""
    worst = sorted(
        (event for event in events if event.severity != "info"),
        key=lambda event: (-SEVERITIES.index(event.severity), event.step),
    )
    for event in worst:
        advice = _advice(event, clipping)
        if advice is not None:
            return advice
    if clipping.kind is None:
        return "nothing is wrong; `gradwatch recommend` says whether a clipping threshold would be a cheap guard"
    return "nothing is wrong; `gradwatch recommend` compares the threshold in force with others"


def _advice(event: Event, clipping: ClippingSummary) -> str | None:
    """What to do about an event; None where it alone says nothing."""
    rise = "compare the threshold with `gradwatch recommend`; if it is right, lower the learning rate"
    if clipping.kind is None:
        rise = "clip: `gradwatch recommend` says at which threshold"
    inner = "clipping can't help here: look at the initialisation and activations of the parameter named"
    return {
        "desync": f"look at what rank {event.rank} alone does or is given; `gradwatch events --kind desync` says more",
        "explosion": rise,
        "spike": rise,
        "nonfinite": f"{_LOOK_AT.get(event.origin)}; `gradwatch events --kind nonfinite` has the rest",
        "vanishing": inner,
        "dead": inner,
        "ineffective-clipping": "correct the clip call: `gradwatch events --kind ineffective-clipping` says how",
        "overclipping": "`gradwatch recommend` says which threshold would act as a guard; or lower the learning rate",
    }.get(event.kind)


def quantile(ordered: NDArray[np.floating[Any]], share: float) -> float | None:
    """A quantile of sorted numbers, with linear interpolation as in `numpy.quantile`.

    >>> quantile(np.array([1.0, 2.0, 4.0]), 0.75)
    3.0
    """
    if not len(ordered):
        return None
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    below, above = float(ordered[low]), float(ordered[high])
    return below + (above - below) * (position - low)


def spike_safe(values: Array, bins: int) -> Array:
    """The largest finite value of each of ``bins`` stretches; NaN where a stretch has none.

    Every value falls into a stretch, so that no single-step spike can disappear.

    >>> spike_safe(np.array([1.0, 9.0, 1.0, np.nan]), 2).tolist()
    [9.0, 1.0]
    """
    if not len(values):
        return np.full(0, np.nan)
    filled = np.where(np.isfinite(values), values, -np.inf)
    found = np.maximum.reduceat(filled, _edges(len(values), bins))
    return np.where(found == -np.inf, np.nan, found)


def any_in(flags: NDArray[np.bool_], bins: int) -> NDArray[np.bool_]:
    """Whether any flag is set in each of the stretches of `spike_safe`.

    >>> any_in(np.array([False, False, True, False]), 2).tolist()
    [False, True]
    """
    return np.logical_or.reduceat(flags, _edges(len(flags), bins)) if len(flags) else flags


def _edges(length: int, bins: int) -> NDArray[np.intp]:
    bins = min(bins, length)
    return (np.arange(bins) * length // bins).astype(np.intp)


def _layer_norms(run: Run, optimizer: str, steps: pd.DataFrame) -> tuple[Floats, NDArray[np.bool_]]:
    """The norms, (steps, parameters), and where a gradient was not finite; read in parts, and held once."""
    parameters = len(run.parameters(optimizer))
    # Parameter by parameter in memory, as they are sorted and drawn.
    table = np.full((parameters, len(steps)), np.nan, np.float32)
    bad = np.zeros(table.shape, bool)
    suspect = steps["nonfinite"].to_numpy() > 0
    standing = run.standing(optimizer)
    standing = standing[np.isin(standing[:, 1], steps.index)]  # a run being written may have more by now
    standing = standing[np.argsort(standing[:, 0])]
    columns = np.searchsorted(steps.index.to_numpy(np.int64), standing[:, 1])
    at_once = max(64, AT_ONCE // max(1, parameters))
    for begin in range(0, len(standing), at_once):
        ids, place = standing[begin : begin + at_once, 0], columns[begin : begin + at_once]
        between = {"after": int(ids[0]) - 1, "up_to": int(ids[-1])}
        found, norms = run.layer_rows("norm", optimizer, **between)
        stands = np.isin(found, ids)
        at, norms = place[np.searchsorted(ids, found[stands])], norms[stands]
        table[: norms.shape[1], at] = norms.T
        if suspect[at].any():
            counted, counts = run.layer_rows("nonfinite", optimizer, **between)
            is_bad = counts[np.isin(counted, ids)] > 0 if np.array_equal(counted, found) else ~np.isfinite(norms)
            bad[: norms.shape[1], at] = (is_bad & suspect[at, None]).T
    return table.T, bad.T


def _series(run: Run, optimizer: str, steps: pd.DataFrame, layers: bool) -> Series:
    none = np.empty((len(steps), 0), np.float32)
    table, bad = _layer_norms(run, optimizer, steps) if layers else (none, none.astype(bool))
    total = steps["total_norm"].to_numpy(float)
    coef = steps["clip_coef"].to_numpy(float)
    by_value = steps["clip_value"].notna().to_numpy()
    with np.errstate(invalid="ignore"):
        left = np.where(by_value, np.nan, total * coef)
    return Series(
        step=steps.index.to_numpy(np.int64),
        total_norm=total,
        max_norm=steps["max_norm"].to_numpy(float),
        clip_coef=coef,
        left_norm=left,
        clipped=steps["clipped"].to_numpy(bool),
        loss=steps["loss"].to_numpy(float),
        loss_nonfinite=steps["loss_logged"].to_numpy(bool) & ~np.isfinite(steps["loss"].to_numpy(float)),
        learning_rate=steps["learning_rate"].to_numpy(float),
        nonfinite=(steps["nonfinite"].to_numpy() > 0) | ~np.isfinite(total),
        layer_norm=table,
        layer_nonfinite=bad,
    )


def _norm_summary(values: NDArray[np.floating[Any]], step: NDArray[np.int64]) -> NormSummary:
    finite = np.isfinite(values)
    ordered = np.sort(values[finite])
    largest = int(np.argmax(np.where(finite, values, -np.inf))) if finite.any() else None
    return NormSummary(
        median=quantile(ordered, 0.5),
        p99=quantile(ordered, 0.99),
        max=None if largest is None else float(values[largest]),
        max_step=None if largest is None else int(step[largest]),
        last=float(values[-1]),
    )


def _loss(steps: pd.DataFrame) -> LossSummary | None:
    logged = steps.loc[steps["loss_logged"], "loss"]
    finite = logged[np.isfinite(logged)]
    if finite.empty:
        return None
    few = min(20, max(1, len(finite) // 100))
    return LossSummary(
        first=float(finite.iloc[:few].median()),
        last=float(finite.iloc[-few:].median()),
        min=float(finite.min()),
        min_step=int(finite.index[int(np.argmin(finite.to_numpy()))]),
        nonfinite_steps=int(len(logged) - len(finite)),
    )


PACE = 200  # steps


def _seconds_left(steps: pd.DataFrame, total: int) -> float | None:
    """The steps that are left times the mean of the latest ones, of the last attempt alone."""
    latest = steps[steps["attempt"] == steps["attempt"].iloc[-1]].iloc[-PACE:]
    made = int(latest.index[-1] - latest.index[0])
    left = max(0, total - 1 - int(latest.index[-1]))
    if made < 1:
        return None
    return left * float(latest["wall_time"].iloc[-1] - latest["wall_time"].iloc[0]) / made


def _last(values: Array) -> float | None:
    return float(values[-1]) if len(values) and not math.isnan(values[-1]) else None


def _clipping(steps: pd.DataFrame, policy: str | None) -> ClippingSummary:
    by_norm, by_value = steps["max_norm"].dropna(), steps["clip_value"].dropna()
    kinds = [kind for kind, found in (("norm", by_norm), ("value", by_value)) if len(found)]
    if not kinds and (policy is not None or not (steps["clip_coef"] >= 1).all()):
        kinds = ["policy"]
    thresholds = by_norm if len(by_norm) else by_value
    thresholds = thresholds[np.isfinite(thresholds)]  # a policy that warms up has none yet
    coefs = steps["clip_coef"].to_numpy(float)
    coefs = coefs[np.isfinite(coefs)]
    cut = steps["clipped_fraction"].dropna()
    return ClippingSummary(
        kind="+".join(kinds) or None,
        policy=policy,
        threshold=float(thresholds.iloc[-1]) if len(thresholds) else None,
        threshold_min=float(thresholds.min()) if len(thresholds) else None,
        threshold_max=float(thresholds.max()) if len(thresholds) else None,
        clipped_fraction=float(steps["clipped"].mean()) if kinds else None,
        mean_clip_coef=float(coefs.mean()) if kinds and len(coefs) else None,
        cut_fraction=float(cut.mean()) if len(cut) else None,
    )


def _layers(run: Run, optimizer: str, series: Series, ratios: pd.DataFrame) -> tuple[LayerSummary, ...]:
    infos = run.parameters(optimizer)
    zeros = _zero_fractions(run, optimizer, len(series.step))
    weights = _weights(ratios, run.layers("weight_norm", optimizer))
    table = series.layer_norm.T
    summaries = []
    for index, info in enumerate(infos):
        norms = table[index]
        found = _norm_summary(norms, series.step)
        bad = series.layer_nonfinite[:, index]
        ratio, growth = weights.get(info.name, (None, None))
        summaries.append(
            LayerSummary(
                name=info.name,
                numel=info.numel,
                median=found.median,
                p99=found.p99,
                max=found.max,
                max_step=found.max_step,
                last=None if np.isnan(found.last or 0.0) and not bad[-1] else found.last,
                zero_fraction=zeros.get(info.name),
                nonfinite_steps=int(bad.sum()),
                absent_steps=int((np.isnan(norms) & ~bad).sum()),
                update_ratio=ratio,
                weight_growth=growth,
            )
        )
    return tuple(summaries)


def _zero_fractions(run: Run, optimizer: str, steps: int) -> dict[str, float]:
    """The mean share of zero entries, of the parameters that ever had a gradient; over a sample of a long run."""
    zeros = run.layers("zeros", optimizer, one_of=max(1, steps // 10_000))
    if zeros.empty:  # what there is may lie between the rows of the sample
        zeros = run.layers("zeros", optimizer)
    counts = zeros.notna().sum()
    sizes = {info.name: max(info.numel, 1) for info in run.parameters(optimizer)}
    means = zeros.sum()[counts > 0] / counts[counts > 0]
    return {str(name): float(mean / sizes[str(name)]) for name, mean in means.items()}


def _weights(ratios: pd.DataFrame, norms: pd.DataFrame) -> dict[str, tuple[float | None, float | None]]:
    """For each parameter the median update ratio and the growth of the weight norm."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for name in ratios.columns:
        ratio = ratios[name].to_numpy(float)
        ratio = np.sort(ratio[np.isfinite(ratio)])
        norm = norms[name].to_numpy(float)
        grown = float(norm[-1] / norm[0]) if len(norm) and norm[0] > 0 else None
        found[str(name)] = (quantile(ratio, 0.5), grown)
    return found


def _weight_summary(ratios: pd.DataFrame, layers: Sequence[LayerSummary]) -> WeightSummary | None:
    if ratios.empty:
        return None
    table = ratios.to_numpy(float)
    finite = np.isfinite(table)
    row, column = divmod(int(np.argmax(np.where(finite, table, -np.inf))), table.shape[1])
    grown = [layer for layer in layers if layer.weight_growth is not None and math.isfinite(layer.weight_growth)]
    most = max(grown, key=lambda layer: layer.weight_growth or 0.0, default=None)
    return WeightSummary(
        samples=len(ratios),
        median_update_ratio=quantile(np.sort(table[finite]), 0.5),
        max_update_ratio=float(table[row, column]) if finite.any() else None,
        max_update_step=int(ratios.index[row]) if finite.any() else None,
        max_update_parameter=str(ratios.columns[column]) if finite.any() else None,
        max_growth=None if most is None else most.weight_growth,
        max_growth_parameter=None if most is None else most.name,
    )


def _ranks(run: Run, optimizer: str) -> tuple[RankSummary, ...]:
    norms = run.ranks("norm", optimizer)
    if norms.empty:
        return ()
    bad, differing = (run.ranks(stat, optimizer).to_numpy() > 0 for stat in ("nonfinite", "differing"))
    step = norms.index.to_numpy(np.int64)
    table = norms.to_numpy(float)
    summaries = []
    for rank in range(table.shape[1]):
        found = _norm_summary(table[:, rank], step)
        summaries.append(
            RankSummary(
                rank=rank,
                steps=int((~np.isnan(table[:, rank]) | bad[:, rank]).sum()),
                median=found.median,
                max=found.max,
                max_step=found.max_step,
                nonfinite_steps=int(bad[:, rank].sum()),
                differing_steps=int(differing[:, rank].sum()),
            )
        )
    return tuple(summaries)


def _last_known(values: pd.Series[float]) -> float | None:
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None


def most_relevant(layers: Sequence[LayerSummary], events: Sequence[Event]) -> tuple[int, ...]:
    """Layers that an event names first, by its severity, then those that rose furthest above themselves."""
    named: dict[str, int] = {}
    for event in events:
        if event.parameter is not None:
            named[event.parameter] = max(named.get(event.parameter, 0), 1 + SEVERITIES.index(event.severity))

    def rank(index: int) -> tuple[float, float, int]:
        layer = layers[index]
        rise = (layer.max or 0.0) / layer.median if layer.median else 0.0
        return -named.get(layer.name, 0), -rise, index

    return tuple(sorted(range(len(layers)), key=rank))
