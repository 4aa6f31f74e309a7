"""What can be read is told from what cannot, whatever the bytes are."""

import contextlib
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import read, write


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.csv", "a.json", "a.parquet", "events.out.tfevents.1"):
        (folder / name).write_bytes(content)
        with contextlib.suppress(CannotImport):
            write(read([folder / name]), folder / f"run-{name}")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(min_value=0) | st.just(math.nan), min_size=1, max_size=50))
def test_any_norms_come_back_as_they_were(tmp_path_factory, norms):
    folder = tmp_path_factory.mktemp("norms")
    pd.DataFrame({"step": range(len(norms)), "grad_norm": norms}).to_csv(folder / "a.csv", index=False, na_rep="nan")
    write(read([folder / "a.csv"]), folder / "run")
    np.testing.assert_array_equal(Run(folder / "run").steps()["total_norm"], norms)


def test_wrong_paths_are_said(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "empty").mkdir()
    for paths, message in (
        ([tmp_path / "nowhere"], "does not exist"),
        ([tmp_path / "notes.md"], "no known kind"),
        ([tmp_path / "empty"], "no event file"),
    ):
        with pytest.raises(CannotImport, match=message):
            read(paths)
