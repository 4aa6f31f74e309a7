"""Ranks tell each other which step they keep, and wait a limited time."""

import math
import threading

import pytest
import torch.distributed as dist
from torch import nn

from gradwatch.recording.capture import team as module
from gradwatch.recording.capture.team import CaptureTeam, Place, copies_of, parallel_kind, shard_of


@pytest.fixture
def teams(monkeypatch):
    """Two ranks that share a store."""
    from gradwatch.distributed import mailbox

    store = dist.HashStore()
    numbers = iter((0, 0))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(mailbox, "_recording_numbers", numbers)
    return [CaptureTeam(rank, 2) for rank in range(2)]


def both(teams, call):
    found = {}
    threads = [threading.Thread(target=lambda one=one: found.update({one.rank: call(one)})) for one in teams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in range(2)]


def test_the_norm_of_parts_is_that_of_the_whole_in_every_rank(teams):
    for step in range(3):
        assert both(teams, lambda one, step=step: one.total(f"0/{step}", 3.0 if one.rank == 0 else 4.0, 1)) == [
            5.0,
            5.0,
        ]


def test_a_part_that_two_ranks_hold_counts_once(teams):
    assert both(teams, lambda one: one.total("0/0", 3.0, 2)) == [3.0, 3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_part_that_is_not_finite_makes_the_whole_so(teams, bad):
    found = both(teams, lambda one: one.total("0/0", bad if one.rank else 1.0, 1))
    assert not any(map(math.isfinite, found))


def test_the_other_ranks_hear_where_a_step_is_kept_or_that_it_is_not(teams):
    teams[0].announce("0/7", Place(folder="/runs/a/captures/step-000007", step=7))
    teams[0].announce("0/9", None)
    assert teams[1].place("0/7") == Place(folder="/runs/a/captures/step-000007", step=7)
    assert teams[1].place("0/9") is None


def test_a_silent_rank_is_waited_for_a_limited_time(teams, monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    assert teams[1].place("0/1") is None
    with pytest.raises(TimeoutError, match="another rank"):
        teams[1].exchange("norm", "0/1", 1.0)


def test_a_model_of_one_process_is_trained_by_none_of_them():
    model = nn.Linear(2, 1)
    assert parallel_kind(model) is None
    assert copies_of([model.weight, None]) == 1
    assert shard_of(model.weight) is None
