from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trace_d2.io.regions import label_areas, overlaps, region_statistics, row_bands

label_maps = arrays(
    np.int32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.sampled_from([0, 1, 7, 2**24 - 1]),
)


@settings(deadline=None, max_examples=50)
@given(label_maps)
def test_statistics_equal_those_of_masks(labels):
    regions = region_statistics(labels)
    assert regions[0].tolist() == sorted(set(labels.ravel().tolist()))
    for label, area, box in zip(*regions, strict=True):
        rows, columns = np.nonzero(labels == label)
        assert area == len(rows)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert box.tolist() == [columns.min(), rows.min(), width, height]


@settings(deadline=None, max_examples=50)
@given(label_maps, st.integers(0, 2**32 - 1))
def test_overlaps_equal_those_of_masks(first, seed):
    second = np.random.default_rng(seed).permutation(first.ravel()).reshape(first.shape)
    pairs = list(zip(*(part.tolist() for part in overlaps(first, second)), strict=True))
    expected = {}
    for pair in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    assert {(a, b): count for a, b, count in pairs} == expected
    assert [pair[:2] for pair in pairs] == sorted(expected)


def test_transposed_memory_is_read_by_rows():
    labels = np.arange(6, dtype=np.int64).reshape(2, 3).T
    assert region_statistics(labels)[2].tolist() == [
        [0, 0, 1, 1], [0, 1, 1, 1], [0, 2, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 2, 1, 1]
    ]  # fmt: skip


def test_an_empty_map_has_no_region():
    assert len(region_statistics(np.zeros((0, 4), np.int32))[0]) == 0


def test_bad_maps_are_refused():
    with pytest.raises(ValueError, match="float64"):
        region_statistics(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="different sizes"):
        overlaps(np.zeros((2, 2), int), np.zeros((2, 3), int))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 90))
def test_bands_are_the_rows_in_their_order(height, width, at_once):
    with patch("trace_d2.io.regions._AT_ONCE", at_once):
        bands = list(row_bands((height, width)))
    assert [row for band in bands for row in range(height)[band]] == list(range(height))
    assert all((band.stop - band.start) * width <= max(at_once, width) for band in bands)


def test_areas_of_labels_are_counted_band_by_band():
    labels = np.random.default_rng(0).integers(0, 9, (31, 17)).astype(np.int32)
    with patch("trace_d2.io.regions._AT_ONCE", 50):
        assert (
            label_areas(labels, 12).tolist() == np.bincount(labels.ravel(), minlength=12).tolist()
        )
        assert label_areas(np.zeros((0, 3), int)).tolist() == [0]
