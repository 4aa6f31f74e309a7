"""How an optimizer uses the size of its gradient, as far as the record shows.

A class of `torch.optim` is looked up by its exact name. Any other class is probed when it is attached
(`gradwatch.recording.optimizer_probe`), and the answer is stored among the optimizer's settings under
`UPDATE_RULE` and `EPS_RULE`. Otherwise the answer is "unknown", which is never treated as SGD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

UpdateRule: TypeAlias = Literal["follows-gradient", "normalises"]
EpsRule: TypeAlias = Literal["per-entry", "per-matrix"]

UPDATE_RULE = "update_rule"
"""Setting: "follows-gradient" where multiplying every gradient by a constant multiplies the update, as with SGD;
"normalises" where it leaves the update as it is, as with Adam."""

EPS_RULE = "eps_rule"
"""Setting: "per-entry" where eps is added to the size of each entry, "per-matrix" where it is a floor of a
matrix's norm, as with Muon."""

UPDATE_SIZE = "update_size"
"""Setting: "fixed" where each update is as large as the last, whatever the gradients of both were, as with Lion;
"varies" where it is not."""

UPDATE_ROUTE = "update_route"
"""Setting: "closed-form" where the recording can compute the update from the optimizer's state; "difference" where it
only samples the change of the weights."""

FOLLOWING = frozenset({"SGD", "ASGD"})
"""Classes of `torch.optim` whose update is proportional to the gradient."""

DIVIDING_BY_ENTRY = frozenset(
    {"Adam", "AdamW", "NAdam", "RAdam", "SparseAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"}
)
"""Classes of `torch.optim` that divide each entry by its own size plus eps."""

NORMALISING = DIVIDING_BY_ENTRY | {"Adafactor", "Muon", "Rprop", "LBFGS"}
"""Classes of `torch.optim` whose update does not depend on the scale of the gradient. LBFGS is one of them: its
first step is divided by the norm, and later ones by the curvature, which scales as the gradient does."""

DECAYING = frozenset({"SGD", "AdamW", "Muon", "Lion"})
"""Classes in which weight decay takes ``rate * decay`` of the weights at each step. Adam divides it by the size of the
entry with the gradient, so that the share is another for each."""

_EPS_UNDER_THE_ROOT = frozenset({"Adadelta"})
"""Their denominator is sqrt(v + eps): entries are small below sqrt(eps)."""


_RAISED_BY_MUON = 100.0
"""Times: five Newton-Schulz iterations multiply small singular values by 3.4445 each, 485 together, so a matrix whose
norm is under eps still gets a whole update unless it is far under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerTraits:
    """What is known of an optimizer.

    Attributes:
        update_rule: whether the update follows the size of the gradient; None: not known.
        eps: the size of a gradient below which the optimizer's eps matters; None: it has none, or it is not
            known how it uses it.
        eps_rule: of what that size is: of each entry, or the norm of each matrix.
        decay: the share of the weights that a step takes away, over the learning rate; 0: none, or it is not known.
        iterates: one step makes several updates, as that of LBFGS does, which evaluates its closure up to ``max_iter``
            times.
    """

    update_rule: UpdateRule | None = None
    eps: float | None = None
    eps_rule: EpsRule | None = None
    decay: float = 0.0
    iterates: bool = False


def traits_of(optimizer_class: str, settings: Mapping[str, object] | None = None) -> OptimizerTraits:
    """Return what is known of an optimizer from the name of its class and its recorded settings.

    >>> traits_of("SGD").update_rule, traits_of("AdamW", {"eps": 1e-8}).eps
    ('follows-gradient', 1e-08)
    >>> traits_of("Muon", {"eps": 1e-7}).eps_rule
    'per-matrix'
    >>> traits_of("Prodigy").update_rule, traits_of("Prodigy", {"update_rule": "normalises"}).update_rule
    (None, 'normalises')
    >>> traits_of("LBFGS", {"max_iter": 20}).iterates
    True
    >>> traits_of("AdamW", {"weight_decay": 0.1}).decay, traits_of("Adam", {"weight_decay": 0.1}).decay
    (0.1, 0.0)
    """
    known = settings or {}
    eps, eps_rule = eps_of(known), _eps_rule(optimizer_class, known)
    if eps is not None and optimizer_class == "Muon":
        eps /= _RAISED_BY_MUON
    if eps is not None and optimizer_class in _EPS_UNDER_THE_ROOT:
        eps = math.sqrt(eps)
    return OptimizerTraits(
        update_rule=_update_rule(optimizer_class, known),
        eps=eps if eps_rule is not None else None,
        eps_rule=eps_rule if eps is not None else None,
        decay=_decay(optimizer_class, known),
        iterates=_max_iter(known) > 1,
    )


def _update_rule(optimizer_class: str, settings: Mapping[str, object]) -> UpdateRule | None:
    probed = settings.get(UPDATE_RULE)
    if probed == "follows-gradient" or probed == "normalises":  # noqa: PLR1714 - mypy narrows only this
        return probed
    if optimizer_class in FOLLOWING:
        return "follows-gradient"
    return "normalises" if optimizer_class in NORMALISING else None


def _eps_rule(optimizer_class: str, settings: Mapping[str, object]) -> EpsRule | None:
    probed = settings.get(EPS_RULE)
    if probed == "per-entry" or probed == "per-matrix":  # noqa: PLR1714 - mypy narrows only this
        return probed
    if optimizer_class in DIVIDING_BY_ENTRY:
        return "per-entry"
    return "per-matrix" if optimizer_class == "Muon" else None


def _decay(optimizer_class: str, settings: Mapping[str, object]) -> float:
    decay = settings.get("weight_decay")
    is_of_weights = optimizer_class in DECAYING or settings.get("decoupled_weight_decay") is True
    return float(decay) if is_of_weights and isinstance(decay, int | float) and decay > 0 else 0.0


def _max_iter(settings: Mapping[str, object]) -> int:
    """How many updates a step may make."""
    most = settings.get("max_iter")
    return most if isinstance(most, int) else 1


def eps_of(settings: Mapping[str, object]) -> float | None:
    """Return the eps among the settings of an optimizer; None where it has no single one above 0.

    How the optimizer uses it: see `traits_of`.

    >>> eps_of({"lr": 0.1}), eps_of({"lr": 0.1, "eps": 1e-8})
    (None, 1e-08)
    """
    eps = settings.get("eps")
    return float(eps) if isinstance(eps, float) and eps > 0 else None
