"""gradwatch opens no network connection, and unpickles, executes or loads as code nothing that it reads."""

import subprocess
import sys

import pytest

WATCHED = """
import sys, builtins
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "http.client.connect",
             "pickle.find_class", "os.system", "ftplib.connect", "smtplib.connect")
def hook(event, arguments):
    if event in FORBIDDEN:
        print("FORBIDDEN", event, arguments, flush=True)
        raise RuntimeError(f"{event} is not allowed here")
"""
RECORD = """
import torch, gradwatch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sys.addaudithook(hook)
with gradwatch.attach(model, optimizer, "run", tensorboard=True, clip=gradwatch.clip.NormClip(1.0)) as watch:
    for _ in range(400):
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step(); optimizer.zero_grad()
"""
READ = """
import pandas, rich, typer.main, gradwatch.cli
sys.addaudithook(hook)
for command in (["report", "run"], ["report", "run", "--html", "x.html"], ["events", "run"], ["recommend", "run"],
                ["compare", "run", "run"], ["check", "run"], ["export", "run", "x.csv"],
                ["export", "run", "--tensorboard", "logs"], ["watch", "run"]):
    sys.argv = ["gradwatch", *command]
    try:
        gradwatch.cli.main()
    except SystemExit as end:
        assert end.code in (0, None, 3), (command, end.code)
gradwatch.Run("run")._repr_html_()
from types import SimpleNamespace
from gradwatch.plugins.tensorboard import GradWatchLoader
plugin = GradWatchLoader().load(SimpleNamespace(logdir=".", flags=None))
for route in ("/runs", "/overview", "/layers", "/advice"):
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": "run=run", "PATH_INFO": route}
    plugin.get_plugin_apps()[route](environ, lambda status, headers: print(status))
"""


@pytest.mark.slow
def test_recording_and_reading_touch_no_network_and_unpickle_nothing(tmp_path):
    for program in (RECORD, READ):
        done = subprocess.run(
            [sys.executable, "-c", WATCHED + program], capture_output=True, text=True, cwd=tmp_path, timeout=180
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "FORBIDDEN" not in done.stdout
    assert done.stdout.count("200 OK") == 4


def test_the_hook_would_notice(tmp_path):
    program = WATCHED + "import socket\nsys.addaudithook(hook)\nsocket.create_connection(('127.0.0.1', 9))\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "FORBIDDEN" in done.stdout
