"""The runs below folders: found while they come and go, kept open while they are looked at."""

import contextlib
import shutil
import time

import pytest

from gradwatch.analysis.places import find_stores
from gradwatch.errors import BadArgument, GradwatchError
from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.web.gallery import Gallery


def write_logs(folder):
    write_run(folder / "a", stream(replaced(steady(500), {300: 90.0}), max_norm=1.0))
    write_run(folder / "deep" / "er" / "b", stream(steady(60)))


@pytest.fixture
def logs(tmp_path, made_once):
    return made_once(write_logs, tmp_path)


def query(run="a", **more):
    return {"run": run, "from": "0", "to": "99", "columns": "50"} | more


def listed(gallery):
    """The runs once all verdicts are there: a list does not wait for them for long."""
    until = time.monotonic() + 120
    while any(run["pending"] for run in gallery.listing()["runs"]):
        assert time.monotonic() < until
    return gallery.listing()["runs"]


def test_a_run_is_named_by_its_path_below_its_folder(logs):
    assert dict(find_stores({"": logs})) == {
        "a": logs / "a" / FILE_NAME,
        "deep/er/b": logs / "deep" / "er" / "b" / FILE_NAME,
    }
    assert set(dict(find_stores({"mine": logs, "x": logs / "a"}))) == {"mine/a", "mine/deep/er/b", "x"}
    assert dict(find_stores({"": logs / "a"})) == {".": logs / "a" / FILE_NAME}
    assert dict(find_stores({"": logs / "nothing"})) == {}


def test_a_link_out_of_the_folder_is_not_followed_and_one_within_is_no_second_run(logs, tmp_path_factory):
    outside = write_run(tmp_path_factory.mktemp("outside") / "run", stream(steady(30)))
    (logs / "linked").symlink_to(outside)
    (logs / "file").mkdir()
    (logs / "file" / FILE_NAME).symlink_to(outside / FILE_NAME)
    assert set(dict(find_stores({"": logs}))) == {"a", "deep/er/b"}


def test_the_listing_has_a_verdict_for_each_run(logs):
    runs = {run["name"]: run for run in listed(Gallery({"": logs}))}
    assert set(runs) == {"a", "deep/er/b"}
    assert runs["a"]["verdict"] in ("healthy", "warning", "critical")
    assert (runs["a"]["running"], runs["a"]["optimizers"], runs["a"]["error"]) == (False, ["0"], None)


def test_a_verdict_is_read_again_only_when_the_run_changed(logs, monkeypatch):
    gallery = Gallery({"": logs})
    first = listed(gallery)
    monkeypatch.setattr("gradwatch.views.web.glances.Run", None)  # opening a run fails from here on
    assert gallery.listing()["runs"] == first


def test_an_unknown_run_is_a_lookup_error(logs):
    with pytest.raises(LookupError, match="there is no run 'x'"):
        Gallery({"": logs}).overview(query("x"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"from": "a"}, "expected two steps"),
        ({"columns": "1.5"}, "expected two steps"),
        ({"columns": "0"}, "expected 1 to 4000"),
        ({"columns": "4001"}, "expected 1 to 4000"),
        ({"columns": "-3"}, "expected 1 to 4000"),
    ],
)
def test_a_wrong_zoom_is_refused(logs, wrong, says):
    with pytest.raises(BadArgument, match=says):
        Gallery({"": logs}).series(query(**wrong))


def test_the_least_recently_used_views_are_closed(logs, monkeypatch):
    monkeypatch.setattr("gradwatch.views.web.gallery.MAX_VIEWS", 2)
    for name in "bcd":
        write_run(logs / name, stream(steady(30)))
    gallery = Gallery({"": logs})
    for name in "abcda":
        gallery.overview(query(name))
    assert [path.parent.name for path, _ in gallery._views] == ["d", "a"]


def test_views_are_closed_when_their_layers_take_too_much_memory(logs, monkeypatch):
    monkeypatch.setattr("gradwatch.views.web.gallery.MAX_BYTES", 1)
    gallery = Gallery({"": logs})
    for name in ("a", "deep/er/b"):
        gallery.layers(query(name))
    gallery.layers(query("a"))
    assert len(gallery._views) == 1


def test_a_run_that_is_deleted_while_it_is_shown_is_told_and_comes_back(tmp_path):
    write_run(tmp_path / "run", stream(steady(100)))
    gallery = Gallery({"": tmp_path})
    query = {"run": "run", "from": "0", "to": "99", "columns": "50"}
    gallery.listing()
    assert gallery.overview(query)["steps"] == 100
    shutil.rmtree(tmp_path / "run")
    with pytest.raises((GradwatchError, LookupError)):
        gallery.overview(query)
    write_run(tmp_path / "run", stream(steady(150)))
    until = time.monotonic() + 120
    steps = 0
    while steps != 150 and time.monotonic() < until:  # folders are looked through now and then
        gallery.listing()
        with contextlib.suppress(GradwatchError, LookupError):
            steps = gallery.overview(query)["steps"]
        time.sleep(0.1)
    assert steps == 150


def test_a_run_without_a_step_has_no_verdict(tmp_path):
    """It was listed as healthy."""
    write_run(tmp_path / "begun", [])
    writer = StoreWriter(tmp_path / "recording")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    runs = {run["name"]: run for run in listed(Gallery({"": tmp_path}))}
    assert [(runs[name]["verdict"], runs[name]["error"]) for name in ("begun", "recording")] == [(None, None)] * 2
    writer.end_attempt("closed")
