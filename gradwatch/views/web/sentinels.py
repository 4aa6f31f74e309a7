"""The updates of the sentinels at any zoom: known at every step, where those of all are read at some only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.run import Run
from gradwatch.record import Floats
from gradwatch.views.web.pyramid import Pyramid, block_maxima, encode

STATS = {"sentinel_rms_ratio": "rms_ratio", "sentinel_update_ratio": "update_ratio"}
"""Names of tiles, with what they show of the update that the optimizer computed."""

MOST_STEPS = 50_000
"""A zoom of more steps has no columns: every row would have to be read."""

Ids = NDArray[np.int64]


def sentinel_tile(
    run: Run, optimizer: str, standing: Ids, name: str, first: float, last: float, columns: int
) -> tuple[list[int], Ids, Ids, Floats, int]:
    """A statistic of the sentinels from step ``first`` to ``last``, in half to twice as many columns as asked for.

    Args:
        run: the run.
        optimizer: its name.
        standing: `Run.standing` of it.
        name: one of `STATS`.
        first: the first step.
        last: the last step.
        columns: asked for.

    Returns:
        The positions of the parameters; the first and the last step of each column; the largest value of each
        parameter in it, coded as by `encode`, (columns, sentinels); the number of rows that a column joins.
    """
    steps = standing[:, 1]
    ids = standing[np.searchsorted(steps, first) : np.searchsorted(steps, last, side="right"), 0]
    if not 0 < len(ids) <= MOST_STEPS:
        return [], *_empty(), 1
    frame = run.sentinels(STATS[name], optimizer, after=int(ids.min()) - 1, up_to=int(ids.max()))
    frame = frame[(frame.index >= first) & (frame.index <= last)]
    names = {info.name: at for at, info in enumerate(run.parameters(optimizer))}
    found = frame.index.to_numpy(np.int64)
    if not len(found):
        return [], *_empty(), 1
    block = Pyramid(0).block(len(found), columns)
    starts = np.arange(0, len(found), block)
    ends = np.minimum(starts + block, len(found)) - 1
    values = block_maxima(encode(frame.to_numpy(np.float32), None), block)
    return [names[column] for column in frame.columns], found[starts], found[ends], values, block


def _empty() -> tuple[Ids, Ids, Floats]:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 0), np.float32)
