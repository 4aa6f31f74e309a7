"""Code blocks of the documentation: commands and Python run, and JSON, TOML and SQL are what they say.

The blocks of the README are run by tests/end_to_end/test_users_way.py, those of tutorials by test_tutorials.py.
"""

import json
import re
import shlex
import shutil
import sqlite3
import tomllib
from pathlib import Path

import pytest

from gradwatch.testing import replaced, steady, stream, write_run

from ..prepared import forked
from ..scripts import load_file

ROOT = Path(__file__).parents[2]
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if not path.name.startswith("tutorial-"))

PYTHON_NOT_RUN = {
    'notify=["slack://': "the addresses stand for the reader's own; tests/unit/sinks/test_notify.py sends to a server",
    "import duckdb": "needs a data set; tests/unit/export/test_dataset.py",
    "list_captures": "needs a captured run; tests/unit/capture/test_listing.py",
    "gradwatch.replay(": "needs a captured run; tests/unit/replaying/test_replay.py",
}

KINDS_NOT_RUN = {"mermaid": "a diagram"}
COMMANDS_NOT_RUN = {
    "torchrun ": "starts processes; tests/distributed runs both examples and `gradwatch run`",
    "gradwatch export runs/first --to mlflow": "needs MLflow; tests/unit/sinks/test_mlflow_run.py, by `make trackers`",
}
"""By the beginning of a line."""

TRAIN = """
import argparse, torch
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
args = parser.parse_args()
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
for step in range(140):
    x = torch.randn(8, 4)
    if step == 137:
        x[3, 1] = float("nan")
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

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


def test_every_reason_is_for_a_block_that_is_there():
    texts = "".join(block.text for page in PAGES for block in blocks_of(page))
    assert [part for part in PYTHON_NOT_RUN if part not in texts] == []


@pytest.mark.parametrize(("page", "text"), python_blocks())
def test_every_python_block_runs(tmp_path, page, text):
    step = "model(healthy_batch).sum().backward(); optimizer.step(); watch.flush()"
    if "watch.last" in text:
        text = text.replace("gradwatch.attach(", "watch = gradwatch.attach(", 1).replace("print(", f"{step}; print(", 1)
    (tmp_path / "block.py").write_text(NAMES + text.replace("/var/lib/node_exporter", str(tmp_path)))
    done = forked().run(["block.py"], tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, f"{page}\n{text}\n{done.stderr}"


def test_json_toml_and_sql_are_what_they_say(tmp_path):
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "json":
                json.loads(block.text)
            if block.language == "sql":
                sqlite3.connect(":memory:").executescript(block.text)
            if block.language == "toml":
                tomllib.loads(block.text)
                (tmp_path / "pyproject.toml").write_text(block.text)
                done = forked().run(["-m", "gradwatch", "config"], tmp_path)
                assert done.returncode == 0, done.stderr
                assert "min-steps" in done.stdout


# ------------------------------------------------------------------------------------ commands


def commands_of(page):
    """The commands of a page, in its order: after a prompt where a block has prompts, else each line."""
    found = []
    text = (ROOT / page).read_text()
    listed = range(text.find("## Read a run"), text.find("## Defaults of your own"))  # run by test_users_way.py
    for block in blocks_of(page):
        if block.language in ("bash", "console", "") and block.begin not in listed:
            found += re.findall(r"^\$ (.*)$", block.text, re.MULTILINE) or block.text.splitlines()
    return [line.split("  #")[0].strip() for line in found if line.strip()]


def is_run(line):
    return not line.startswith(tuple(COMMANDS_NOT_RUN))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all that the pages take for granted."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    for name in ("train.py", "package/train.py"):
        (folder / name).write_text(TRAIN)
    command = ["-m", "gradwatch", "run", "--capture", "--run", "runs/first", "train.py", "--lr", "3e-4"]
    done = forked().run(command, folder)
    assert done.returncode == 0, done.stderr
    for name in ("runs/second", "sweep/a", "sweep/b"):
        write_run(folder / name, stream(steady(400), losses=[1.0] * 400), "SGD", {"lr": 0.1})
    norms = replaced(steady(400), {200: 60.0})
    (folder / "train.log").write_text("".join(f"it {step}: norm {norm}\n" for step, norm in enumerate(norms)))
    (folder / "training_log.csv").write_text(
        "step,loss,lr\n" + "".join(f"{step},{norm},0.1\n" for step, norm in enumerate(norms))
    )
    mlflow_folder(folder / "mlruns")
    trackio_database(folder / "home" / ".cache" / "huggingface" / "trackio" / "project.db")
    return folder


def mlflow_folder(path):
    run = path / "1" / ("1f" * 16)
    (run / "metrics").mkdir(parents=True)
    (run / "meta.yaml").write_text("run_name: bold-fox-12\n")
    (run / "metrics" / "grad_norm").write_text("".join(f"1700000000000 {1 + step % 2} {step}\n" for step in range(20)))


def trackio_database(path):
    path.parent.mkdir(parents=True)
    columns = "id integer primary key, timestamp text, run_name text, step integer, metrics text"
    rows = [("2026-01-01", "first", step, json.dumps({"grad_norm": 1.0 + step % 2})) for step in range(20)]
    with sqlite3.connect(path) as db:
        db.execute(f"create table metrics ({columns})")
        db.executemany("insert into metrics (timestamp, run_name, step, metrics) values (?, ?, ?, ?)", rows)
    db.close()


def test_every_kind_of_block_has_a_test():
    kinds = {block.language for page in PAGES for block in blocks_of(page)}
    assert kinds - {"bash", "console", "python", "json", "toml", "sql", ""} <= set(KINDS_NOT_RUN)
    fences = sum(len(re.findall(r"^```", (ROOT / page).read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * sum(len(blocks_of(page)) for page in PAGES), "a block is written in another way"
    lines = [line for page in PAGES for line in commands_of(page)]
    assert [begin for begin in COMMANDS_NOT_RUN if not any(line.startswith(begin) for line in lines)] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, commands_of(page)))])
def test_every_command_of_a_page_runs(made, tmp_path, page):
    """In the page's order and in one folder, because later commands read what earlier ones wrote."""
    folder = tmp_path / "reader"
    shutil.copytree(made, folder)
    home = str(folder / "home")
    for line in filter(is_run, commands_of(page)):
        name, *arguments = shlex.split(line.replace("~", home))
        assert name == "gradwatch", line
        if arguments[0] == "import":  # each into a new run, as a reader would
            shutil.rmtree(folder / "runs" / "imported", ignore_errors=True)
        done = forked().run(["-m", "gradwatch", *arguments], folder, HOME=home, WANDB_MODE="offline", COLUMNS="80")
        stops = arguments[0] == "check" or "--stop-on" in arguments
        assert done.returncode in ((0, 3) if stops else (0,)), f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{line}\n{done.stderr}"
        assert done.stdout or done.stderr, line
