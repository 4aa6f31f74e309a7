"""The JSON of each command: valid for every number, its contract first and in its order."""

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.analysis.recommend import Agreement
from gradwatch.record import EVENT_KEYS, Event
from gradwatch.script.tune import Trial, Tuning
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.json import agreement, dumps, events, recommendation, report, tuning

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


def strict(text):
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"bare {constant}"))


@given(VALUES, st.sampled_from([None, 2]))
def test_everything_becomes_valid_json(value, indent):
    strict(dumps(value, indent))


@pytest.mark.parametrize(("value", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_numbers_that_json_lacks_are_strings_at_any_depth(value, text):
    assert strict(dumps({"a": [{"b": (value, 1.5)}]})) == {"a": [{"b": [text, 1.5]}]}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_number_comes_back_exactly(value):
    assert strict(dumps([value])) == [value]


def test_an_event_has_the_keys_of_the_contract():
    event = Event(step=1, kind="spike", severity="info", message="m", observed=math.nan, limit=-math.inf)
    (found,) = strict(dumps(events([event])))
    assert list(found) == EVENT_KEYS
    assert (found["observed"], found["limit"], found["until"]) == ("NaN", "-Infinity", None)


@pytest.mark.parametrize("norms", [[1.0], [0.0], [math.nan], [math.inf, 1e300]])
def test_every_run_has_a_report(tmp_path, norms):
    found = strict(dumps(report(Run(write_run(tmp_path, stream(norms))).summary())))
    assert found["steps"] == len(norms)


def test_a_report_has_every_number_of_the_summary(run):
    summary = run.summary()
    found = report(summary)
    drawn_only = {"most_relevant", "series", "magnitudes", "path"}
    renamed = {"resume_points": "seams"}
    names = {renamed.get(field.name, field.name) for field in fields(summary)} - drawn_only
    assert names - set(found) == set()
    assert found["total_norm"]["max"] == summary.total_norm.max
    assert len(found["layers"]) == 30


@pytest.mark.parametrize(
    ("optimizer_class", "shown"),
    [("AdamW", "AdamW"), ("NoOptimizer", "no optimizer"), ("ByHand", "no optimizer"), ("", "")],
)
def test_a_class_of_gradwatch_is_never_shown(tmp_path, optimizer_class, shown):
    summary = Run(write_run(tmp_path, stream([1.0]), optimizer_class)).summary()
    assert report(summary)["optimizer_class"] == shown


def test_a_recommendation_has_the_keys_of_the_contract_and_every_number(tmp_path):
    advice = Run(write_run(tmp_path, stream(steady(800), losses=[1 / (i + 1) for i in range(800)]))).recommend()
    found = strict(dumps(recommendation(advice)))
    keys = ["max_norm", "low", "high", "policy", "clipped_fraction", "confidence", "refused", "reasons", "apply"]
    assert list(found)[: len(keys)] == keys
    names = {"first" if field.name == "fix_first" else field.name for field in fields(advice)}
    assert names - set(found) == set()


def test_an_agreement_has_the_advice_for_all_and_of_each(tmp_path):
    advice = Run(write_run(tmp_path, stream(steady(20)))).recommend()
    found = strict(dumps(agreement(Agreement(together=advice, each=(advice, replace(advice, run="b")), spread=None))))
    assert [row["run"] for row in found["runs"]] == [advice.run, "b"]
    assert found["spread"] is None


def test_a_tuning_has_its_trials():
    trial = Trial(max_norm=math.inf, steps=8, made=3, loss=None, error=None, clipped_fraction=0.0)
    found = strict(dumps(tuning(Tuning(trials=(trial,), best=None, low=None, high=None, matters=False, verdict="v"))))
    assert found["trials"][0]["max_norm"] == "Infinity"
    assert found["verdict"] == "v"
