"""The window of norms against a deque."""

from collections import deque

import numpy as np
import pytest
import torch

from gradwatch.clip.window import empty_window, put_into_window


@pytest.mark.parametrize("length", [1, 3, 10])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_the_window_holds_the_last_norms_that_entered(length, shape):
    generator = np.random.default_rng(0)
    state = empty_window(length, torch.zeros(shape, dtype=torch.float64))
    expected = [deque(maxlen=length) for _ in range(max(1, int(np.prod(shape))))]
    for _ in range(25):
        norms, enters = generator.random(len(expected)), generator.random(len(expected)) < 0.7
        put_into_window(state, torch.tensor(norms.reshape(shape)), torch.tensor(enters.reshape(shape)))
        for kept, norm, does in zip(expected, norms, enters, strict=True):
            if does:
                kept.append(norm)
        columns = state["norms"].numpy().reshape(length, -1).T
        assert [sorted(c[~np.isnan(c)]) for c in columns] == [sorted(kept) for kept in expected]


def test_an_empty_window_holds_nothing():
    state = empty_window(4, torch.tensor(1.0))
    assert torch.isnan(state["norms"]).all()
    assert int(state["count"]) == 0
