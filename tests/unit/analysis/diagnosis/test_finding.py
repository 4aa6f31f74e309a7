"""A finding as it is told to people and to programs."""

import json

import numpy as np

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.diagnosis.finding import FINDING_KEYS, Quantity


def test_a_finding_as_json():
    finding = Finding(
        code="spike",
        severity="info",
        certainty="shown",
        what="w",
        steps=(3, 4),
        evidence={"largest_norm": Quantity(np.float64(2.5), "norm")},
        cause="c",
        remedy="r",
        confirm="f",
    )
    made = finding.as_dict()
    assert list(made) == FINDING_KEYS
    assert made["steps"] == [3, 4]
    assert made["evidence"] == {"largest_norm": {"value": 2.5, "unit": "norm"}}
    assert type(made["evidence"]["largest_norm"]["value"]) is float
    assert json.loads(json.dumps(made)) == made
