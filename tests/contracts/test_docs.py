"""The documentation and the code agree: numbers, messages, links and commands."""

import dataclasses
import re
from pathlib import Path

import pytest

from gradwatch import Run, errors
from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.history import LAYER_STATS
from gradwatch.analysis.recommend import Agreement, Phase, Recommendation, WhatIf
from gradwatch.analysis.summary import (
    ClippingSummary,
    LayerSummary,
    LossSummary,
    NoiseSummary,
    NormOwner,
    NormSummary,
    RankSummary,
    RunSummary,
    UpdateSummary,
    WeightSummary,
)
from gradwatch.cli import app
from gradwatch.record import KINDS, STATS, WEIGHT_STATS, Event, StepRecord
from gradwatch.script.tune import Trial, Tuning
from gradwatch.testing import stream, write_run

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
# Fields that hold other numbers rather than being one.
PARTS = {
    "ranks",
    "updates",
    "total_norm",
    "loss",
    "clipping",
    "events",
    "layers",
    "most_relevant",
    "series",
    "weights",
    "learning_rates",
    "phases",
    "together",
    "each",
    "trials",
}


def entries():
    """The names in the first column of the glossary's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", GLOSSARY, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    "kind",
    [
        NormSummary,
        LossSummary,
        ClippingSummary,
        LayerSummary,
        WeightSummary,
        RankSummary,
        UpdateSummary,
        NormOwner,
        NoiseSummary,
        RunSummary,
        Recommendation,
        WhatIf,
        Phase,
        Agreement,
        Trial,
        Tuning,
        Event,
        Finding,
        StepRecord,
    ],
)
def test_the_glossary_has_every_field(kind):
    names = {field.name for field in dataclasses.fields(kind)}
    assert names - PARTS - entries() == set()


def test_the_glossary_has_every_column(tmp_path):
    steps = Run(write_run(tmp_path, stream([1.0]))).steps()
    assert {*steps.columns, steps.index.name, *LAYER_STATS, *STATS, *WEIGHT_STATS} - entries() == set()


def test_every_row_of_the_glossary_has_its_columns():
    rows = [line for line in GLOSSARY.splitlines() if line.startswith("|")]
    assert len(rows) > 60
    assert [row for row in rows if len(re.split(r"(?<!\\)\|", row)) != 6] == []


def test_the_kinds_of_event_that_detectors_raise_are_explained():
    sources = "".join(p.read_text() for p in (ROOT / "gradwatch").rglob("*.py"))
    raised = set(re.findall(r'kind="([\w-]+)"', sources)) - {"stable"}  # a kind of sorting
    assert raised <= set(KINDS)
    assert [kind for kind in raised if f"`{kind}`:" not in GLOSSARY] == []


HEADING = re.compile(r"^### ([a-z-]+)$", re.MULTILINE)


def test_every_slug_has_its_paragraph_and_every_paragraph_its_slug():
    slugs = {value.slug for value in vars(errors).values() if isinstance(value, type)}
    sources = "".join(path.read_text() for path in (ROOT / "gradwatch").rglob("*.py"))
    log = set(re.findall(r"\(([a-z]+-[a-z-]+)\)\"", sources))
    assert log, "the messages of the log were not found"
    raised, logged = (ROOT / "docs" / "messages.md").read_text().split("## Log messages")
    assert set(HEADING.findall(raised)) == slugs
    assert set(HEADING.findall(logged)) == log - slugs


def test_every_link_within_the_project_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS]
    assert len(pages) >= 6
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()) + re.findall(
            r'src="([^":]+)"', page.read_text()
        ):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands_of_the_readme():
    text = (ROOT / "README.md").read_text()
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines() if line]


def test_every_command_of_the_readme_exists():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    lines = commands_of_the_readme()
    assert len(lines) >= 8
    for line in lines:
        words = line.split("#")[0].split()
        if words[0] == "gradwatch":
            assert words[1] in known, line
        else:
            assert words[0] in ("make", "pip", "git", "cd", "python", "tensorboard", "."), line


def test_every_trap_names_tests_that_are_there():
    page = (ROOT / "docs" / "traps.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 25
    assert [name for name in named if f"def {name}(" not in sources] == []
