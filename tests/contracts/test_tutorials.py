"""The tutorials of the documentation: their files and commands run in order, and print what the page shows."""

import tempfile
from pathlib import Path

import pytest

from ..prepared import prepared
from ..scripts import load_file

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("tutorial-*.md"))


@pytest.fixture(scope="module")
def python():
    with prepared("pandas", "sklearn.datasets") as found:
        yield found


tutorials = load_file(ROOT / "docs" / "tutorials.py")


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_prints_what_it_shows(python, page):
    def call(arguments, folder):
        done = python.run(arguments, folder, COLUMNS="80")
        return done.returncode, done.stdout + done.stderr

    with tempfile.TemporaryDirectory() as folder:  # its name is short: a long one is wrapped, and not recognised
        ran = list(tutorials.run((ROOT / page).read_text(), Path(folder), call))
    assert len(ran) >= 5
    for command in ran:
        assert tutorials.is_alike(command.expected, command.found), (
            f"$ {command.line}\nthe page:\n{command.expected}\nnow:\n{command.found}\n"
            f"`python docs/tutorials.py {page}` writes what commands print"
        )


@pytest.mark.parametrize(
    ("expected", "found", "alike"),
    [
        ("a 1.0 b", "a 1.1 b", True),
        ("a 1.0 b", "a 2.0 b", False),
        ("a 1.0 b", "a 1.0 c", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nb\nc\ny", False),
        ("a\n...\n", "b\n", False),
        ("a", "a b", False),
        ("took 1.0 s", "took 900 ms", True),
        ("max 9  ▁▂█", "max 9  ▁▁▂█", True),
        ("NaN 1", "inf 1", False),
    ],
)
def test_what_is_alike(expected, found, alike):
    assert tutorials.is_alike(expected, found) == alike


def test_a_changed_file_has_the_line_once(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    page = '```diff title="a.py"\n-x = 1\n+x = 2\n```\n'
    assert list(tutorials.run(page, tmp_path, lambda *_: pytest.fail("no command"))) == []
    assert (tmp_path / "a.py").read_text() == "x = 2\ny = 1\n"
    with pytest.raises(ValueError, match="0 times"):
        list(tutorials.run(page, tmp_path, None))


def test_the_page_is_written_where_a_command_prints_something_else(monkeypatch):
    monkeypatch.setattr(tutorials, "_call", lambda arguments, folder: (0, f"norm {len(arguments)}.0\n"))
    page = "```console\n$ python a\nnorm 9\n$ python a b\nnorm 2.01\n```\n"
    assert tutorials.written(page) == "```console\n$ python a\nnorm 1.0\n$ python a b\nnorm 2.01\n```\n"
