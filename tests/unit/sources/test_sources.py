"""What can be read is told from what cannot, whatever the bytes are."""

import bz2
import contextlib
import gzip
import json
import lzma
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import BadArgument, CannotImport
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


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.log"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_windows_writes_in_several_encodings(tmp_path, name, encoding):
    rows = [{"step": i, "loss": 2.0 - i / 64, "grad_norm": 1.0 + i / 64} for i in range(20)]
    text = {
        "a.csv": "step,loss,grad_norm\n" + "".join(f"{r['step']},{r['loss']},{r['grad_norm']}\n" for r in rows),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "a.json": json.dumps(rows),
        "a.log": "".join(f"step: {r['step']} loss: {r['loss']} grad_norm: {r['grad_norm']}\n" for r in rows),
    }[name]
    text = "\ufeff" + text if encoding == "utf-16-be" else text  # Python adds the mark to the others
    (tmp_path / name).write_text(text, encoding=encoding)
    write(read([tmp_path / name]), tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    assert steps["total_norm"].tolist() == [row["grad_norm"] for row in rows]
    assert steps["loss"].tolist() == [row["loss"] for row in rows]


def test_a_compressed_file_is_to_be_unpacked(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"")
    with pytest.raises(CannotImport, match="compressed; unpack it first"):
        read([tmp_path / "a.csv.gz"])


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


# ------------------------------------------------------------------------------------ --layers


LAYER_ROWS = [{"step": step, "gradients/fc.weight": 3.0 * step, "gradients/fc.bias": 4.0 * step} for step in range(6)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_norms_of_layers_are_taken_by_the_beginning_of_their_names(tmp_path, suffix):
    file = tmp_path / f"log{suffix}"
    if suffix == ".csv":
        pd.DataFrame(LAYER_ROWS).to_csv(file, index=False)
    else:
        rows = [json.dumps(row) for row in LAYER_ROWS]
        file.write_text("\n".join(rows) if suffix == ".jsonl" else f"[{', '.join(rows)}]")
    with pytest.raises(CannotImport, match="Name one with --norm"):
        read([file])
    history = read([file], layers="gradients/")
    assert history.layers == ("fc.weight", "fc.bias")
    assert [point.norm for point in history.points] == [5.0 * step for step in range(6)]
    layers = Run(write(history, tmp_path / "run").run).layers("norm")
    assert list(layers["fc.bias"]) == [4.0 * step for step in range(6)]


def test_layers_of_a_format_that_has_none_are_refused(tmp_path):
    (tmp_path / "a.log").write_text("it 1: norm 2.0\n")
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(BadArgument, match="--layers"):
        read([tmp_path / "a.log"], pattern=r"it (?P<step>\d+): norm (?P<norm>\S+)", layers="x")
    with pytest.raises(BadArgument, match="--layers"):
        read([tmp_path / "trainer_state.json"], layers="x")


def test_every_table_says_what_was_taken_and_left_out(tmp_path):
    pd.DataFrame({"step": [0, 1], "grad_norm": [1.0, 2.0], "accuracy": [0.1, 0.2]}).to_csv(tmp_path / "a.csv")
    notes = read([tmp_path / "a.csv"]).notes
    assert notes[0].startswith("taken: 'grad_norm' as the gradient norm, 'step' as the step; --norm,")
    assert notes[1] == "not found: the loss, the learning rate"
    assert notes[2].endswith("'accuracy'")


# ------------------------------------------------------------------------------------ what is no history


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.log", "a.wandb", "events.out.tfevents.1"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CannotImport, match="no regular file"):
        read([tmp_path / name])


@pytest.mark.parametrize("text", ["step,grad_norm\n1,1,3\n2\n", "step,grad_norm\n1,1,3\n2,2,4\n"])
def test_a_row_longer_than_the_head_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(CannotImport, match="longer than its first line"):
        read([tmp_path / "a.csv"])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_steps_that_repeat_or_go_back_are_sorted_and_said(tmp_path, suffix):
    pairs = [(2, 1.0), (2, 3.0), (1, 2.0), (7, 0.5)]
    if suffix == ".csv":
        text = "step,grad_norm\n" + "".join(f"{step},{norm}\n" for step, norm in pairs)
    else:
        text = "".join(json.dumps({"step": step, "grad_norm": norm}) + "\n" for step, norm in pairs)
    (tmp_path / f"a{suffix}").write_text(text)
    made = write(read([tmp_path / f"a{suffix}"]), tmp_path / "run")
    assert dict(Run(made.run).steps()["total_norm"]) == {1: 2.0, 2: 3.0, 7: 0.5}
    assert sum("1 step is there more than once" in note for note in made.notes) == 1


CSV = "step,loss,grad_norm\n" + "".join(f"{n},{2.0 / (n + 1)},1.5\n" for n in range(50))
JSON_LINES = "".join(f'{{"step": {n}, "loss": {2.0 / (n + 1)}, "grad_norm": 1.5}}\n' for n in range(50))
PRINTED = "".join(f"step {n} loss: {2.0 / (n + 1):.4f} grad_norm: 1.5\n" for n in range(50))
FORMS = {"a.csv": CSV, "a.jsonl": JSON_LINES, "a.log": PRINTED}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param(lambda text: b"", "is empty", id="empty"),
        pytest.param(lambda text: b" \r\n\n", "is empty", id="blank"),
        pytest.param(lambda text: gzip.compress(text.encode()), "is compressed, whatever its name says", id="gzip"),
        pytest.param(lambda text: bz2.compress(text.encode()), "is compressed, whatever its name says", id="bzip2"),
        pytest.param(lambda text: lzma.compress(text.encode()), "is compressed, whatever its name says", id="xz"),
        pytest.param(lambda text: text.encode("utf-16-le"), "is in UTF-32, or in UTF-16 without", id="UTF-16, little"),
        pytest.param(lambda text: text.encode("utf-16-be"), "is in UTF-32, or in UTF-16 without", id="UTF-16, big"),
        pytest.param(lambda text: text.encode("utf-32"), "is in UTF-32, or in UTF-16 without", id="UTF-32"),
        pytest.param(lambda text: text.encode("utf-32-le"), "is in UTF-32, or in UTF-16 without", id="UTF-32, little"),
    ],
)
def test_what_is_no_text_is_said_in_plain_words(tmp_path, name, change, match):
    (tmp_path / name).write_bytes(change(FORMS[name]))
    with pytest.raises(CannotImport, match=match):
        read([tmp_path / name])


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.encode("utf-8-sig"), id="a mark"),
        pytest.param(lambda text: text.encode("utf-16"), id="UTF-16 with its mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="ends of Windows"),
        pytest.param(lambda text: text.encode() + b"\0" * 5000, id="padding"),
    ],
)
def test_other_text_is_read_whole(tmp_path, name, change):
    (tmp_path / name).write_bytes(change(FORMS[name]))
    assert [point.norm for point in read([tmp_path / name]).points] == [1.5] * 50


@pytest.mark.parametrize("name", FORMS)
def test_a_file_that_is_being_written_is_read_up_to_a_whole_row(tmp_path, name):
    whole = FORMS[name]
    (tmp_path / name).write_text(whole[: -len("_norm: 1.5") if name == "a.log" else -len("1.5}")])
    points = read([tmp_path / name]).points
    assert [point.step for point in points if point.norm is not None] == list(range(49))


def test_a_relative_path_means_the_same_file(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    made = write(read([Path("a.csv")]), Path("run"))
    assert (made.steps, (tmp_path / "run" / "gradwatch.db").exists()) == (50, True)


def test_a_file_in_the_place_of_the_run_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.csv").write_text(CSV)
    with pytest.raises(CannotImport, match=r"b\.csv' is a file; expected the folder of the new run as the last path"):
        write(read([tmp_path / "a.csv"]), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == CSV


def test_many_files_at_once_are_to_be_imported_each(tmp_path):
    files = [tmp_path / f"{n}.csv" for n in range(1000)]
    for file in files:
        file.write_text(CSV)
    with pytest.raises(CannotImport, match=r"1000 files were given.*Import each into a run of its own"):
        read(files)


def test_an_interrupt_leaves_no_part_of_a_run(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(CSV)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradwatch.store.StoreWriter.append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(read([tmp_path / "a.csv"]), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
