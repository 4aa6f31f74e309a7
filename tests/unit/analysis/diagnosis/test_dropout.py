"""Dropout explains the scatter of norms that hardly scatter, and no other."""

import numpy as np
import pytest

from gradwatch.testing import stream

from .made import codes, falling, run_of


@pytest.mark.parametrize(
    ("scatter", "dropout", "is_found"),
    [
        pytest.param(0.03, "0.5", True, id="as much as dropout makes"),
        pytest.param(0.3, "0.5", False, id="far more"),
        pytest.param(0.03, "0.1", False, id="little dropout"),
        pytest.param(0.03, None, False, id="none"),
    ],
)
def test_dropout_is_told_where_it_explains_the_scatter(tmp_path, scatter, dropout, is_found):
    norms = np.exp(scatter * np.random.default_rng(0).standard_normal(300)).tolist()
    run = run_of(tmp_path, stream(norms, losses=falling(300)), meta={"dropout": dropout} if dropout else None)
    assert ("dropout-noise" in codes(run)) == is_found
