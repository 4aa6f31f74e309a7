"""Rows of named values: what is taken, what is left out, what is refused."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import json_rows, read
from gradwatch.sources.rows import read as read_rows

from .support import EXPECTED, ROWS, values, write_text


def test_loss_and_norm_that_were_logged_apart_are_joined(tmp_path):
    parts = [{"step": row["step"], key: row[key]} for row in ROWS for key in ("loss", "grad_norm", "lr")]
    text = "\n".join(json.dumps(part) for part in [*parts, {"step": 60, "loss": 1.0}, {"eval": 1}])
    assert values(read([write_text(tmp_path, "a.jsonl", text)])) == EXPECTED


def test_nan_and_infinity_are_what_they_are(tmp_path):
    text = '{"step": 1, "grad_norm": NaN}\n{"step": 2, "grad_norm": "Infinity"}\n{"step": 3, "grad_norm": null}'
    norms = [point.norm for point in read([write_text(tmp_path, "a.jsonl", text)]).points]
    assert math.isnan(norms[0])
    assert norms[1:] == [math.inf]


@pytest.mark.parametrize(
    ("losses", "rates", "known"),
    [
        pytest.param((2.31542, 1.5), (0.0, 1e-05), (None, 1e-05), id="five decimals of everything, as mmcv rounds"),
        pytest.param((2.31542, 1.5), (0.0, 0), (None, None), id="no rate is above 0"),
        pytest.param((2.315417289733887, 1.5), (0.0, 1e-05), (0.0, 1e-05), id="a loss of all its digits"),
        pytest.param((2.31542, 1.5), (0.0, 3.8167e-08), (0.0, 3.8167e-08), id="rates of more decimals"),
    ],
)
def test_a_rate_of_0_is_not_known_where_all_numbers_are_rounded(tmp_path, losses, rates, known):
    pairs = zip(losses, rates, strict=True)
    rows = [{"iter": n, "loss": loss, "grad_norm": 4.8798, "lr": rate} for n, (loss, rate) in enumerate(pairs)]
    history = read([write_text(tmp_path, "a.log.json", "\n".join(map(json.dumps, rows)))])
    assert tuple(point.learning_rate for point in history.points) == known


@pytest.mark.parametrize(
    ("names", "norm"),
    [
        (["l2_norm/grad/global", "l2_norm/moment/a.weight", "loss/train/total"], "l2_norm/grad/global"),
        (["l2_norm", "loss"], "l2_norm"),
        (["grad_norm", "l2_norm"], "grad_norm"),
    ],
)
def test_an_l2_norm_is_the_gradients_where_nothing_else_is(names, norm):
    rows = [dict.fromkeys(names, 1.0) | {norm: 2.0 + step, "step": step} for step in range(3)]
    history = read_rows(rows, json_rows.Path("a.jsonl"))
    assert [point.norm for point in history.points] == [2.0, 3.0, 4.0]
    assert [point.loss for point in history.points] == [1.0 if "loss" in " ".join(names) else None] * 3


def test_without_steps_rows_are_counted_and_it_is_said():
    history = read_rows([{"grad_norm": 1.0}, {"grad_norm": 2.0}], json_rows.Path("a.jsonl"))
    assert [point.step for point in history.points] == [0, 1]
    assert "there is no column of steps, so the rows are counted" in history.notes


def test_the_steps_of_ms_swift_are_read_though_its_last_row_names_its_step_otherwise(tmp_path):
    rows = [{"loss": 2.0 / n, "grad_norm": 1.0 * n, "global_step/max_steps": f"{10 * n}/30"} for n in (1, 2, 3)]
    text = "\n".join(json.dumps(row) for row in [*rows, {"global_step": 30, "train_runtime": 9.0, "last_loss": 0.7}])
    history = read([write_text(tmp_path, "logging.jsonl", text)])
    assert values(history) == [(10 * n, 1.0 * n, 2.0 / n, None) for n in (1, 2, 3)]


def test_steps_that_begin_anew_in_each_epoch_are_counted_on(tmp_path):
    """As mmcv logs them, in a file that ends in .json and holds lines; a resumed training counts no step twice."""
    rows = [{"env_info": "x"}]
    for epoch in (1, 2, 2):
        rows += [{"mode": "train", "epoch": epoch, "iter": n, "loss": 1.0, "grad_norm": 1.0 * n} for n in (50, 100)]
        rows.append({"mode": "val", "epoch": epoch, "iter": 700, "bbox_mAP": 0.3})
    history = read([write_text(tmp_path, "20260101.log.json", "\n".join(map(json.dumps, rows)))])
    assert [(point.step, point.norm) for point in history.points] == [
        (50, 50.0),
        (100, 100.0),
        (150, 50.0),
        (200, 100.0),
    ]
    assert any(note.startswith("2 steps are there more than once") for note in history.notes)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "3\n4\n", "holds no object"),
        ("a.jsonl", "{\n{}\n", "line 1"),
        ("a.json", "[1, 2", "can't be read as JSON"),
        ("a.json", "[" * 100_000, "can't be read as JSON"),
        ("a.jsonl", '{"step": 1, "lr": 2}', "no series with the name of a gradient norm, a loss or a reward"),
        ("a.jsonl", '{"step": 1, "grad_norm": "high"}', "'high' in row 1 of 'grad_norm'"),
        ("a.jsonl", '{"step": 1, "grad_norm": true}', "'True' in row 1"),
        ("a.jsonl", '{"step": 1.5, "grad_norm": 1}', "as the step of row 1"),
        ("a.jsonl", '{"step": "x", "grad_norm": 1}', "as the step of row 1"),
        ("a.jsonl", '{"step": NaN, "grad_norm": 1}', "as the step of row 1"),
        ("a.log", "nothing here\n", "no line like those of llm.c"),
        ("a.wandb", "nothing here\n", "begins with something else"),
        ("a.xyz", "", "of no known kind"),
    ],
)
def test_what_can_not_be_read_is_one_clear_error(tmp_path, name, text, says):
    if name.endswith(".wandb"):
        pytest.importorskip("wandb")
    with pytest.raises(CannotImport, match=says):
        read([write_text(tmp_path, name, text)])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.json", "a.log"):
            file = json_rows.Path(folder) / name
            file.write_text(text, encoding="utf-8", errors="replace")
            try:
                read([file])
            except CannotImport:
                continue


def test_an_import_from_the_command_line_says_what_it_took(tmp_path, command):
    file = write_text(tmp_path, "log.jsonl", "\n".join(map(json.dumps, ROWS)))
    done = command("import", file, tmp_path / "run")
    assert done.code == 0
    assert "note: taken: 'grad_norm' as the gradient norm" in done.out
    assert Run(tmp_path / "run").steps()["total_norm"].tolist() == [row["grad_norm"] for row in ROWS]
