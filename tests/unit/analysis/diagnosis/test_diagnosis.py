"""The registry: every code has a page, an order and a place in the docs, and views agree."""

import pytest

from gradwatch.analysis.diagnosis import Finding, Quantity, _with_causes_raised, find
from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.testing import replaced, steady, stream

from .made import calm, codes, run_of


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
        assert summary.findings[0].remedy in advice.fix_first[0]


def finding(code, severity, **evidence):
    known = {name: Quantity(value, "share") for name, value in evidence.items()}
    texts = dict.fromkeys(("what", "cause", "remedy", "confirm"), "")
    return Finding(code=code, severity=severity, certainty="shown", optimizer="0", evidence=known, **texts)


@pytest.mark.parametrize(("dead", "severity"), [(0.7, "warning"), (0.1, "info")])
def test_units_that_died_explain_gradients_that_vanish_where_most_weights_are_theirs(dead, severity):
    found = _with_causes_raised([finding("dead-parameters", "info", entries=dead), finding("vanishing", "warning")])
    assert [one.severity for one in found] == [severity, "warning"]
