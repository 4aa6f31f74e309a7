"""Whether an optimizer's update follows the size of its gradient, by its class, a probe, or its record."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from gradwatch.detect import traits_of
from gradwatch.detect.optimizers import UPDATE_SIZE, UpdateRule

# Families whose members all normalise, whatever a library calls them (AdamW8bit, adamw_torch, FusedLAMB, ...).
NORMALISING_FAMILIES = ("adam", "rmsprop", "adagrad", "adadelta", "adafactor", "lion", "muon", "rprop", "lamb")

FIXED_SIZE = frozenset({"Lion", "Muon", "SignSGD", "Signum"})  # by the exact name; others are probed
MIN_SAMPLES = 12  # samples of updates from which a rule can be read
MIN_NORM_SPREAD = 0.25  # standard deviation of the logarithm of the gradient's norm
FOLLOWS_SLOPE, NORMALISES_SLOPE = 0.7, 0.3  # of log update over log gradient


def find_update_rule(
    class_name: str, settings: Mapping[str, object], steps: pd.DataFrame, update_norms: pd.Series[float]
) -> UpdateRule | None:
    """Whether the update grows with the gradient; None: not known, which is never taken for SGD.

    Where neither the class nor a probe tells, the record may: the slope of log update over log gradient is 1 for
    SGD and 0 for an optimizer that normalises. Where it does not either, the name of a family does.

    Args:
        class_name: of the optimizer.
        settings: its recorded settings.
        steps: its frame of `RunReader.steps`.
        update_norms: the sampled norm of the update over all parameters, by step.
    """
    known = traits_of(class_name, settings).update_rule or _by_record(steps, update_norms)
    if known is None and any(family in class_name.lower() for family in NORMALISING_FAMILIES):
        return "normalises"
    return known


def is_of_fixed_size(class_name: str, settings: Mapping[str, object]) -> bool:
    """Whether each update is as large as the last, whatever the gradients were: by a probe, else by the class.

    Such an optimizer replaces the momentum by its sign (Lion: Chen et al. 2023, https://arxiv.org/abs/2302.06675) or by
    its nearest matrix of equal singular values (Muon, and Shampoo if its sums hold only the last gradient: Gupta et al.
    2018, https://arxiv.org/abs/1802.09568). Adam, Adafactor and SOAP divide each entry by an average of its squares.

    >>> is_of_fixed_size("Lion", {}), is_of_fixed_size("AdamW", {})
    (True, False)
    >>> is_of_fixed_size("Shampoo", {"update_size": "fixed"}), is_of_fixed_size("Lion", {"update_size": "varies"})
    (True, False)
    """
    probed = settings.get(UPDATE_SIZE)
    return class_name in FIXED_SIZE if probed is None else probed == "fixed"


def _by_record(steps: pd.DataFrame, update_norms: pd.Series[float]) -> UpdateRule | None:
    common = update_norms.index.intersection(steps.index)
    if len(common) < MIN_SAMPLES:
        return None
    frame = steps.loc[common]
    gradient = (frame["total_norm"] * frame["clip_coef"]).to_numpy(float)
    rate = frame["learning_rate"].to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.log(gradient)
        y = np.log(update_norms.loc[common].to_numpy(float) / np.where(rate > 0, rate, 1.0))
    usable = np.isfinite(x) & np.isfinite(y)
    if usable.sum() < MIN_SAMPLES or np.std(x[usable]) < MIN_NORM_SPREAD:
        return None
    slope = float(np.polyfit(x[usable], y[usable], 1)[0])
    if slope > FOLLOWS_SLOPE:
        return "follows-gradient"
    return "normalises" if slope < NORMALISES_SLOPE else None
