"""A window of the latest norms, kept in tensors on the device that measures them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def empty_window(length: int, like: Tensor) -> dict[str, Tensor]:
    """Return the state of an empty window.

    ``norms`` has shape (length, *like.shape) and is NaN where no norm has entered yet; ``count`` has the
    shape of ``like`` and counts the norms that ever entered. ``like`` may hold one norm for each of several
    trainings; each has a window of its own.
    """
    return {
        "norms": torch.full((length, *like.shape), math.nan, dtype=like.dtype, device=like.device),
        "count": torch.zeros(like.shape, dtype=torch.int64, device=like.device),
    }


def put_into_window(state: dict[str, Tensor], norm: Tensor, enters: Tensor) -> None:
    """Put a norm in the place of the oldest one, where ``enters`` is true.

    >>> state = empty_window(2, torch.tensor(0.0))
    >>> for norm in (1.0, 2.0, 3.0):
    ...     put_into_window(state, torch.tensor(norm), torch.tensor(True))
    >>> state["norms"].tolist(), int(state["count"])
    ([3.0, 2.0], 3)
    """
    norms, count = state["norms"], state["count"]
    place = torch.arange(len(norms), device=norm.device).view(-1, *[1] * norm.dim())
    state["norms"] = torch.where((place == count % len(norms)) & enters, norm, norms)
    state["count"] = count + enters
