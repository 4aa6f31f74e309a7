"""Rank 0 gathers the steps of all ranks; every rank sends through a real mailbox."""

import itertools
import logging
import math
import statistics
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch.distributed as dist

from gradwatch.distributed import JoinedParts, LocalStep, Mailbox, ParameterPart, RankGatherer, gather, inbox, mailbox
from gradwatch.distributed.messages import Ended, pack
from gradwatch.record import ParameterInfo


@pytest.fixture
def ranks(monkeypatch):
    """A gatherer of three ranks, and the mailboxes of ranks 1 and 2."""
    for name in ("FIRST_PATIENCE", "PATIENCE", "LAST_PATIENCE"):
        monkeypatch.setattr(gather, name, 0.05)
    monkeypatch.setattr(gather, "PAUSE", 0.005)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    boxes = []
    for rank in range(3):
        monkeypatch.setattr(mailbox, "_recording_numbers", itertools.count())
        boxes.append(Mailbox(rank))
    yield RankGatherer(boxes[0], 3), boxes[1], boxes[2]
    dist.destroy_process_group()


def parts(*names_and_parts):
    made = [ParameterPart(info=ParameterInfo(name=name, shape=(4,)), part=part) for name, part in names_and_parts]
    return JoinedParts("0", 0, made)


def step(norms, number=0, **more):
    return LocalStep(optimizer="0", number=number, stats=("norm",), table=np.array([norms], np.float32), **more)


def sharded(gatherer, first, second):
    """One parameter in three parts."""
    gatherer.join(0, parts(("w", "0")))
    first.send(pack([parts(("w", "1"))]))
    second.send(pack([parts(("w", "2"))]))


def test_parts_of_all_ranks_make_the_whole_step(ranks):
    gatherer, first, second = ranks
    sharded(*ranks)
    first.send(pack([step([2.0], loss=1.0, norm=2.0)]))
    second.send(pack([step([6.0], loss=3.0, norm=6.0)]))
    found = gatherer.gather(step([3.0], norm=3.0))
    assert found.stats["norm"].tolist() == [7.0]
    assert found.present.tolist() == [True]
    assert [info.name for info in found.infos] == ["w"]
    assert found.loss == 2.0
    assert found.ranks.norm.tolist() == [3.0, 2.0, 6.0]
    assert found.weights is None


def test_a_missing_part_makes_the_step_unknown_and_is_reported_once(ranks, caplog):
    gatherer, first, _ = ranks
    sharded(*ranks)
    with caplog.at_level(logging.WARNING, "gradwatch"):
        for number in range(3):
            first.send(pack([step([2.0], number)]))
            assert gatherer.gather(step([3.0], number)) is None
    assert [record.message.count("(rank-silent)") for record in caplog.records] == [1]
    assert "Rank 2" in caplog.text


def test_a_missing_copy_leaves_the_step_known(ranks):
    gatherer, first, second = ranks
    gatherer.join(0, parts(("w", "")))
    for box in (first, second):
        box.send(pack([parts(("w", "")), step([5.0], 0, norm=5.0)]))
    assert gatherer.gather(step([5.0], 0, norm=5.0)) is not None
    first.send(pack([step([5.0], 1, norm=5.0)]))
    found = gatherer.gather(step([5.0], 1, norm=5.0))
    assert found.stats["norm"].tolist() == [5.0]
    assert found.ranks.norm[:2].tolist() == [5.0, 5.0]
    assert math.isnan(found.ranks.norm[2])


def test_a_rank_that_was_silent_and_sends_again_is_heard_again(ranks):
    gatherer, first, second = ranks
    sharded(*ranks)
    first.send(pack([step([2.0], 0)]))
    assert gatherer.gather(step([3.0], 0)) is None
    first.send(pack([step([2.0], 1)]))
    second.send(pack([step([6.0], 1)]))
    assert gatherer.gather(step([3.0], 1)).stats["norm"].tolist() == [7.0]


def test_a_step_that_a_rank_has_passed_is_not_waited_for(ranks, monkeypatch):
    monkeypatch.setattr(gather, "PATIENCE", 3600.0)
    gatherer, first, second = ranks
    sharded(*ranks)
    for box in (first, second):
        box.send(pack([step([2.0], 1)]))
    assert gatherer.gather(step([3.0], 0)) is None
    assert gatherer.gather(step([1.0], 1)).stats["norm"].tolist() == [3.0]


def test_a_rank_that_has_ended_is_not_waited_for(ranks, monkeypatch):
    monkeypatch.setattr(gather, "FIRST_PATIENCE", 3600.0)
    monkeypatch.setattr(gather, "PATIENCE", 3600.0)
    gatherer, first, second = ranks
    gatherer.join(0, parts(("w", "")))
    for box in (first, second):
        box.send(pack([Ended()]))
    assert gatherer.gather(step([5.0])).stats["norm"].tolist() == [5.0]


def test_after_the_training_has_ended_no_rank_is_waited_for_long(ranks, monkeypatch):
    monkeypatch.setattr(gather, "FIRST_PATIENCE", 3600.0)
    gatherer, *_ = ranks
    gatherer.join(0, parts(("w", "0")))
    gatherer.hurry()
    assert gatherer.gather(step([5.0])) is None


def test_parameters_join_the_run_in_the_order_in_which_they_are_heard(ranks):
    gatherer, first, second = ranks
    gatherer.known("0", [ParameterInfo(name="a", shape=(4,))])
    gatherer.join(0, parts(("b", ""), ("a", "")))
    first.send(pack([parts(("c", ""), ("a", "")), step([4.0, 1.0])]))
    second.send(pack([Ended()]))
    found = gatherer.gather(step([2.0, 1.0]))
    assert [info.name for info in found.infos] == ["a", "b", "c"]
    assert found.stats["norm"].tolist() == [1.0, 2.0, 4.0]
    assert [(j.first, [info.name for info in j.infos]) for j in gatherer.take_joined()] == [(1, ["b", "c"])]
    assert gatherer.take_joined() == []


def test_only_statistics_that_every_rank_has_are_combined(ranks):
    gatherer, first, second = ranks
    gatherer.join(0, parts(("w", "")))
    table = np.array([[3.0], [1.0]], np.float32)
    for box in (first, second):
        box.send(pack([parts(("w", "")), step([3.0])]))
    own = LocalStep(optimizer="0", number=0, stats=("norm", "zeros"), table=table)
    assert list(gatherer.gather(own).stats) == ["norm"]


def test_steps_of_an_optimizer_that_rank_0_does_not_have_are_not_kept_without_end(ranks, monkeypatch):
    monkeypatch.setattr(inbox, "MAX_WAITING_STEPS", 5)
    gatherer, first, second = ranks
    gatherer.join(0, parts(("w", "")))
    other = [
        LocalStep(optimizer="other", number=n, stats=("norm",), table=np.ones((1, 1), np.float32)) for n in range(9)
    ]
    first.send(pack([*other, Ended()]))
    second.send(pack([Ended()]))
    assert gatherer.gather(step([1.0])) is not None
    assert len(gatherer._inbox.senders[1].steps) == 5


def test_the_other_ranks_are_told_how_the_run_begins_and_that_it_is_closed(ranks):
    gatherer, first, _ = ranks
    gatherer.open({"0": 3})
    gatherer.first_step("added", 9)
    assert first.announced("open") == {"0": 3}
    assert first.announced("first/added") == 9
    assert first.announced("closed") is None
    gatherer.close()
    assert first.announced("closed") is True


def test_a_long_first_step_does_not_delay_the_looks_of_later_ones(ranks, monkeypatch):
    gatherer, first, second = ranks
    sharded(*ranks)
    monkeypatch.setattr(gather, "PATIENCE", 30.0)
    monkeypatch.setattr(gather, "FIRST_PATIENCE", 30.0)
    paused = []
    monkeypatch.setattr(gather, "time", SimpleNamespace(monotonic=lambda: sum(paused), sleep=paused.append))
    for number, seconds in enumerate((20.0, 1.2, 1.2, 1.2, 1.2)):
        paused.clear()
        sent = False

        def sleep(pause, number=number, seconds=seconds):
            nonlocal sent
            paused.append(pause)
            if not sent and sum(paused) >= seconds:
                sent = True
                for box in (first, second):
                    box.send(pack([step([1.0], number)]))

        monkeypatch.setattr(gather.time, "sleep", sleep)
        assert gatherer.gather(step([1.0], number)) is not None
    assert sum(paused) < 1.3, "a step was looked for as if it came as late as the first"


def test_letters_that_come_late_as_always_are_looked_for_less_often(ranks, monkeypatch):
    """After some steps most looks that would find nothing are left out, and none is made too late by much."""
    gatherer, first, second = ranks
    monkeypatch.setattr(gather, "PATIENCE", 30.0)
    monkeypatch.setattr(gather, "FIRST_PATIENCE", 30.0)
    sharded(*ranks)
    looks, receive = [], Mailbox.receive_from_all

    def counted(self, asked):
        looks[-1] += 1
        return receive(self, asked)

    monkeypatch.setattr(Mailbox, "receive_from_all", counted)
    for number in range(5):
        looks.append(0)
        letters = threading.Timer(0.2, lambda n=number: [box.send(pack([step([1.0], n)])) for box in (first, second)])
        letters.start()
        assert gatherer.gather(step([1.0], number)) is not None
        letters.join()
    assert looks[0] > 1.5 * statistics.median(looks[2:])
