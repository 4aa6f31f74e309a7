"""Ranks agree on the table that they add up."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from gradwatch.distributed import JoinedParts, Mailbox, Names, ParameterPart, agree, agreement, mailbox
from gradwatch.errors import BadArgument
from gradwatch.record import ParameterInfo


@pytest.fixture
def boxes(monkeypatch):
    """The mailboxes of three ranks."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    opened = []
    for rank in range(3):
        monkeypatch.setattr(mailbox, "_recording_numbers", itertools.count())
        opened.append(Mailbox(rank))
    yield opened
    dist.destroy_process_group()


def info(name):
    return ParameterInfo(name=name, shape=(4,))


def held(*names_and_parts, optimizer="0"):
    parts = [one and ParameterPart(info=info(one[0]), part=one[1]) for one in names_and_parts]
    return [JoinedParts(optimizer, 0, parts)]


def all_agree(boxes, each, known):
    with ThreadPoolExecutor(len(boxes)) as pool:
        names = [{"0": Names.of(map(info, known))}, *[{} for _ in boxes[1:]]]
        asked = [pool.submit(agree, *one) for one in zip(boxes, [3] * 3, each, names, strict=True)]
        return [one.result() for one in asked]


def test_a_part_is_counted_in_the_first_rank_that_has_it(boxes):
    sharded = [held(("w", f"{rank},-"), ("b", "")) for rank in (0, 1, 0)]
    plans = [one["0"] for one in all_agree(boxes, sharded, ["w", "b"])]
    assert [plan.counted.tolist() for plan in plans] == [[True, True], [True, False], [False, False]]
    assert [plan.compared.tolist() for plan in plans] == [[False, False], [False, True], [False, True]]


def test_parameters_of_all_ranks_and_of_the_run_have_a_position(boxes):
    each = [held(None, ("a", "")), held(("b", "")), held(("c", ""), ("a", ""))]
    plans = [one["0"] for one in all_agree(boxes, each, ["old", "a"])]
    assert [one.name for one in plans[0].infos] == ["old", "a", "b", "c"]
    assert [plan.parameters for plan in plans] == [4, 4, 4]
    assert [plan.positions.tolist() for plan in plans] == [[1], [2], [3, 1]]
    assert [plan.columns.tolist() for plan in plans] == [[1], [0], [0, 1]]
    assert [plan.own_width for plan in plans] == [2, 1, 2]


def test_ranks_with_other_optimizers_are_refused_everywhere(boxes):
    each = [held(("a", "")), held(("a", "")), held(("a", ""), optimizer="generator")]
    with ThreadPoolExecutor(3) as pool:
        names = [{"0": Names.of([info("a")])}, {}, {}]
        asked = [pool.submit(agree, *one) for one in zip(boxes, [3] * 3, each, names, strict=True)]
        for one in asked:
            with pytest.raises(BadArgument, match="rank 2 trains other optimizers than rank 0"):
                one.result()


def test_without_one_rank_none_has_a_plan(boxes, monkeypatch):
    monkeypatch.setattr(agreement, "WITHIN", 0.2)
    with ThreadPoolExecutor(2) as pool:
        names = [{"0": Names.of([info("a")])}, {}]
        asked = [pool.submit(agree, *one) for one in zip(boxes[:2], [3] * 2, [held(("a", ""))] * 2, names, strict=True)]
        assert [one.result() for one in asked] == [None, None]
