"""From gradients to statistics: norm, largest magnitude, non-finite entries and zeros of each, in one read."""

from gradwatch.measure.measurement import Measurement, total
from gradwatch.measure.routes import ZEROS_EVERY, count_above, measure, norms, pinned_copy, reads_once, whole
from gradwatch.measure.sharded import (
    any_sharded,
    counts_here,
    is_sharded,
    local,
    make_sums,
    over_ranks,
    part_of,
    parts_in_fsdp1,
    splits_units,
    stands_in,
)

__all__ = [
    "ZEROS_EVERY",
    "Measurement",
    "any_sharded",
    "count_above",
    "counts_here",
    "is_sharded",
    "local",
    "make_sums",
    "measure",
    "norms",
    "over_ranks",
    "part_of",
    "parts_in_fsdp1",
    "pinned_copy",
    "reads_once",
    "splits_units",
    "stands_in",
    "total",
    "whole",
]
