"""Ranks that should agree and do not, and a rank that leaves the others."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch.detect import Desync
from gradwatch.record import RankStats
from gradwatch.testing import check_detector, steady, stream

from .streams import found

WINDOW = 200


def ranked(norms_of, steps=500, differing=None, differs_in=None, own=1.0):
    """Records whose ranks have ``norms_of(step)``."""
    records = stream(steady(steps))
    for at, record in enumerate(records):
        norms = np.array(norms_of(at), np.float32)
        count = np.zeros(len(norms), np.float32) if differing is None else np.array(differing(at), np.float32)
        where = np.full(len(norms), math.nan if differs_in is None else differs_in, np.float32)
        ranks = RankStats(
            norm=norms,
            nonfinite=np.zeros(len(norms), np.float32),
            differing=count,
            differs_in=where,
            before_reduction=np.full(len(norms), own, np.float32),
        )
        records[at] = dataclasses.replace(record, ranks=ranks)
    return records


def test_without_ranks_nothing_is_found():
    assert found(Desync(), stream(steady(300))) == []


def test_ranks_that_agree_raise_nothing():
    assert found(Desync(), ranked(lambda step: [1.0, 1.1, 0.9])) == []


def test_a_gradient_that_differs_is_critical_and_one_event():
    records = ranked(lambda step: [1.0] * 3, differing=lambda step: [0, 0, 1 if step >= 50 else 0], differs_in=1)
    assert found(Desync(), records) == [(50, "desync", "critical")]
    (event,) = Desync().update(records[50])
    assert (event.rank, event.parameter, event.observed, event.limit) == (2, "out.weight", 1.0, 0.0)
    assert event.message.startswith("in rank 2 the gradient of out.weight differs from the other ranks'")


def test_several_ranks_and_gradients_are_counted():
    (event,) = Desync().update(ranked(lambda step: [1.0] * 4, 1, lambda step: [0, 3, 2, 0], differs_in=0)[0])
    assert event.rank == 1
    assert "in rank 1 and 1 more 3 gradients, of " in event.message


def test_where_it_differs_may_be_unknown():
    (event,) = Desync().update(ranked(lambda step: [1.0] * 3, 1, lambda step: [1, 0, 0])[0])
    assert (event.rank, event.parameter) == (0, None)


@pytest.mark.parametrize(("factor", "rank"), [(3.0, 1), (1 / 3.0, 1)])
def test_a_rank_that_leaves_the_others_is_a_warning_once(factor, rank):
    records = ranked(lambda step: [1.0, factor if step >= WINDOW else 1.0, 1.1], 1000)
    # 180 of the last 200 steps are nine tenths.
    assert found(Desync(), records) == [(WINDOW + 179, "desync", "warning")]
    detector = Desync()
    (event,) = [event for record in records for event in detector.update(record)]
    assert event.rank == rank
    assert event.observed == pytest.approx(factor)
    assert event.limit == pytest.approx(1.1)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(ranked(lambda step: [1.0, 3.0, 1.1]), id="from the beginning"),
        pytest.param(ranked(lambda step: [1.0, 1.9, 1.1]), id="less than twice"),
        pytest.param(ranked(lambda step: [1.0, 3.0 if step >= WINDOW else 1.0]), id="two ranks"),
        pytest.param(
            ranked(lambda step: [1.0, 3.0 if step >= WINDOW else 1.0, 1.0], own=0.0), id="after the reduction"
        ),
        pytest.param(ranked(lambda step: [1.0, 3.0 if step % 2 else 1.0, 1.0]), id="every other step"),
        pytest.param(ranked(lambda step: [1.0, 3.0 if step >= 350 else 1.0, 1.0]), id="for too few steps"),
        pytest.param(ranked(lambda step: [1.0, math.nan if step >= WINDOW else 1.0, 1.0]), id="not finite"),
        pytest.param(ranked(lambda step: [0.0, 0.0, 0.0]), id="all zero"),
    ],
)
def test_what_is_no_rank_that_left(records):
    assert found(Desync(), records) == []


def test_it_keeps_the_contract_of_detectors():
    check_detector(Desync, ranked(lambda step: [1.0, 3.0 if step >= WINDOW else 1.0, 1.1], 600))
