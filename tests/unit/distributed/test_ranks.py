"""What several processes have of a step, brought together; with numpy and the definition as oracles."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.detect import Desync
from gradwatch.distributed.combine import Holding, Layout, combine
from gradwatch.distributed.messages import ABSENT, Ended, Joined, LocalStep, Share, pack, unpack
from gradwatch.record import RANK_STATS, STATS, ParameterInfo, RankStats
from gradwatch.testing import replaced, steady, stream, write_run


def statistics_of(values):
    if values is None:
        return [ABSENT, np.nan, np.nan, np.nan]
    bad = ~np.isfinite(values)
    return [np.linalg.norm(values), np.abs(values).max(initial=0.0), bad.sum(), (values == 0).sum()]


def local(tensors, number=0):
    """What a rank with these parts sends; None is a part without a gradient."""
    with np.errstate(invalid="ignore"):
        table = np.array([statistics_of(values) for values in tensors], np.float32).T.reshape(4, len(tensors))
    return LocalStep(optimizer="0", number=number, stats=STATS, table=table)


def holding(positions, parts):
    return Holding(list(range(len(positions))), list(positions), list(parts))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_parts_come_to_the_whole_however_they_are_cut_and_copied(seed, shards, copies, parameters):
    """Ranks are a grid of shards and copies, as in hybrid sharding; some parts are empty."""
    random = np.random.default_rng(seed)
    whole = [random.normal(size=random.integers(1, 9)) * 10.0 ** random.integers(-6, 6) for _ in range(parameters)]
    for values in whole:
        values[random.random(len(values)) < 0.2] = 0.0
    whole = [None if random.random() < 0.2 else values for values in whole]
    cut = [[None] * shards if v is None else np.array_split(v, shards) for v in whole]
    steps, holdings = [], []
    for rank in range(shards * copies):
        shard = rank % shards
        order = random.permutation(parameters)
        steps.append(local([cut[p][shard] for p in order]))
        holdings.append(holding(order, [f"-,{shard}"] * parameters))
    layout = Layout.of(holdings, range(shards * copies))
    assert layout.is_whole
    columns, present, differing, _ = combine(layout, steps, STATS, parameters)
    assert present.tolist() == [values is not None for values in whole]
    for row, name in enumerate(STATS):
        expected = [np.nan if values is None else statistics_of(values)[row] for values in whole]
        np.testing.assert_allclose(columns[name], expected, rtol=1e-5)
    assert differing == [0.0] * (shards * copies)


def test_a_nan_in_one_part_is_one_of_the_whole():
    layout = Layout.of([holding([0], ["0"]), holding([0], ["1"])], [0, 1])
    columns, *_ = combine(layout, [local([np.array([3.0, np.nan])]), local([np.array([4.0])])], STATS, 1)
    assert math.isnan(columns["norm"][0])
    assert columns["nonfinite"].tolist() == [1.0]


def test_a_part_that_only_a_silent_rank_has_makes_a_step_unknown_and_a_copy_does_not():
    holdings = [holding([0], ["0"]), holding([0], ["1"]), holding([0], ["1"])]
    assert Layout.of(holdings, [0, 1]).is_whole
    assert not Layout.of(holdings, [0]).is_whole


def test_of_three_the_one_that_differs_is_named_and_of_two_the_second():
    same, other = np.ones(3), np.ones(3) * 1.001
    three = Layout.of([holding([0, 1], ["", ""])] * 3, range(3))
    steps = [local([other, same]), local([same, same]), local([same, same])]
    *_, differing, where = combine(three, steps, STATS, 2)
    assert differing == [1.0, 0.0, 0.0]
    assert where[0] == 0
    two = Layout.of([holding([0], [""])] * 2, range(2))
    *_, differing, _ = combine(two, [local([same]), local([other])], STATS, 1)
    assert differing == [0.0, 1.0]


@pytest.mark.parametrize(("ours", "theirs"), [(np.nan, 1.0), (np.inf, 1.0), (None, 1.0)])
def test_a_gradient_that_is_not_a_number_or_not_there_in_one_rank_differs(ours, theirs):
    layout = Layout.of([holding([0], [""])] * 3, range(3))
    tensors = [None if v is None else np.array([v, 1.0]) for v in (theirs, theirs, ours)]
    *_, differing, _ = combine(layout, [local([t]) for t in tensors], STATS, 1)
    assert differing == [0.0, 0.0, 1.0]


names = st.text(max_size=20)
shares = st.none() | st.builds(
    lambda name, shape, part: Share(info=ParameterInfo(name=name, shape=tuple(shape)), part=part),
    names,
    st.lists(st.integers(0, 2**40), max_size=3),
    names,
)
floats = st.floats(width=32)


@st.composite
def local_steps(draw):
    columns = draw(st.integers(0, 3))
    stats = tuple(draw(st.lists(st.sampled_from(STATS), min_size=1, unique=True)))

    def table(rows):
        values = draw(st.lists(floats, min_size=rows * columns, max_size=rows * columns))
        return np.array(values, np.float32).reshape(rows, columns)

    return LocalStep(
        optimizer=draw(names),
        number=draw(st.integers(0, 2**40)),
        stats=stats,
        table=table(len(stats)),
        weights=table(2) if draw(st.booleans()) else None,
        norm=draw(st.floats()),
        nonfinite=draw(st.floats()),
        before_reduction=draw(st.booleans()),
        loss=draw(st.none() | st.floats()),
    )


@settings(deadline=None)
@given(st.lists(local_steps() | st.builds(Joined, names, st.integers(0, 9), st.lists(shares, max_size=3)), max_size=4))
def test_letters_arrive_as_they_were_sent(items):
    found = unpack(pack([*items, Ended()]))
    assert isinstance(found.pop(), Ended)
    assert len(found) == len(items)
    for ours, theirs in zip(found, items, strict=True):
        if isinstance(theirs, Joined):
            assert ours == theirs
            continue
        for name in ("optimizer", "number", "stats", "before_reduction"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("norm", "nonfinite", "loss"):
            np.testing.assert_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_array_equal(ours.table, theirs.table)
        assert (ours.weights is None) == (theirs.weights is None)
        if ours.weights is not None:
            np.testing.assert_array_equal(ours.weights, theirs.weights)


# ------------------------------------------------------------------------------- in a recorded run


def ranks_of(norms, before=1.0, **more):
    length = len(norms)
    zeros = {name: np.zeros(length, np.float32) for name in RANK_STATS}
    given = {name: np.array(values, np.float32) for name, values in more.items()}
    known = {"norm": np.array(norms, np.float32), "before_reduction": np.full(length, before, np.float32)}
    return RankStats(**zeros | known | given)


def with_ranks(records, rows):
    return [replace(record, ranks=ranks_of(row)) for record, row in zip(records, rows, strict=True)]


def leaving(steps, since, factor):
    """Four ranks, of which the third has so many times the norm of the others from a step on."""
    random = np.random.default_rng(0)
    norms = random.lognormal(0, 0.2, (steps, 4))
    norms[since:, 2] *= factor
    return with_ranks(stream(steady(steps)), norms)


def desyncs(records):
    detector = Desync()
    return [event for record in records for event in detector.update(record)]


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_a_rank_that_leaves_the_others_for_good_is_said_once(factor):
    (event,) = desyncs(leaving(900, 300, factor))
    assert (event.kind, event.severity, event.rank) == ("desync", "warning", 2)
    assert 299 + 180 <= event.step < 300 + 200


@pytest.mark.parametrize(("since", "factor"), [(900, 1.0), (0, 5.0), (300, 1.5)])
def test_ranks_that_scatter_or_always_differed_are_left_alone(since, factor):
    assert desyncs(leaving(900, since, factor)) == []


def test_single_batches_of_one_rank_are_left_alone():
    random = np.random.default_rng(0)
    norms = random.lognormal(0, 0.2, (900, 4))
    norms[random.random(900) < 0.3, 1] *= 10
    assert desyncs(with_ranks(stream(steady(900)), norms)) == []


def test_the_noise_scale_is_that_of_gradients_drawn_with_it(tmp_path):
    """Of G = 1 in each of 50 entries and noise of variance 4 in each: trace / |G|^2 = 200 / 50."""
    random = np.random.default_rng(0)
    gradients = 1 + 2 * random.normal(size=(3000, 8, 50))
    local_norms = np.linalg.norm(gradients, axis=2)
    total = np.linalg.norm(gradients.mean(axis=1), axis=1)
    run = Run(write_run(tmp_path / "run", with_ranks(stream(total.tolist()), local_norms)))
    assert run.noise_scale(smoothing=0.999).iloc[-1] == pytest.approx(4.0, rel=0.1)


def test_a_run_tells_its_ranks(tmp_path):
    records = with_ranks(stream(replaced(steady(100), {60: 9.0})), [[1.0, 2.0, 3.0]] * 99 + [[1.0, np.nan, 3.0]])
    run = Run(write_run(tmp_path / "run", records))
    norms = run.ranks("norm")
    assert norms.shape == (100, 3)
    assert norms.iloc[0].tolist() == [1.0, 2.0, 3.0]
    assert norms.iloc[-1].isna().tolist() == [False, True, False]
    summary = run.summary()
    assert [(rank.rank, rank.steps, rank.median) for rank in summary.ranks] == [
        (0, 100, 1.0),
        (1, 99, 2.0),
        (2, 100, 3.0),
    ]


def test_a_run_of_one_process_has_no_ranks(tmp_path):
    run = Run(write_run(tmp_path / "run", stream(steady(10))))
    assert run.ranks("norm").empty
    assert run.summary().ranks == ()
    assert run.summary().noise_scale is None
    assert run.noise_scale().empty
