"""JSON lines, JSON lists, printed text and offline files: what is taken, what is left out, what is refused."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import BadArgument, CannotImport
from gradwatch.sources import json_rows, read, text_log
from gradwatch.sources.rows import read as read_rows

ROWS = [{"step": 10 * n, "loss": 2.0 / n, "grad_norm": 1.0 + n, "lr": 1e-3, "epoch": 0.1} for n in range(1, 6)]


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def values(history):
    return [(point.step, point.norm, point.loss, point.learning_rate) for point in history.points]


EXPECTED = [(row["step"], row["grad_norm"], row["loss"], row["lr"]) for row in ROWS]


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.json"])
def test_lines_and_lists_of_objects_are_read(tmp_path, name):
    text = json.dumps(ROWS) if name == "log.json" else "\n".join(map(json.dumps, ROWS)) + "\n\n"
    history = read([write(tmp_path, name, text)])
    assert values(history) == EXPECTED
    assert history.notes[0].startswith("taken: 'grad_norm' as the gradient norm, 'step' as the step, 'loss'")
    assert "left out: 'epoch'" in history.notes


def test_loss_and_norm_that_were_logged_apart_are_joined(tmp_path):
    parts = [{"step": row["step"], key: row[key]} for row in ROWS for key in ("loss", "grad_norm", "lr")]
    text = "\n".join(json.dumps(part) for part in [*parts, {"step": 60, "loss": 1.0}, {"eval": 1}])
    assert values(read([write(tmp_path, "a.jsonl", text)])) == EXPECTED


def test_nested_objects_have_names_with_slashes_and_columns_can_be_named(tmp_path):
    text = "\n".join(json.dumps({"train": {"g": 1.0 + n, "loss": 0.5}, "s": n}) for n in range(3))
    history = read([write(tmp_path, "a.jsonl", text)], norm="train/g", step="s")
    assert values(history) == [(n, 1.0 + n, 0.5, None) for n in range(3)]
    assert "not found: the learning rate" in history.notes


def test_nan_and_infinity_are_what_they_are(tmp_path):
    text = '{"step": 1, "grad_norm": NaN}\n{"step": 2, "grad_norm": "Infinity"}\n{"step": 3, "grad_norm": null}'
    norms = [point.norm for point in read([write(tmp_path, "a.jsonl", text)]).points]
    assert math.isnan(norms[0])
    assert norms[1:] == [math.inf]


def test_without_steps_rows_are_counted_and_it_is_said():
    history = read_rows([{"grad_norm": 1.0}, {"grad_norm": 2.0}], json_rows.Path("a.jsonl"))
    assert [point.step for point in history.points] == [0, 1]
    assert "there is no column of steps, so the rows are counted" in history.notes


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path):
    text = "\n".join(map(json.dumps, ROWS)) + '\n{"step": 60, "gra'
    assert values(read([write(tmp_path, "a.jsonl", text)])) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", "", "holds no object"),
        ("a.jsonl", "3\n4\n", "holds no object"),
        ("a.jsonl", "{\n{}\n", "line 1"),
        ("a.json", "[1, 2", "can't be read as JSON"),
        ("a.json", "[" * 100_000, "can't be read as JSON"),
        ("a.jsonl", '{"step": 1, "loss": 2}', "no series with the name of a gradient norm"),
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
        read([write(tmp_path, name, text)])


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


# ------------------------------------------------------------------------------------- printed text

LOGS = {
    "llm.c": "step   {step}/19560 | loss {loss:.6f} (+1.25z)| norm {norm:.4f} (-0.3z)| lr {lr:.2e} | 230.1 ms",
    "build-nanogpt": "step {step:5d} | loss: {loss:.6f} | lr {lr:.4e} | norm: {norm:.4f} | dt: 338.9ms | tok/sec: 1547",
    "Megatron-LM": " [2026-01-01 10:00:00] iteration {step:8d}/  500000 | consumed samples: 1024 | elapsed time per"
    " iteration (ms): 901.2 | learning rate: {lr:.6E} | global batch size: 64 | lm loss: {loss:.6E} | loss scale: 1.0 |"
    " grad norm: {norm:.3f} | number of skipped iterations: 0 | number of nan iterations: 0 |",
    "torchtitan": "\x1b[31mstep: {step:2d}  \x1b[32mloss:  {loss:.5f}  \x1b[38;2;180;60;0mgrad_norm: {norm:8.4f}"
    "  \x1b[36mmemory:  0.8GiB",
    "fairseq": '2026-01-01 10:00:00 | INFO | train_inner | {{"epoch": 1, "update": 0.1, "loss": "{loss:.3f}",'
    ' "ppl": "9", "num_updates": "{step}", "lr": "{lr:.6g}", "gnorm": "{norm:.3f}", "clip": "0"}}',
}


@pytest.mark.parametrize("tool", LOGS)
def test_the_lines_of_well_known_tools_are_read(tmp_path, tool):
    lines = [LOGS[tool].format(step=row["step"], loss=row["loss"], norm=row["grad_norm"], lr=row["lr"]) for row in ROWS]
    file = write(tmp_path, "train.log", "starting\n" + "\n\nsomething else: step 3\n".join(lines))
    history = read([file])
    assert history.source == f"train.log by the pattern of {tool}"
    for found, wanted in zip(values(history), EXPECTED, strict=True):
        assert found[:2] == wanted[:2]
        assert found[2] == pytest.approx(wanted[2], abs=1e-3)
        assert found[3] == (None if tool == "torchtitan" else pytest.approx(wanted[3]))


def test_a_pattern_of_ones_own(tmp_path):
    file = write(tmp_path, "x.anything", "it 5: |g|=2.5,\nit 6: |g|=nan\nit 7: |g|=inf;\n")
    history = read([write(tmp_path, "x.txt", file.read_text())], pattern=r"it (?P<step>\d+): \|g\|=(?P<norm>\S+)")
    assert [point.step for point in history.points] == [5, 6, 7]
    assert [history.points[0].norm, history.points[2].norm] == [2.5, math.inf]
    assert math.isnan(history.points[1].norm)


@pytest.mark.parametrize("pattern", ["(", r"(?P<step>\d+)", r"(?P<norm>\S+)(?P<colour>x)", ""])
def test_a_pattern_that_makes_no_sense_is_refused(pattern):
    with pytest.raises(BadArgument, match="--pattern"):
        text_log.compiled(pattern)


def test_a_pattern_that_matches_nothing_is_said(tmp_path):
    with pytest.raises(CannotImport, match="no line that matches --pattern"):
        read([write(tmp_path, "x.log", "a\n")], pattern=r"(?P<norm>\d+)")


def test_an_offline_file_of_wandb_is_read(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    own = wandb.init(project="p", settings=wandb.Settings(silent=True, console="off"), reinit="create_new")
    for row in ROWS:
        own.log({"train/loss": row["loss"], "train/grad_norm": row["grad_norm"], "lr": row["lr"]}, step=row["step"])
    own.finish()
    file = Path(own.settings.sync_file)  # wandb may have read WANDB_DIR before this test
    assert values(read([file])) == EXPECTED
    file.write_bytes(file.read_bytes()[:-40])  # cut off
    assert len(read([file]).points) >= 1


def test_an_import_from_the_command_line_says_what_it_took(tmp_path):
    import subprocess
    import sys

    file = write(tmp_path, "log.jsonl", "\n".join(map(json.dumps, ROWS)))
    command = [sys.executable, "-m", "gradwatch", "import", str(file), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "note: taken: 'grad_norm' as the gradient norm" in done.stdout
    assert Run(tmp_path / "run").steps()["total_norm"].tolist() == [row["grad_norm"] for row in ROWS]
