"""What one rank packs another unpacks, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.distributed.messages import ABSENT, Ended, JoinedParts, LocalStep, ParameterPart, pack, unpack
from gradwatch.record import STATS, ParameterInfo

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
        norm=draw(st.floats()),
        nonfinite=draw(st.floats()),
        before_reduction=draw(st.booleans()),
        loss=draw(st.none() | st.floats()),
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
        assert (ours.weights is None) == (theirs.weights is None)
        if ours.weights is not None:
            np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_nothing_is_packed_into_a_message_without_items():
    assert unpack(pack([])) == []


def test_a_missing_gradient_and_a_nan_gradient_stay_two_things():
    table = np.array([[ABSENT, np.nan]], np.float32)
    (found,) = unpack(pack([LocalStep(optimizer="0", number=0, stats=("norm",), table=table)]))
    assert found.table[0, 0] == ABSENT
    assert np.isnan(found.table[0, 1])
