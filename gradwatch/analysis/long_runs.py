"""The gradients of parameters over a long run, from the digests in its store instead of from every row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.history import RunReader
from gradwatch.record import STATS, Floats
from gradwatch.store.digests import MANY_ENTRIES, ROWS
from gradwatch.store.layer_digests import ABSENT, GROUP, NOT_FINITE, LayerDigest, LayerDigester
from gradwatch.store.sketch import ACCURACY, Sketch

__all__ = ["ABSENT", "ACCURACY", "NOT_FINITE", "LongLayers", "long_layers"]

LONG = 50_000  # rows of an optimizer from which on digests are used, of a wide model fewer; else rows are read
MAX_ENTRIES_READ = 2_000_000  # from the store at a time, of rows without a digest
MOST_ROWS_READ = 0.5  # share of rows without a digest: with more, digests save little

SKETCHES_AT_ONCE = 16  # that are held until they are merged
NO_NORMS = Sketch.merged([])

Ids = NDArray[np.int64]
Span: TypeAlias = tuple[int, int]
"""The positions of the first and the last row of a digest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LongLayers:
    """What the digests tell of an optimizer's parameters. Rows that a later attempt replaced are left out.

    Attributes:
        ids, steps: of the rows, (rows,).
        starts: the first row of each group of at most `GROUP` rows, (groups,).
        maxima: by statistic, the largest value of each group, coded as by `encode`, (groups, parameters).
        high, high_at: each parameter's largest finite norm and its step; `ABSENT` and -1 if it has none.
        bad, absent: for each parameter, the rows whose gradient is not finite, and those without one.
        zeros: for each parameter the mean number of entries that are exactly 0; NaN if it is not known.
        sketch: of the finite norms.
    """

    ids: Ids
    steps: Ids
    starts: Ids
    maxima: Mapping[str, Floats]
    high: Floats
    high_at: Ids
    bad: Ids
    absent: Ids
    zeros: NDArray[np.float64]
    sketch: Sketch

    def quantile(self, share: float) -> NDArray[np.float64]:
        """A quantile of each parameter's finite norms, (parameters,), within `ACCURACY` of it; NaN of none."""
        return self.sketch.quantile(share, len(self.high))


def long_layers(
    reader: RunReader,
    optimizer: str,
    standing: NDArray[np.int64] | None = None,
    stats: Collection[str] = STATS,
    *,
    sketched: bool = True,
    zeros: bool = True,
) -> LongLayers | None:
    """Read the digests of an optimizer; None where the run is short, or has too few of them.

    Args:
        reader: the run.
        optimizer: its name.
        standing: `RunReader.standing` of it, if it was read.
        stats: whose maxima are read.
        sketched: whether the sketches are read, without which there are no quantiles.
        zeros: whether ``zeros`` is known, for which the rows without a digest are read of one more statistic; else NaN.
    """
    rows = reader.standing(optimizer) if standing is None else standing
    ids, steps = rows[:, 0], rows[:, 1]
    parameters = len(reader.parameters(optimizer))
    if not _is_long(len(ids), parameters) or not (ids[1:] > ids[:-1]).all():
        return None
    sketches = _Sketches(sketched)
    digests = dict(sketches.taken_from(_covering(reader, optimizer, ids, stats)))
    if sum(last - first + 1 for first, last in digests) < (1 - MOST_ROWS_READ) * len(ids):
        return None
    known = [stat for stat in STATS if all(stat in digest.maxima for digest in digests.values())]
    if not known:
        return None
    counted = _counted(known, digests.values(), zeros=zeros)
    for gap in _gaps(list(digests), len(ids)):
        digests |= dict(sketches.taken_from(_read(reader, optimizer, ids, gap, counted)))
    found = _joined(sorted(digests.items()), ids, steps, known, parameters, sketches.merged())
    return found if zeros else replace(found, zeros=np.full(parameters, np.nan))


def _counted(known: Sequence[str], digests: Iterable[LayerDigest], *, zeros: bool) -> list[str]:
    """The statistics that are read of rows without a digest."""
    # The non-finite entries tell a norm that is NaN from one that is not there.
    wanted = {"norm", "nonfinite", *known}
    if zeros and any(digest.zeros_known.any() for digest in digests):
        wanted.add("zeros")
    return [stat for stat in STATS if stat in wanted]


def _is_long(rows: int, parameters: int) -> bool:
    return rows >= LONG or (rows > ROWS and rows * parameters >= MANY_ENTRIES)


class _Sketches:
    """The sketches of many digests, merged as they are read: together they would take more memory than all else."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._few: list[Sketch] = []

    def taken_from(self, digests: Iterable[tuple[Span, LayerDigest]]) -> Iterator[tuple[Span, LayerDigest]]:
        """The digests without their sketches."""
        for span, digest in digests:
            if self._wanted:
                self._few.append(digest.sketch)
            if len(self._few) == SKETCHES_AT_ONCE:
                self._few = [self.merged()]
            yield span, replace(digest, sketch=NO_NORMS)

    def merged(self) -> Sketch:
        return Sketch.merged(self._few)


def _covering(
    reader: RunReader, optimizer: str, ids: Ids, stats: Collection[str]
) -> Iterator[tuple[Span, LayerDigest]]:
    """The digests of which no row was replaced, by the positions of their first and last row in ``ids``."""
    own = reader.row_ids(optimizer)
    for last_id, digest in reader.layer_digests(optimizer, stats):
        end = int(np.searchsorted(own, last_id))
        begin = end - digest.rows + 1
        if begin < 0 or end >= len(own) or own[end] != last_id:
            continue
        first, last = (int(at) for at in np.searchsorted(ids, own[[begin, end]]))
        whole = last - first == end - begin and last < len(ids)
        if whole and np.array_equal(ids[first : last + 1], own[begin : end + 1]):
            yield (first, last), digest


def _gaps(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The stretches of positions that no span covers, from their first to before their last.

    >>> _gaps([(2, 3), (6, 7)], 10)
    [(0, 2), (4, 6), (8, 10)]
    """
    ends = [0, *(last + 1 for _, last in sorted(spans))]
    begins = [*(first for first, _ in sorted(spans)), length]
    return [(end, begin) for end, begin in zip(ends, begins, strict=True) if end < begin]


def _read(
    reader: RunReader, optimizer: str, ids: Ids, between: tuple[int, int], stats: Sequence[str]
) -> Iterator[tuple[Span, LayerDigest]]:
    """Digests made here of rows that have none in the store, with the positions of their first and last row."""
    parameters = len(reader.parameters(optimizer))
    most = max(GROUP, MAX_ENTRIES_READ // max(1, parameters) // GROUP * GROUP)
    cuts = [*range(between[0], between[1], most), between[1]]
    for begin, end in pairwise(cuts):
        wanted = ids[begin:end]
        after, up_to = int(wanted[0]) - 1, int(wanted[-1])
        tables = {}
        for stat in stats:
            found, values = reader.layer_rows(stat, optimizer, after=after, up_to=up_to)
            if values.shape == (len(wanted), parameters) and np.array_equal(found, wanted):
                tables[stat] = values
                continue
            table = np.full((len(wanted), parameters), np.nan, np.float32)
            kept = np.isin(found, wanted)
            table[np.searchsorted(wanted, found[kept]), : values.shape[1]] = values[kept]
            tables[stat] = table
        digester = LayerDigester(parameters, stats)
        digester.extend(tables)
        yield (begin, end - 1), digester.finish()


def _joined(
    parts: Sequence[tuple[Span, LayerDigest]],
    ids: Ids,
    steps: Ids,
    stats: Sequence[str],
    parameters: int,
    sketch: Sketch,
) -> LongLayers:
    high, high_at = np.full(parameters, ABSENT, np.float32), np.full(parameters, -1, np.int64)
    bad, absent, known = (np.zeros(parameters, np.int64) for _ in range(3))
    zeros = np.zeros(parameters)
    for (first, _), digest in parts:
        own = slice(0, min(parameters, len(digest.high)))
        higher = digest.high[own] > high[own]
        high[own][higher] = digest.high[own][higher]
        high_at[own][higher] = steps[first + digest.high_row[own][higher]]
        bad[own] += digest.bad[own]
        absent[own] += digest.absent[own]
        absent[own.stop :] += digest.rows  # of parameters that joined later
        zeros[own] += digest.zeros[own]
        known[own] += digest.zeros_known[own]
    groups = [np.arange(first, last + 1, GROUP) for (first, last), _ in parts]
    return LongLayers(
        ids=ids,
        steps=steps,
        starts=np.concatenate(groups),
        maxima={stat: _rows([_wide(d.maxima[stat], parameters) for _, d in parts]) for stat in stats},
        high=high,
        high_at=high_at,
        bad=bad,
        absent=absent,
        zeros=np.divide(zeros, known, out=np.full(parameters, np.nan), where=known > 0),
        sketch=sketch,
    )


def _rows(tables: Sequence[Floats]) -> Floats:
    """The rows of all tables; where they have one value, such as 0 non-finite entries, it is held once."""
    first = tables[0]
    if first.strides == (0, 0) and all((table == first[0, 0]).all() for table in tables):
        return np.broadcast_to(first[0, 0], (sum(map(len, tables)), first.shape[1]))
    return np.concatenate(tables)


def _wide(table: Floats, columns: int) -> Floats:
    """The table with `ABSENT` for parameters that it lacks."""
    if table.shape[1] == columns:
        return table
    wide = np.full((len(table), columns), np.float32(ABSENT))
    wide[:, : table.shape[1]] = table[:, :columns]
    return wide
