"""`ZClip` against the published description, written again in plain Python."""

import math

import numpy as np

from gradwatch.clip import ZClip

from .support import stream, thresholds_of


def zclip_of_the_authors(norms, z=2.5, alpha=0.97, warm_up=25, eps=1e-6):
    """From the published description: moments of the warm-up, then moving ones of the clipped norms."""
    mean, var, thresholds = np.mean(norms[:warm_up]), np.var(norms[:warm_up]), [math.inf] * warm_up
    for norm in norms[warm_up:]:
        std = math.sqrt(var)
        score = (norm - mean) / (std + eps)
        limit = mean + z * std / (score / z) if score > z else mean + z * std
        thresholds.append(limit)
        taken = limit if score > z else norm
        mean = alpha * mean + (1 - alpha) * taken
        var = alpha * var + (1 - alpha) * (taken - mean) ** 2
    return thresholds


def test_zclip_is_the_authors_but_for_a_small_number_that_does_not_depend_on_the_scale():
    norms = stream(3)
    np.testing.assert_allclose(thresholds_of(ZClip(), norms), zclip_of_the_authors(norms, eps=0.0), rtol=1e-5)
    np.testing.assert_allclose(thresholds_of(ZClip(), norms), zclip_of_the_authors(norms), rtol=1e-4)


def test_the_first_norm_that_can_be_clipped_is_the_one_after_the_warm_up():
    norms = [1.0, 1.1] * 12 + [1.0, 50.0]
    found = thresholds_of(ZClip(warm_up=25), norms)
    assert np.isinf(found[:25]).all()
    assert found[25] < 50.0


def test_constant_norms_have_no_deviation_and_are_not_clipped():
    np.testing.assert_allclose(thresholds_of(ZClip(warm_up=3), [1e-9] * 20)[3:], 1e-9, rtol=1e-9)


def test_zclip_in_log_space_is_zclip_of_the_logarithms():
    norms = stream(4)
    expected = np.exp(zclip_of_the_authors(np.log(norms), z=3.0))
    np.testing.assert_allclose(thresholds_of(ZClip(z=3.0, space="log"), norms), expected, rtol=1e-10)


def test_zclip_holds_its_cap_from_the_first_step():
    found = thresholds_of(ZClip(cap=1.5), stream(5))
    assert found[0] == 1.5
    assert found.max() == 1.5
