"""A threshold that clips most steps."""

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
