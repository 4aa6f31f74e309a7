"""What a rank keeps of the letters it reads."""

import itertools
import logging

import numpy as np
import pytest
import torch.distributed as dist

from gradwatch.distributed import JoinedParts, LocalStep, Mailbox, ParameterPart, mailbox
from gradwatch.distributed.inbox import Inbox, Names, held_together, ranks_in
from gradwatch.distributed.messages import Ended, HandedOver, Heard, SubtreeParts, pack
from gradwatch.record import ParameterInfo


def info(name):
    return ParameterInfo(name=name, shape=(2,))


def joined(*names, part="", first=0):
    return JoinedParts("0", first, [None if n is None else ParameterPart(info=info(n), part=part) for n in names])


def step(number, norm=1.0):
    return LocalStep(optimizer="0", number=number, stats=("norm",), table=np.full((1, 1), norm, np.float32))


@pytest.fixture
def boxes(monkeypatch):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    opened = []
    for rank in range(4):
        monkeypatch.setattr(mailbox, "_recording_numbers", itertools.count())
        opened.append(Mailbox(rank))
    yield opened
    dist.destroy_process_group()


def test_letters_are_left_until_all_have_sent_one_or_one_by_one(boxes):
    inbox = Inbox(boxes[0], 0, [1, 2])
    inbox.add(0, step(0))
    boxes[1].send(pack([joined("w"), step(0)]))
    assert inbox.missing("0", 0, one_by_one=False) == [1, 2]
    assert inbox.missing("0", 0, one_by_one=True) == [2]
    boxes[2].send(pack([joined("w")]))
    boxes[2].send(pack([step(0)]))
    assert inbox.missing("0", 0, one_by_one=False) == []
    assert inbox.heard == {0, 1, 2}


def test_only_ranks_that_are_late_are_given_up(boxes):
    inbox = Inbox(boxes[0], 0, [1, 2])
    inbox.add(0, step(0))
    assert inbox.give_up("0", 0, lambda rank: rank == 2) == [2]
    assert inbox.missing("0", 0, one_by_one=False) == [1]
    boxes[2].send(pack([step(0)]))
    boxes[1].send(pack([step(0)]))
    assert inbox.missing("0", 0, one_by_one=False) == []
    assert len(inbox.take("0", 0).steps) == 3
    assert not inbox.senders[2].silent


def test_a_step_nobody_has_is_none(boxes):
    assert Inbox(boxes[0], 0, [1]).take("0", 0) is None


def test_a_rank_that_was_handed_over_is_read_from_where_the_other_stopped(boxes):
    inbox = Inbox(boxes[0], 0, [1])
    boxes[3].send(b"read by rank 1")
    boxes[3].send(pack([step(6)]))
    known = (joined("w", part="3"), step(5))
    handed = HandedOver(rank=3, read=1, next_steps={"0": 5}, items=known)
    inbox.add(1, handed)
    inbox.add(1, Ended())
    inbox.add(0, step(4))
    assert inbox.missing("0", 4, one_by_one=True) == [], "rank 1 had combined it already"
    assert inbox.missing("0", 6, one_by_one=True) == [0]
    assert sorted(number for _, number in inbox.senders[3].steps) == [5, 6]


def test_a_subtree_that_sends_for_itself_again_holds_what_it_says_then(boxes):
    inbox = Inbox(boxes[0], 0, [1])
    parts = (frozenset("ab"), frozenset())
    inbox.add(1, SubtreeParts(optimizer="0", infos=(info("w"), info("v")), parts=parts, held=(0, 1)))
    inbox.add(1, Heard((1, 3)))
    assert inbox.heard == {1, 3}
    assert inbox.senders[1].held["0"].parts == (frozenset("ab"),), "of v no rank holds a part"
    inbox.add(1, joined(None, "w", part="a"))
    assert inbox.senders[1].held["0"].parts == (frozenset("a"),)
    assert inbox.senders[1].held["0"].columns == (1,)


def test_changes_are_counted_when_parts_join_and_ranks_are_heard_first(boxes):
    inbox = Inbox(boxes[0], 0, [1])
    seen = []
    for item in (joined("w"), step(0), step(1), joined("v", first=1), Heard((1,)), Heard((2,))):
        before = inbox.changes
        inbox.add(1, item)
        seen.append(inbox.changes > before)
    assert seen == [True, False, False, True, False, True]


def test_what_is_held_together_is_the_union_by_parameter(boxes):
    inbox = Inbox(boxes[0], 0, [1, 2])
    inbox.add(0, joined("w", part="0"))
    inbox.add(1, joined("v", "w", part="1"))
    inbox.add(2, joined("w", part="1"))
    together = held_together(inbox.senders, "0", inbox.names_of("0"))
    assert together == [frozenset("01"), frozenset("1")]


def test_names_keep_their_position():
    names = Names()
    assert [names.position(info(name)) for name in ("a", "b", "a", "c")] == [0, 1, 0, 2]
    assert [one.name for one in names.infos] == ["a", "b", "c"]


@pytest.mark.parametrize(("ranks", "text"), [([0], "0"), ([3, 1, 2], "1-3"), ([9, 1, 2, 5], "1-2, 5, 9")])
def test_ranks_are_written_as_ranges(ranks, text):
    assert ranks_in(ranks) == text


def marked(*marks, part="", shape=(2,)):
    infos = [ParameterInfo(name=name, shape=shape) for name in "abc"]
    return JoinedParts("0", 0, [ParameterPart(info=i, part=part, mark=m) for i, m in zip(infos, marks, strict=False)])


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (marked(1, 2, 3), None),
        (marked(1, None, 3), None),
        (marked(7, 8, 9, part="1"), None),
        (marked(1, 5, 3), "'b' is another parameter on rank 1 than on rank 0. Parameters"),
        (marked(4, 5, 3), "'a' is another parameter on rank 1 than on rank 0, and so is another. Parameters"),
        (marked(4, 5, 6), "'a' is another parameter on rank 1 than on rank 0, and so are 2 others. Parameters"),
        (marked(None, shape=(3,)), "'a' is another parameter on rank 1 than on rank 0. Parameters"),
    ],
)
def test_parameters_of_one_name_that_are_no_copies_are_named_once(boxes, caplog, second, says):
    inbox = Inbox(boxes[0], 0, [1])
    inbox.add(0, marked(1, 2, 3))
    inbox.add(1, second)
    inbox.add(1, marked(1, 2, 3))
    with caplog.at_level(logging.WARNING, "gradwatch"):
        for number in (0, 1):
            inbox.add(0, step(number))
            inbox.take("0", number)
    assert caplog.text.count("(not-copies)") == (says is not None)
    assert says is None or says in caplog.text


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_same_parameter_and_ranks_are_named_in_whatever_order_the_ranks_join(boxes, caplog, order):
    inbox = Inbox(boxes[0], 0, [1, 2, 3])
    held = [marked(1, 2, None), marked(1, 2, 3), marked(1, 5, 4), marked(7, 6, 4)]
    for rank in order:
        inbox.add(rank, held[rank])
    inbox.add(0, step(0))
    with caplog.at_level(logging.WARNING, "gradwatch"):
        inbox.take("0", 0)
    assert "'a' is another parameter on rank 3 than on rank 0, and so are 2 others. Parameters" in caplog.text
