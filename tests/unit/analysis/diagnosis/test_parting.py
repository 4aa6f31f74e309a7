"""Where to look for why two runs part."""

from typing import get_args

from gradwatch.analysis.diagnosis.parting import WHERE_TO_LOOK
from gradwatch.analysis.differences import Source


def test_each_kind_of_difference_has_its_own_place_to_look():
    assert set(WHERE_TO_LOOK) == set(get_args(Source))
    assert len(set(WHERE_TO_LOOK.values())) == len(WHERE_TO_LOOK)
