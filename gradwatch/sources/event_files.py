"""Reads TensorBoard's event files: any scalar, by its tag."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.sources import layers, parts
from gradwatch.sources.columns import Columns, choose, told
from gradwatch.sources.history import History, Point
from gradwatch.sources.values import first_line

Scalars = dict[int, tuple[float, float]]
"""Value and wall time by step."""


def read(
    files: list[Path], norm: str | None = None, loss: str | None = None, layers_prefix: str | None = None
) -> History:
    """Read the scalars in the event files of one run; of two values of one step the later file's counts.

    Raises:
        CannotImport: a file can't be read, or there is no such tag.
    """
    by_tag: dict[str, Scalars] = defaultdict(dict)
    for file in sorted(files, key=lambda file: file.name):
        for name, step, value, wall_time in _scalars(file):
            by_tag[name][step] = (value, wall_time)
    computed = parts.sums(sorted(by_tag))
    for tag, of in computed.items():
        for step, (_, wall_time) in by_tag[of[0]].items():
            whole = parts.total(_value(by_tag[part], step) for part in of)
            if whole is not None:
                by_tag[tag][step] = (whole, wall_time)
    where = repr(files[0].name) if len(files) == 1 else f"{len(files)} event files"
    tags = choose(sorted(by_tag), where, norm, None, loss, layers_prefix)
    return History(
        [replace(point, optimizer=name) for name, own in tags.by_optimizer() for point in _points(by_tag, own)],
        f"{tags.taken} of {where.strip(chr(39))}",
        notes=(*told(sorted(by_tag), tags, has_steps=True), *parts.notes(computed)),
        layers=tags.series.layers,
        validation=[(step, loss) for step, (loss, _) in by_tag.get(tags.validation_loss or "", {}).items()],
    )


def _points(by_tag: Mapping[str, Scalars], tags: Columns) -> Iterator[Point]:
    """A point for each step that has a norm; where none has one, that has a loss, or else a reward."""
    nothing: Scalars = {}
    losses, rates = (by_tag.get(tag or "", nothing) for tag in (tags.loss, tags.learning_rate))
    of_layers = [by_tag[tag] for tag in tags.series.columns]
    norms = _totals(of_layers) if tags.norm is None else by_tag[tags.norm]
    deciding = norms if tags.has_norms else by_tag[tags.of_points[0]]
    rewards = _latest(by_tag.get(tags.reward or "", nothing), sorted(deciding))
    for step, (_, wall_time) in deciding.items():
        if step >= 0:
            yield Point(
                step=step,
                norm=_value(norms, step),
                loss=_value(losses, step),
                learning_rate=_value(rates, step),
                reward=rewards.get(step),
                wall_time=wall_time,
                layers=tuple(_value(each, step) for each in of_layers),
            )


def _value(scalars: Scalars, step: int) -> float | None:
    return scalars[step][0] if step in scalars else None


def _latest(scalars: Scalars, steps: Sequence[int]) -> dict[int, float]:
    """The last value at each of these ascending steps, or since the one before it: rewards have steps of their own."""
    found = {}
    for step in sorted(scalars):
        at = bisect_left(steps, step)
        if at < len(steps):
            found[steps[at]] = scalars[step][0]
    return found


def _totals(of_layers: list[Scalars]) -> Scalars:
    """The norm over all layers, at steps where all of them are."""
    steps = set.intersection(*(set(each) for each in of_layers)) if of_layers else set()
    found: Scalars = {}
    for step in sorted(steps):
        norm = layers.total([each[step][0] for each in of_layers])
        if norm is not None:
            found[step] = (norm, of_layers[0][step][1])
    return found


def _scalars(file: Path) -> list[tuple[str, int, float, float]]:
    """Tag, step, value and wall time of every scalar in a file."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    found = []
    try:
        # The loader stops where a file is cut off, for example because it is still being written.
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                number = _number(value)
                if number is not None:
                    found.append((value.tag, int(event.step), number, float(event.wall_time)))
    except Exception as error:  # the loader raises many types
        raise CannotImport(f"{str(file)!r} can't be read as an event file: {first_line(error)}.") from error
    if not found and not _begins_as_one(file):
        raise CannotImport(f"{str(file)!r} can't be read as an event file: it holds no event.")
    return found


def _number(value: Any) -> float | None:
    """The number in a summary; None if it is no scalar. The loader turns all scalars into tensors."""
    from tensorboard.util import tensor_util

    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    if (
        value.metadata.plugin_data.plugin_name != "scalars"
        or math.prod(d.size for d in value.tensor.tensor_shape.dim) != 1
    ):
        return None
    return float(tensor_util.make_ndarray(value.tensor).reshape(-1)[0])


def _begins_as_one(file: Path) -> bool:
    """Whether the first record is the version of the format."""
    with file.open("rb") as stream:
        return b"brain.Event" in stream.read(64)
