"""A run shows itself in a notebook: without script, with names as text, and with pictures that are right."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gradwatch import Run
from gradwatch.record import Event, ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.notebook import png

HOSTILE = "<script>alert(1)</script>\x1b[31m"


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_picture_is_what_pillow_reads(height, width):
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (1, 2, 3)]
    codes = np.random.default_rng(height * width).integers(0, 4, (height, width)).astype(np.uint8)
    image = Image.open(io.BytesIO(png(codes, palette)))
    assert image.size == (width, height)
    rgb = np.array(image.convert("RGBA"))
    assert np.array_equal(rgb[..., :3], np.array(palette, np.uint8)[codes])
    assert np.array_equal(rgb[..., 3] == 0, codes == 0), "the first colour is transparent"


def shown(run):
    page = run._repr_html_()
    ElementTree.fromstring(page.replace("&nbsp;", " "))  # well-formed
    return page


def heat(page):
    data = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def test_it_shows_the_verdict_the_spike_and_what_is_not_finite(tmp_path):
    norms = replaced(steady(2000), {1200: 400.0, 1600: float("nan")})
    run = Run(write_run(tmp_path, stream(norms, losses=[1.0] * 2000)))
    page = shown(run)
    assert run.summary().verdict.upper() in page
    assert "to 400" in page
    picture = heat(page)
    assert picture[0, 1600 * picture.shape[1] // 2000].tolist() == [214, 0, 108]
    assert picture[0, 1200 * picture.shape[1] // 2000].tolist() == [127, 39, 4], "a hundredfold and more"
    assert "loss" in page
    assert run.summary()._repr_html_() == page


def test_names_are_text(tmp_path):
    names = tuple(ParameterInfo(name=f"{HOSTILE}{i}", shape=(3, 3)) for i in range(2))
    records = stream(steady(50), parameters=names)
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({"model": HOSTILE}, {"0": (HOSTILE, {})})
    writer.add_parameters("0", names)
    writer.append(records, [Event(step=3, kind="spike", severity="warning", message=HOSTILE, parameter=names[0].name)])
    writer.end_attempt("closed")
    page = shown(Run(tmp_path))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("norm", [0.0, float("nan"), float("inf"), 1e-30, 1e30])
def test_a_run_of_one_strange_step(tmp_path, norm):
    assert "step" in shown(Run(write_run(tmp_path, stream([norm]))))


def test_a_run_without_steps_is_text(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.end_attempt("closed")
    assert Run(tmp_path)._repr_html_() is None


def test_many_layers_are_joined_and_counted(tmp_path):
    names = tuple(ParameterInfo(name=f"layer{i}", shape=(2,)) for i in range(200))
    records = stream(steady(60), parameters=names, shares=[0.1] * 199 + [3.0])
    page = shown(Run(write_run(tmp_path, records)))
    assert heat(page).shape[0] == 64
    assert "194 more layers" in page
