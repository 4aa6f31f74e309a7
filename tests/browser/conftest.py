"""A real TensorBoard with the wheel of this project, and a real Chromium that looks at it."""

import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from socketserver import ThreadingMixIn
from types import SimpleNamespace
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import pytest

from gradwatch.plugins.tensorboard import GradWatchPlugin
from gradwatch.record import Event, LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter

from ..once import once

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEPS, SPIKE, NAN = 20_000, 12_345, (16_000, 16_200)
NAMES = ("encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "<img src=x onerror=window.broken=1>", "unused")
LEVELS = (1e-3, 1e-2, 1.0, 10.0)
PATIENCE = 100_000  # ms that a test waits for what it expects, on a machine that is busy
FRAME = b"""<!doctype html><html lang="en"><head><link rel="icon" href="data:,"></head><body><script type="module">
import { render } from "/data/plugin/gradwatch/static/tab.js"; render();
</script></body></html>"""


# One look at the page is not slow; the unit tests of the scripts are in tests/dashboards.
QUICK = "test_the_page_is_that_of_the_tab[light]"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            if item.name != QUICK:
                item.add_marker(pytest.mark.slow)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="there is no Chromium; apt-get install chromium"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The folder into which the wheel was installed, by itself."""
    return once(tmp_path_factory, "wheel", _install) / "site"


def _install(folder):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    tree = folder / "tree"
    shutil.copytree(
        ROOT,
        tree,
        ignore=shutil.ignore_patterns(
            ".*", "*.so", "__pycache__", "tests", "benchmarks", "runs", "build", "dist", "node_modules"
        ),
    )
    env = os.environ | {"CC": "false"}
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, tree]
    subprocess.run(build, check=True, env=env, capture_output=True)
    (file,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", file], check=True, capture_output=True)
    assert (folder / "site" / "gradwatch" / "dashboards" / "tab.js").exists()


class TensorBoard:
    """`tensorboard` as a user starts it, with the wheel on its path."""

    def __init__(self, wheel, *arguments):
        env = os.environ | {"PYTHONPATH": str(wheel), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "tensorboard.main", "--port", "0", "--host", "127.0.0.1", *arguments]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, cwd=wheel)
        self.url = None
        for line in self.process.stderr:
            found = re.search(r"at (http://\S+)", line)
            if found:
                self.url = found[1]
                break
        assert self.url, "TensorBoard did not start"

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()


@pytest.fixture(scope="session")
def tensorboard(wheel):
    started = []

    def start(*arguments):
        started.append(TensorBoard(wheel, *map(str, arguments)))
        return started[-1].url

    yield start
    for one in started:
        one.close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served():
    """Serve the page of a folder of runs as TensorBoard's plugin does, without TensorBoard around it."""
    servers = []

    def start(folder):
        plugin = GradWatchPlugin(SimpleNamespace(logdir=str(folder), flags=None))
        routes = plugin.get_plugin_apps()

        def application(environ, start_response):
            path = environ["PATH_INFO"]
            if path == "/":
                start_response("200 OK", [("Content-Type", "text/html")])
                return [FRAME]
            route = path.removeprefix("/data/plugin/gradwatch")
            route = "/static/*" if route.startswith("/static/") else route
            if route in routes:
                return routes[route](environ, start_response)
            start_response("404 Not Found", [])
            return [b""]

        server = make_server("127.0.0.1", 0, application, server_class=_Server, handler_class=_Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def look(browser):
    """Opens pages to look at. At the end, none may have logged an error or missed a file of ours."""
    from .looking import Look

    looks = []

    def make(**context):
        looks.append(Look(browser, **context))
        return looks[-1]

    yield make
    for one in looks:
        assert one.faults == []
        one.close()


def rows(steps, first=0):
    infos = tuple(ParameterInfo(name=name, shape=(8, 8)) for name in NAMES)
    for step in range(first, steps):
        norms = np.float32([*LEVELS, np.nan])
        counts = np.float32([0, 0, 0, 0, np.nan])
        if step == SPIKE:
            norms[0] = 1e3  # one step of one layer
        if NAN[0] <= step < NAN[1]:
            norms[1], counts[1] = np.nan, 7
        total = float(np.sqrt(np.sum(norms[:4].astype(float) ** 2)))
        yield StepRecord(
            step=step,
            wall_time=1.7e9 + step,
            total_norm=total,
            max_norm=5.0,
            clip_coef=math.nan if math.isnan(total) else min(1.0, 5.0 / (total + 1e-6)),
            nonfinite=int(np.nansum(counts)),
            loss=3.0 / (1 + step / 1000),
            learning_rates=(1e-3,),
            layers=LayerStats(parameters=infos, norm=norms, nonfinite=counts),
        )


EVENTS = (
    Event(step=SPIKE, kind="spike", severity="warning", message="100 times its level <b>", parameter=NAMES[0]),
    Event(
        step=NAN[0],
        kind="nonfinite",
        severity="critical",
        message="NaN",
        parameter=NAMES[1],
        observed=7.0,
        limit=0.0,
        until=NAN[1] - 1,
    ),
)


def begin(folder, steps, events=EVENTS):
    writer = StoreWriter(folder)
    writer.begin_attempt({"model": "Known"}, {"0": ("AdamW", {"lr": 1e-3})})
    writer.add_parameters("0", tuple(ParameterInfo(name=name, shape=(8, 8)) for name in NAMES))
    writer.append(list(rows(steps)), [event for event in events if event.step < steps])
    return writer


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    """Runs whose every value is known, a broken one among them."""
    return once(tmp_path_factory, "logs", _write)


def _write(folder):
    begin(folder / "known", STEPS).end_attempt("closed")
    begin(folder / "nested" / "short", 500).end_attempt("closed")
    (folder / "broken").mkdir()
    (folder / "broken" / "gradwatch.db").write_text("no store")
    # the run that a page opens with is the one written last
    later = time.time() + 60
    os.utime(folder / "known" / "gradwatch.db", (later, later))


@pytest.fixture(scope="session")
def board(tensorboard, logs):
    return tensorboard("--logdir", logs)
