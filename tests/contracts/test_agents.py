"""docs/agents.md and docs/llms.txt: what they promise an agent is there."""

import json
import re
from pathlib import Path

import pytest

from gradwatch.testing import replaced, steady, stream, write_run

from ..prepared import forked

DOCS = Path(__file__).parents[2] / "docs"
ROWS = re.findall(r"^\| [^|]+\? \| `gradwatch ([^`]+)` \| (.*) \|$", (DOCS / "agents.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    write_run(folder / "runs" / "a", stream(replaced(steady(300), {200: float("nan")}), max_norm=1.0))
    return folder


def call(folder, text):
    words = re.findall(r'"([^"]*)"|(\S+)', text.replace("CODE", "nonfinite-gradient").replace("RUN", "runs/a"))
    return forked().run(["-m", "gradwatch", *(quoted or word for quoted, word in words)], folder)


def keys_of(value):
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys_of(each)}
    return {key for each in value for key in keys_of(each)} if isinstance(value, list) else set()


def test_each_call_of_the_page_answers_with_the_keys_that_it_names(folder):
    assert len(ROWS) >= 6
    for text, reads in ROWS:
        done = call(folder, text)
        assert done.returncode in (0, 3), (text, done.stderr)
        assert len(done.stdout) < 4 * 4000, "an answer has at most about 4,000 tokens"
        if "--json" in text:
            named = {name.split(".")[-1] for name in re.findall(r"`([\w.\[\]]+)`", reads)}
            assert named - keys_of(json.loads(done.stdout)) == set(), text


def test_every_page_that_llms_txt_names_is_there():
    for name in re.findall(r"\]\(([^)]+)\)", (DOCS / "llms.txt").read_text()):
        assert (DOCS / name).is_file(), name
