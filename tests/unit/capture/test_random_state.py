"""The states of random numbers, taken and set again: what is drawn after is the same."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from gradwatch.capture.random_state import set_random_state, take_random_state


@pytest.fixture(autouse=True)
def as_before():
    """Other tests draw what they would have drawn."""
    state = take_random_state()
    yield
    set_random_state(state)


def drawn():
    return random.random(), np.random.rand(3).tolist(), np.random.randn(), torch.rand(3).tolist(), torch.randn(1).item()


def test_what_is_drawn_after_is_drawn_again():
    state = take_random_state()
    first = drawn()
    assert drawn() != first
    set_random_state(state)
    assert drawn() == first


def test_taking_and_setting_draws_nothing():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = drawn()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    set_random_state(take_random_state())
    assert drawn() == expected


def test_the_second_of_two_normal_numbers_is_kept():
    """Python and numpy make them in pairs."""
    random.gauss(0, 1), np.random.randn()
    state = take_random_state()
    expected = random.gauss(0, 1), np.random.randn()
    set_random_state(state)
    assert (random.gauss(0, 1), np.random.randn()) == expected


def test_without_numpy_its_state_stays_as_it_is():
    state = dataclasses.replace(take_random_state(), numpy=None)
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    set_random_state(state)
    assert np.random.rand() == expected


@pytest.mark.parametrize("device", ["cuda:99", "nonsense:0"])
def test_devices_that_this_machine_lacks_are_passed_over(device):
    state = take_random_state()
    if device.startswith("nonsense"):
        assert state.devices == {}
        return
    set_random_state(dataclasses.replace(state, devices={device: torch.zeros(16, dtype=torch.uint8)}))
