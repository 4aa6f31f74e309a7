"""Which run a path means. Folders of runs as the page finds them: views/web/test_gallery.py."""

import pytest

from gradwatch.analysis.places import is_run, runs_below, the_run
from gradwatch.errors import RunNotFound
from gradwatch.testing import stream, write_run


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "deep/b"):
        write_run(tmp_path / "runs" / name, stream([1.0]))
    return tmp_path


def test_a_run_is_a_store_or_its_folder(folder):
    run = folder / "runs" / "a"
    assert (is_run(run), is_run(run / "gradwatch.db"), is_run(folder), is_run(folder / "nothing")) == (
        True,
        True,
        False,
        False,
    )
    assert the_run(run) == run


def test_the_runs_below_a_folder_are_all_found(folder):
    assert runs_below(folder) == [folder / "runs" / "a", folder / "runs" / "deep" / "b"]
    assert runs_below(folder / "nothing") == []


def test_a_link_that_leads_nowhere_or_in_a_circle_is_no_run(folder):
    for name, target in (("circle", "gradwatch.db"), ("nowhere", "gone.db")):
        (folder / "runs" / name).mkdir()
        (folder / "runs" / name / "gradwatch.db").symlink_to(target)
    assert runs_below(folder) == [folder / "runs" / "a", folder / "runs" / "deep" / "b"]


def test_the_only_run_below_is_meant(folder):
    assert the_run(folder / "runs" / "deep") == folder / "runs" / "deep" / "b"
    assert the_run(folder / "nothing") == folder / "nothing"


def test_several_runs_are_named(folder):
    with pytest.raises(RunNotFound, match=r"holds 2 runs; expected one of .*runs/a, .*runs/deep/b\."):
        the_run(folder)


def test_of_many_runs_some_are_named(tmp_path):
    for number in range(11):
        write_run(tmp_path / f"r{number:02}", [])
    with pytest.raises(RunNotFound, match=r"r07 and 3 more\."):
        the_run(tmp_path)
