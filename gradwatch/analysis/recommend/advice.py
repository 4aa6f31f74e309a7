"""The parts of a recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Confidence: TypeAlias = Literal["high", "medium", "low"]
Policy: TypeAlias = Literal["norm", "value", "adaptive", "none"]
CONFIDENCES: tuple[Confidence, ...] = ("low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The effect that a threshold would have had on the steps that the advice is based on."""

    threshold: float
    label: str
    clipped_fraction: float
    mean_clip_coef: float
    worst_clip_coef: float  # the coefficient at `Recommendation.worst_norm`


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The effect that the recommended threshold would have had on a part of the run, over all its finite norms."""

    first_step: int
    last_step: int
    clipped_fraction: float
    mean_clip_coef: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A clipping threshold with its reasons, or in ``refused`` the reason why the run supports none.

    Thresholds are L2 norms over all gradients of one optimizer, as `torch.nn.utils.clip_grad_norm_` takes them.

    >>> from gradwatch import Run
    >>> from gradwatch.testing import steady, stream, write_run
    >>> advice = Run(write_run(tmp_path / "run", stream(steady(600)))).recommend()
    >>> advice.max_norm, advice.low, advice.high, advice.confidence
    (1.1, 0.57, 2.3, 'low')
    >>> print(advice.apply["torch"])
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.1)
    """

    run: str
    max_norm: float | None
    low: float | None
    high: float | None
    clipped_fraction: float | None  # predicted for max_norm, over the steps that the advice is based on
    mean_clip_coef: float | None  # over the same steps
    confidence: Confidence
    refused: str | None
    reasons: tuple[str, ...]
    optimizer: str = "0"  # whose gradients the advice is about
    optimizers: tuple[str, ...] = ()  # all of the run
    fix_first: tuple[str, ...] = ()  # faults that clipping would only hide, each with its evidence
    phases: tuple[Phase, ...] = ()
    what_if: tuple[WhatIf, ...] = ()
    usable_steps: int = 0
    worst_norm: float | None = None  # the norm at which the training was lost, else the largest finite one
    clip: str | None = None  # a policy of gradwatch.clip, where one is named beside the threshold
    clip_value: float | None = None  # a threshold by value, where single entries carry the steps that stand out
    record_at: float | None = None  # the threshold at which to record another run, where the refusal asks for one
    tail_index: float | None = None
    tail_low: float | None = None
    tail_high: float | None = None

    @property
    def first(self) -> tuple[str, ...]:
        """The older name of ``fix_first``, and its key in the JSON."""
        return self.fix_first

    @property
    def policy(self) -> Policy:
        """The kind of clipping advised: norm (a fixed threshold), adaptive (one that follows the norms) or none."""
        if self.max_norm is None:
            return "none"
        return "norm" if self.clip is None else "adaptive"

    @property
    def apply(self) -> dict[str, str]:
        """The line to paste, by framework; empty without a threshold."""
        if self.max_norm is None:
            return {}
        value = f"{self.max_norm:g}"
        own = {"gradwatch": f"gradwatch.attach(model, optimizer, run, clip=gradwatch.clip.{self.clip})"}
        entries = {"torch_by_value": f"torch.nn.utils.clip_grad_value_(model.parameters(), {self.clip_value or 0:g})"}
        by_norm = {
            "torch": f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={value})",
            "lightning": f'Trainer(gradient_clip_val={value}, gradient_clip_algorithm="norm")',
            "transformers": f"TrainingArguments(max_grad_norm={value})",
        }
        return (own if self.clip else {}) | by_norm | (entries if self.clip_value else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The advice for several runs of one training together."""

    together: Recommendation
    each: tuple[Recommendation, ...]
    spread: float | None  # the largest threshold over the smallest; None where fewer than two runs have one
