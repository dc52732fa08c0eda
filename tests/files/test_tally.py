from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovseg_cli.files.tally import tally, tally_pairs

RNG = np.random.default_rng(3)
shapes = st.tuples(st.integers(0, 7), st.integers(0, 7))
dtypes = st.sampled_from([np.uint8, np.uint16, np.int32, np.int64])


@given(shapes, dtypes, st.data())
def test_agree_with_counters(shape, dtype, data):
    values = st.sampled_from([0, 1, 2, 200, 255])
    first, second = (data.draw(hnp.arrays(dtype, shape, elements=values)) for _ in range(2))
    found, counts = tally(first)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == Counter(first.ravel().tolist())
    assert found.tolist() == sorted(found.tolist())
    one, two, pixels = tally_pairs(first, second)
    pairs = list(zip(one.tolist(), two.tolist(), strict=True))
    assert pairs == sorted(pairs)
    expected = Counter(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    assert dict(zip(pairs, pixels.tolist(), strict=True)) == expected


@pytest.mark.parametrize("most", [2, 256, 65536])
def test_noise_and_flat_areas_alike(most):
    """Maps without any run, and maps of one."""
    for array in (RNG.integers(0, most, (40, 50)), np.full((40, 50), most - 1)):
        found, counts = tally(array)
        values, numbers = np.unique(array, return_counts=True)
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(counts, numbers)


def test_negative_values_count_too():
    found, counts = tally(np.array([-5, -5, 3, -5]))
    assert (found.tolist(), counts.tolist()) == ([-5, 3], [3, 1])


def test_truth_values():
    one, two, counts = tally_pairs(np.array([True, False, True]), np.array([True, True, True]))
    assert (one.tolist(), two.tolist(), counts.tolist()) == ([0, 1], [1, 1], [1, 2])
