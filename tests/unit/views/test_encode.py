"""JSON with strings for the numbers that it lacks, read by Python's own parser."""

import json
import math
from collections import OrderedDict
from types import MappingProxyType

import pytest

from gradwatch.views.encode import dumps


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (0.1, 0.1),
        (5e-324, 5e-324),
        (2**70, 2**70),
        (None, None),
        (True, True),
        ("NaN", "NaN"),
        ("é\ud83d", "é\ud83d"),
        ([], []),
        ({}, {}),
        ((1, (math.nan,)), [1, ["NaN"]]),
        (MappingProxyType({"a": OrderedDict(b=[math.inf])}), {"a": {"b": ["Infinity"]}}),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_written_is_read_again(value, expected, indent):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(dumps(value, indent), parse_constant=refuse) == expected


def test_what_json_has_no_form_for_is_refused():
    with pytest.raises(TypeError, match="not JSON serializable"):
        dumps({"x": object()})


def test_what_was_given_stays_as_it_was():
    value = {"x": [math.nan]}
    dumps(value)
    assert math.isnan(value["x"][0])
