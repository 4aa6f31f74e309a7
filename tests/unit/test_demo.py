"""The training of the demo: its task, its one thread, and where it stops."""

import pytest
import torch

from gradwatch import Run
from gradwatch.demo import Adder, adding_problem, train


@pytest.mark.parametrize("length", [2, 3, 50])
def test_the_target_is_the_sum_of_the_two_marked_numbers(length):
    sequences, target = adding_problem(64, length, torch.Generator().manual_seed(1))
    numbers, marks = sequences.unbind(-1)
    assert sequences.shape == (64, length, 2)
    assert (marks.sum(1) == 2).all()
    for row in range(64):
        assert target[row] == pytest.approx(float(numbers[row][marks[row] == 1].sum()), abs=1e-6)
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_one_mark_lies_in_each_half():
    marks = adding_problem(64, 50, torch.Generator().manual_seed(1))[0][..., 1]
    assert (marks[:, :25].sum(1) == 1).all()


def test_the_network_gives_a_number_for_each_sequence():
    assert Adder()(torch.zeros(7, 50, 2)).shape == (7,)


def test_a_training_is_recorded_on_one_thread_and_leaves_torch_as_it_was(tmp_path):
    seen = []
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        assert train(tmp_path, steps=5, seed=1, on_step=lambda *_: seen.append(torch.get_num_threads())) == 5
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * 5
    assert torch.equal(torch.get_rng_state(), state)
    assert Run(tmp_path).steps().index.tolist() == list(range(5))


def test_a_seed_gives_the_same_training_clipped_or_not_until_it_clips(tmp_path):
    losses = []
    for name, max_norm in (("a", None), ("b", 1e9)):
        train(tmp_path / name, steps=4, seed=2, max_norm=max_norm)
        losses.append(Run(tmp_path / name).steps()["loss"].tolist())
    assert losses[0] == losses[1]


def test_a_lost_training_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.demo.LEARNING_RATE", 1e30)
    made = train(tmp_path, steps=50)
    assert made < 50
    assert len(Run(tmp_path).steps()) == made
