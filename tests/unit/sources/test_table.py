"""Tables with a column of norms become runs or a clear error."""

import math

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import read, table, write

from .support import NORMS, assert_norms, imported, write_text


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_with_a_step_and_a_norm(tmp_path, ending):
    frame = pd.DataFrame({"step": range(500), "Grad-Norm": NORMS, "loss": 0.5, "lr": 0.01})
    file = tmp_path / f"history.{ending}"
    if ending == "csv":
        frame.to_csv(file, index=False, na_rep="NaN")
    else:
        parquet.write_table(pa.table({name: frame[name].tolist() for name in frame}), file)
    steps = assert_norms(imported([file], tmp_path))
    assert (steps["loss"] == 0.5).all()
    assert (steps["learning_rate"] == 0.01).all()


def test_a_gap_in_parquet_is_no_nan(tmp_path):
    """pandas writes both as an empty cell, so that neither a NaN nor a number may be made of it."""
    norms = [1.0, None, 3.0, math.nan]
    parquet.write_table(pa.table({"step": [0, 1, 2, 3], "grad_norm": norms, "loss": [0.5] * 4}), tmp_path / "a.parquet")
    history = read([tmp_path / "a.parquet"])
    assert [point.step for point in history.points] == [0, 2, 3]
    assert math.isnan(history.points[-1].norm)
    assert "1 row without a norm left out" in history.notes
    pd.DataFrame({"step": range(4), "grad_norm": norms}).to_parquet(tmp_path / "b.parquet")
    history = read([tmp_path / "b.parquet"])
    assert [point.step for point in history.points] == [0, 2]
    (note,) = [note for note in history.notes if "left out" in note]
    assert note == (
        "2 rows without a norm left out; pandas writes NaN to Parquet as an empty cell, so a NaN may be among them"
    )


def test_a_step_that_pandas_keeps_as_the_index_is_found(tmp_path):
    frame = pd.DataFrame({"grad_norm": [1.0, 2.0]}, index=pd.Index([10, 20], name="step"))
    frame.to_parquet(tmp_path / "a.parquet")
    assert [point.step for point in read([tmp_path / "a.parquet"]).points] == [10, 20]


def test_what_weights_and_biases_exports(tmp_path):
    """Empty cells where a series was not logged, and a column each for the least and the largest."""
    lines = [
        ",".join(f'"{name}"' for name in ("Step", *(f"owl-7 - train/grad_norm{end}" for end in ("", "__MIN", "__MAX"))))
    ]
    lines += [f'"{step}","{1 + step}","1","9"' if step % 5 == 0 else f'"{step}","","",""' for step in range(100)]
    (tmp_path / "wandb.csv").write_text("\n".join(lines))
    steps = imported([tmp_path / "wandb.csv"], tmp_path).steps()
    assert steps.index.tolist() == list(range(0, 100, 5))
    assert steps["total_norm"].tolist() == [1.0 + step for step in range(0, 100, 5)]


def test_of_several_runs_in_one_table_one_is_named(tmp_path):
    pd.DataFrame({"Step": range(9), "a - grad_norm": 1.0, "b - grad_norm": 2.0}).to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(CannotImport, match="several series"):
        read([tmp_path / "w.csv"])
    norms = imported([tmp_path / "w.csv"], tmp_path, norm="b - grad_norm").steps()["total_norm"]
    assert (norms == 2.0).all()


def test_without_a_column_of_steps_rows_are_counted_and_it_is_said(tmp_path):
    pd.DataFrame({"total_norm": NORMS}).to_csv(tmp_path / "n.csv", index=False, na_rep="nan")
    history = read([tmp_path / "n.csv"])
    assert "rows are counted" in history.notes[1]
    write(history, tmp_path / "run")
    assert_norms(Run(tmp_path / "run"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step,grad_norm\n",
        "step,grad_norm\n1,large\n",
        "step,grad_norm\n0.5,1\n",
        "step,grad_norm\n-1,1\n",
        "step,grad_norm\n,1\n",
        "step,grad_norm\nnan,1\n",
        "a,b\n1,2\n",
        '"\n',
        "step,grad_norm\n1e19,2\n",
        "step,grad_norm\n9007199254740994,2\n",
        "step,grad_norm\ninf,2\n",
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(CannotImport):
        write(read([tmp_path / "a.csv"]), tmp_path / "run")
    assert not (tmp_path / "run" / "gradwatch.db").exists()


def test_whole_numbers_too_large_for_a_float_are_refused(tmp_path):
    pd.DataFrame({"grad_norm": [10**400]}, dtype=object).to_csv(tmp_path / "a.csv", index=False)
    # As text it is infinity, which is what it overflows to.
    assert imported([tmp_path / "a.csv"], tmp_path).steps()["total_norm"].tolist() == [math.inf]


@pytest.mark.parametrize(("loss", "known"), [("2.31542", None), ("2.315417289733887", 0.0)])
def test_a_rate_of_0_is_not_known_where_all_numbers_are_rounded(tmp_path, loss, known):
    file = tmp_path / "a.csv"
    file.write_text(f"step,loss,grad_norm,lr\n1,{loss},4.8798,0.0\n2,1.5,3.1,1e-05\n")
    assert [point.learning_rate for point in read([file]).points] == [known, 1e-5]


def test_a_reward_in_a_row_of_its_own_counts_for_the_next_norm(tmp_path):
    text = "step,grad_norm,reward\n1,1.0,\n2,,0.5\n3,2.0,\n4,3.0,\n"
    history = read([write_text(tmp_path, "a.csv", text)])
    assert [(point.step, point.reward) for point in history.points] == [(1, None), (3, 0.5), (4, None)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "step\tloss\tgrad_norm\n0\t2.5\t1.25\n1\t2.25\t1.5\n"),
        ("tabs.csv", "step\tloss\tgrad_norm\n0\t2.5\t1.25\n1\t2.25\t1.5\n"),
        ("semicolons.csv", "step;loss;grad_norm\n0;2,5;1,25\n1;2,25;1,5\n"),
    ],
)
def test_columns_that_are_parted_by_something_else(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    steps = imported([tmp_path / name], tmp_path).steps()
    assert steps["total_norm"].tolist() == [1.25, 1.5]
    assert steps["loss"].tolist() == [2.5, 2.25]


def test_names_with_spaces_around_them_are_found(tmp_path):
    history = read([write_text(tmp_path, "a.csv", "step, grad_norm , loss\n0, 1.5, 2.0\n1, 0.5, 1.0\n")])
    assert [(point.step, point.norm, point.loss) for point in history.points] == [(0, 1.5, 2.0), (1, 0.5, 1.0)]


def test_names_that_a_resumed_training_wrote_again_and_nuls_are_no_rows(tmp_path):
    text = "step,grad_norm,loss\n0,1.5,2.0\nstep,grad_norm,loss\n1,0.5,1.0\n" + "\0" * 40
    history = read([write_text(tmp_path, "a.csv", text)])
    assert [(point.step, point.norm, point.loss) for point in history.points] == [(0, 1.5, 2.0), (1, 0.5, 1.0)]


def test_words_for_no_value_are_empty_cells_and_nan_is_a_value(tmp_path):
    cells = ["None", "null", "NA", "n/a", "#N/A", "-", "", "nan", "NaN", "-inf"]
    text = "step,grad_norm,loss\n" + "".join(f"{step},1.0,{cell}\n" for step, cell in enumerate(cells))
    losses = [point.loss for point in read([write_text(tmp_path, "a.csv", text)]).points]
    assert losses[:7] == [None] * 7
    assert all(map(math.isnan, losses[7:9]))
    assert losses[9] == -math.inf


def test_a_column_of_numbers_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("step,grad_norm,loss,reward,lr\n1,1.0,2.0,,0.1\n2,1.5,1.0,,0.1\n")
    read_columns = []
    as_before = table._numbers

    def counting(found, name, file, **options):
        read_columns.append(name)
        return as_before(found, name, file, **options)

    monkeypatch.setattr(table, "_numbers", counting)
    history = read([tmp_path / "a.csv"])
    assert sorted(read_columns) == ["grad_norm", "loss", "lr", "reward", "step"]
    assert [(point.norm, point.loss) for point in history.points] == [(1.0, 2.0), (1.5, 1.0)]
