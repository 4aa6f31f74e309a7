"""What one rank packs another unpacks, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.distributed.messages import (
    ABSENT,
    Ended,
    HandedOver,
    Heard,
    JoinedParts,
    LocalStep,
    SubtreeParts,
    SubtreeStep,
    of_one_rank,
    pack,
    unpack,
)
from gradwatch.distributed.world import ParameterPart
from gradwatch.record import MAGNITUDE_BINS, STATS, ParameterInfo

names = st.text(max_size=20)
parts = st.none() | st.builds(
    lambda name, shape, part: ParameterPart(info=ParameterInfo(name=name, shape=tuple(shape)), part=part),
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
        updates=table(4) if draw(st.booleans()) else None,
        magnitudes=table(len(MAGNITUDE_BINS)) if draw(st.booleans()) else None,
        sentinels=table(5)[:, :2] if draw(st.booleans()) else None,
        norm=draw(st.floats()),
        nonfinite=draw(st.floats()),
        before_reduction=draw(st.booleans()),
        loss=draw(st.none() | st.floats()),
    )


@st.composite
def subtree_steps(draw):
    step, count = draw(local_steps()), draw(st.integers(0, 4))
    same = draw(floats)
    rows = [[same] * count if draw(st.booleans()) else [draw(floats) for _ in range(count)] for _ in range(5)]
    return SubtreeStep(
        optimizer=step.optimizer,
        number=step.number,
        stats=step.stats,
        table=step.table,
        weights=step.weights,
        updates=step.updates,
        magnitudes=step.magnitudes,
        sentinels=step.sentinels,
        first_rank=draw(st.integers(0, 2**31)),
        ranks=np.array(rows, np.float32).reshape(5, count),
        loss_sum=draw(st.floats()),
        losses=draw(st.integers(0, 99)),
    )


joined = st.builds(JoinedParts, names, st.integers(0, 9), st.lists(parts, max_size=3))


@settings(deadline=None)
@given(
    st.lists(local_steps() | st.builds(JoinedParts, names, st.integers(0, 9), st.lists(parts, max_size=3)), max_size=4)
)
def test_letters_arrive_as_they_were_sent(items):
    found = unpack(pack([*items, Ended()]))
    assert isinstance(found.pop(), Ended)
    assert len(found) == len(items)
    for ours, theirs in zip(found, items, strict=True):
        if isinstance(theirs, JoinedParts):
            assert ours == theirs
            continue
        for name in ("optimizer", "number", "stats", "before_reduction"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("norm", "nonfinite", "loss"):
            np.testing.assert_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_array_equal(ours.table, theirs.table)
        for name in ("weights", "updates", "magnitudes", "sentinels"):
            found, given = getattr(ours, name), getattr(theirs, name)
            assert (found is None) == (given is None)
            if found is not None:
                np.testing.assert_array_equal(found, given)


def assert_same(found, sent):
    assert type(found) is type(sent)
    for name in type(sent).__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(sent, name)
        if name == "items":
            for one, other in zip(ours, theirs, strict=True):
                assert_same(one, other)
        else:
            np.testing.assert_equal(
                list(ours) if name == "parts" else ours, list(theirs) if name == "parts" else theirs
            )


subtree_parts = st.builds(
    lambda infos, sets: SubtreeParts(
        optimizer="0",
        infos=tuple(ParameterInfo(name=name, shape=(2,)) for name in infos),
        parts=tuple(sets),
        held=tuple(range(len(sets))),
    ),
    st.lists(names, max_size=3),
    st.lists(st.frozensets(names, max_size=3), max_size=3),
)
simple = subtree_steps() | local_steps() | subtree_parts | joined | st.builds(Heard, st.just((3, 9))) | st.just(Ended())
handed_over = st.builds(
    lambda items, silent: HandedOver(rank=7, read=3, next_steps={"0": 5}, items=tuple(items), silent=silent),
    st.lists(simple, max_size=3),
    st.booleans(),
)


@settings(deadline=None)
@given(st.lists(simple | handed_over, max_size=4))
def test_messages_of_subtrees_arrive_as_they_were_sent(items):
    for found, sent in zip(unpack(pack(items)), items, strict=True):
        assert_same(found, sent)


def test_a_step_of_one_rank_is_that_of_a_subtree_with_this_rank_alone():
    table = np.ones((1, 2), np.float32)
    step = LocalStep(optimizer="0", number=3, stats=("norm",), table=table, norm=2.0, nonfinite=1.0, loss=0.5)
    found = of_one_rank(6, step)
    assert (found.first_rank, found.number, found.loss_sum, found.losses) == (6, 3, 0.5, 1)
    assert found.table is table
    np.testing.assert_array_equal(found.ranks[:, 0], np.array([2.0, 1.0, 0.0, np.nan, 0.0], np.float32))
    assert of_one_rank(6, LocalStep(optimizer="0", number=3, stats=("norm",), table=table)).losses == 0


def test_ranks_that_are_alike_take_no_room():
    table = np.ones((1, 2), np.float32)
    alike = SubtreeStep(
        optimizer="0", number=0, stats=("norm",), table=table, first_rank=0, ranks=np.ones((5, 1000), np.float32)
    )
    assert len(pack([alike])) < 500


def test_nothing_is_packed_into_a_message_without_items():
    assert unpack(pack([])) == []


def test_a_missing_gradient_and_a_nan_gradient_stay_two_things():
    table = np.array([[ABSENT, np.nan]], np.float32)
    (found,) = unpack(pack([LocalStep(optimizer="0", number=0, stats=("norm",), table=table)]))
    assert found.table[0, 0] == ABSENT
    assert np.isnan(found.table[0, 1])
