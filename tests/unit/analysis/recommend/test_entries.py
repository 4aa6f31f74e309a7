"""By value or by norm: spikes of one entry, of all entries, and records that can't tell."""

import dataclasses

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.recommend.entries import value_or_norm
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.testing import replaced, steady, stream, write_run

SPIKES = dict.fromkeys((400, 500, 600), 60.0)


def said(path, norms, share):
    """What is said of a run whose largest entry has this share of each squared norm; None: not recorded."""
    records = []
    for record in stream(norms):
        largest = None if share is None else np.array([record.total_norm * share**0.5, 0.0], np.float32)
        records.append(dataclasses.replace(record, layers=dataclasses.replace(record.layers, abs_max=largest)))
    run = Run(write_run(path, records))
    return value_or_norm(run, "0", optimizer_history(run))


@pytest.mark.parametrize(
    ("norms", "share", "says"),
    [
        pytest.param(replaced(steady(800), SPIKES), 0.99, "one entry carries 99%", id="one entry"),
        pytest.param(replaced(steady(800), SPIKES), 0.1, "by norm, for the steps", id="many entries"),
        pytest.param(replaced(steady(800), SPIKES), None, "lacks the largest entries", id="not recorded"),
        pytest.param(steady(800), 0.99, "no step stood out", id="no spike"),
    ],
)
def test_who_carries_the_spikes_decides(tmp_path, norms, share, says):
    assert says in said(tmp_path, norms, share)
