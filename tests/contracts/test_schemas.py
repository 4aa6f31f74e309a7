"""docs/schemas: each schema is valid, up to date, and holds for what its command prints of real runs."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import jsonschema
import pytest

from gradwatch.cli import group, main
from gradwatch.testing import replaced, steady, stream, write_run

from ..prepared import forked

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
print("training")
for step in range(60):
    optimizer.zero_grad()
    x = torch.randn(6, 4)
    if step == 50:
        x[3, 0] = float("nan")
    loss = model(x).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""


def load():
    spec = importlib.util.spec_from_file_location("schemas", DOCS / "schemas.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["schemas"] = module  # dataclasses and annotations look their module up
    spec.loader.exec_module(module)
    return module


def closed(schema):
    """The schema without the right to further keys, so that a key it does not name is found."""
    if isinstance(schema, dict):
        found = {key: closed(value) for key, value in schema.items()}
        return found | {"additionalProperties": False} if "properties" in found else found
    return [closed(one) for one in schema] if isinstance(schema, list) else schema


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemas")
    norms = replaced(steady(300), {200: 90.0, 250: math.nan})
    write_run(folder / "runs/a", stream(norms, losses=[1 / (1 + i) for i in range(300)], max_norm=1.0))
    write_run(folder / "runs/b", stream(steady(300, seed=1)))
    (folder / "train.py").write_text(SCRIPT)
    assert call(folder, "run", "--capture", "--run", "runs/c", "train.py").returncode == 0
    write_run(folder / "runs/short", stream(steady(3)))
    return folder


def call(folder, *words):
    return forked().run(["-m", "gradwatch", *words], folder)


CALLS = [
    ("report", "runs/a"),
    ("report", "runs/c"),
    ("report", "runs/short"),
    ("events", "runs/a"),
    ("check", "runs/a"),
    ("check", "runs/b"),
    ("check", "runs"),
    ("ls", "runs"),
    ("compare", "runs/a", "runs/b", "runs/c"),
    ("recommend", "runs/a"),
    ("recommend", "runs/short"),
    ("recommend", "runs/b", "--if", "batch=8:32"),
    ("recommend", "runs/a", "runs/b"),
    ("explain",),
    ("explain", "diverged"),
    ("captures", "runs/c"),
    ("replay", "--json", "runs/c", "train.py"),
    ("doctor", "--json", "--steps", "3", "train.py"),
    ("tune", "--json", "--steps", "8", "--budget", "4", "--run", "runs/tune", "train.py"),
    ("config",),
    ("config", "--all"),
]


RUNS_A_SCRIPT = ("replay", "doctor", "tune")


@pytest.fixture
def printed(folder, monkeypatch, capsys):
    """What a command prints, by a process of its own if it runs a script."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("gc.freeze", lambda: None)  # what `open_run` freezes would stay until the last test

    def run(*words):
        if words[0] in RUNS_A_SCRIPT:
            done = call(folder, *words)
            assert done.returncode in (0, 3), done.stderr
            return json.loads(done.stdout)
        monkeypatch.setattr(sys, "argv", ["gradwatch", *words, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (None, 0, 3)
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, marks=pytest.mark.slow) if words[0] == "tune" else words for words in CALLS],
    ids=[" ".join(words) for words in CALLS],
)
def test_what_a_command_prints_keeps_to_its_schema(printed, words):
    schema = json.loads((DOCS / "schemas" / f"{words[0]}.schema.json").read_text())
    jsonschema.Draft202012Validator(closed(schema)).validate(printed(*words))


def test_the_replay_is_in_the_report(printed):
    printed("replay", "--json", "runs/c", "train.py")
    report = printed("report", "runs/c")
    assert report["replays"]
    jsonschema.Draft202012Validator(closed(json.loads((DOCS / "schemas" / "report.schema.json").read_text()))).validate(
        report
    )


@pytest.mark.parametrize("file", sorted((DOCS / "schemas").glob("*.json")), ids=lambda file: file.name)
def test_a_schema_is_valid_and_refuses_something_else(file):
    schema = json.loads(file.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert not jsonschema.Draft202012Validator(schema).is_valid({"no": "such thing"})


def test_the_files_are_those_that_docs_schemas_py_makes():
    wanted = load().rendered()
    found = {file.name.removesuffix(".schema.json"): file.read_text() for file in (DOCS / "schemas").glob("*.json")}
    assert found == wanted, "run `python docs/schemas.py`"


def test_every_command_with_json_has_a_schema():
    with_json = {
        name
        for name, command in group().commands.items()
        if any("--json" in getattr(parameter, "opts", ()) for parameter in command.params)
    }
    assert with_json == set(load().SCHEMAS)
