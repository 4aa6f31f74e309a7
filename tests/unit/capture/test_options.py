"""Which options of captures are refused."""

import dataclasses
import math

import pytest

from gradwatch.capture import CaptureOptions
from gradwatch.capture.record import WHYS
from gradwatch.errors import BadArgument


@pytest.mark.parametrize(
    "wrong",
    [
        {"on": ()},
        {"on": "spike"},  # a text is a sequence too
        {"on": ("drift",)},
        {"on": ("spike", "drift")},
        {"most": 0},
        {"most": -1},
        {"max_bytes": 0},
        {"max_held_bytes": 0},
        {"max_held_bytes": -(2**70)},
        {"min_free_bytes": -1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadArgument) as found:
        CaptureOptions(**wrong)
    assert repr(next(iter(wrong.values()))) in str(found.value)


@pytest.mark.parametrize(
    "right",
    [
        {"on": ("spike",)},
        {"on": WHYS[::-1]},
        {"most": 1},
        {"max_bytes": 1, "max_held_bytes": 1, "min_free_bytes": 0},
        {"max_bytes": 2**70},
        {"max_bytes": math.inf},
    ],
)
def test_the_bounds_themselves_and_huge_ones_are_taken(right):
    options = CaptureOptions(**right)
    assert {name: getattr(options, name) for name in right} == right


def test_the_defaults_keep_three_of_each_kind_with_their_weights_and_do_not_change():
    options = CaptureOptions()
    assert (options.on, options.most, options.weights) == (WHYS, 3, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.most = 5
