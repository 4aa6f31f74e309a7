"""The sink of the other ranks: every step arrives at rank 0, in order, in letters that it can read."""

import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gradwatch.distributed import JoinedParts, LocalStep, Mailbox, ParameterPart, gather
from gradwatch.distributed import mailbox as module
from gradwatch.distributed.messages import Ended, HandedOver, SubtreeStep, pack, unpack
from gradwatch.measure import measure
from gradwatch.record import ParameterInfo
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.rank_sender import RankSender


@pytest.fixture
def mailboxes(monkeypatch):
    """That of rank 0, and that of rank 1, which sends."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    opened = []
    for rank in (0, 1):
        monkeypatch.setattr(module, "_recording_numbers", itertools.count())
        opened.append(Mailbox(rank))
    yield opened
    dist.destroy_process_group()


class Source:
    """The steps of one optimizer with one parameter."""

    name, first_step, present = "0", 10, (True,)


def pending(step, norm):
    return PendingStep(step=step, measured=measure([torch.tensor([norm])], ("norm", "nonfinite")))


def received(mailbox):
    """All items that have come from rank 1."""
    return [item for letter in letters(mailbox) for item in unpack(letter)]


def letters(mailbox):
    found = []
    while (letter := mailbox.receive(1)) is not None:
        found.append(letter)
    return found


def test_every_step_arrives_in_order_with_its_number(mailboxes):
    receiver, mailbox = mailboxes
    sender = RankSender(mailbox, {"0": 10}, capacity=100)
    source = Source()
    for step in range(10, 15):
        sender.put(pending(step, float(step)), source)
    assert sender.flush()
    steps = received(receiver)
    assert all(isinstance(item, LocalStep) for item in steps)
    assert [item.number for item in steps] == [0, 1, 2, 3, 4]
    assert [item.norm for item in steps] == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert [item.table[0].tolist() for item in steps] == [[float(step)] for step in range(10, 15)]
    assert sender.close("closed")
    assert [type(item) for item in received(receiver)] == [Ended]


def test_a_norm_that_is_not_finite_arrives_as_it_is(mailboxes):
    receiver, mailbox = mailboxes
    sender = RankSender(mailbox, {}, capacity=100)
    sender.put(pending(10, float("nan")), Source())
    sender.close("closed")
    step, end = received(receiver)
    assert np.isnan(step.norm)
    assert step.nonfinite == 1
    assert isinstance(end, Ended)


def test_it_begins_where_rank_0_says(mailboxes):
    receiver, mailbox = mailboxes
    sender = RankSender(mailbox, {"0": 10}, capacity=100)
    receiver.announce("first/1", 7)
    assert sender.begin("0", "SGD", {}).step == 10
    assert sender.begin("1", "SGD", {}).step == 7
    sender.close("closed")


def test_when_rank_0_has_closed_nothing_more_is_sent(mailboxes):
    receiver, mailbox = mailboxes
    receiver.announce("closed", True)
    sender = RankSender(mailbox, {}, capacity=100)
    sender.put(pending(10, 1.0), Source())
    assert sender.flush()
    assert sender.close("closed")
    assert received(receiver) == []


def test_what_is_of_rank_0_is_no_matter_here(mailboxes):
    _, mailbox = mailboxes
    sender = RankSender(mailbox, {}, capacity=100)
    sender.note({"model": "Net"})
    sender.dismiss("0")
    assert (sender.fault, sender.dropped, list(sender.events)) == (None, 0, [])
    assert sender.close("closed")


@pytest.fixture
def tree_of_boxes(monkeypatch):
    """The mailboxes of ranks 0 to 3, where rank 2 sends for rank 3."""
    monkeypatch.setattr(gather, "LAST_PATIENCE", 0.3)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    opened = []
    for rank in range(4):
        monkeypatch.setattr(module, "_recording_numbers", itertools.count())
        opened.append(Mailbox(rank))
    opened[0].announce("tree", {"world_size": 4, "node": 2, "width": 2})
    yield opened
    dist.destroy_process_group()


def of_rank_2(mailbox):
    found = []
    while (letter := mailbox.receive(2)) is not None:
        found += unpack(letter)
    return found


def other_step(norm):
    return LocalStep(
        optimizer="0", number=0, stats=("norm", "nonfinite"), table=np.array([[norm], [0.0]], np.float32), norm=norm
    )


def joined(part):
    return JoinedParts("0", 0, [ParameterPart(info=ParameterInfo(name="w", shape=(2,)), part=part)])


class Joining(Source):
    parts = (ParameterPart(info=ParameterInfo(name="w", shape=(2,)), part="2"),)


def test_a_rank_that_others_send_to_makes_one_step_of_theirs_and_its_own(tree_of_boxes):
    sender = RankSender(tree_of_boxes[2], {"0": 10}, capacity=100)
    sender.join(Joining(), 0)
    sender.put(pending(10, 3.0), Joining())
    tree_of_boxes[3].send(pack([joined("3"), other_step(4.0), Ended()]))
    assert sender.close("closed")
    parts, heard, step, end = of_rank_2(tree_of_boxes[0])
    assert parts.parts == (frozenset("23"),)
    assert heard.ranks == (2, 3)
    assert isinstance(step, SubtreeStep)
    assert step.table[0].tolist() == [5.0]
    assert step.ranks[0].tolist() == [3.0, 4.0]
    assert isinstance(end, Ended)


def test_a_rank_that_ends_hands_over_the_ranks_that_go_on(tree_of_boxes):
    sender = RankSender(tree_of_boxes[2], {"0": 10}, capacity=100)
    sender.join(Joining(), 0)
    tree_of_boxes[3].send(pack([joined("3")]))
    assert sender.close("closed")
    handed_over, own, end = of_rank_2(tree_of_boxes[0])
    assert isinstance(handed_over, HandedOver)
    assert (handed_over.rank, handed_over.read) == (3, 1)
    assert handed_over.items == (JoinedParts("0", 0, list(joined("3").parts)),)
    assert isinstance(own, JoinedParts)
    assert isinstance(end, Ended)


def test_after_rank_0_says_so_every_rank_sends_for_itself(tree_of_boxes):
    sender = RankSender(tree_of_boxes[2], {"0": 10}, capacity=100)
    sender.join(Joining(), 0)
    tree_of_boxes[0].announce("flat", True)
    assert sender.flush()
    sender.put(pending(10, 3.0), Joining())
    assert sender.close("closed")
    assert [type(item) for item in of_rank_2(tree_of_boxes[0])] == [HandedOver, JoinedParts, LocalStep, Ended]


def test_no_rank_is_waited_for_once_rank_0_reads_no_more(tree_of_boxes, monkeypatch):
    monkeypatch.setattr(gather, "LAST_PATIENCE", 3600.0)
    sender = RankSender(tree_of_boxes[2], {"0": 10}, capacity=100)
    tree_of_boxes[0].announce("closed", True)
    assert sender.close("closed")
