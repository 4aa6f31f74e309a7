"""Whether a replay reproduces the captured gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.analysis.replays.result import Recurrence
from gradwatch.replaying.passes import dot, total_norm

CLOSE_ULP = 4096.0
"""Units in the last place of a parameter's largest entry, up to which gradients are close: 2^-11 of it in float32."""

SAME_NORM = 0.25
"""The relative difference of two norms that are about the same."""

MOST_DIFFERING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Captured gradients beside replayed ones.

    Attributes:
        recurs: None if there is nothing to compare.
        max_ulp: largest difference in units in the last place of its parameter's largest entry; None if some entry
            is not finite.
        unexplained: ``|captured - replayed| / |captured|``; None if some entry is not finite.
        differing: the parameters that differ most, as a share of the captured norm, the worst first.
    """

    recurs: Recurrence | None
    max_ulp: float | None = None
    unexplained: float | None = None
    differing: tuple[str, ...] = ()


def compare(captured: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> Comparison:
    """Compare the gradients of the parameters that both have.

    >>> g = {"w": torch.tensor([1.0, 2.0])}
    >>> compare(g, {"w": torch.tensor([1.0, 2.0])}).recurs
    'bitwise'
    >>> compare({"w": torch.tensor([1.0, float("nan")])}, g).recurs
    'no'
    """
    pairs = _pairs(captured, replayed)
    if not pairs:
        return Comparison(recurs=None if not captured else "no")
    if any(a.shape != b.shape for a, b in pairs.values()):
        return Comparison(recurs=None)
    missing = _missing(captured, replayed)
    if not missing and all(_equal(a, b) for a, b in pairs.values()):
        return Comparison(recurs="bitwise", max_ulp=0.0, unexplained=0.0 if _finite(captured) else None)
    if not _finite(captured) or not _finite(replayed):
        return Comparison(recurs=_nonfinite(pairs, bool(missing)), differing=_differing(pairs))
    return _compare_finite(pairs, missing, total_norm(captured.values()), total_norm(replayed.values()))


def _pairs(captured: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: _pair(one, replayed[name]) for name, one in captured.items() if name in replayed}


def _pair(captured: Tensor, replayed: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they can be compared: of sparse ones with the same indices the values, else dense."""
    a, b = (one.detach().cpu() for one in (captured, replayed))
    if a.is_sparse and b.is_sparse and a.shape == b.shape:
        a, b = a.coalesce(), b.coalesce()
        if torch.equal(a.indices(), b.indices()):
            return a.values(), b.values()
    return _dense(a), _dense(b)


def _dense(gradient: Tensor) -> Tensor:
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def _missing(captured: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The captured gradients that are not zero and that the replay does not have."""
    missing = {name: _dense(one.detach().cpu()) for name, one in captured.items() if name not in replayed}
    return {name: one for name, one in missing.items() if bool(one.count_nonzero())}


def _compare_finite(
    pairs: Mapping[str, tuple[Tensor, Tensor]], missing: Mapping[str, Tensor], norm: float, other: float
) -> Comparison:
    """Compare finite gradients of the total norms ``norm`` (captured) and ``other`` (replayed) that are not equal."""
    ulp = max(_ulp(a, b) for a, b in pairs.values())
    left = [a.double() - b.double() for a, b in pairs.values()] + list(missing.values())
    unexplained = total_norm(left) / norm if norm else math.inf
    close = ulp <= CLOSE_ULP and not missing
    same = abs(norm - other) <= SAME_NORM * norm
    return Comparison(
        recurs="close" if close else "norm" if same else "no",
        max_ulp=ulp,
        unexplained=unexplained,
        differing=() if close else (*missing, *_differing(pairs))[:MOST_DIFFERING],
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _finite(gradients: Mapping[str, Tensor]) -> bool:
    entries = (one._values() if one.is_sparse else one for one in gradients.values())
    return all(bool(one.isfinite().all()) for one in entries)


def _ulp(a: Tensor, b: Tensor) -> float:
    """Largest difference in units in the last place of the largest entry of ``a``.

    >>> _ulp(torch.tensor([1.0, 0.5]), torch.tensor([1.0 + 2**-23, 0.5]))
    1.0
    """
    if not a.numel():
        return 0.0
    largest = float(a.abs().max())
    difference = float((a.double() - b.double()).abs().max())
    if difference == 0.0:
        return 0.0
    unit = torch.finfo(a.dtype).eps * 2.0 ** math.floor(math.log2(largest)) if largest else torch.finfo(a.dtype).tiny
    return difference / unit


def _nonfinite(pairs: Mapping[str, tuple[Tensor, Tensor]], is_missing: bool) -> Recurrence:
    """Gradients with NaN or infinities: close if they lie in the same places and the rest is close."""
    here = {name for name, (a, _) in pairs.items() if not bool(a.isfinite().all())}
    there = {name for name, (_, b) in pairs.items() if not bool(b.isfinite().all())}
    if here != there:
        return "norm" if here and there else "no"
    for a, b in pairs.values():
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()) or is_missing:
            return "norm"
        if _ulp(a[finite], b[finite]) > CLOSE_ULP:
            return "norm"
    return "close"


def _differing(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[str, ...]:
    def size(name: str) -> float:
        difference = pairs[name][0].double() - pairs[name][1].double()
        square = dot(difference, difference)
        return math.inf if math.isnan(square) else square

    found = [name for name in pairs if not _equal(*pairs[name])]
    return tuple(sorted(found, key=size, reverse=True)[:MOST_DIFFERING])
