"""`gradwatch explain`: the page of a code."""

import json

from gradwatch.analysis.diagnosis import PAGES


def test_a_code_is_explained(command):
    page = command("explain", "diverged").out
    assert page.startswith("diverged: The training diverged")
    assert "Fix:" in page


def test_further_cases_and_exceptions_are_lists(command):
    page, text = PAGES["diverged"], command("explain", "diverged").out
    also, unless = text.split("It is also reported when:\n")[1].split("\n\nIt is not reported when:\n")
    assert also.split("\n") == [f"- {case}" for case in page.also]
    assert unless.split("\n\n")[0].split("\n") == [f"- {case}" for case in page.unless]


def test_a_page_begins_with_a_few_sentences():
    """Everything else of a rule stands in lists."""
    assert [code for code, page in PAGES.items() if len(page.meaning.split()) > 100] == []


def test_without_a_code_all_are_listed(command):
    lines = command("explain").out.splitlines()
    assert [line.split()[0] for line in lines] == list(PAGES)


def test_an_unknown_code_is_refused(command):
    done = command("explain", "no-such-code")
    assert (done.code, done.out) == (1, "")
    assert "`gradwatch explain` lists the codes" in done.err


def test_a_kind_of_event_is_told_apart_from_an_unknown_code(command):
    done = command("explain", "explosion")
    assert "'explosion' is a kind of event, not the code of a finding" in done.err
    assert "`gradwatch events --kind explosion` shows its events" in done.err
    assert "kind" not in command("explain", "no-such-code").err


def test_json_has_the_page_or_the_list(command):
    page = json.loads(command("explain", "diverged", "--json").out)
    assert page["code"] == "diverged"
    assert page["fix"] == PAGES["diverged"].fix
    assert [one["code"] for one in json.loads(command("explain", "--json").out)] == list(PAGES)
    assert "(bad-argument)" in command("explain", "no-such-code", "--json").err
