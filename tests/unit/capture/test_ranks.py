"""The parts of a capture that several processes wrote are put together, or it is said why not."""

import dataclasses

import pytest
import torch

from gradwatch.capture import Capture, Forward, Group, Shard, delete, list_captures, part_folders, read_all, write
from gradwatch.capture import take_random_state as state
from gradwatch.capture.ranks import joined

WHOLE = torch.arange(10.0).reshape(5, 2)


def part(rank, ranks=2, shards=False, **changed):
    forward = Forward(args=(torch.full((2,), float(rank)),), kwargs={}, random_state=state())
    low, high = (0, 3) if rank == 0 else (3, 5)
    own = WHOLE[low:high] if shards else WHOLE
    known = {
        "run": "r",
        "step": 5,
        "optimizer": "0",
        "why": "spike",
        "groups": (Group(forwards=(forward,)),),
        "weights": {"w": own} if shards or rank == 0 else {},
        "gradients": {"w": own * 2} if shards or rank == 0 else {},
        "shards": {"w": Shard(shape=(5, 2), offset=(low, 0))} if shards else {},
        "rank": rank,
        "ranks": ranks,
        "reduction": "mean",
    }
    return Capture(**(known | changed))


def written(tmp_path, *parts):
    folder = tmp_path / "captures" / "step-000005"
    for one in parts:
        write(one, folder.with_name(folder.name + (f"-rank{one.rank}" if one.rank else "")))
    return folder


@pytest.mark.parametrize("shards", [False, True])
def test_parts_of_all_ranks_become_one(tmp_path, shards):
    found = read_all(written(tmp_path, part(0, shards=shards), part(1, shards=shards)))
    assert torch.equal(found.weights["w"], WHOLE)
    assert torch.equal(found.gradients["w"], WHOLE * 2)
    assert [(group.rank, group.forwards[0].args[0][0].item()) for group in found.groups] == [(0, 0.0), (1, 1.0)]
    assert (found.parts, found.not_kept, found.replayable, found.shards) == ((0, 1), (), True, {})


def test_without_a_copy_the_gradients_of_all_can_not_be_compared(tmp_path):
    found = read_all(written(tmp_path, part(0, ranks=3), part(2, ranks=3)))
    assert (found.parts, found.gradients, found.replayable) == ((0, 2), {}, True)
    assert found.not_kept == ("the capture of rank 1",)


def test_without_a_shard_the_weights_are_not_there(tmp_path):
    found = read_all(written(tmp_path, part(0, shards=True)))
    assert (found.weights, found.replayable) == ({}, False)
    assert "for example of w" in found.not_kept[1]


def test_a_part_that_does_not_fit_is_said(tmp_path):
    folder = written(tmp_path, part(0), part(1))
    size = sum(one.stat().st_size for one in folder.iterdir() if one.suffix == ".safetensors")
    found = read_all(folder, most_bytes=size + 10)
    assert found.parts == (0,)
    assert "does not fit" in found.not_kept[0]


def test_a_part_that_is_damaged_or_of_another_capture_is_said(tmp_path):
    folder = written(tmp_path, part(0), part(1))
    beside = part_folders(folder)[1]
    (beside / "capture.json").write_text("{")
    assert "can't be read" in read_all(folder).not_kept[0]
    delete(folder)
    assert not beside.exists()
    folder = written(tmp_path, part(0), part(1, why="nonfinite"))
    assert read_all(folder).not_kept == ("the capture of rank 1 is of another step",)


@pytest.mark.parametrize("offset", [(0, 0), (4, 0), (3, 1), (9, 9)])
def test_shards_that_do_not_fill_the_whole_are_not_believed(offset):
    other = part(1, shards=True)
    wrong = Capture(**{**vars(other), "shards": {"w": Shard(shape=(5, 2), offset=offset)}})
    found = joined({0: part(0, shards=True), 1: wrong})
    assert not found.replayable
    assert "w" not in found.weights


def test_empty_shards_are_parts_too():
    parts = {
        rank: dataclasses.replace(
            part(rank, 3), weights={"w": own}, gradients={}, shards={"w": Shard(shape=(2,), offset=(at,))}
        )
        for rank, own, at in ((0, torch.ones(1), 0), (1, torch.ones(1), 1), (2, torch.ones(0), 2))
    }
    found = joined(parts)
    assert found.replayable
    assert found.weights["w"].tolist() == [1.0, 1.0]


def test_a_run_lists_a_capture_of_several_ranks_once(tmp_path):
    written(tmp_path, part(0), part(1))
    (info,) = list_captures(tmp_path)
    assert (info.folder.name, info.ranks, info.parts) == ("step-000005", 2, (0, 1))
    assert info.as_dict()["parts"] == (0, 1)
    assert info.bytes == sum(one.stat().st_size for one in (tmp_path / "captures").glob("*/*"))


def test_a_part_without_that_of_rank_0_is_still_listed(tmp_path):
    written(tmp_path, part(1), part(2, ranks=3))
    (info,) = list_captures(tmp_path)
    assert info.folder.name == "step-000005-rank1"
