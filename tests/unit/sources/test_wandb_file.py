"""Offline files of Weights & Biases, whole, in many blocks, cut off and damaged."""

import json
import struct
from pathlib import Path

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources import read, wandb_file
from gradwatch.sources.wandb_file import BLOCK, HEADER

from .support import EXPECTED, ROWS, values


@pytest.fixture(autouse=True, scope="module")
def _needs_wandb():
    """Imported by the first test: it takes a second, and every worker collects this module."""
    pytest.importorskip("wandb")


def rows(file):
    return wandb_file.read(file)[0]


def message(step, **values):
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()
    for name, value in values.items():
        item = record.history.item.add()
        item.nested_key.append(name)
        item.value_json = value if isinstance(value, str) else json.dumps(value)
    record.history.step.num = step
    return record.SerializeToString()


def log_of(messages):
    """The messages in blocks, by the log format of LevelDB: a chunk ends with its block and begins with 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    data = bytearray(b":W&B" + bytes(HEADER - 4))
    for whole in messages:
        left, is_first = whole, True
        while is_first or left:
            room = BLOCK - len(data) % BLOCK
            if room < 7:
                data += bytes(room)
                room = BLOCK
            chunk, left = left[: room - 7], left[room - 7 :]
            kind = (1 if is_first else 4) if not left else (2 if is_first else 3)
            data += struct.pack("<IHB", 0, len(chunk), kind) + chunk
            is_first = False
    return bytes(data)


def test_an_offline_file_of_wandb_is_read(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    own = wandb.init(
        project="p",
        config={"optim": "adamw_torch", "learning_rate": 0.5},
        settings=wandb.Settings(silent=True, console="off"),
        reinit="create_new",
    )
    for row in ROWS:
        own.log({"train/loss": row["loss"], "train/grad_norm": row["grad_norm"], "lr": row["lr"]}, step=row["step"])
    own.finish()
    wandb.teardown()  # the process that writes the file may lag behind `finish`
    file = Path(own.settings.sync_file)  # wandb may have read WANDB_DIR before this test
    history = read([file])
    assert values(history) == EXPECTED
    assert (history.optimizer, history.optimizer_from) == ("AdamW", f"the settings of run {file.name} (optim)")
    assert history.learning_rate is None, "the log tells it for each step"
    assert history.config == {"optim": "adamw_torch", "learning_rate": 0.5}
    file.write_bytes(file.read_bytes()[:-40])  # cut off
    assert len(read([file]).points) >= 1


@pytest.mark.parametrize("size", [1, BLOCK - HEADER - 7, BLOCK, 3 * BLOCK + 5])
def test_messages_of_any_length_come_back_whole(tmp_path, size):
    texts = [json.dumps(letter * size) for letter in "ab"]
    messages = [message(0, text=texts[0]), message(1, norm=2.5), message(2, text=texts[1]), message(3, norm=3.5)]
    (tmp_path / "a.wandb").write_bytes(log_of(messages))
    found = rows(tmp_path / "a.wandb")
    assert [row["_step"] for row in found] == [0, 1, 2, 3]
    assert [len(found[0]["text"]), found[1]["norm"], len(found[2]["text"]), found[3]["norm"]] == [size, 2.5, size, 3.5]


def test_values_that_are_no_json_are_left_out_and_nan_is_kept(tmp_path):
    (tmp_path / "a.wandb").write_bytes(log_of([message(5, bad="{", norm="NaN", high="Infinity", zero="0")]))
    (row,) = rows(tmp_path / "a.wandb")
    assert row.keys() == {"norm", "high", "zero", "_step"}
    assert row["norm"] != row["norm"]
    assert (row["high"], row["zero"], row["_step"]) == (float("inf"), 0, 5)


def test_a_file_that_is_cut_off_anywhere_gives_the_messages_before(tmp_path):
    messages = [message(step, norm=1.0, text="x" * 50) for step in range(5)]
    whole = log_of(messages)
    ends = [len(log_of(messages[:count])) for count in range(6)]
    for end in range(HEADER, len(whole) + 1):
        (tmp_path / "a.wandb").write_bytes(whole[:end])
        assert len(rows(tmp_path / "a.wandb")) == max(count for count in range(6) if ends[count] <= end)


def test_a_record_that_is_damaged_and_a_file_that_is_missing_are_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "a.wandb").write_bytes(log_of([b"\xff\xff\xff\xff"]))
    with pytest.raises(CannotImport, match="a record is damaged"):
        rows(tmp_path / "a.wandb")
    with pytest.raises(CannotImport, match="can't be read"):
        rows(tmp_path / "missing.wandb")
    monkeypatch.setattr(wandb_file, "MAX_BYTES", 3)
    with pytest.raises(CannotImport, match="more than 3 bytes"):
        rows(tmp_path / "a.wandb")


def test_an_empty_log_has_no_row(tmp_path):
    (tmp_path / "a.wandb").write_bytes(log_of([]))
    assert rows(tmp_path / "a.wandb") == []
