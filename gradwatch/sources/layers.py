"""Norms of single layers in a history: which series they are, and the total norm that follows from them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gradwatch.errors import CannotImport
from gradwatch.sources.names import pick

_LAYER = re.compile(
    r"(?:.*/)?(?:grad_2(?:\.0)?_norm/|grad_norms?/|gradient_norms?/|gradients?/norms?/|grad/norms?/)(?P<layer>[^/].*)"
)
"""Lightning's ``grad_2.0_norm/NAME``, Levanter's ``grad/norm/NAME``, and what scripts log beside them."""

TOTALS = ("total", "global", "all", "total_norm", "overall")
"""Last parts of a name that are not those of a layer."""

LINEAR_TOTAL = "grad/norm/total"
"""Levanter's: it adds the norms of the layers instead of taking the root of the sum of their squares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSeries:
    """The columns that hold norms of layers, and the layers' names in the same order."""

    columns: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """A sentence for the user."""
        if len(self.layers) == 1:
            return f"taken: the norm of the layer {self.layers[0]!r}"
        return f"taken: the norms of {len(self.layers)} layers, {self.columns[0]!r} and so on"


def find(columns: Sequence[str], prefix: str | None = None) -> LayerSeries:
    """The series of layers among columns; none if fewer than two look like it.

    Args:
        columns: the names of all series.
        prefix: the series of layers are those whose names begin so, instead of those with usual names.

    Raises:
        CannotImport: no name begins with the prefix.

    >>> find(["loss", "grad_2.0_norm/fc.weight", "grad_2.0_norm/fc.bias", "grad_2.0_norm_total"]).layers
    ('fc.weight', 'fc.bias')
    >>> find(["loss", "gradients/fc.weight"], "gradients/").layers
    ('fc.weight',)
    """
    if prefix is not None:
        return _with_prefix(columns, prefix)
    found = [(name, match["layer"]) for name in columns if (match := _LAYER.fullmatch(name))]
    kept = {layer: name for name, layer in reversed(found) if layer.lower() not in TOTALS}
    if len(kept) < 2:
        return LayerSeries()
    ordered = [(name, layer) for name, layer in found if kept.get(layer) == name]
    return LayerSeries(columns=tuple(name for name, _ in ordered), layers=tuple(layer for _, layer in ordered))


def _with_prefix(columns: Sequence[str], prefix: str) -> LayerSeries:
    found: dict[str, str] = {}
    for name in columns:
        if name.startswith(prefix):
            found.setdefault(name.removeprefix(prefix).lstrip("/."), name)
    kept = [(name, layer) for layer, name in found.items() if layer and layer.lower() not in TOTALS]
    if not kept:
        listed = ", ".join(map(repr, columns[:30])) or "nothing"
        raise CannotImport(f"no series of a layer begins with {prefix!r}; expected the beginning of one of {listed}.")
    return LayerSeries(columns=tuple(name for name, _ in kept), layers=tuple(layer for _, layer in kept))


def total(norms: Sequence[float | None]) -> float | None:
    """The norm over all layers; None if one of them is not known.

    >>> total([3.0, 4.0]), total([3.0, None])
    (5.0, None)
    """
    known = [norm for norm in norms if norm is not None]
    if len(known) < len(norms) or not known:
        return None
    return math.hypot(*known) if not any(map(math.isnan, known)) else math.nan


def pick_total(
    columns: Sequence[str], wanted: str | None, series: LayerSeries, where: str
) -> tuple[str | None, tuple[str, ...]]:
    """The column of the total norm, and sentences about it; None if it is computed from the layers, or not known.

    Args:
        columns: all but those of layers.
        wanted: the name that the user gave, if any.
        series: of the layers.
        where: the file, for messages.

    Raises:
        CannotImport: there is no column of the given name, or several may be the total norm and there are no layers.
    """
    try:
        name = pick("norm", columns, wanted, where)
    except CannotImport:
        if not series.layers or wanted is not None:
            raise
        name = None
    linear = f"{LINEAR_TOTAL!r} adds the norms of layers, which is no norm"
    if name is None and series.layers:
        computed = f"the total norm was computed from the norms of {len(series.layers)} layers"
        return None, (f"{computed}; {linear}" if LINEAR_TOTAL in columns else computed,)
    if name is None:
        return None, (linear,) if LINEAR_TOTAL in columns else ()
    said = f"{name!r} adds the norms of layers, as Levanter does, and is no norm of the whole gradient"
    return name, (said,) if name is not None and name.endswith(LINEAR_TOTAL) else ()
