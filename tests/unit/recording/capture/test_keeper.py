"""A bad step is written if it may be, and the other ranks hear of it in any case."""

import logging
import math

import pytest
import torch

from gradwatch.capture import CaptureOptions, list_captures, part_folders
from gradwatch.recording.capture.judging import Judged
from gradwatch.recording.capture.keeper import Keeper

from .support import Heard


class Told:
    """A rank of two, and what rank 0 has announced."""

    def __init__(self, rank, said):
        self.rank, self.ranks, self.said = rank, 2, said

    def announce(self, moment, place):
        self.said[moment] = place

    def place(self, moment):
        return self.said.get(moment)


def heard():
    made = Heard()
    made.backward(made.model(torch.ones(3, 2)).sum())
    made.ledger.parallel = "ddp"
    return made


def keep(keeper, one, why="nonfinite"):
    judged = Judged(why=why, total_norm=math.nan, limit=None)
    keeper.keep(one.ledger, [parameter.grad for parameter in one.model.parameters()], judged)


OPTIONS = CaptureOptions(min_free_bytes=0)


def test_the_last_place_is_for_a_step_that_is_not_finite(tmp_path):
    keeper = Keeper(tmp_path, CaptureOptions(min_free_bytes=0, most=2), None)
    for why in ("spike", "spike", "nonfinite", "nonfinite"):
        keep(keeper, heard(), why)
    assert sorted(info.why for info in list_captures(tmp_path)) == ["nonfinite", "spike"]


def test_other_ranks_write_beside_rank_0_under_its_number(tmp_path, monkeypatch):
    from gradwatch.recording.capture import keeping

    said, one, other = {}, heard(), heard()
    other.tracker.step = 40  # of a run that rank 0 has resumed
    monkeypatch.setattr(keeping, "rank_and_world_size", lambda: (0, 2))
    keep(Keeper(tmp_path, OPTIONS, Told(0, said)), one)
    monkeypatch.setattr(keeping, "rank_and_world_size", lambda: (1, 2))
    keep(Keeper(tmp_path / "elsewhere", OPTIONS, Told(1, said)), other)
    (info,) = list_captures(tmp_path)
    assert (info.step, info.parts) == (0, (0, 1))
    assert [path.name for path in part_folders(info.folder).values()] == ["step-000000", "step-000000-rank1"]


@pytest.mark.parametrize(
    "options", [CaptureOptions(max_bytes=1, min_free_bytes=0), CaptureOptions(min_free_bytes=2**62)]
)
def test_other_ranks_hear_that_there_is_no_room_and_one_line_says_so(tmp_path, options, caplog):
    said = {}
    with caplog.at_level(logging.WARNING, "gradwatch"):
        keep(Keeper(tmp_path, options, Told(0, said)), heard())
        keep(Keeper(tmp_path, options, Told(1, said)), heard())
    assert list(said.values()) == [None]
    assert [record.getMessage().count("not-captured") for record in caplog.records] == [1]
    assert list_captures(tmp_path) == []


def test_a_run_that_is_gone_is_not_made_again(tmp_path, caplog):
    keep(Keeper(tmp_path / "run", OPTIONS, None), heard())
    assert not (tmp_path / "run").exists()
    assert "is not there any more (not-captured)" in caplog.text


def test_a_full_disk_ends_one_capture_and_no_more(tmp_path, monkeypatch, caplog):
    import safetensors
    from safetensors import torch as tensors

    def full(*_):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device")

    keeper = Keeper(tmp_path, OPTIONS, None)
    with monkeypatch.context() as patched:
        patched.setattr(tensors, "save_file", full)
        keep(keeper, heard())
    assert "No space left on device" in caplog.text
    assert list((tmp_path / "captures").iterdir()) == []
    keep(keeper, heard())
    assert len(list_captures(tmp_path)) == 1


def test_an_optimizer_that_is_called_like_a_rank_is_not_one(tmp_path):
    keeper = Keeper(tmp_path, OPTIONS, None)
    for name in ("0", "rank1"):
        one = heard()
        one.tracker.name = name
        keep(keeper, one)
    assert [info.optimizer for info in list_captures(tmp_path)] == ["0", "rank1"]
