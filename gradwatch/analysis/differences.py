"""Two runs of one training -> the first step and parameter in which they differ, and how the difference grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.history import RunReader, is_imported
from gradwatch.analysis.statistics.quantiles import Array

ENTRIES_AT_ONCE = 1_000_000  # numbers of one table that are compared at a time
DISTANCES = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)  # steps after the first difference
GRADIENT_STATS = ("norm", "abs_max", "nonfinite", "zeros")
SETTINGS = ("max_norm", "norm_type", "clip_value", "loss_scale")  # of a step, besides its learning rates
RESULTS = ("total_norm", "clip_coef", "cut_fraction", "nonfinite", "skipped")  # of a step, after its gradients

Source: TypeAlias = Literal["settings", "weights", "loss", "gradient", "update"]
"""What differs first within a step, in the order in which a step computes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How far two runs are apart at one step, relative to the larger of the two values; None: not known."""

    step: int
    total_norm: float | None
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the records of one optimizer in two runs part. Numbers are compared to the bit; NaN equals NaN.

    Attributes:
        optimizer: its name.
        common_steps: steps that both runs recorded.
        step: the first of these at which a recorded number differs; None: there is none.
        source: what differs first at that step: a setting (learning rate, threshold, weight decay), the weights before
            the step (which are sampled), the loss, a gradient or an update.
        name: the column, or the statistic of the parameters.
        parameters: which differ in it, the one with the largest relative difference first; empty for a setting and a
            loss.
        first, second: the value in each run, of the first of ``parameters``.
        relative: ``|first - second| / max(|first|, |second|)``; None where one of them is not finite.
        alike: what both runs recorded and had equal up to and including that step, before ``source``.
        growth: at that step, and at growing distances after it up to the last common step.
        only_first, only_second: parameters that one run alone has.
    """

    optimizer: str
    common_steps: int
    step: int | None = None
    source: Source | None = None
    name: str | None = None
    parameters: tuple[str, ...] = ()
    first: float | None = None
    second: float | None = None
    relative: float | None = None
    alike: tuple[str, ...] = ()
    growth: tuple[Growth, ...] = ()
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()

    @property
    def bit_equal(self) -> bool:
        """Whether every number that both runs recorded is equal to the bit."""
        return self.step is None and self.common_steps > 0 and not (self.only_first or self.only_second)


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The settings in which configs differ, with the value in each; None where a config lacks it.

    A run without any config tells nothing of its settings, so it differs in none.

    >>> differing_settings([{"lr": 0.1}, {}])
    {}
    >>> differing_settings([{"lr": 0.1, "depth": 4}, {"lr": 0.2, "depth": 4}, {}])
    {'lr': (0.1, 0.2, None)}
    """
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: tuple(config.get(name) for config in configs) for name in names}
    known = {name: [config.get(name) for config in configs if config] for name in names}
    return {name: each for name, each in values.items() if any(value != known[name][0] for value in known[name])}


def differences(first: RunReader, second: RunReader) -> tuple[Difference, ...]:
    """Where two runs part, for each optimizer that both have; the one that parts first by the first run's clock leads.

    >>> [found.bit_equal for found in differences(RunReader(example_run), RunReader(example_run))]
    [True]
    """
    names = [name for name in first.optimizers if name in second.optimizers]
    found = [(difference(first, second, name), first.steps_to_read(name)) for name in names]
    return tuple(one for one, _ in sorted(found, key=lambda pair: _clock(*pair)))


def _clock(found: Difference, frame: pd.DataFrame) -> float:
    return np.inf if found.step is None else float(frame.loc[[found.step], "wall_time"].iloc[0])


def difference(first: RunReader, second: RunReader, optimizer: str) -> Difference:
    """Where the records of one optimizer part. The memory it takes is bounded, whatever the size of the model."""
    frames = first.steps_to_read(optimizer), second.steps_to_read(optimizer)
    common = frames[0].index.intersection(frames[1].index)
    names = [[info.name for info in reader.parameters(optimizer)] for reader in (first, second)]
    only_first, only_second = (
        tuple(name for name in own if name not in set(other)) for own, other in (names, names[::-1])
    )
    left, right = (frame.loc[common] for frame in frames)
    any_imported = any(is_imported(reader.meta()) for reader in (first, second))
    columns = _columns(left, right, is_imported=any_imported)
    parting = _parting(first, second, optimizer, left, right, columns)
    if parting:
        parting["alike"] = _alike(columns, parting["source"], is_imported=any_imported)
        parting["growth"] = _growth(left, right, parting["step"])
    return Difference(
        optimizer=optimizer,
        common_steps=len(common),
        only_first=only_first,
        only_second=only_second,
        **parting,
    )


def _parting(
    first: RunReader,
    second: RunReader,
    optimizer: str,
    left: pd.DataFrame,
    right: pd.DataFrame,
    columns: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What differs first, as fields of a `Difference`; empty if nothing does."""
    common = left.index
    found = [
        _in_columns(left, right, columns["settings"], "settings"),
        _in_parameters(first, second, optimizer, common, "weight_norm", "weights"),
        _in_columns(left, right, columns["loss"], "loss"),
        *(_in_parameters(first, second, optimizer, common, stat, "gradient") for stat in GRADIENT_STATS),
        _in_columns(left, right, columns["gradient"], "gradient"),
        _in_parameters(first, second, optimizer, common, "update_norm", "update"),
        # As the optimizer computed it: at more steps than the change of the weights is sampled.
        _in_parameters(first, second, optimizer, common, "computed_update_norm", "update"),
    ]
    # Of one step, what is computed first comes first: min keeps the order of the list.
    parting = min((one for one in found if one is not None), key=lambda one: one["step"], default={})
    if not parting:
        return {}
    return _in_settings(first.settings(optimizer), second.settings(optimizer), int(common[0])) or parting


def relative_difference(first: float, second: float) -> float | None:
    """``|first - second| / max(|first|, |second|)``; 0 where both are 0, None where one is not finite.

    >>> relative_difference(1.0, 4.0), relative_difference(0.0, 0.0), relative_difference(1.0, float("inf"))
    (0.75, 0.0, None)
    """
    if not (np.isfinite(first) and np.isfinite(second)):
        return None
    size = max(abs(first), abs(second))
    return abs(first / size - second / size) if size else 0.0


def _columns(left: pd.DataFrame, right: pd.DataFrame, *, is_imported: bool) -> dict[str, list[str]]:
    """The columns of both frames that hold something, by what they tell.

    An imported history does not know how gradients were clipped, and what it lacks may have been there: then only what
    both hold is compared.
    """
    shared = [name for name in left.columns if name in right.columns]
    rates = [name for name in shared if name.startswith("learning_rate")]
    every = {"settings": [*rates, *SETTINGS], "loss": ["loss"], "gradient": list(RESULTS)}
    if is_imported:
        every |= {"settings": rates, "gradient": ["total_norm"]}
    enough = all if is_imported else any
    return {
        source: [name for name in names if enough(frame[name].notna().any() for frame in (left, right))]
        for source, names in every.items()
    }


def _in_columns(left: pd.DataFrame, right: pd.DataFrame, names: Sequence[str], source: Source) -> dict[str, Any] | None:
    """The first step at which one of the columns differs."""
    if not names or left.empty:
        return None
    values = left[list(names)].to_numpy(float), right[list(names)].to_numpy(float)
    at = _first_difference(*values)
    if at is None:
        return None
    row, columns = at
    first, second = float(values[0][row, columns[0]]), float(values[1][row, columns[0]])
    return {
        "step": int(left.index[row]),
        "source": source,
        "name": names[columns[0]],
        "first": first,
        "second": second,
        "relative": relative_difference(first, second),
    }


def _in_settings(first: Mapping[str, Any], second: Mapping[str, Any], step: int) -> dict[str, Any] | None:
    """The first of the numbers with which the optimizers were created that differs, as of the first step in common.

    What such a number does is seen later only: weight decay in the next gradient. The learning rate is known by step.
    """
    for name in first:
        pairs = list(zip(*(_numbers(settings.get(name)) for settings in (first, second)), strict=False))
        one, other = next(((a, b) for a, b in pairs if a != b), (0.0, 0.0))
        if name != "lr" and one != other:
            return {
                "step": step,
                "source": "settings",
                "name": name,
                "first": one,
                "second": other,
                "relative": relative_difference(one, other),
            }
    return None


def _numbers(value: Any) -> list[float]:
    """The numbers of a setting: one, or several as in ``betas``."""
    return [float(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, int | float)]


def _in_parameters(
    first: RunReader, second: RunReader, optimizer: str, common: pd.Index[int], stat: str, source: Source
) -> dict[str, Any] | None:
    """The first step at which a statistic of a parameter that both runs have differs."""
    names = [[info.name for info in reader.parameters(optimizer)] for reader in (first, second)]
    columns = _common_columns(*names)
    if not columns.size or not len(common):
        return None
    standing = [reader.standing(optimizer) for reader in (first, second)]
    rows = [ids[np.isin(ids[:, 1], common)] for ids in standing]
    at_once = max(1, ENTRIES_AT_ONCE // max(len(own) for own in names))
    for begin in range(0, len(common), at_once):
        parts = [
            _table(reader, stat, optimizer, ids[begin : begin + at_once], columns[:, side])
            for side, (reader, ids) in enumerate(zip((first, second), rows, strict=True))
        ]
        # Weights are sampled, and a run may lack a statistic: only what both have is compared.
        steps, left, right = np.intersect1d(parts[0][0], parts[1][0], assume_unique=True, return_indices=True)
        values = parts[0][1][left], parts[1][1][right]
        at = _first_difference(*values)
        if at is not None:
            row, differing = at
            shown = [names[0][i] for i in columns[:, 0]]
            name = stat.removeprefix("computed_")
            return _of_parameters(int(steps[row]), source, name, shown, differing, values[0][row], values[1][row])
    return None


def _of_parameters(
    step: int, source: Source, stat: str, names: Sequence[str], differing: Sequence[int], first: Array, second: Array
) -> dict[str, Any]:
    sizes = [relative_difference(float(first[i]), float(second[i])) for i in differing]
    # Where a value is not finite, the difference has no size and counts as the largest.
    order = sorted(range(len(differing)), key=lambda i: -np.inf if sizes[i] is None else -float(sizes[i] or 0.0))
    largest = differing[order[0]]
    return {
        "step": step,
        "source": source,
        "name": stat,
        "parameters": tuple(names[differing[i]] for i in order),
        "first": float(first[largest]),
        "second": float(second[largest]),
        "relative": sizes[order[0]],
    }


def _common_columns(first: Sequence[str], second: Sequence[str]) -> NDArray[np.intp]:
    """The positions of the parameters that both runs have, (parameters, 2)."""
    of_second = {name: i for i, name in enumerate(second)}
    pairs = [(i, of_second[name]) for i, name in enumerate(first) if name in of_second]
    return np.array(pairs, np.intp).reshape(-1, 2)


def _table(
    reader: RunReader, stat: str, optimizer: str, rows: NDArray[np.int64], columns: NDArray[np.intp]
) -> tuple[NDArray[np.int64], Array]:
    """The steps (found,) and values (found, columns) of one statistic at rows of id, step and attempt."""
    if not len(rows):
        return np.empty(0, np.int64), np.empty((0, len(columns)))
    ids, table = reader.layer_rows(stat, optimizer, after=int(rows[:, 0].min()) - 1, up_to=int(rows[:, 0].max()))
    wanted, at, kept = np.intersect1d(rows[:, 0], ids, assume_unique=True, return_indices=True)
    steps = rows[at, 1] if len(wanted) else np.empty(0, np.int64)
    order = np.argsort(steps, kind="stable")
    return steps[order], table[kept][:, columns][order].astype(float)


def _first_difference(first: Array, second: Array) -> tuple[int, list[int]] | None:
    """The first row in which two tables differ, and the columns that do; NaN equals NaN.

    >>> _first_difference(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.0], [3.0, 5.0]]))
    (1, [1])
    """
    differs = ~((first == second) | (np.isnan(first) & np.isnan(second)))
    rows = np.flatnonzero(differs.any(axis=1))
    return (int(rows[0]), np.flatnonzero(differs[rows[0]]).tolist()) if len(rows) else None


def _alike(columns: dict[str, list[str]], source: Source, *, is_imported: bool) -> tuple[str, ...]:
    """What a step has and computes before the source of the difference."""
    settings = "learning rates" if is_imported else "learning rates and clip settings"
    words = {"settings": settings, "loss": "losses", "gradient": "gradients"}
    order = get_args(Source)
    before = order[: order.index(source)]
    return tuple(word for kind, word in words.items() if kind in before and columns[kind])


def _growth(left: pd.DataFrame, right: pd.DataFrame, step: int) -> tuple[Growth, ...]:
    """Differences of total norm and loss at growing distances, in recorded steps, from where the runs part."""
    begin = int(left.index.searchsorted(step))
    last = len(left) - 1
    at = [begin + distance for distance in DISTANCES if begin + distance < last]
    return tuple(
        Growth(
            step=int(left.index[i]),
            total_norm=relative_difference(left["total_norm"].iloc[i], right["total_norm"].iloc[i]),
            loss=relative_difference(left["loss"].iloc[i], right["loss"].iloc[i]),
        )
        for i in [*at, last]
    )
