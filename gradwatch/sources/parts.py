"""The loss of the whole, where a tool logs its parts alone and the whole is known to be their sum.

YOLOv5 and Ultralytics log each part multiplied by its weight, and train with the sum of these, times the number of
images in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

NEEDED = ("train/box_loss", "train/cls_loss")


def sums(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names of the losses that can be computed, and the series whose sum each is.

    >>> sums(["epoch", "train/box_loss", "train/cls_loss", "val/box_loss", "val/cls_loss"])["val/loss"]
    ('val/box_loss', 'val/cls_loss')
    >>> sums(["train/box_loss", "train/cls_loss", "train/loss"]), sums(["train/cls_loss"])
    ({}, {})
    >>> list(sums(["train/box_loss", "train/cls_loss", "val/box_loss", "val/cls_loss", "val/loss"]))
    ['train/loss']
    """
    if not set(NEEDED) <= set(names) or "train/loss" in names:
        return {}
    losses = [name for name in names if name.endswith("_loss")]
    of = {data: tuple(name for name in losses if name.startswith(f"{data}/")) for data in ("train", "val")}
    return {f"{data}/loss": parts for data, parts in of.items() if len(parts) > 1 and f"{data}/loss" not in names}


def total(values: Iterable[float | None]) -> float | None:
    """The sum; None if a part is not known.

    >>> total([1.0, 0.5]), total([1.0, None])
    (1.5, None)
    """
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def notes(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What was computed, a sentence each."""
    for name, parts in found.items():
        yield f"{name!r} was computed: the sum of {', '.join(map(repr, parts))}"
