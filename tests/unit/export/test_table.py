"""A run as one CSV or Parquet file: every number exactly, and no text that a spreadsheet would run."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.errors import BadArgument, CannotExport
from gradwatch.export.dataset_tables import read_tables
from gradwatch.export.scalars import write_scalars
from gradwatch.export.table import without_formulas, write_table
from gradwatch.record import ParameterInfo
from gradwatch.sources import read, write
from gradwatch.testing import replaced, steady, stream, write_run


@pytest.fixture
def run(tmp_path):
    norms = replaced(steady(60), {40: math.nan, 41: math.inf, 42: 0.0, 43: 1e300})
    return Run(write_run(tmp_path / "run", stream(norms)))


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_steps_come_back_as_they_were(run, tmp_path, ending):
    file = tmp_path / f"steps{ending}"
    assert write_table(run, file) == 60
    # By itself, pandas before 3 reads some numbers one unit in the last place off.
    read_csv = partial(pd.read_csv, index_col="step", converters={"total_norm": lambda text: float(text or "nan")})
    back = read_csv(file) if ending == ".csv" else pd.read_parquet(file)
    np.testing.assert_array_equal(back["total_norm"], run.steps()["total_norm"])
    assert back.index.tolist() == list(range(60))


def test_the_layers_come_back_as_they_were(run, tmp_path):
    assert write_table(run, tmp_path / "norm.parquet", "norm") == 60
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "norm.parquet"), run.layers("norm"))


def test_the_events_have_a_row_each_and_no_index(run, tmp_path):
    assert write_table(run, tmp_path / "events.csv", "events") == len(run.events()) > 0
    assert pd.read_csv(tmp_path / "events.csv")["kind"].tolist() == [event.kind for event in run.events()]


def test_a_run_without_events_has_an_empty_table_with_its_columns(tmp_path):
    run = Run(write_run(tmp_path / "run", stream(steady(20))))
    assert write_table(run, tmp_path / "events.csv", "events") == 0
    frame = pd.read_csv(tmp_path / "events.csv")
    assert len(frame) == 0
    assert list(frame)[:3] == ["step", "kind", "severity"]


@pytest.mark.parametrize(
    ("name", "what", "error", "says"),
    [
        ("x.xlsx", "steps", CannotExport, "ends in '.xlsx'"),
        ("x", "steps", CannotExport, "ends in ''"),
        ("nowhere/x.csv", "steps", CannotExport, "can't be written"),
        ("nowhere/x.parquet", "steps", CannotExport, "can't be written"),
        ("x.csv", "mean", BadArgument, "stat is 'mean'"),
    ],
)
def test_what_can_not_be_written_is_said(run, tmp_path, name, what, error, says):
    with pytest.raises(error, match=says):
        write_table(run, tmp_path / name, what)
    assert not (tmp_path / name).exists()


def test_a_name_from_a_stranger_is_no_formula(tmp_path):
    infos = tuple(ParameterInfo(name=name, shape=(2,)) for name in ("=HYPERLINK(1)", "@x", "+1", "-1", "fine"))
    run = Run(write_run(tmp_path / "run", stream(steady(5), parameters=infos, shares=[0.5] * 5)))
    write_table(run, tmp_path / "norm.csv", "norm")
    header = (tmp_path / "norm.csv").read_text().splitlines()[0]
    assert header == "step,'=HYPERLINK(1),'@x,'+1,'-1,fine"


def test_numbers_are_no_formulas():
    frame = pd.DataFrame({"n": [-1.5, math.nan], "text": ["-1.5", None]})
    assert without_formulas(frame)["n"].tolist()[0] == -1.5
    assert without_formulas(frame)["text"][0] == "'-1.5"


def imported(tmp_path, norms):
    rows = "".join(f"{step},{2.0 / step},{norm}\n" for step, norm in enumerate(norms, 1))
    (tmp_path / "log.csv").write_text("step,loss,grad_norm\n" + rows)
    return Run(write(read([tmp_path / "log.csv"]), tmp_path / "imported").run)


@pytest.mark.parametrize("norms", [[1.0, 2.0, 3.0], ["", "", ""]])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_clipping_that_a_history_does_not_tell_is_left_empty(tmp_path, ending, norms):
    file = tmp_path / f"steps{ending}"
    write_table(imported(tmp_path, norms), file)
    back = pd.read_csv(file) if ending == ".csv" else pd.read_parquet(file)
    assert len(back) == 3
    for name in ("clip_coef", "clipped", "cut_fraction", "clipped_fraction"):
        assert back[name].isna().all(), name
    assert back["loss"].tolist() == [2.0, 1.0, 2.0 / 3]


def test_clipping_of_a_recorded_run_is_exported(run, tmp_path):
    write_table(run, tmp_path / "steps.csv")
    back = pd.read_csv(tmp_path / "steps.csv")
    np.testing.assert_array_equal(back["clip_coef"], run.steps()["clip_coef"])
    assert back["clipped"].tolist() == run.steps()["clipped"].tolist()


def test_a_data_set_and_event_files_leave_it_out_as_well(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    imported_run = imported(tmp_path, [1.0, 2.0, 3.0])
    (steps,) = [read_tables(imported_run, "a").short["steps"].to_pandas()]
    assert steps["clip_coef"].isna().all()
    assert steps["clipped"].isna().all()
    write_scalars(imported_run, tmp_path / "events")
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    tags = {tag.removeprefix("gradwatch/") for tag in found.Tags()["scalars"]}
    assert tags == {"total_norm", "total_norm_max", "nonfinite", "loss"}
