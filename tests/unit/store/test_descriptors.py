"""Descriptors that a script closed are never written to again: their numbers may belong to its own files."""

import os
import subprocess
import sys

import pytest

from gradwatch.store.descriptors import Descriptors, identity_of, open_descriptors

pytestmark = pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not list descriptors")  # noqa: PTH112

CLOSES = """
import os, time
from pathlib import Path
from gradwatch.errors import StoreClosed
from gradwatch.store import StoreWriter
from gradwatch.testing import stream
writer = StoreWriter(Path("run"))
writer.begin_attempt({}, {"0": ("SGD", {})})
writer.append(stream([1.0] * 5))
os.closerange(3, 1024)
OPEN
began = time.monotonic()
try:
    writer.append(stream([1.0] * 500, first_step=5))
except StoreClosed as error:
    print(error.slug)
writer.abort()
print(time.monotonic() - began < 2)
for file in files:
    print(os.pread(file.fileno(), 10**6, 0) == b"x" * 20000)
"""


@pytest.mark.parametrize("own", [0, 8])
def test_a_store_whose_descriptors_were_closed_writes_into_no_file_of_the_script(tmp_path, own):
    opens = f"files = [open(f'mine{{i}}', 'w+b', buffering=0) for i in range({own})]"
    opens += "\nfor file in files: file.write(b'x' * 20000)"
    script = CLOSES.replace("OPEN", opens)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["store-closed", "True", *["True"] * own]
    assert [(tmp_path / f"mine{i}").read_bytes() == b"x" * 20000 for i in range(own)] == [True] * own
    read = "from gradwatch import Run; print(len(Run('run').steps()))"
    done = subprocess.run([sys.executable, "-c", read], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "5", "what was written before can be read"


def test_a_descriptor_that_was_closed_or_belongs_to_another_file_is_noticed(tmp_path):
    store, other = tmp_path / "store", tmp_path / "other"
    other.write_bytes(b"")
    before = open_descriptors()
    number = os.open(store, os.O_RDWR | os.O_CREAT)
    known = Descriptors(store, before)
    assert known.are_intact()
    os.close(number)
    assert not known.are_intact()
    again = os.open(other, os.O_RDWR)
    os.dup2(again, number)
    assert identity_of(number) == identity_of(other)
    assert not known.are_intact()
    for each in {number, again}:
        os.close(each)
