"""From gradients to statistics: norm, largest magnitude, non-finite entries and zeros of each, in one read."""

from gradwatch.measure.devices import (
    Ready,
    begin_copy,
    copies_behind,
    first_accelerator,
    has_values,
    is_capturing_graph,
    is_on_host,
    join,
    mark_copies,
    move,
    to_device,
    widest_float,
)
from gradwatch.measure.magnitudes import measure_magnitudes
from gradwatch.measure.measurement import Measurement
from gradwatch.measure.routes import ZEROS_EVERY, count_above, measure, norms, reads_once, route_of, to_host, whole
from gradwatch.measure.sharded import (
    any_sharded,
    counts_here,
    is_sharded,
    local,
    local_sizes,
    make_sums,
    over_ranks,
    part_of,
    parts_in_fsdp1,
    splits_units,
    stands_in,
)
from gradwatch.measure.updates import closed_form_of, measure_updates
from gradwatch.record import total

__all__ = [
    "ZEROS_EVERY",
    "Measurement",
    "Ready",
    "any_sharded",
    "begin_copy",
    "closed_form_of",
    "copies_behind",
    "count_above",
    "counts_here",
    "first_accelerator",
    "has_values",
    "is_capturing_graph",
    "is_on_host",
    "is_sharded",
    "join",
    "local",
    "local_sizes",
    "make_sums",
    "mark_copies",
    "measure",
    "measure_magnitudes",
    "measure_updates",
    "move",
    "norms",
    "over_ranks",
    "part_of",
    "parts_in_fsdp1",
    "reads_once",
    "route_of",
    "splits_units",
    "stands_in",
    "to_device",
    "to_host",
    "total",
    "whole",
    "widest_float",
]
