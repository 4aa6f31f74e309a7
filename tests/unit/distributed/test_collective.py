"""What ranks add up by a collective is what rank 0 would make of their letters."""

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch.distributed as dist

from gradwatch.distributed import (
    JoinedParts,
    LocalStep,
    Mailbox,
    Names,
    ParameterPart,
    RankCollective,
    RankGatherer,
    agree,
    collective,
    mailbox,
)
from gradwatch.distributed.messages import ABSENT, pack
from gradwatch.record import MAGNITUDE_BINS, RANK_STATS, STATS, UPDATE_STATS, ParameterInfo

RANKS = 3
INFOS = [ParameterInfo(name=name, shape=(4, 4)) for name in ("plain", "sharded", "hybrid", "of two", "bias")]
PARTS = [["", "0", "0", "", ""], ["", "1", "1", "", ""], ["", "2", "0", None, ""]]


@pytest.fixture
def boxes(monkeypatch):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    opened = []
    for rank in range(RANKS):
        monkeypatch.setattr(mailbox, "_recording_numbers", itertools.count())
        opened.append(Mailbox(rank))
    yield opened
    dist.destroy_process_group()


def held(rank):
    parts = [None if p is None else ParameterPart(info=i, part=p) for i, p in zip(INFOS, PARTS[rank], strict=True)]
    return [JoinedParts("0", 0, parts)]


@pytest.fixture
def collectives(boxes):
    """Of all ranks, connected."""
    return opened(boxes)


def opened(boxes, every=1):
    def open_one(box):
        plans = agree(box, RANKS, held(box.rank), {} if box.rank else {"0": Names.of(INFOS)})
        return RankCollective(box, RANKS, plans, every)

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(open_one, boxes))


def advance(collectives, leaving=()):
    """All ranks take part at once; return what rank 0 gets."""
    with ThreadPoolExecutor(RANKS) as pool:
        asked = [pool.submit(one.advance, leaving=rank in leaving) for rank, one in enumerate(collectives)]
        found, *_ = [one.result(30) for one in asked]
    return found


def steps_of(number, rng, *, odd=(), with_weights=False):
    """What each rank measured; copies are equal but in the ranks ``odd``, whose bias has another norm."""
    copies = np.exp(rng.normal(0, 20, (len(STATS), len(INFOS))))
    found = []
    for rank in range(RANKS):
        table = copies.copy() if rank == 0 else np.exp(rng.normal(0, 20, copies.shape))
        table[:, [0, 3, 4]] = copies[:, [0, 3, 4]]
        if rank == 2:
            table[:, 2] = copies[:, 2]
        table = table.astype(np.float32)
        if rank in odd:
            table[0, 4] *= 1.5
        weights = rng.random((2, len(INFOS))).astype(np.float32)
        updates = rng.random((len(UPDATE_STATS), len(INFOS))).astype(np.float32)
        counts = rng.integers(0, 30_000, (len(MAGNITUDE_BINS), len(INFOS))).astype(np.float32)
        few = [0, 1, 2] if rank < RANKS - 1 else [1, 0]  # the last rank has not read 2
        sentinels = np.vstack([few, updates[:, few]]).astype(np.float32)
        found.append(
            LocalStep(
                optimizer="0",
                number=number,
                stats=STATS,
                table=table,
                weights=weights if with_weights else None,
                updates=updates if with_weights else None,
                magnitudes=counts if with_weights else None,
                sentinels=None if with_weights else sentinels,
                norm=float(rank + 0.5),
                nonfinite=float(rank),
                before_reduction=True,
                loss=None if rank == 1 else float(rank),
            )
        )
    return found


def by_letters(boxes, steps):
    """The oracle: the same steps through the mailbox."""
    gatherer = RankGatherer(boxes[0], RANKS)
    gatherer.join(0, held(0)[0])
    for rank in range(1, RANKS):
        boxes[rank].send(pack([*held(rank), *[step[rank] for step in steps]]))
    return [gatherer.gather(step[0]) for step in steps]


def same(found, expected):
    assert found.infos == expected.infos
    assert found.present.tolist() == expected.present.tolist()
    assert list(found.stats) == list(expected.stats)
    for name, column in expected.stats.items():
        np.testing.assert_allclose(found.stats[name], column, rtol=1e-12, err_msg=name)
    for name in RANK_STATS:
        np.testing.assert_array_equal(getattr(found.ranks, name), getattr(expected.ranks, name), err_msg=name)
    assert found.loss == expected.loss
    assert (found.weights is None) == (expected.weights is None)
    if expected.weights is not None:
        np.testing.assert_allclose(found.weights.weight_norm, expected.weights.weight_norm, rtol=1e-6)
        np.testing.assert_allclose(found.weights.update_norm, expected.weights.update_norm, rtol=1e-6)
        for name, column in expected.updates.items():
            np.testing.assert_allclose(found.updates[name], column, rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found.magnitudes, expected.magnitudes)
    assert (found.sentinels is None) == (expected.sentinels is None) == (expected.weights is not None)
    if expected.sentinels is not None:
        assert len(expected.sentinels["position"]) > 0
        for name, column in expected.sentinels.items():
            np.testing.assert_allclose(found.sentinels[name], column, rtol=1e-6, err_msg=name)


def test_sums_are_what_rank_0_makes_of_letters(boxes, collectives):
    rng = np.random.default_rng(0)
    steps = [
        steps_of(number, rng, with_weights=number % 2 == 0, odd=(2,) if number == 3 else ()) for number in range(5)
    ]
    steps[1][1].table[:2, 1] = np.nan  # a shard
    steps[1][0].table[:2, 0] = np.inf  # rank 0's copy alone, so that rank 0 is the odd one
    for rank in (0, 2):
        steps[1][rank].table[:2, 2] = np.nan  # copies of a shard
    for rank in range(RANKS):
        steps[2][rank].table[0, 3] = ABSENT
        steps[2][rank].table[1:, 3] = np.nan
        steps[2][rank].magnitudes[:, 3] = np.nan
    steps[4][1].table[0, 1] = ABSENT  # one shard of three has a gradient
    steps[4][1].table[1:, 1] = np.nan
    steps[4][1].magnitudes[:, 1] = np.nan
    for rank, one in enumerate(collectives):
        for step in steps:
            assert one.add(step[rank])
    found = advance(collectives)
    assert [one.number for one in found] == [0, 1, 2, 3, 4]
    for one, expected in zip(found, by_letters(boxes, steps), strict=True):
        same(one.whole, expected)


def test_a_step_that_not_all_ranks_have_yet_is_not_waited_for(collectives):
    rng = np.random.default_rng(1)
    first, second = steps_of(0, rng), steps_of(1, rng)
    for rank, one in enumerate(collectives):
        one.add(first[rank])
        if rank != 1:
            one.add(second[rank])
    assert [one.number for one in advance(collectives)] == [0]
    collectives[1].add(second[1])
    assert [one.number for one in advance(collectives)] == [1]


def test_a_step_that_a_rank_lost_is_dropped_by_all(boxes):
    collectives = opened(boxes, every=5)
    rng = np.random.default_rng(2)
    for number in (0, 5, 10, 15):
        for rank, (one, step) in enumerate(zip(collectives, steps_of(number, rng), strict=True)):
            if (rank, number) not in [(1, 5), (2, 0)]:
                one.add(step)
    found = advance(collectives)
    assert [(one.number, one.whole is not None) for one in found] == [(0, False), (5, False), (10, True), (15, True)]


def test_a_rank_that_leaves_ends_the_collective_after_what_all_have(collectives, caplog):
    rng = np.random.default_rng(3)
    for number in range(3):
        for rank, step in enumerate(steps_of(number, rng)):
            if rank != 1 or number < 2:
                collectives[rank].add(step)
    found = []
    with caplog.at_level(logging.WARNING, "gradwatch"):
        while any(one.is_open for one in collectives):
            found += advance(collectives, leaving=(1,))
    assert [one.number for one in found] == [0, 1]
    assert [[step.number for step in one.left_over()] for one in collectives] == [[2], [], [2]]
    assert not caplog.records, "a training that ends is no fault"
    assert not collectives[0].add(steps_of(3, rng)[0])


def test_another_number_of_parameters_ends_it_and_is_said(collectives, caplog):
    rng = np.random.default_rng(4)
    for number in range(2):
        for rank, step in enumerate(steps_of(number, rng)):
            wider = replace(step, table=np.pad(step.table, ((0, 0), (0, 1))))
            assert collectives[rank].add(wider if number else step)
    with caplog.at_level(logging.WARNING, "gradwatch"):
        found = advance(collectives)
        while any(one.is_open for one in collectives):
            found += advance(collectives)
    assert [one.number for one in found] == [0]
    assert [[step.number for step in one.left_over()][-1:] for one in collectives] == [[1]] * 3
    assert "a rank trains other parameters now" in caplog.text


def test_a_rank_that_takes_no_part_is_waited_for_only_so_long(collectives, caplog, monkeypatch):
    monkeypatch.setattr(collective, "PATIENCE", 0.3)
    rng = np.random.default_rng(5)
    for one, step in zip(collectives, steps_of(0, rng), strict=True):
        one.add(step)
    with caplog.at_level(logging.WARNING, "gradwatch"), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda one: one.advance(), collectives[:2])) == [[], []]
    assert [one.is_open for one in collectives] == [False, False, True]
    assert caplog.text.count("(collective-ended)") == 1
    assert "from step 0 of this recording on: a rank has not taken part for 0 s" in caplog.text
    assert [step.number for step in collectives[1].left_over()] == [0]
    collectives[2].advance()
    assert not collectives[2].is_open, "it finds that the others have gone on"


def test_what_rank_0_may_not_have_is_sent_again(collectives, monkeypatch):
    """A rank has carried a step, and the next round fails: whether rank 0 got it is not known."""
    monkeypatch.setattr(collective, "PATIENCE", 10.0)
    rng = np.random.default_rng(6)
    carries = RankCollective._round

    def once_only(self, found, leaves):
        if self._unconfirmed:
            raise RuntimeError("the network is gone")
        return carries(self, found, leaves)

    monkeypatch.setattr(RankCollective, "_round", once_only)
    for one, step in zip(collectives, steps_of(0, rng), strict=True):
        one.add(step)
    assert [one.number for one in advance(collectives)] == [0]
    assert [[step.number for step in one.left_over()] for one in collectives] == [[], [0], [0]]


def test_the_end_of_the_training_waits_for_nobody(collectives, monkeypatch):
    monkeypatch.setattr(collective.gather, "LAST_PATIENCE", 0.1)
    collectives[0].hurry()
    assert collectives[0].advance(leaving=True) == []
    assert not collectives[0].is_open
