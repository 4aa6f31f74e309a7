"""A summary shows itself in a notebook, though analysis imports no view."""

import subprocess
import sys

import pytest

import gradwatch
from gradwatch.analysis import display
from gradwatch.errors import BadArgument, EmptyRun
from gradwatch.testing import steady, stream, write_run


def test_a_run_and_its_summary_show_themselves(tmp_path):
    run = gradwatch.Run(write_run(tmp_path, stream(steady(30))))
    assert "HEALTHY" in run.summary()._repr_html_()
    assert run._repr_html_() == run.summary()._repr_html_()
    assert gradwatch.Run(write_run(tmp_path / "empty", []))._repr_html_() is None


def test_a_page_of_nothing_says_why(tmp_path):
    with pytest.raises(EmptyRun):
        gradwatch.Run(write_run(tmp_path / "empty", [])).page()
    with pytest.raises(BadArgument, match="optimizer is 'critic'"):
        gradwatch.Run(write_run(tmp_path / "run", stream(steady(30)))).page("critic")


def test_analysis_alone_loads_no_view(tmp_path):
    """Also where the public names were not used."""
    write_run(tmp_path, stream(steady(30)))
    program = (
        "import sys; from gradwatch.analysis.run import Run; s = Run(sys.argv[1]).summary();"
        "print('gradwatch.views.notebook' in sys.modules, 'HEALTHY' in s._repr_html_())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_a_renderer_there_is_no_html(monkeypatch):
    monkeypatch.setattr(display, "_renderers", [])
    assert display.as_html(object()) is None
