"""What the glossary says of a sequence of calls, computed slowly and plainly.

Written from `docs/glossary.md`, not from the recorder: it keeps the gradients as floats and the whole history
of what happened to them since they began, and reads each column of the record off that history at the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip call that found gradients, with what it did to them."""

    max_norm: float | None = None
    coefficient: float = 1.0
    norm: float = 0.0  # that it read
    clip_value: float | None = None
    cut_entries: int = 0
    was_scaled: bool = False  # the gradients were still multiplied by the loss scale


@dataclass(slots=True)
class Gradients:
    """The gradients that the optimizer has, and what happened to them since `zero_grad` or the last step."""

    values: dict[str, float | None]
    history: list[str] = field(default_factory=list)  # "backward", "clip", "script"
    losses: list[float] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)  # since anything else changed them
    before_clips: dict[str, float | None] = field(default_factory=dict)
    was_scaled_when_clipped: bool = False
    are_consumed: bool = False  # by the last step, and nothing was added since
    in_vain: str | None = None  # what a clip call that found no gradient was given
    is_changed: bool = False  # by the script itself, since they were clipped

    def measure_again(self) -> None:
        """They are not what was clipped any more."""
        self.clips, self.is_changed = [], False


def norm_of(values: Iterable[float | None]) -> float:
    present = [value for value in values if value is not None]
    if any(math.isinf(value) for value in present) and not any(math.isnan(value) for value in present):
        return math.inf
    return math.sqrt(sum(value * value for value in present))


class Reference:
    """One optimizer over weights of one entry each."""

    def __init__(self, weights: str, loss_scale: float | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.scale = loss_scale
        self.is_unscaled = loss_scale is None
        self.found_infinity = False
        self.gradients = Gradients(dict.fromkeys(weights))
        self.logged: list[float] = []  # for the next step
        self.logged_after: list[float] = []  # for the last one
        self.of_last: list[float] = []  # that were logged before the last one
        self.logs = False  # a loss was logged, and since then only what is logged counts
        self.was_dropped = False  # an attempt, and no backward came since

    # ------------------------------------------------------------------------ what the loop does

    def backward(self, gradients: Mapping[str, float], loss: float) -> None:
        now = self.gradients
        factor = 1.0 if self.scale is None else self.scale
        for name, gradient in gradients.items():
            now.values[name] = (now.values[name] or 0.0) + gradient * factor
        if now.are_consumed:
            self.gradients = now = Gradients(now.values, in_vain=now.in_vain)
        now.history.append("backward")
        now.losses.append(loss)
        now.measure_again()
        self.was_dropped = False

    def clip_norm(self, max_norm: float, names: str) -> None:
        found = self._clip(names)
        if found:
            norm = norm_of(found.values())
            coefficient = min(1.0, max_norm / (norm + 1e-6)) if not math.isnan(norm) else math.nan
            self._clipped(Clip(max_norm=max_norm, coefficient=coefficient, norm=norm))
            self.gradients.values |= {name: value * coefficient for name, value in found.items()}

    def clip_value(self, limit: float, names: str) -> None:
        found = self._clip(names)
        if found:
            cut = sum(abs(value) > limit for value in found.values())
            self._clipped(Clip(clip_value=limit, cut_entries=cut))
            clamped = {n: value if math.isnan(value) else max(-limit, min(limit, value)) for n, value in found.items()}
            self.gradients.values |= clamped

    def change(self, amount: float) -> None:
        """The script adds to every gradient by itself."""
        now = self.gradients
        now.values = {name: None if value is None else value + amount for name, value in now.values.items()}
        if now.are_consumed:
            self.gradients = now = Gradients(now.values, in_vain=now.in_vain)
        now.history.append("script")
        now.is_changed = bool(now.clips)

    def zero_grad(self, set_to_none: bool) -> None:
        now = self.gradients
        if self.is_begun:
            self._record(skipped=True, loss_scale=self.scale if self.is_unscaled else None)
            self.was_dropped = True
        nothing = None if set_to_none else 0.0
        values = {name: value if value is None else nothing for name, value in now.values.items()}
        self.gradients = Gradients(values, in_vain=now.in_vain)

    @property
    def is_begun(self) -> bool:
        """Whether gradients were clipped, so measured, that no step has taken and no backward has added to."""
        return not self.gradients.are_consumed and bool(self.gradients.clips)

    def end(self) -> None:
        """The loop ends; what it has clipped and not stepped was an attempt."""
        if self.is_begun:
            self._record(skipped=True, loss_scale=self.scale if self.is_unscaled else None)

    def unscale(self) -> None:
        assert self.scale is not None
        now = self.gradients
        present = [value for value in now.values.values() if value is not None]
        self.found_infinity = not all(map(math.isfinite, present))
        now.values = {name: None if value is None else value / self.scale for name, value in now.values.items()}
        now.before_clips = {n: None if value is None else value / self.scale for n, value in now.before_clips.items()}
        now.was_scaled_when_clipped = bool(now.clips) and self.scale != 1
        now.clips = [
            Clip(
                max_norm=None if clip.max_norm is None else clip.max_norm / self.scale,
                coefficient=clip.coefficient,
                norm=clip.norm / self.scale,
                clip_value=None if clip.clip_value is None else clip.clip_value / self.scale,
                cut_entries=clip.cut_entries,
            )
            for clip in now.clips
        ]
        self.is_unscaled = True

    def scaler_step(self) -> None:
        """`scaler.step` and `scaler.update`."""
        assert self.scale is not None
        if not self.is_unscaled:
            self.unscale()
        self._record(skipped=self.found_infinity, loss_scale=self.scale)
        self.update()

    def update(self) -> None:
        """`scaler.update`."""
        assert self.scale is not None
        if self.found_infinity:
            self.scale /= 2
        self.is_unscaled = self.found_infinity = False

    def step(self) -> None:
        if self.was_dropped and all(value is None for value in self.gradients.values.values()):
            self.was_dropped = False  # this is the step that was not made
            if self.logged:
                self.of_last += self.logged
                self.records[-1]["loss"] = sum(self.of_last) / len(self.of_last)
                self.logged = []
            return
        if self.gradients.is_changed:
            self.gradients.measure_again()
        self._record()

    def log(self, loss: float, after_the_step: bool) -> None:
        if not self.logs:
            self.logs = True
            if self.records:
                self.records[-1]["loss"] = None
        if not after_the_step:
            self.logged.append(loss)
            return
        self.logged_after.append(loss)
        self.records[-1]["loss"] = sum(self.logged_after) / len(self.logged_after)

    # ----------------------------------------------------------------------------- the definitions

    def _clip(self, names: str) -> dict[str, float]:
        """The gradients that a clip call finds and that are yet to be consumed."""
        now = self.gradients
        found = {name: value for name in names if (value := now.values[name]) is not None}
        if now.are_consumed:
            if self.records and not self._was_clipped(self.records[-1]):
                self.records[-1]["clip_fault"] = "after-step"
            # It still does its work, on gradients that nobody will consume unless a step comes again.
            return found
        if not found:
            now.in_vain = names
        return found

    def _clipped(self, clip: Clip) -> None:
        now = self.gradients
        if now.are_consumed:
            return
        if now.is_changed:
            now.measure_again()
        if not now.clips:
            now.before_clips = dict(now.values)
        now.clips.append(clip)
        now.history.append("clip")

    @staticmethod
    def _was_clipped(record: Mapping[str, Any]) -> bool:
        return record["max_norm"] is not None or record["clip_value"] is not None

    def _record(self, skipped: bool = False, loss_scale: float | None = None) -> None:
        now = self.gradients
        values = now.before_clips if now.clips else now.values
        by_norm = [clip for clip in now.clips if clip.max_norm is not None]
        strongest = min(by_norm, key=lambda c: -math.inf if math.isnan(c.coefficient) else c.coefficient, default=None)
        by_value = [clip for clip in now.clips if clip.clip_value is not None]
        self.records.append(
            {
                "total_norm": norm_of(values.values()),
                "norms": {name: math.nan if value is None else abs(value) for name, value in values.items()},
                "nonfinite": sum(value is not None and not math.isfinite(value) for value in values.values()),
                "max_norm": None if strongest is None else strongest.max_norm,
                "clip_coef": 1.0 if strongest is None else strongest.coefficient,
                "clip_value": min((c.clip_value for c in by_value if c.clip_value is not None), default=None),
                "cut_entries": sum(clip.cut_entries for clip in by_value) if by_value else None,
                "loss": self._loss(),
                "loss_scale": loss_scale,
                "skipped": skipped,
                "clip_fault": self._fault(),
            }
        )
        self.of_last, self.logged, self.logged_after = self.logged, [], []
        self.gradients = Gradients(now.values, are_consumed=any(v is not None for v in now.values.values()))

    def _loss(self) -> float | None:
        if self.logs:
            return sum(self.logged) / len(self.logged) if self.logged else None
        return sum(self.gradients.losses) if self.gradients.losses else None

    def _fault(self) -> str | None:
        """Why the clip calls of this step did not do to its gradient what they were meant to do."""
        now = self.gradients
        clips = [at for at, what in enumerate(now.history) if what == "clip"]
        backwards = [at for at, what in enumerate(now.history) if what == "backward"]
        if clips and any(at > clips[-1] for at in backwards):
            return "before-backward"
        if now.was_scaled_when_clipped:
            return "before-unscale"  # of two faults the one that changes the threshold
        if clips and any(at > clips[0] for at in backwards):
            return "micro-batch"
        if now.in_vain is not None and not clips:
            came_later = any(now.values[name] is not None for name in now.in_vain)
            return "before-backward" if came_later else "no-gradients"
        return "part" if self._clips_a_part() else None

    def _clips_a_part(self) -> bool:
        """Whether one call clips, by norm, and the norm of all gradients is well above threshold and what it read."""
        if len(self.gradients.clips) != 1 or (max_norm := self.gradients.clips[0].max_norm) is None:
            return False
        return norm_of(self.gradients.before_clips.values()) > 1.1 * max(max_norm, self.gradients.clips[0].norm)
