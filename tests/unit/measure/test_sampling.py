"""The entries that are read are spread evenly and lie within their tensor."""

import math

import pytest
import torch

from gradwatch.measure.sampling import even_share, read_sample, sampling_of


@pytest.mark.parametrize("shape", [(1,), (64,), (1000, 1000), (50257, 768), (3, 3, 512, 512), (2**21,)])
@pytest.mark.parametrize("most", [1, 64, 1000, 10**5])
def test_what_is_read_lies_within_the_parameter(shape, most):
    size = math.prod(shape)
    sampling = sampling_of(shape, most)
    last = (sampling.runs - 1) * sampling.stride
    assert last < size
    if not sampling.is_whole:
        assert last + sampling.length <= size
        assert sampling.runs * sampling.length <= 1.2 * max(most, 2 * sampling.length)
        assert last + 2 * sampling.stride >= size - sampling.length  # it reaches to the end


@pytest.mark.parametrize("most", [1, 100, 10**6])
def test_the_entries_of_a_sample_are_those_that_it_names(most):
    tensor = torch.arange(30_000.0).reshape(100, 300)
    sampling = sampling_of((100, 300), most)
    expected = [run * sampling.stride + at for run in range(sampling.runs) for at in range(sampling.length)]
    found = read_sample(tensor, sampling).reshape(-1).tolist()
    assert found == [at for at in expected if at < 30_000]
    assert sampling.is_whole == (len(found) == 30_000)


def test_short_parameters_leave_their_share_to_long_ones():
    assert even_share((10, 10**6, 10**6), 1010) == 500
    assert even_share((), 10) == 10
