"""Values that a tracker logged one by one, made into rows, and the choice among its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradwatch.detect.optimizers import FOLLOWING, NORMALISING
from gradwatch.errors import CannotImport

MOST_NAMED = 12  # runs in a message
OPTIMIZER_KEYS = ("optimizer", "optim", "optimizer_name", "optimizer_class", "opt")
"""Settings that tell the optimizer; the last part of a dotted or slashed name counts."""
_CLASSES = {name.lower(): name for name in (*FOLLOWING, *NORMALISING)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One logged value.

    Attributes:
        name: of the series.
        step: a number, which is checked where it is used.
        value: a number.
        time: seconds since the epoch; 0: not known.
    """

    name: str
    step: Any
    value: float | None
    time: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """A run of a tracker: its id, its name, which need not be unique, and its settings."""

    key: str
    name: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How a message names it."""
        return f"{self.name} ({self.key})" if self.name and self.name != self.key else self.key


def chosen(runs: Sequence[LoggedRun], of: str | None, where: str) -> LoggedRun:
    """The run of that id or name, or the only one.

    Raises:
        CannotImport: there is none, or it is not clear which is meant.

    >>> chosen([LoggedRun(key="1f", name="a"), LoggedRun(key="2e", name="b")], "b", "mlruns").key
    '2e'
    """
    found = [run for run in runs if of is None or of in (run.key, run.name)]
    if len(found) == 1:
        return found[0]
    if not runs:
        raise CannotImport(f"{where!r} holds no run with metrics.")
    among = found or runs
    named = ", ".join(run.label for run in among[:MOST_NAMED])
    more = f" and {len(among) - MOST_NAMED} more" if len(among) > MOST_NAMED else ""
    what = f"{len(runs)} runs" if of is None else (f"no run {of!r}" if not found else f"{len(found)} runs {of!r}")
    raise CannotImport(f"{where!r} holds {what}; name one with --of: {named}{more}.")


def of_values(values: Iterable[Value]) -> list[dict[str, Any]]:
    """A row for each step with the last value of each series, in the order of the steps' first values.

    >>> of_values([Value(name="loss", step=0, value=2.0), Value(name="grad_norm", step=0, value=0.5)])
    [{'step': 0, 'loss': 2.0, 'grad_norm': 0.5}]
    """
    rows: dict[Any, dict[str, Any]] = {}
    for one in values:
        row = rows.setdefault(one.step, {"step": one.step})
        row[one.name] = one.value
    return list(rows.values())


def optimizer_class(value: Any) -> str:
    """The class of an optimizer as a setting names it; empty if the value names none.

    PyTorch's classes are known in any case, and by the names of the Transformers Trainer. Another name stays as it is:
    ``adamw_bnb_8bit`` is not PyTorch's AdamW.

    >>> [optimizer_class(name) for name in ("torch.optim.AdamW", "adamw_torch_fused", "sgd", "adamw_bnb_8bit", "a, b")]
    ['AdamW', 'AdamW', 'SGD', 'adamw_bnb_8bit', '']
    """
    name = str(value).rsplit(".", 1)[-1]
    if value is None or isinstance(value, bool) or not re.fullmatch(r"[A-Za-z_]\w{0,60}", name):
        return ""
    plain = re.sub(r"_(torch|torch_fused|hf)$", "", name.lower())
    return _CLASSES.get(plain, name)
