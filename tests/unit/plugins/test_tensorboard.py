"""The TensorBoard plugin over WSGI: what it answers, and what it refuses."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from werkzeug.test import Client

from gradwatch.plugins.tensorboard import GradWatchLoader, folders
from gradwatch.store import FILE_NAME
from gradwatch.testing import replaced, steady, stream, write_run

BASE = "/data/plugin/gradwatch"


def plugin_of(logdir="", spec=""):
    context = SimpleNamespace(logdir=str(logdir), flags=SimpleNamespace(logdir_spec=spec))
    return GradWatchLoader().load(context)


def ask(plugin, path, method="GET"):
    """As TensorBoard's own router does: an exact route, or one with a trailing wildcard."""
    apps = plugin.get_plugin_apps()
    route = path.split("?")[0]
    matching = [r for r in apps if r == route or (r.endswith("/*") and route.startswith(r[:-1]))]
    assert matching, route
    return Client(apps[matching[0]]).open(BASE + path, method=method)


def write_logs(folder):
    write_run(folder / "a", stream(replaced(steady(500), {300: 90.0}), max_norm=1.0))
    write_run(folder / "deep" / "er" / "b", stream(steady(400)))


@pytest.fixture
def logs(tmp_path, made_once):
    return made_once(write_logs, tmp_path / "logs")


def test_it_finds_the_runs_below_the_folder_and_is_active(logs):
    plugin = plugin_of(logs)
    assert plugin.is_active()
    found = ask(plugin, "/runs").json
    assert sorted(run["name"] for run in found["runs"]) == ["a", "deep/er/b"]
    assert found["runs"][0]["name"] == "deep/er/b", "the one written last comes first"
    verdicts = {run["verdict"] for run in found["runs"] if not run["pending"]}
    assert verdicts <= {"healthy", "warning", "critical"}


def test_it_answers_all_that_the_page_asks(logs):
    plugin = plugin_of(logs)
    overview = ask(plugin, "/overview?run=a").json
    assert (overview["steps"], overview["run"]) == (500, "a")
    assert [layer["name"] for layer in ask(plugin, "/layers?run=a").json["layers"]] == ["rnn.weight", "out.weight"]
    assert ask(plugin, "/parting?run=a&other=deep/er/b").json["said"]
    assert "curve" in ask(plugin, "/advice?run=a").json
    for route in ("series", "distribution", "scatter", "tile", "rows"):
        answer = ask(plugin, f"/{route}?run=a&stat=norm&layers=1,0&from=0&to=499&columns=100")
        assert (answer.status_code, answer.content_type) == (200, "application/octet-stream")
        length = int.from_bytes(answer.data[:4], "little")
        assert json.loads(answer.data[4 : 4 + length])["arrays"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_answers_only_get(logs, method):
    answer = ask(plugin_of(logs), "/runs", method)
    assert answer.status_code == 405
    assert answer.json["error"] == "method-not-allowed"


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..%2Fsecret",
        "/etc/passwd",
        "a/../../secret",
        "%2e%2e/secret",
        "",
        "no-such-run",
        "a/gradwatch.db",
        "a%00",
    ],
)
@pytest.mark.parametrize("route", ["overview", "layers", "advice", "series", "tile"])
def test_a_path_in_a_request_reaches_no_file(logs, name, route):
    write_run(logs.parent / "secret", stream(steady(30)))
    answer = ask(plugin_of(logs), f"/{route}?run={name}&from=0&to=9&columns=9&stat=norm")
    assert answer.status_code == 404
    assert answer.json["error"] == "not-found"


@pytest.mark.parametrize(
    "name", ["../plugin.py", "..%2f..%2fpyproject.toml", "/etc/passwd", "vendor/../../pyproject.toml", ""]
)
def test_static_files_are_of_a_fixed_set(logs, name):
    assert ask(plugin_of(logs), f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/runs", "/overview?run=a", "/overview?run=x", "/tile?run=a", "/static/tab.js", "/static/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_forbids_to_load_and_run_anything(logs, path, method):
    headers = ask(plugin_of(logs), path, method).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "'unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_static_files_have_their_types(logs):
    plugin = plugin_of(logs)
    assert ask(plugin, "/static/tab.js").content_type.startswith("text/javascript")
    assert ask(plugin, "/static/page.css").content_type.startswith("text/css")
    assert ask(plugin, "/static/vendor/uplot/uPlot.esm.js").headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "query",
    [
        "from=a&to=9&columns=9",
        "from=0&to=9",
        "from=0&to=9&columns=0",
        "from=0&to=9&columns=1000000",
        "from=0&to=9&columns=x",
    ],
)
def test_a_wrong_query_is_told_what_was_expected(logs, query):
    answer = ask(plugin_of(logs), f"/series?run=a&{query}")
    assert answer.status_code == 400
    assert "expected" in answer.json["message"]


@pytest.mark.parametrize("query", ["from=nan&to=nan", "from=-1e300&to=1e300", "from=9&to=0", "from=inf&to=-inf"])
def test_a_strange_range_is_answered(logs, query):
    for route in ("series", "tile"):
        assert ask(plugin_of(logs), f"/{route}?run=a&stat=norm&{query}&columns=10").status_code == 200


def test_a_broken_store_is_shown_as_broken_and_the_others_as_they_are(logs):
    (logs / "broken").mkdir()
    (logs / "broken" / FILE_NAME).write_bytes(b"SQLite format 3\0" + bytes(5000))
    (logs / "text").mkdir()
    (logs / "text" / FILE_NAME).write_text("this is no store")
    plugin = plugin_of(logs)
    runs = {run["name"]: run for run in ask(plugin, "/runs").json["runs"]}
    assert "can't be read" in runs["broken"]["error"] or "did not write" in runs["broken"]["error"]
    assert "is not an SQLite file" in runs["text"]["error"]
    assert runs["a"]["error"] is None
    answer = ask(plugin, "/overview?run=broken")
    assert answer.status_code == 422
    assert answer.json["message"]


def test_a_run_that_was_deleted_is_told(logs):
    plugin = plugin_of(logs)
    ask(plugin, "/runs")
    (logs / "a" / FILE_NAME).unlink()
    assert ask(plugin, "/overview?run=a").status_code == 422
    assert ask(plugin, "/runs").status_code == 200


def test_an_empty_folder_is_inactive_until_a_run_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.views.web.gallery.MIN_INTERVAL", 0.0)
    plugin = plugin_of(tmp_path)
    assert not plugin.is_active()
    assert ask(plugin, "/runs").json == {"runs": [], "folders": [str(tmp_path)]}
    write_run(tmp_path / "new", stream(steady(30)))
    deadline = time.monotonic() + 120
    while not plugin.is_active() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert plugin.is_active()


@pytest.mark.parametrize("logdir", ["no/such/folder", "gs://bucket/logs", ""])
def test_a_folder_that_is_not_there_or_not_here_has_no_runs(logdir):
    plugin = plugin_of(logdir)
    assert not plugin.is_active()
    assert ask(plugin, "/runs").json["runs"] == []


def test_logdir_spec_names_its_folders(logs, tmp_path):
    other = tmp_path / "other"
    write_run(other, stream(steady(30)))
    plugin = plugin_of("", f"mine:{logs},gs://x/y,{other}")
    names = sorted(run["name"] for run in ask(plugin, "/runs").json["runs"])
    assert names == sorted(["mine/a", "mine/deep/er/b", str(other)])
    assert ask(plugin, "/overview?run=mine/a").json["steps"] == 500
    assert folders("", "/a:b/c") == {"/a:b/c": Path("/a:b/c")}, "a name can't begin with a slash"


def test_a_link_out_of_the_folder_is_not_followed(logs, tmp_path):
    write_run(tmp_path / "outside", stream(steady(30)))
    (logs / "linked").symlink_to(tmp_path / "outside")
    (logs / "file").mkdir()
    (logs / "file" / FILE_NAME).symlink_to(tmp_path / "outside" / FILE_NAME)
    names = [run["name"] for run in ask(plugin_of(logs), "/runs").json["runs"]]
    assert sorted(names) == ["a", "deep/er/b"]


def test_a_folder_that_is_a_run_itself(tmp_path):
    write_run(tmp_path, stream(steady(30)))
    plugin = plugin_of(tmp_path)
    assert [run["name"] for run in ask(plugin, "/runs").json["runs"]] == ["."]
    assert ask(plugin, "/overview?run=.").json["steps"] == 30


def test_an_optimizer_that_is_not_there_is_told(logs):
    answer = ask(plugin_of(logs), "/overview?run=a&optimizer=x")
    assert (answer.status_code, answer.json["error"]) == (400, "bad-argument")


def test_a_fault_of_ours_is_an_answer_too(logs, monkeypatch, caplog):
    def fault(*_):
        raise RuntimeError("oh")

    monkeypatch.setattr("gradwatch.views.web.gallery.Gallery.overview", fault)
    answer = ask(plugin_of(logs), "/overview?run=a")
    assert (answer.status_code, answer.json) == (500, {"error": "tab-fault", "message": "oh"})
    assert "tab-fault" in caplog.text


def test_reading_changes_nothing_in_the_folder(logs):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in logs.rglob("*")}

    before = state()
    plugin = plugin_of(logs)
    for route in ("runs", "overview", "layers", "advice"):
        ask(plugin, f"/{route}?run=a")
    assert state() == before


def test_a_missing_library_is_told_in_the_tab_and_breaks_nothing(logs):
    program = (
        "import sys\n"
        "sys.modules['pandas'] = None\n"
        "from types import SimpleNamespace\n"
        "from werkzeug.test import Client\n"
        "from gradwatch.plugins.tensorboard import GradWatchLoader\n"
        f"plugin = GradWatchLoader().load(SimpleNamespace(logdir={str(logs)!r}, flags=None))\n"
        "answer = Client(plugin.get_plugin_apps()['/runs']).get('/')\n"
        "print(plugin.is_active(), answer.status_code, 'pandas' in answer.json['message'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "500", "True"]


def test_the_entry_point_needs_only_tensorboard_and_the_standard_library():
    program = (
        "import sys\n"
        "for name in ('numpy', 'pandas', 'torch', 'rich', 'typer'): sys.modules[name] = None\n"
        "import gradwatch.plugins.tensorboard as plugin\n"
        "from types import SimpleNamespace\n"
        "plugin.GradWatchLoader().load(SimpleNamespace(logdir='', flags=None)).frontend_metadata()\n"
        "print([m for m in sys.modules if m.startswith(('gradwatch.views.web.', 'gradwatch.store'))])\n"
    )
    env = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "['gradwatch.views.web.answers']"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_a_run_whose_name_is_not_utf_8_is_listed_and_shown(logs):
    write_run(logs / os.fsdecode(b"caf\xe9"), stream(steady(30)))
    plugin = plugin_of(logs)
    (name,) = [run["name"] for run in ask(plugin, "/runs").json["runs"] if run["name"].startswith("caf")]
    name.encode("utf-8")
    overview = Client(plugin.get_plugin_apps()["/overview"]).get(f"{BASE}/overview", query_string={"run": name})
    assert (overview.status_code, overview.json["steps"]) == (200, 30)
