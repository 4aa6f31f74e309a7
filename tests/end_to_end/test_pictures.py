"""The README's first picture shows what the commands find today."""

import html
import re
from pathlib import Path

import pytest

from ..scripts import load_file

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
make = load_file(PICTURES / "make.py")


@pytest.mark.slow
def test_the_replay_in_the_picture_is_the_one_that_the_commands_make(tmp_path):
    found = make.replayed(tmp_path)
    script = (PICTURES / "train.py").read_text().splitlines()
    line = next(number for number, text in enumerate(script, 1) if ".sqrt()" in text)
    assert found.recurs == "bitwise"
    assert (found.origin.operation, found.origin.line) == ("aten.sqrt", line)
    picture = html.unescape((PICTURES / "replay.svg").read_text())
    words = re.sub(r"\s+", " ", " ".join(re.findall(r">([^<]+)</text>", picture)).replace("\u00a0", " "))
    row = found.rows[0].row
    for part in (
        f"STEP {found.step}",
        f"train.py:{line}",
        f"row {row} of 32",
        f"row {row} pictures: all 64 entries are 0",
    ):
        assert part in words
