"""The usual names of the series in a history: which holds the norm, the loss, the step, the rate and the reward."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gradwatch.errors import CannotImport

NAMES = {
    "norm": (
        "grad_norm",
        "gradnorm",
        "gradient_norm",
        "total_norm",
        "grad_2.0_norm_total",
        "global_norm",
        "gnorm",
        "grad_l2_norm",
        "grad_global",  # of Composer's l2_norm/grad/global
    ),
    "loss": ("loss", "train_loss", "training_loss", "train_loss_step", "loss_step", "train_total"),
    "validation_loss": (
        "val_loss",
        "valid_loss",
        "validation_loss",
        "eval_loss",
        "dev_loss",
        "val_loss_epoch",
        "loss_val",
        "loss_valid",
        "loss_eval",
    ),
    "learning_rate": ("learning_rate", "lr"),
    # The last two parts of verl's critic/score/mean, and what TRL, Stable-Baselines3, CleanRL, RLlib and PyMARL write.
    "reward": (
        "reward",
        "rewards",
        "reward_mean",
        "mean_reward",
        "rewards_mean",
        "score_mean",
        "rlhf_reward",
        "ep_rew_mean",
        "episode_reward",
        "episodic_return",
        "return_mean",
        "mean_return",
        "average_return",
        "avg_return",
        "ep_return",
        "episode_return",
        "episode_return_mean",
        "average_reward",
        "avg_reward",
        "episode_reward_mean",
        "mean_episode_reward",
        "mean_episode_return",
        "average_episode_reward",
        "average_episode_return",
        "avg_episode_reward",
        "avg_episode_return",
        "ep_reward",
        "ep_reward_mean",
        "ep_return_mean",
        "cumulative_reward",
        "battle_won_mean",
        "win_rate",
    ),
    "step": (
        "step",
        "global_step",
        "iteration",
        "iter",
        "_step",
        "current_steps",
        "num_updates",
        "global_step_max_steps",
    ),
}
"""The usual names of each series. They are compared without case, with the last part of a path."""

UNSURE_NORMS = ("l2_norm",)  # the gradient's where no series has a usual name; beside one it is often the weights'

UNSURE_LOSSES = (
    "total_loss",
    "loss_total",
    "loss_train",
    "lm_loss",
    "loss_epoch",
    "train_loss_epoch",
    "avg_loss",
    "avg_train_loss",
    "mean_loss",
    "loss_mean",
    "running_loss",
)  # where no series has a usual name

MOST_LISTED = 30  # names in an error

OF_DATA = ("split", "phase", "mode", "stage", "subset")
"""Names of a column that says of which data a row is."""

_MONITORED_RATE = re.compile(r"lr-[A-Za-z]\w*(/pg1|/group0)?")  # of Lightning's LearningRateMonitor and Composer's

_OF_TRAINING = re.compile(r"(?<![^/])(?:train|training)_")

_OF_A_TEST = re.compile(r"(?<![^/])(?:test|eval|evaluation)[_/]")

RIVALS = (
    (("d", "disc", "dis", "discriminator", "netd", "critic"), ("g", "gen", "generator", "netg")),
    (
        ("policy", "actor", "pi", "pg", "policy_gradient"),
        ("value", "critic", "vf", "v", "q", "qf", "q_function", "value_function", "baseline"),
    ),
)
"""Pairs of parts that each have a loss, and often an optimizer, of their own: of a GAN, and of an actor-critic."""

_NO_PART = {"loss", "losses", "train", "training", "mean", "total"}
"""What a name such as ``train/loss/g/total`` has beside the part."""

HELD_OUT = r"(?:val|valid|validat\w*|eval|evaluat\w*|test\w*|dev|cv|holdout|held[ _-]?out)"
"""Words for data that is not trained on, in names of series and in printed lines."""

_HELD_OUT = re.compile(rf"(?<![^\W_]){HELD_OUT}(?![^\W_])", re.IGNORECASE)


def pick(kind: str, available: Sequence[str], wanted: str | None, where: str) -> str | None:
    """The name of the series that is meant; None if there is none.

    Args:
        kind: one of `NAMES`.
        available: the names of all series.
        wanted: the name that the user gave, if any.
        where: the file, for messages.

    Raises:
        CannotImport: there is no series of the given name, or several may be the norm.

    >>> pick("norm", ["train/loss", "train/grad_norm"], None, "a.csv")
    'train/grad_norm'
    >>> pick("learning_rate", ["lr-AdamW"], None, "a.csv"), pick("learning_rate", ["lr-Adam", "lr-SGD"], None, "a.csv")
    ('lr-AdamW', None)
    >>> pick("loss", ["eval/loss", "train/loss"], None, "a.csv"), pick("loss", ["eval/loss"], None, "a.csv")
    ('train/loss', None)
    >>> pick("reward", ["eval/reward", "train_reward"], None, "a.csv")
    'train_reward'
    >>> pick("reward", ["eval/reward"], None, "a.csv"), pick("reward", ["test_return_mean"], None, "a.csv")
    ('eval/reward', 'test_return_mean')
    """
    listed = ", ".join(map(repr, available[:MOST_LISTED])) or "nothing"
    if wanted is not None:
        if wanted in available:
            return wanted
        raise CannotImport(f"{where} has no {wanted!r}; expected one of {listed}.")
    found = _candidates(kind, available)
    if kind == "norm" and len(found) > 1:
        several = ", ".join(map(repr, found))
        raise CannotImport(f"{where} has several series that may be the gradient norm: {several}. Name it with --norm.")
    return min(found, key=lambda name: (kind == "loss" and _is_of_a_part(name), len(name)), default=None)


def _is_of_a_part(name: str) -> bool:
    """Whether a path does not say that its series is the training's: that may be of a part of the model or the loss.

    >>> [name for name in ("loss", "train/loss", "kl/loss", "train_loss") if _is_of_a_part(name)]
    ['kl/loss']
    """
    return "/" in name and {"train", "training"}.isdisjoint(re.split(r"\W|_", name.lower()))


def _candidates(kind: str, available: Sequence[str]) -> list[str]:
    """The series that may be of this kind, from the surest sort of name of which there is one."""
    possible = [name for name in available if kind not in ("loss", "reward") or not _is_held_out(name)]
    if found := [name for name in possible if is_called(name, NAMES[kind])]:
        return found
    if found := [name for name in possible if is_called(_OF_TRAINING.sub("", name.lower()), NAMES[kind])]:
        return found
    if kind == "reward":  # that of a test is the policy's as well
        return [name for name in available if is_called(_OF_A_TEST.sub("", name.lower()), NAMES[kind])]
    if kind in ("norm", "loss"):
        unsure = UNSURE_NORMS if kind == "norm" else UNSURE_LOSSES
        return [name for name in possible if is_called(name, unsure)]
    if kind == "learning_rate":
        monitored = [name for name in available if _MONITORED_RATE.fullmatch(name)]
        return monitored if len(monitored) == 1 else []
    return []


def rivals(available: Sequence[str]) -> dict[str, str]:
    """The series with the losses of two rivals, by the rivals' names; empty if there are none.

    >>> rivals(["step", "D/loss", "G/loss"]), rivals(["losses/policy_loss", "losses/value_loss"])
    ({'D': 'D/loss', 'G': 'G/loss'}, {'policy': 'losses/policy_loss', 'value': 'losses/value_loss'})
    >>> rivals(["loss_D", "val/loss_G"]), rivals(["Loss/scores/G", "Loss/G/loss", "Loss/D/loss"])
    ({}, {'G': 'Loss/G/loss', 'D': 'Loss/D/loss'})
    """
    parts = {name: part for name in available if not _is_held_out(name) and (part := _part_of(name))}
    for pair in RIVALS:
        found = [[name for name, part in parts.items() if part.lower() in role] for role in pair]
        if all(found):
            chosen = {min(names, key=len) for names in found}
            return {parts[name]: name for name in parts if name in chosen}
    return {}


def _part_of(name: str) -> str:
    """The part whose loss a series is; empty if it is no loss.

    >>> [_part_of(name) for name in ("train/loss/G/total", "d_loss", "Loss_D", "policy_gradient_loss", "D/accuracy")]
    ['G', 'd', 'D', 'policy_gradient', '']
    """
    words = re.split(r"[\W_]+", name)
    plain = [word.lower() for word in words]
    if "loss" not in plain and "losses" not in plain:
        return ""
    return "_".join(word for word in words if word and word.lower() not in _NO_PART)


def of_the_whole(available: Sequence[str], apart: Collection[str]) -> str | None:
    """The loss of the whole, beside losses of rivals; None if there is none.

    >>> of_the_whole(["D/loss", "G/loss", "total_loss"], ["D/loss", "G/loss"])
    'total_loss'
    >>> of_the_whole(["D/loss", "G/loss", "kl/loss"], ["D/loss", "G/loss"])
    """
    found = pick("loss", [name for name in available if name not in apart], None, "")
    return None if found is None or _is_of_a_part(found) else found


def losses_of_parts(available: Sequence[str], taken: str | None) -> list[str]:
    """The other series that may be the loss as much as the one that was taken, each of a part.

    >>> losses_of_parts(["box/loss", "seg/loss", "eval/loss"], "box/loss"), losses_of_parts(["loss", "kl/loss"], "loss")
    (['seg/loss'], [])
    """
    if taken is None or not _is_of_a_part(taken):
        return []
    return [name for name in _candidates("loss", available) if name != taken]


def is_of_held_out_data(row: Mapping[str, Any]) -> bool:
    """Whether a row says that it is of data that is not trained on.

    >>> is_of_held_out_data({"split": "val", "loss": 2.0}), is_of_held_out_data({"mode": "train", "loss": 2.0})
    (True, False)
    """
    return any(isinstance(row.get(name), str) and _is_held_out(row[name]) for name in OF_DATA)


def _is_held_out(name: str) -> bool:
    """Whether a series is of data that is not trained on.

    >>> [_is_held_out(name) for name in ("eval/loss", "run 7 - valid/loss", "held_out_loss", "validate/loss")]
    [True, True, True, True]
    >>> [_is_held_out(name) for name in ("devices/loss", "attested/loss", "values/loss", "cvae_loss")]
    [False, False, False, False]
    """
    return _HELD_OUT.search(name) is not None


def is_called(name: str, usual: Sequence[str]) -> bool:
    """Whether the last part of a path, or its last two joined, is a usual name.

    >>> is_called("run 7 - train/Grad-Norm", NAMES["norm"]), is_called("grad_norm__MAX", NAMES["norm"])
    (True, False)
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    parts = plain.split("/")
    return parts[-1].split("___")[-1] in usual or "_".join(parts[-2:]) in usual
