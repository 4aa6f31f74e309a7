"""Statistics of parts, combined; numpy on the whole gradient is the oracle."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.distributed.combine import Cover, HeldParts, Layout, combine, widened
from gradwatch.distributed.messages import ABSENT, LocalStep, of_one_rank
from gradwatch.record import MAGNITUDE_BINS, STATS


def statistics_of(values):
    if values is None:
        return [ABSENT, np.nan, np.nan, np.nan]
    bad = ~np.isfinite(values)
    return [np.linalg.norm(values), np.abs(values).max(initial=0.0), bad.sum(), (values == 0).sum()]


def local(tensors, number=0):
    """What a rank with these parts sends; None is a part without a gradient."""
    with np.errstate(invalid="ignore"):
        table = np.array([statistics_of(values) for values in tensors], np.float32).T.reshape(4, len(tensors))
    return of_one_rank(0, LocalStep(optimizer="0", number=number, stats=STATS, table=table))


def held(positions, parts):
    return HeldParts(tuple(range(len(positions))), tuple(positions), tuple(frozenset([part]) for part in parts))


def layout_of(all_held, heard, parameters=None):
    """The layout of the ranks that were heard, where all ranks hold this."""
    heard = list(heard)
    missing = [one for rank, one in enumerate(all_held) if rank not in heard]
    positions = [position for one in all_held for position in one.positions]
    count = max(positions, default=-1) + 1 if parameters is None else parameters
    return Layout.of([all_held[rank] for rank in heard], missing, count)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_parts_combine_to_the_whole_however_they_are_cut_and_copied(seed, shards, copies, parameters):
    """Ranks are a grid of shards and copies, as in hybrid sharding; some parts are empty."""
    random = np.random.default_rng(seed)
    whole = [random.normal(size=random.integers(1, 9)) * 10.0 ** random.integers(-6, 6) for _ in range(parameters)]
    for values in whole:
        values[random.random(len(values)) < 0.2] = 0.0
    whole = [None if random.random() < 0.2 else values for values in whole]
    cut = [[None] * shards if v is None else np.array_split(v, shards) for v in whole]
    steps, all_held = [], []
    for rank in range(shards * copies):
        shard = rank % shards
        order = random.permutation(parameters)
        steps.append(local([cut[p][shard] for p in order]))
        all_held.append(held(order, [f"-,{shard}"] * parameters))
    layout = layout_of(all_held, range(shards * copies))
    assert layout.is_whole
    found = combine(layout, steps)
    assert found.present.tolist() == [values is not None for values in whole]
    for row, name in enumerate(STATS):
        expected = [np.nan if values is None else statistics_of(values)[row] for values in whole]
        np.testing.assert_allclose(found.stats[name], expected, rtol=1e-5)
    assert found.differing == [0.0] * (shards * copies)


def test_a_nan_in_one_part_makes_the_norm_of_the_whole_nan():
    layout = layout_of([held([0], ["0"]), held([0], ["1"])], [0, 1])
    found = combine(layout, [local([np.array([3.0, np.nan])]), local([np.array([4.0])])])
    assert math.isnan(found.stats["norm"][0])
    assert found.stats["nonfinite"].tolist() == [1.0]


def test_a_layout_without_a_part_that_only_a_silent_rank_holds_is_not_whole():
    all_held = [held([0], ["0"]), held([0], ["1"]), held([0], ["1"])]
    assert layout_of(all_held, [0, 1]).is_whole
    assert not layout_of(all_held, [0]).is_whole


def test_of_three_copies_the_odd_one_is_named_and_of_two_the_second():
    same, other = np.ones(3), np.ones(3) * 1.001
    three = layout_of([held([0, 1], ["", ""])] * 3, range(3))
    steps = [local([other, same]), local([same, same]), local([same, same])]
    found = combine(three, steps)
    assert found.differing == [1.0, 0.0, 0.0]
    assert found.differs_in[0] == 0
    two = layout_of([held([0], [""])] * 2, range(2))
    found = combine(two, [local([same]), local([other])])
    assert found.differing == [0.0, 1.0]


@pytest.mark.parametrize(("ours", "theirs"), [(np.nan, 1.0), (np.inf, 1.0), (None, 1.0)])
def test_a_gradient_that_is_not_finite_or_missing_on_one_rank_differs(ours, theirs):
    layout = layout_of([held([0], [""])] * 3, range(3))
    tensors = [None if v is None else np.array([v, 1.0]) for v in (theirs, theirs, ours)]
    found = combine(layout, [local([t]) for t in tensors])
    assert found.differing == [0.0, 0.0, 1.0]


def test_a_huge_finite_gradient_has_a_finite_norm():
    """float32 squares of 1e30 overflow; the sum is made in float64."""
    layout = layout_of([held([0], ["0"]), held([0], ["1"])], [0, 1])
    found = combine(layout, [local([np.array([3e30])]), local([np.array([4e30])])])
    assert found.stats["norm"][0] == pytest.approx(5e30, rel=1e-6)


def test_zeros_and_empty_parts_count_as_present():
    layout = layout_of([held([0, 1], ["0", "0"]), held([0, 1], ["1", "1"])], [0, 1], parameters=3)
    steps = [local([np.zeros(3), np.zeros(0)]), local([np.zeros(2), np.zeros(0)])]
    found = combine(layout, steps)
    assert found.present.tolist() == [True, True, False]
    assert found.stats["norm"][:2].tolist() == [0.0, 0.0]
    assert found.stats["zeros"][:2].tolist() == [5.0, 0.0]
    assert math.isnan(found.stats["norm"][2])


def test_ranks_that_hold_nothing_combine_to_nothing():
    layout = layout_of([HeldParts(), HeldParts()], [0, 1])
    found = combine(layout, [local([]), local([])])
    assert layout.is_whole
    assert not layout.has_parts
    assert found.present.size == 0
    assert found.differing == [0.0, 0.0]


def test_a_layout_says_whether_some_rank_holds_less_than_a_parameter():
    assert layout_of([held([0], ["0"]), held([0], ["1"])], [0, 1]).has_parts
    assert not layout_of([held([0], ["-,-"]), held([1], [""])], [0, 1]).has_parts


def with_weights(step, weight_norms, update_norms):
    return replace(step, weights=np.array([weight_norms, update_norms], np.float32))


def test_weight_norms_of_parts_are_added_as_squares_and_copies_count_once():
    layout = layout_of([held([0, 1], ["0", ""]), held([0, 1], ["1", ""])], [0, 1])
    nothing = np.zeros(1)
    steps = [
        with_weights(local([nothing, nothing]), [3.0, 7.0], [0.3, 0.7]),
        with_weights(local([nothing, nothing]), [4.0, 7.0], [0.4, 0.7]),
    ]
    found = combine(layout, steps).weights
    np.testing.assert_allclose(found.weight_norm, [5.0, 7.0], rtol=1e-6)
    np.testing.assert_allclose(found.update_norm, [0.5, 0.7], rtol=1e-6)


def test_a_part_whose_weights_are_nan_makes_the_whole_nan():
    layout = layout_of([held([0], ["0"]), held([0], ["1"])], [0, 1])
    steps = [with_weights(local([np.zeros(1)]), [w], [1.0]) for w in (np.nan, 4.0)]
    found = combine(layout, steps).weights
    assert math.isnan(found.weight_norm[0])
    assert found.update_norm[0] == pytest.approx(math.sqrt(2))


def test_weights_are_not_known_unless_every_rank_sampled_them():
    layout = layout_of([held([0], ["0"]), held([0], ["1"])], [0, 1])
    step = local([np.zeros(1)])
    assert combine(layout, [with_weights(step, [1.0], [1.0]), step]).weights is None


def test_a_step_from_before_a_parameter_joined_has_nothing_in_its_column():
    step = with_weights(local([np.ones(4)]), [1.0], [0.1])
    wide = widened(step, 2)
    assert wide.table[0].tolist() == [2.0, ABSENT]
    assert np.isnan(wide.table[1:, 1]).all()
    assert np.isnan(wide.weights[:, 1]).all()
    assert widened(step, 1) is step


def with_counts(step, *counts):
    """Counts of the first bins of each parameter; None has no gradient."""
    table = np.zeros((len(MAGNITUDE_BINS), len(counts)), np.float32)
    for at, own in enumerate(counts):
        table[: 1 if own is None else len(own), at] = 0 if own is None else own
        if own is None:
            table[:, at] = np.nan
    return replace(step, magnitudes=table)


def test_counts_of_parts_are_added_and_copies_count_once():
    layout = layout_of([held([0, 1, 2, 3], ["0", "", "0", ""]), held([0, 1, 2, 3], ["1", "", "1", ""])], [0, 1])
    step = local([np.zeros(1)] * 4)
    steps = [with_counts(step, [1, 2], [7, 9], None, None), with_counts(step, [3, 0], [7, 9], [5, 0], None)]
    found = combine(layout, steps).magnitudes
    assert found[:2, :3].T.tolist() == [[4, 2], [7, 9], [5, 0]]
    assert np.isnan(found[:, 3]).all()
    assert combine(layout, [steps[0], step]).magnitudes is None
    most = with_counts(step, [40_000], [1], [1], [1])
    assert combine(layout, [most, most]).magnitudes[0, 0] == 65535


def with_sentinels(step, *columns):
    """Columns with the same number as each of the four norms."""
    table = [[at, *[norm] * 4] for at, norm in columns]
    return replace(step, sentinels=np.array(table, np.float32).reshape(-1, 5).T)


def test_sentinels_are_those_of_which_every_part_was_read():
    """Parameter 0 is cut, 1 is copied, 2 is read by one of two, and the second rank alone has 3."""
    parts = [held([0, 1, 2], ["0", "", "0"]), held([1, 0, 2, 3], ["", "1", "1", ""])]
    step, other = local([np.zeros(1)] * 3), local([np.zeros(1)] * 4)
    steps = [
        with_sentinels(step, (0, 3.0), (1, 8.0), (2, 1.0)),
        with_sentinels(other, (1, 4.0), (0, 8.0), (3, 6.0)),
    ]
    found = combine(layout_of(parts, [0, 1]), steps).sentinels
    assert found.tolist() == [[0, 1, 3], *[[5, 8, 6]] * 4]
    alone = combine(layout_of(parts, [0]), steps[:1]).sentinels
    assert alone.tolist() == [[1], *[[8]] * 4], "a part of 0 did not arrive"
    assert combine(layout_of(parts, [0, 1]), [step, other]).sentinels is None


sets = st.lists(st.frozensets(st.sampled_from("abcdef"), min_size=1), max_size=6)


@given(sets, sets)
def test_a_cover_counts_no_part_twice_and_says_if_one_is_missing(arrived, missing):
    cover = Cover.of(arrived, missing)
    counted = [parts for parts, counts in zip(arrived, cover.counted, strict=True) if counts]
    assert sum(map(len, counted)) == len(frozenset().union(*counted)), "no part is counted twice"
    assert cover.is_whole == (frozenset().union(*counted) == frozenset().union(*arrived, *missing))
    for parts, first in zip(arrived, cover.copy_of, strict=True):
        assert arrived[first] == parts
        assert arrived.index(parts) == first
    nested = all(a <= b or b <= a or not a & b for a in arrived for b in arrived)
    if nested:
        assert not cover.overlaps
        assert frozenset().union(*counted) == frozenset().union(*arrived), "of nested sets nothing is left out"


def test_a_subtree_that_lacks_a_part_is_left_out_and_a_whole_one_counts():
    whole, half = frozenset("01"), frozenset("0")
    held_parts = [HeldParts((0,), (0,), (whole,)), HeldParts((0,), (0,), (half,))]
    layout = Layout.of(held_parts, [], 1)
    found = combine(layout, [local([np.array([5.0])]), local([np.array([3.0])])])
    assert found.stats["norm"].tolist() == [5.0]
    assert layout.is_whole
    assert not Layout.of(held_parts[1:], held_parts[:1], 1).is_whole


def test_columns_in_another_order_than_positions_are_sorted_out():
    layout = Layout.of([HeldParts((0, 2), (1, 0), (frozenset("a"), frozenset("b")))], [], 2)
    found = combine(layout, [local([np.array([1.0]), None, np.array([2.0])])])
    assert found.stats["norm"].tolist() == [2.0, 1.0]
