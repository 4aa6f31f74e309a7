"""The threshold after another setting changes: `gradwatch recommend --if lr=3e-4 --if batch=32:64`.

The rule of `gradwatch.analysis.recommend.rule` is applied to the history as it would look after the change. If the
size of an effect is unknown, the result covers its whole range, and the reasons say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradwatch.analysis.recommend.rule import Choice, choose
from gradwatch.analysis.recommend.what_if import two_digits
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.tail import tail_index
from gradwatch.analysis.statistics.update_rule import find_update_rule, is_of_fixed_size
from gradwatch.errors import BadArgument
from gradwatch.text import number

KEYS = ("lr", "batch", "weight_decay", "optimizer", "momentum", "nesterov", "beta1", "beta2")
SHARES = ("momentum", "beta1", "beta2")  # from 0 to below 1
COUPLED = ("Adam", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Adamax")  # add weight decay to the gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Settings of a training beside its history; None: not known."""

    weight_decay: float | None
    noise_scale: float | None  # in batches of the whole training


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedAdvice:
    """The threshold after a change, with its reasons; None if the reasons say why there is none."""

    changes: Mapping[str, str]
    max_norm: float | None
    low: float | None
    high: float | None
    reasons: tuple[str, ...]
    clip: str | None = None  # a policy of gradwatch.clip, where one is named beside the threshold


@dataclass(frozen=True, slots=True)
class _Effect:
    """Factors by which a change multiplies the gradients' norms and the weights'; several: it lies between them."""

    norms: tuple[float, ...]
    weights: tuple[float, ...]
    reason: str
    keeps: bool = False  # whether the first factors alone give the threshold; all give its range


_NONE = (1.0,)


def parse_changes(given: Sequence[str]) -> dict[str, str]:
    """``["lr=3e-4"]`` as a dict.

    Raises:
        BadArgument: an entry is not KEY=VALUE with a known key and a value that can be read.

    >>> parse_changes(["lr=3e-4", "batch=32:64"])
    {'lr': '3e-4', 'batch': '32:64'}
    """
    found: dict[str, str] = {}
    for entry in given:
        key, _, value = entry.partition("=")
        if key not in KEYS or not value or key in found:
            raise BadArgument(f"--if is {entry!r}; expected KEY=VALUE, each key once, of {', '.join(KEYS)}.")
        if key in ("lr", "weight_decay"):
            _number(key, value, least=0.0, exclusive=key == "lr")
        elif key in SHARES and _number(key, value, least=0.0, exclusive=False) >= 1:
            raise BadArgument(f"--if {key} is {value!r}; expected a number from 0 to below 1.")
        elif key == "nesterov" and value not in ("true", "false"):
            raise BadArgument(f"--if nesterov is {value!r}; expected true or false.")
        elif key == "batch":
            for part in value.split(":", 1):
                _number(key, part, least=0.0, exclusive=True)
        found[key] = value
    return found


def _number(key: str, text: str, *, least: float, exclusive: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < least or (exclusive and value == least):
        raise BadArgument(f"--if {key} is {text!r}; expected a {'positive' if exclusive else 'non-negative'} number.")
    return value


def advise_after(
    history: OptimizerHistory, setup: Setup, changes: Mapping[str, str], refused: str | None
) -> ChangedAdvice:
    """The threshold that the history supports after ``changes``; ``refused``: why it supports none as it is."""
    if refused is not None:
        return _without(changes, f"the unchanged run supports no threshold: {refused}")
    new, reasons = _with_optimizer(history, changes)
    new = _with_rate(new, changes)
    if (why := _not_of_this_optimizer(new, changes)) is not None:
        return _without(changes, why)
    new, more = _with_momentum(new, changes)
    reasons += more
    effects = _effects(history, new, setup, changes)
    choices = [_choose(new, norms, weights) for norms, weights in _combined(effects)]
    decisive = [_choose(new, norms, weights) for norms, weights in _combined([_decided(effect) for effect in effects])]
    numbers = [choice.number for choice in decisive]
    reasons += [effect.reason for effect in effects]
    if "lr" in changes:
        reasons += _reasons_of_rate(history, new)
    before, after = _choose(history, 1.0, 1.0).clip, decisive[0].clip
    reasons += _reasons_of_policy(before, after, new)
    return ChangedAdvice(
        changes=dict(changes),
        max_norm=two_digits(float(np.exp(np.mean(np.log(numbers))))),
        low=two_digits(min(choice.low for choice in choices)),
        high=two_digits(max(choice.high for choice in choices)),
        reasons=tuple(reasons),
        clip=after,
    )


def _effects(old: OptimizerHistory, new: OptimizerHistory, setup: Setup, changes: Mapping[str, str]) -> list[_Effect]:
    """What the changes do to norms and weights."""
    found = _of_batch(setup, changes), _of_decay(old, new, setup, changes)
    return [effect for effect in found if effect is not None]


def _reasons_of_policy(before: str | None, after: str | None, new: OptimizerHistory) -> list[str]:
    """Say what the change does to a policy that follows the norms. No effect that is known here changes which it is."""
    if after is not None and after == before:
        return [
            f"{after} compares each norm with those before it, so it follows the norms of the changed training: its"
            " settings stay as they are. The threshold is what a fixed one would be"
        ]
    if after is not None:
        return [f"with {new.optimizer_class} a policy that follows the norms is named beside the threshold: {after}"]
    if before is not None:
        return [f"{before} is for optimizers that divide by the size of their gradients, so the fixed threshold stands"]
    return []


def _not_of_this_optimizer(new: OptimizerHistory, changes: Mapping[str, str]) -> str | None:
    """Why there is no threshold for settings that the optimizer does not have; None where it may have them."""
    name = new.optimizer_class or "the optimizer"
    betas = [key for key in ("beta1", "beta2") if key in changes]
    if betas and new.follows_gradient:
        return f"{name} follows the size of its gradient and has no {betas[0]}"
    if new.update_rule is None and {"momentum", "nesterov", *betas} & set(changes):
        return (
            f"it is not known whether the update of {name} follows the size of its gradient, and so what its averages"
            " do, without a recorded run of the change"
        )
    return None


def _with_momentum(new: OptimizerHistory, changes: Mapping[str, str]) -> tuple[OptimizerHistory, list[str]]:
    """The history as if momentum had been another, and why the threshold moves or stays."""
    reasons = []
    averages = [key for key in ("momentum", "nesterov", "beta1", "beta2") if key in changes]
    if averages and new.is_adaptive:
        names = " and ".join(averages)
        return new, [
            f"{names}: {new.optimizer_class} divides by the size of its gradients, and the norms before clipping are"
            " not averaged, so the threshold stays; how the averages change the course of the training is not known"
        ]
    if "momentum" in changes:
        old, momentum = new.momentum, float(changes["momentum"])
        # The updates of independent gradients: their mean square is lr^2 / (1 - momentum^2) times that of a gradient.
        times = math.sqrt((1 - old**2) / (1 - momentum**2))
        ratio = None if new.update_ratio is None else new.update_ratio * times
        new = replace(new, momentum=momentum, update_ratio=ratio)
        reasons.append(
            f"with momentum a gradient moves the weights by the learning rate / (1 - momentum) in the end: at"
            f" {number(momentum, 6)} instead of {number(old, 6)}, the same bound on one update is"
            f" {number((1 - momentum) / (1 - old))} times the threshold"
        )
    if "nesterov" in changes:
        reasons.append("nesterov: a gradient moves the weights as far in the end, only earlier, so the threshold stays")
    return new, reasons


def _decided(effect: _Effect) -> _Effect:
    """The effect with the factors alone that give the threshold."""
    return replace(effect, norms=effect.norms[:1], weights=effect.weights[:1]) if effect.keeps else effect


def _without(changes: Mapping[str, str], why: str) -> ChangedAdvice:
    return ChangedAdvice(changes=dict(changes), max_norm=None, low=None, high=None, reasons=(why,))


def _with_optimizer(history: OptimizerHistory, changes: Mapping[str, str]) -> tuple[OptimizerHistory, list[str]]:
    """The history as if another class of optimizer had been in use, and what that changes."""
    name = changes.get("optimizer", history.optimizer_class)
    if name == history.optimizer_class:
        return history, []
    rule = find_update_rule(name, {}, history.frame.iloc[:0], history.weights.iloc[:0])
    reasons = [_words_of_rule(name, rule, history.update_rule)]
    new = replace(history, optimizer_class=name, update_rule=rule, fixed_size=is_of_fixed_size(name, {}))
    if rule == history.update_rule:
        return new, reasons
    new = replace(new, momentum=0.0, update_ratio=None, least_norm=0.0)
    if rule == "follows-gradient" and "momentum" not in changes:
        reasons.append(f"{name} is taken without momentum")
    if "lr" not in changes:
        new = replace(new, learning_rate=None)
        reasons.append(f"the learning rate for {name} is not known (pass --if lr=...), so the norms alone decide")
    return new, reasons


def _with_rate(history: OptimizerHistory, changes: Mapping[str, str]) -> OptimizerHistory:
    """The history as if another learning rate had been in use."""
    if "lr" not in changes:
        return history
    rate, old, ratio = float(changes["lr"]), history.learning_rate, history.update_ratio
    if ratio is not None and old and not history.is_adaptive:
        ratio *= rate / old  # an adaptive one's says only whether the recorded updates could have lowered the loss
    return replace(history, learning_rate=rate, update_ratio=ratio)


def _words_of_rule(name: str, rule: str | None, old: str | None) -> str:
    if rule is None:
        return f"it is not known whether the update of {name} follows the size of its gradient"
    what = "follows the size of its gradient" if rule == "follows-gradient" else "divides by the size of its gradients"
    if old is None:
        return f"{name} {what}; whether the optimizer of the run does is not known"
    return f"{name} {what}" + (", as the optimizer of the run" if rule == old else ", unlike the optimizer of the run")


def _reasons_of_rate(old: OptimizerHistory, new: OptimizerHistory) -> list[str]:
    """Say how another learning rate moves the threshold."""
    if new.follows_gradient and new.learning_rate:
        return [_bound_on_an_update(old, new)]
    if new.is_adaptive:
        return [
            f"{new.optimizer_class} divides by the size of its gradients, so the learning rate itself does not move"
            " the threshold"
        ]
    return []


def _bound_on_an_update(old: OptimizerHistory, new: OptimizerHistory) -> str:
    before = "" if old.learning_rate is None else f" instead of {number(old.learning_rate, 6)}"
    rates = f"{number(new.learning_rate, 6)}{before}"
    return (
        f"an update of {new.optimizer_class} is the learning rate times the gradient: at {rates}, the same bound on one"
        " update is another threshold"
    )


def _of_batch(setup: Setup, changes: Mapping[str, str]) -> _Effect | None:
    """The noise of a mean over the batch: E|g|^2 = |G|^2 (1 + S / b), with the noise scale S in batches.

    McCandlish et al. 2018, "An empirical model of large-batch training", https://arxiv.org/abs/1812.06162, section
    2.2.
    """
    if "batch" not in changes:
        return None
    old, _, new = changes["batch"].rpartition(":")
    if not old:
        return _Effect(
            _NONE,
            _NONE,
            f"the record does not contain the batch size, so the effect of batch {new} is unknown: write"
            f" --if batch=OLD:{new}",
        )
    times = float(new) / float(old)
    if setup.noise_scale is None:
        ends = sorted((1.0, 1 / math.sqrt(times)))
        return _Effect(
            tuple(ends),
            _NONE,
            f"the noise scale is not recorded (it needs attach(..., ranks=True)): {number(times)} times the batch"
            f" multiplies the norms by a factor between {number(ends[0])} and {number(ends[1])}",
        )
    factor = math.sqrt((1 + setup.noise_scale / times) / (1 + setup.noise_scale))
    return _Effect(
        (factor,),
        _NONE,
        f"at a noise scale of {number(setup.noise_scale)} batches, {number(times)} times the batch multiplies the"
        f" norms by sqrt((1 + S / {number(times)}) / (1 + S)) = {number(factor)}",
    )


def _of_decay(old: OptimizerHistory, new: OptimizerHistory, setup: Setup, changes: Mapping[str, str]) -> _Effect | None:
    """The steady state under weight decay: |g| / |x| = sqrt(2 lambda / lr) for weights whose scale does not matter.

    Defazio 2025, "Why gradients rapidly increase near the end of training", https://arxiv.org/abs/2506.02285. There
    |g| |x| is constant (the gradient of such weights falls as they grow). So with SGD |g| goes with the fourth root
    of 2 lambda / lr and |x| with its inverse. An optimizer that normalises makes updates of a fixed size, so that |x|
    goes with sqrt(lr / (2 lambda)), and |g| with its inverse.

    The record doesn't tell for which weights the scale does not matter. With SGD the bound on an update falls with the
    weights in any network; with an optimizer that normalises the norms rise or fall, so there the threshold stays
    (benchmarks/recommendation/CHANGES.md).
    """
    if not {"weight_decay", "lr"} & set(changes):
        return None
    before = setup.weight_decay
    after = float(changes["weight_decay"]) if "weight_decay" in changes else before
    if not before and not after and "weight_decay" not in changes:
        return None  # no weight decay, and none is asked about
    known = _known_decay(old, new, before, after)
    if isinstance(known, str):
        return _Effect(_NONE, _NONE, known)
    moved, steps = known
    power = 0.5 if new.is_adaptive else 0.25
    norms, weights = moved**power, moved**-power
    root = "sqrt" if new.is_adaptive else "the fourth root"
    so = (
        "in other networks the norms may as well fall, and the record can't tell which this is: the threshold stays,"
        " and its range covers the steady state"
        if new.is_adaptive
        else "the threshold lies between"
    )
    return _Effect(
        (1.0, norms),
        (1.0, weights),
        f"under weight decay the gradient of normalised layers settles at sqrt(2 lambda / lr) of the weights' norm"
        f" (Defazio 2025, arXiv 2506.02285), and its norm moves with {root} of lambda / lr: by {number(norms)} after"
        f" about {number(steps)} steps, and not at all before; {so}",
        keeps=new.is_adaptive,
    )


def _known_decay(
    old: OptimizerHistory, new: OptimizerHistory, before: float | None, after: float | None
) -> tuple[float, float] | str:
    """Return the factor of lambda / lr and the steps until the new steady state; text: why they are not known."""
    if before is None:
        return "the weight decay of the run is unknown, and so is its effect on the norms"
    if not before or not after:
        return "without weight decay before or after the change there is no steady state: its effect is not known"
    if new.optimizer_class in COUPLED or old.optimizer_class in COUPLED:
        return f"{new.optimizer_class} adds weight decay to the gradient and normalises both: its effect is not known"
    if old.update_rule is None or new.update_rule != old.update_rule:
        return "the steady state under weight decay is not known across a change of optimizers"
    if old.learning_rate is None or new.learning_rate is None:
        return "the learning rate is not known, and the steady state under weight decay depends on it"
    return (after / before) * (old.learning_rate / new.learning_rate), 1 / (2 * new.learning_rate * after)


def _combined(effects: Sequence[_Effect]) -> list[tuple[float, float]]:
    """Every combination of the ends of the effects, as factors of norms and weights."""
    pairs = [(1.0, 1.0)]
    for effect in effects:
        most = max(len(effect.norms), len(effect.weights))
        ends = [
            (effect.norms[min(i, len(effect.norms) - 1)], effect.weights[min(i, len(effect.weights) - 1)])
            for i in range(most)
        ]
        pairs = [(norm * a, weight * b) for norm, weight in pairs for a, b in ends]
    return pairs


def _choose(history: OptimizerHistory, norms: float, weights: float) -> Choice:
    moved = replace(
        history,
        norms=history.norms * norms,
        every_norm=history.every_norm * norms,
        weights=history.weights * weights,
    )
    return choose(moved, tail_index(moved.norms)[0])
