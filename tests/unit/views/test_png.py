"""A picture is what other programs read."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gradwatch.views.png import encode


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_picture_is_what_pillow_reads(height, width):
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (1, 2, 3)]
    codes = np.random.default_rng(height * width).integers(0, 4, (height, width)).astype(np.uint8)
    image = Image.open(io.BytesIO(encode(codes, palette)))
    assert image.size == (width, height)
    rgb = np.array(image.convert("RGBA"))
    assert np.array_equal(rgb[..., :3], np.array(palette, np.uint8)[codes])
    assert np.array_equal(rgb[..., 3] == 0, codes == 0), "the first colour is transparent"


def test_a_palette_may_have_256_colours():
    palette = [(i, 255 - i, i // 2) for i in range(256)]
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.open(io.BytesIO(encode(codes, palette))).convert("RGB")
    assert np.array_equal(np.array(image), np.array(palette, np.uint8)[codes])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
def test_pictures_of_any_shape(shape):
    image = Image.open(io.BytesIO(encode(np.ones(shape, np.uint8), [(0, 0, 0), (9, 8, 7)])))
    assert image.size == shape[::-1]
    assert image.convert("RGB").getpixel((0, 0)) == (9, 8, 7)
