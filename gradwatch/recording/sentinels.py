"""Which few parameters' updates are read at every step, where those of all parameters are not.

Trouble with updates shows first where gradients are rare or largest: in the embedding and the head, in the first and
the last block, one to eight steps before the loss (Wortsman et al. 2023, arXiv:2304.13013, section 3). Whoever reads
the updates at every tenth step only would often miss that.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradwatch.measure import Measurement

AT_EACH_END, LED = 3, 4
"""The matrices at the beginning and the end of a model that are sentinels, and how many others may join them."""

ENTRIES = 2**14
"""Entries of all sentinels together that are read at a step. Of a GPT of 148 tensors that takes 0.8 ms of
the training thread, with nothing of them in the caches."""

LED_FROM = 2.0
"""The rms_ratio from which on a matrix joins."""


class Sentinels:
    """The matrices at both ends of a model, and those whose second moment once lagged behind.

    >>> import torch
    >>> parameters = [torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(9)]
    >>> sentinels = Sentinels()
    >>> sentinels.among(parameters)
    [0, 1, 2, 6, 7, 8]
    """

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._led: list[int] = []
        self._among = -1
        self._followed: Measurement | None = None

    def among(self, parameters: Sequence[Tensor | None]) -> list[int]:
        """The positions of the parameters that are sentinels, ascending; some may have left the optimizer."""
        self._let_join(parameters)
        return sorted((*self._ends_among(parameters), *self._led))

    def follow(self, measured: Measurement) -> None:
        """Let matrices join that led in a reading of all parameters, once it has arrived on the host."""
        if len(self._led) < LED:
            self._followed = measured

    def _let_join(self, parameters: Sequence[Tensor | None]) -> None:
        measured = self._followed
        if measured is None or not measured.has_arrived:
            return
        self._followed = None
        ratios = measured.collect()["rms_ratio"].tolist()
        known = (*self._ends_among(parameters), *self._led)
        lagging = [at for at, ratio in enumerate(ratios) if ratio >= LED_FROM and _is_matrix(parameters[at])]
        others = sorted((at for at in lagging if at not in known), key=lambda at: -ratios[at])
        self._led += others[: LED - len(self._led)]

    def _ends_among(self, parameters: Sequence[Tensor | None]) -> list[int]:
        """The sentinels at both ends, chosen anew when parameters have joined."""
        if len(parameters) != self._among:
            self._among, self._ends = len(parameters), _ends_of(parameters)
        return self._ends


def _ends_of(parameters: Sequence[Tensor | None]) -> list[int]:
    """The positions of the first and the last matrices; of any parameters where there is no matrix."""
    there = [at for at, one in enumerate(parameters) if one is not None and one.requires_grad]
    matrices = [at for at in there if _is_matrix(parameters[at])] or there
    return sorted({*matrices[:AT_EACH_END], *matrices[-AT_EACH_END:]})


def _is_matrix(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.dim() >= 2
