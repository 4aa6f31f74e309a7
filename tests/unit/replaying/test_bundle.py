"""Bundles are written whole, and a stranger's bundle can do no harm."""

import io
import json
import struct
import zipfile

import pytest
import torch
from planted_models import MLP
from planted_steps import capture_step

import gradwatch
from gradwatch.capture import write
from gradwatch.capture.listing import MAX_DESCRIPTION_BYTES
from gradwatch.errors import CannotReplay
from gradwatch.replaying.bundle import unpack, write_bundle


@pytest.fixture
def folder(tmp_path):
    model, x = MLP(), torch.randn(4, 12)
    folder = write(capture_step(model, [lambda: model(x).mean()]), tmp_path / "captures" / "step-000003")
    return folder, gradwatch.replay(folder, model), model


def test_a_bundle_can_be_replayed(folder, tmp_path):
    capture, found, model = folder
    (capture / "secret.txt").write_text("not mine to give")
    (capture / "link.json").symlink_to("/etc/hostname")
    size = write_bundle(found, capture, tmp_path / "case.zip")
    assert size == (tmp_path / "case.zip").stat().st_size
    there = unpack(tmp_path / "case.zip", tmp_path / "there")
    assert gradwatch.replay(there, model).recurs == "bitwise"
    assert json.loads((tmp_path / "there" / "versions.json").read_text())["torch"] == torch.__version__
    names = zipfile.ZipFile(tmp_path / "case.zip").namelist()
    assert "replay.json" in names
    assert not [name for name in names if "secret" in name or "link" in name]


@pytest.mark.parametrize(
    "name",
    [
        "../capture.json",
        "/tmp/capture.json",
        "capture/../../x.json",
        "capture/x.pkl",
        "capture\\..\\x.json",
        "x",
        "capture/",
    ],
)
def test_no_path_leaves_the_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("capture/capture.json", "{}")
        archive.writestr(name, "x")
    with pytest.raises(CannotReplay, match="which no bundle of gradwatch does"):
        unpack(tmp_path / "bad.zip", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_sizes_are_bounded(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("capture/capture.json", b"0" * 10_000_000)
    with pytest.raises(CannotReplay, match="10000000 bytes unpacked; at most 1000000"):
        unpack(tmp_path / "bomb.zip", tmp_path / "there", most_bytes=1_000_000)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "LZMA"])
def test_a_compression_that_unpacks_in_large_pieces_is_refused(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", compression) as archive:
        archive.writestr("capture/capture.json", b"0" * 10_000_000)
    with pytest.raises(CannotReplay, match="compressed in a way"):
        unpack(tmp_path / "bomb.zip", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_description_that_is_too_large_to_be_one_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("replay.json", b" " * (MAX_DESCRIPTION_BYTES + 1))
    with pytest.raises(CannotReplay, match="which none has"):
        unpack(tmp_path / "bomb.zip", tmp_path / "there")


def test_a_file_that_is_longer_than_it_says(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("capture/capture.json", b"0" * 100_000)
    data = bytearray(buffer.getvalue())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)  # the size in the directory
    (tmp_path / "lies.zip").write_bytes(bytes(data))
    with pytest.raises(CannotReplay):
        unpack(tmp_path / "lies.zip", tmp_path / "there", most_bytes=1000)
    assert sum(file.stat().st_size for file in (tmp_path / "there").rglob("*.json")) <= 100


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + b"\0" * 30])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(CannotReplay, match="no bundle that can be read"):
        unpack(tmp_path / "bad.zip", tmp_path / "there")


def test_two_files_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("capture/capture.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("capture/capture.json", "[]")
    with pytest.raises(CannotReplay, match="twice"):
        unpack(tmp_path / "two.zip", tmp_path / "there")
