"""Notes and tags: beside the store, which they never touch."""

import pytest

from gradwatch.analysis.notes import FILE_NAME, MAX_BYTES, Notes, read_notes, with_tags, write_notes
from gradwatch.errors import BadArgument, StoreNotWritable


def test_what_was_written_is_read_and_empty_notes_leave_no_file(tmp_path):
    notes = Notes(note="lr × 2\nsecond line", tags=("baseline", "ümlaut"))
    write_notes(tmp_path, notes)
    assert read_notes(tmp_path) == notes
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]
    write_notes(tmp_path, Notes())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"note": 3, "tags": "a"}', b"[" * 100_000])
def test_a_file_of_something_else_counts_as_none(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read_notes(tmp_path) == Notes()


def test_only_texts_are_tags(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"note": "n", "tags": ["a", 3, null, "b"]}')
    assert read_notes(tmp_path) == Notes(note="n", tags=("a", "b"))


@pytest.mark.parametrize("tag", ["", "a b", "a,b", "x" * 61, "a\nb", "\x1b[31m"])
def test_a_tag_that_could_not_be_told_from_others_is_refused(tag):
    with pytest.raises(BadArgument, match="the tag is"):
        with_tags(Notes(), add=[tag])


def test_a_note_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(BadArgument, match="expected at most"):
        write_notes(tmp_path, Notes(note="x" * MAX_BYTES))


def test_a_folder_that_is_gone_is_said(tmp_path):
    with pytest.raises(StoreNotWritable):
        write_notes(tmp_path / "gone", Notes(note="n"))
