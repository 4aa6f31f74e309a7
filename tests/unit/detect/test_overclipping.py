"""A threshold that clips most steps."""

from dataclasses import replace

import pytest

from gradwatch.detect import OverClipping, traits_of
from gradwatch.testing import steady, stream

from .streams import found


@pytest.mark.parametrize(
    ("optimizer", "max_norm", "expected"),
    [
        pytest.param("SGD", 0.1, "warning", id="SGD slowed tenfold"),
        pytest.param("SGD", 0.99, "info", id="SGD clipped lightly at half of the steps"),
        pytest.param("AdamW", 0.1, "info", id="Adam is normalised"),
        pytest.param("SGD", 10.0, None, id="a guard that never acts"),
    ],
)
def test_overclipping(optimizer, max_norm, expected):
    events = found(OverClipping(traits_of(optimizer).update_rule), stream(steady(400, seed=2), max_norm=max_norm))
    assert [severity for _, _, severity in events] == ([] if expected is None else [expected])


def test_clipping_by_value_is_told_without_a_factor_that_it_does_not_have():
    records = [replace(record, clip_value=0.5, cut_entries=3) for record in stream(steady(400, seed=2))]
    detector = OverClipping(traits_of("SGD").update_rule)
    (event,) = [event for record in records for event in detector.update(record)]
    assert event.message == "100% of the last 300 steps were clipped by value"
