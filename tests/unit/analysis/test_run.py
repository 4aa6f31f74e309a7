"""A run with its summary, diagnosis and advice: each is that of its own module."""

from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis import diagnose
from gradwatch.analysis.recommend import recommend
from gradwatch.analysis.summary import summarize
from gradwatch.errors import EmptyRun, RunNotFound
from gradwatch.testing import replaced, steady, stream, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(write_run(tmp_path_factory.mktemp("run"), stream(replaced(steady(400), {300: 60.0}), max_norm=2.0)))


def test_it_is_summarized_diagnosed_and_advised(run):
    of_run, of_module = (replace(summary, series=None) for summary in (run.summary(), summarize(run, None)))
    assert repr(of_run) == repr(of_module), "NaN is no equal of itself"
    assert run.diagnosis() == diagnose(run)
    assert run.recommend() == recommend(run, None)
    assert run.summary("0").steps == 400


def test_it_is_shown_in_a_notebook(run):
    assert run._repr_html_() == run.summary()._repr_html_()


def test_without_a_step_there_is_no_summary_and_text_in_a_notebook(tmp_path):
    empty = Run(write_run(tmp_path, []))
    with pytest.raises(EmptyRun):
        empty.summary()
    assert empty._repr_html_() is None


def test_without_ranks_there_is_no_noise_scale(run):
    assert np.isnan(run.noise_scale().to_numpy(float)).all()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunNotFound):
        Run(tmp_path / "nowhere")
