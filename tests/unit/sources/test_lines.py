"""Lines of files of any size: an oracle reads the whole file, and the memory stays bounded."""

import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.errors import CannotImport
from gradwatch.sources import lines as module
from gradwatch.sources import read
from gradwatch.sources.lines import beginning, beginnings, lines, refuse_long_lines, whole_text

PARTS = st.lists(st.sampled_from([b"a", b"bcd" * 5, b"\n", b"\r", b"\r\n", b"\xff", b"\xef\xbb\xbf"]), max_size=40)


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """Chunks of a few bytes, so that every line crosses some."""
    if "memory" not in request.node.name:
        monkeypatch.setattr(module, "CHUNK", 7)


@settings(max_examples=200, deadline=None)
@given(PARTS)
def test_lines_are_those_of_the_whole_file(tmp_path_factory, parts):
    file = tmp_path_factory.mktemp("lines") / "a.jsonl"
    file.write_bytes(whole := b"".join(parts))
    wanted = whole.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert list(lines(file)) == (wanted if wanted[-1] else wanted[:-1])


@settings(max_examples=200, deadline=None)
@given(PARTS, st.integers(1, 30))
def test_beginnings_are_those_of_the_whole_file(tmp_path_factory, parts, most):
    file = tmp_path_factory.mktemp("lines") / "a.log"
    file.write_bytes(whole := b"".join(parts))
    wanted = [line[:most] for line in re.split(rb"[\r\n]+", whole.removeprefix(b"\xef\xbb\xbf"))]
    assert [line for line in beginnings(file, most) if line] == [line for line in wanted if line]


@settings(max_examples=200, deadline=None)
@given(PARTS, st.integers(0, 30))
def test_a_line_is_refused_if_and_only_if_it_is_too_long(tmp_path_factory, parts, most):
    file = tmp_path_factory.mktemp("lines") / "a.csv"
    file.write_bytes(whole := b"".join(parts))
    longest = max(map(len, re.split(rb"[\r\n]", whole.removeprefix(b"\xef\xbb\xbf"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONGEST", max(most, module.CHUNK))
        if longest > module.LONGEST:
            with pytest.raises(CannotImport, match="a line of more than"):
                refuse_long_lines(file)
        else:
            refuse_long_lines(file)


def test_an_empty_file_has_no_lines(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"")
    assert (list(lines(file)), list(beginnings(file, 5)), beginning(file), whole_text(file)) == ([], [], b"", "")


@pytest.mark.parametrize("reader", [lambda f: list(lines(f)), lambda f: list(beginnings(f, 5)), beginning])
def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path, reader):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CannotImport, match="can't be read"):
            reader(path)


@pytest.mark.parametrize("name", ["a.log", "a.jsonl", "a.csv", "a.json"])
def test_one_endless_line_fills_no_memory(tmp_path, name):
    """256 MB of holes, which take no room on the disk."""
    with (tmp_path / name).open("wb") as file:
        file.write(b"{" if name.startswith("a.j") else b"step,grad_norm")
        file.truncate(2**28 + 1)
    tracemalloc.start()
    try:
        with pytest.raises(CannotImport, match=r"MiB|no line like"):
            read([tmp_path / name])
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
