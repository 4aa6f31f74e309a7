"""The registry: every code has a page, an order and a place in the docs, and views agree."""

import json
import re
from pathlib import Path

import pytest

from gradwatch.analysis import diagnosis
from gradwatch.analysis.diagnosis import PAGES, Finding, find
from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.finding import FINDING_KEYS, Quantity
from gradwatch.analysis.diagnosis.pages import as_markdown, as_text
from gradwatch.testing import replaced, steady, stream

from .made import calm, codes, run_of

ROOT = Path(__file__).parents[4]
PACKAGE = Path(diagnosis.__file__).parent
RAISED = set(re.findall(r'code="([\w-]+)"', "".join(path.read_text() for path in PACKAGE.glob("*.py"))))
TESTS = "".join(
    path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name
)


def test_every_code_has_a_page_and_every_page_its_code():
    assert set(PAGES) == RAISED


@pytest.mark.parametrize("code", sorted(PAGES))
def test_every_page_is_whole(code):
    page = PAGES[code]
    assert all((page.title, page.meaning, page.example, page.confirm, page.fix))
    assert page.title in as_text(code)


@pytest.mark.parametrize("code", sorted(PAGES))
def test_every_code_is_found_in_some_test(code):
    assert f'"{code}"' in TESTS


def test_the_docs_are_made_of_the_pages():
    assert (ROOT / "docs" / "findings.md").read_text() == as_markdown()


def test_an_unknown_code_has_no_page():
    with pytest.raises(KeyError):
        as_text("no-such-code")


def test_findings_are_ordered_by_severity_then_by_kind(tmp_path):
    losses = replaced([0.7] * 400, {})
    run = run_of(tmp_path, stream([0.0] * 400, losses=losses, max_norm=1.0), reason="exception ValueError")
    found = run.diagnosis()
    assert [finding.severity for finding in found] == sorted(
        (finding.severity for finding in found), key=["critical", "warning", "info"].index
    )
    assert codes(run)[:2] == ["zero-gradients", "died"]


def test_the_rules_are_pure(tmp_path):
    facts = read_facts(run_of(tmp_path, calm()))
    assert find(facts) == find(facts)


def test_a_finding_as_json():
    finding = Finding(
        code="spike",
        severity="info",
        certainty="shown",
        what="w",
        steps=(3, 4),
        evidence={"largest_norm": Quantity(2.5, "norm")},
        cause="c",
        remedy="r",
        confirm="f",
    )
    made = finding.as_dict()
    assert list(made) == FINDING_KEYS
    assert made["steps"] == [3, 4]
    assert made["evidence"] == {"largest_norm": {"value": 2.5, "unit": "norm"}}
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize("faulty", [False, True])
def test_verdict_advice_and_diagnosis_agree(tmp_path, faulty):
    norms = [0.0] * 600 if faulty else steady(600)
    run = run_of(tmp_path, stream(norms, losses=[1.0 / (i + 1) for i in range(600)]))
    summary, advice = run.summary(), run.recommend()
    assert summary.findings == run.diagnosis()
    assert (summary.verdict == "healthy") == (not faulty)
    assert (advice.max_norm is None) == faulty
    if faulty:
        assert summary.reason == summary.findings[0].what
        assert summary.findings[0].remedy in summary.next
        assert summary.findings[0].remedy in advice.refused
