"""The page in Debian's Firefox, driven by Marionette: what differs from Chromium is the canvas and the modules."""

import itertools
import json
import shutil
import socket
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest

from gradwatch.record import MAGNITUDE_BINS, MagnitudeStats
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.html import render
from gradwatch.views.web.view import RunView

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FIREFOX is None, reason="there is no Firefox; apt-get install firefox-esr"),
]


class Marionette:
    """Firefox's own remote protocol: JSON with its length before it, over a socket."""

    def __init__(self, port):
        until = time.monotonic() + 60
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        self._numbers = itertools.count(1)
        self._receive()  # what it is

    def _receive(self):
        length = b""
        while not length.endswith(b":"):
            length += self._socket.recv(1)
        data = b""
        while len(data) < int(length[:-1]):
            data += self._socket.recv(int(length[:-1]) - len(data))
        return json.loads(data)

    def call(self, command, **arguments):
        sent = json.dumps([0, next(self._numbers), command, arguments]).encode()
        self._socket.sendall(b"%d:%s" % (len(sent), sent))
        _, _, error, found = self._receive()
        assert error is None, error
        return found

    def run(self, script):
        return self.call("WebDriver:ExecuteScript", script=script, args=[])["value"]

    def wait_for(self, script):
        until = time.monotonic() + 60
        while not self.run(script):
            assert time.monotonic() < until, script
            time.sleep(0.2)

    def close(self):
        self._socket.close()


@pytest.fixture
def firefox(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
    command = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = None
    try:
        client = Marionette(port)
        client.call("WebDriver:NewSession", acceptInsecureCerts=False)
        client.call("WebDriver:SetWindowRect", width=1400, height=1000)
        yield client
    finally:
        if client is not None:
            client.close()
        process.terminate()
        process.wait(30)


def test_firefox_draws_the_report_and_follows_a_click(firefox, tmp_path):
    values = list(steady(400))
    values[200] = 100.0
    write_run(tmp_path / "run", stream(values))  # the detectors find the spike
    file = tmp_path / "report.html"
    file.write_text(render(RunView(tmp_path / "run")))
    firefox.call("WebDriver:Navigate", url=file.as_uri())
    firefox.wait_for("return performance.getEntriesByName('gradwatch: lines drawn').length > 0")
    firefox.wait_for("return document.querySelector('canvas.heat')?.getBoundingClientRect().height > 20")
    colours = firefox.run(
        """const canvas = document.querySelector("canvas.heat");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let i = 0; i < data.length; i += 4) found.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
        return found.size;"""
    )
    assert colours > 5
    assert firefox.run("return document.querySelector('header.verdict').textContent.length") > 20
    before = firefox.run("return document.querySelector('.span').textContent")
    firefox.run("document.querySelector('button.event').click()")
    firefox.wait_for("return document.querySelector('.story-table') !== null")
    assert firefox.run("return document.querySelector('.span').textContent") != before
    assert firefox.run("return document.querySelector('.problem').hidden") is True
    firefox.run(
        "[...document.querySelectorAll('.toolbar button')].find((one) => one.textContent === 'scatter').click()"
    )
    told = "document.querySelector('section.scatter').textContent"
    firefox.wait_for(f"return {told}.includes('81 points of 81 steps (steps 160 to 240).')")
    drawn = firefox.run(
        """const canvas = document.querySelector("canvas.scatter");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let dark = 0;
        for (let i = 0; i < data.length; i += 4) dark += data[i + 3] > 200 && data[i] < 220 && data[i + 1] < 90;
        return dark;"""
    )
    assert drawn > 50, "points"


def test_firefox_draws_entries_the_distribution_the_inspector_and_tables(firefox, tmp_path):
    counts = np.zeros((2, len(MAGNITUDE_BINS)))
    counts[:, MAGNITUDE_BINS.index("2^-28")], counts[:, MAGNITUDE_BINS.index("nan")] = 90, 10
    entries = MagnitudeStats.of(counts)
    records = [
        replace(one, magnitudes=entries if one.step % 20 == 0 else None)
        for one in stream(steady(200), shares=[0.8, 0.6], max_norm=1.0)
    ]
    layer = records[0].layers.parameters[0].name
    write_run(tmp_path / "run", records)
    file = tmp_path / "report.html"
    file.write_text(render(RunView(tmp_path / "run")))
    firefox.call("WebDriver:Navigate", url=f"{file.as_uri()}#layer={layer}&tables=shown")
    told = "document.querySelector('section.magnitudes .readout').textContent"
    firefox.wait_for(f"return {told}.includes('90% below fp16')")

    def colours(canvas):
        return firefox.run(
            f"""const canvas = document.querySelector("{canvas}");
            const {{ data }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const found = new Set();
            for (let i = 0; i < data.length; i += 4) found.add(`${{data[i]}},${{data[i + 1]}},${{data[i + 2]}}`);
            return found.size;"""
        )

    assert colours("canvas.magnitudes") > 4
    assert colours("canvas.distribution") > 2
    assert colours("canvas.profile") > 2
    rows = firefox.run("return document.querySelectorAll('.table-view:not([hidden]) tbody tr').length")
    assert rows >= 200
    heads = "return [...document.querySelectorAll('.table-view th[scope=col]')].map((one) => one.textContent)"
    assert firefox.run(heads)[:4] == ["steps", "total_norm", "left by clipping", "max_norm"]
    firefox.run("[...document.querySelectorAll('button')].find((one) => one.textContent === 'inspect').click()")
    firefox.wait_for("return document.querySelector('.inspector-table')?.textContent.includes('norm')")
    assert firefox.run("return document.querySelector('.problem').hidden") is True
