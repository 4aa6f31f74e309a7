"""Code blocks of the documentation: Python runs, and JSON, TOML and SQL are what they say.

The blocks of the README are run by tests/end_to_end/test_users_way.py, those of tutorials by test_tutorials.py.
"""

import json
import sqlite3
import tomllib
from pathlib import Path

import pytest

from ..prepared import prepared
from ..scripts import load_file

ROOT = Path(__file__).parents[2]
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if not path.name.startswith("tutorial-"))

PYTHON_NOT_RUN = {
    'notify=["slack://': "the addresses stand for the reader's own; tests/unit/sinks/test_notify.py sends to a server",
    "import duckdb": "needs a data set; tests/unit/export/test_dataset.py",
    "list_captures": "needs a captured run; tests/unit/capture/test_listing.py",
    "gradwatch.replay(": "needs a captured run; tests/unit/replaying/test_replay.py",
}

NAMES = """
import queue as queues
import torch, gradwatch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = torch.nn.MSELoss()
loader = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(3)]
healthy_batch = torch.randn(8, 4)
run, args, queue = "runs/new", {"lr": 0.1}, queues.Queue()
"""


tutorials = load_file(ROOT / "docs" / "tutorials.py")


def blocks_of(page):
    return tutorials.blocks((ROOT / page).read_text())


def python_blocks():
    return [
        pytest.param(page, block.text, id=f"{page}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks_of(page))
        if block.language == "python" and not any(part in block.text for part in PYTHON_NOT_RUN)
    ]


@pytest.fixture(scope="module")
def python():
    with prepared() as found:
        yield found


def test_every_reason_is_for_a_block_that_is_there():
    texts = "".join(block.text for page in PAGES for block in blocks_of(page))
    assert [part for part in PYTHON_NOT_RUN if part not in texts] == []


@pytest.mark.parametrize(("page", "text"), python_blocks())
def test_every_python_block_runs(python, tmp_path, page, text):
    step = "model(healthy_batch).sum().backward(); optimizer.step(); watch.flush()"
    if "watch.last" in text:
        text = text.replace("gradwatch.attach(", "watch = gradwatch.attach(", 1).replace("print(", f"{step}; print(", 1)
    (tmp_path / "block.py").write_text(NAMES + text.replace("/var/lib/node_exporter", str(tmp_path)))
    done = python.run(["block.py"], tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, f"{page}\n{text}\n{done.stderr}"


def test_json_toml_and_sql_are_what_they_say(python, tmp_path):
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "json":
                json.loads(block.text)
            if block.language == "sql":
                sqlite3.connect(":memory:").executescript(block.text)
            if block.language == "toml":
                tomllib.loads(block.text)
                (tmp_path / "pyproject.toml").write_text(block.text)
                done = python.run(["-m", "gradwatch", "config"], tmp_path)
                assert done.returncode == 0, done.stderr
                assert "min-steps" in done.stdout
