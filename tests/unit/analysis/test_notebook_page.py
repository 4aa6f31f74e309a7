"""The page of a run stands in a frame of a notebook."""

import re
from html import unescape

import gradwatch
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.html import render_run


def test_the_page_of_a_run_stands_whole_in_a_frame_that_can_not_reach_the_notebook(tmp_path):
    run = gradwatch.Run(write_run(tmp_path / 'a "run" </script>', stream(steady(30))))
    page = run.page(height=700)
    (document,) = re.findall(
        r'^<iframe [^>]* srcdoc="([^"]*)" style="[^"]*height: 700px[^"]*"></iframe>$', page._repr_html_()
    )
    assert unescape(document) == page.document == render_run(run, None)
    assert 'sandbox="allow-scripts allow-downloads"' in page._repr_html_()
