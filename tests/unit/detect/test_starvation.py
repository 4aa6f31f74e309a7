"""Gradients that an optimizer's eps outweighs."""

import pytest

from gradwatch.detect import EpsStarvation, traits_of
from gradwatch.record import ParameterInfo
from gradwatch.testing import steady, stream

from .streams import found


@pytest.mark.parametrize(
    ("norm", "eps", "expected"),
    [
        pytest.param(1e-9, 1e-8, [99], id="smaller than eps"),
        pytest.param(1e-6, 1e-8, [], id="larger than eps"),
        pytest.param(1e-9, None, [], id="an optimizer without eps"),
    ],
)
def test_gradients_under_adams_eps(norm, eps, expected):
    parameters = [ParameterInfo(name=n, shape=(10, 10)) for n in ("a", "b")]
    events = found(
        EpsStarvation(traits_of("Adam", {"eps": eps})), stream(steady(300, level=norm), parameters=parameters)
    )
    assert events == [(step, "eps-starvation", "info") for step in expected]


def test_muons_eps_is_compared_with_the_norm_of_a_matrix():
    parameters = [ParameterInfo(name=n, shape=(100, 100)) for n in ("a", "b")]
    records = stream(steady(300, level=1e-6), parameters=parameters)
    assert found(EpsStarvation(traits_of("Muon", {"eps": 1e-7})), records) == []
    assert found(EpsStarvation(traits_of("Adam", {"eps": 1e-7})), records) == [(99, "eps-starvation", "info")]
    assert found(EpsStarvation(traits_of("Muon", {"eps": 1e-5})), records) == []
    assert found(EpsStarvation(traits_of("Muon", {"eps": 1e-3})), records) == [(99, "eps-starvation", "info")]


@pytest.mark.filterwarnings("error")
def test_a_parameter_without_entries_counts_for_nothing():
    parameters = [ParameterInfo(name="a", shape=(10, 10)), ParameterInfo(name="b", shape=(0, 10))]
    records = stream(steady(300, level=1e-9), parameters=parameters, shares=(1.0, 0.0))
    detector = EpsStarvation(traits_of("Adam", {"eps": 1e-8}))
    events = [event for record in records for event in detector.update(record)]
    assert [(event.step, event.parameter) for event in events] == [(99, "a")]
