"""What an advice is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Confidence = Literal["high", "medium", "low"]
Policy = Literal["norm", "value", "adaptive", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What a threshold would have done to the steps that decided."""

    threshold: float
    label: str
    clipped_fraction: float
    mean_clip_coef: float
    worst_clip_coef: float  # the coefficient at `Recommendation.worst_norm`


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What the recommended threshold would have done to a part of the run, all of its finite norms counted."""

    first_step: int
    last_step: int
    clipped_fraction: float
    mean_clip_coef: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The advice; ``refused`` says why there is none."""

    run: str
    max_norm: float | None
    low: float | None
    high: float | None
    clipped_fraction: float | None  # predicted for max_norm, over the steps that decided
    mean_clip_coef: float | None  # likewise
    confidence: Confidence
    refused: str | None
    reasons: tuple[str, ...]
    first: tuple[str, ...] = ()  # what to change before clipping, each with its evidence
    phases: tuple[Phase, ...] = ()
    what_if: tuple[WhatIf, ...] = ()
    usable_steps: int = 0
    worst_norm: float | None = None  # where training was lost first, else the largest finite norm
    clip: str | None = None  # where a policy of gradwatch.clip does better than a threshold that stays, that
    record_at: float | None = None  # where a refusal asks for a run clipped at a threshold, that
    tail_index: float | None = None
    tail_low: float | None = None
    tail_high: float | None = None

    @property
    def policy(self) -> Policy:
        """Whether a threshold that stays, one of a policy that follows the norms, or none is advised."""
        if self.max_norm is None:
            return "none"
        return "norm" if self.clip is None else "adaptive"

    @property
    def apply(self) -> dict[str, str]:
        """The line to paste, for each way to train; empty where there is no advice."""
        if self.max_norm is None:
            return {}
        value = f"{self.max_norm:g}"
        own = {"gradwatch": f"gradwatch.attach(model, optimizer, run, clip=gradwatch.clip.{self.clip})"}
        return (own if self.clip else {}) | {
            "torch": f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={value})",
            "lightning": f'Trainer(gradient_clip_val={value}, gradient_clip_algorithm="norm")',
            "transformers": f"TrainingArguments(max_grad_norm={value})",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The advice for several runs together."""

    together: Recommendation
    each: tuple[Recommendation, ...]
    spread: float | None  # the largest threshold over the smallest; None: fewer than two runs have one
