from __future__ import annotations

import numpy as np
import pytest
from plain.panoptic_quality import panoptic_quality_reference

from trace_d2.evaluation.segment_matching import image_counts, missed_counts
from trace_d2.io.coco_panoptic import segments_info

ROWS = {1: 0, 7: 1}


def count(truth, truth_categories, guess, guess_categories, crowd=()):
    """Counts of one-row maps given as lists."""
    truth, guess = np.array([truth], np.int32), np.array([guess], np.int32)
    return image_counts(
        truth,
        segments_info(truth, truth_categories, crowd),
        guess,
        segments_info(guess, guess_categories),
        ROWS,
    ).tolist()


def test_a_match_leaves_void_out_of_the_union():
    # 3 shared; union 4 true + 5 predicted - 3 shared - 1 void = 5.
    counts = count([4, 4, 4, 4, 0, 5, 5], {4: 1, 5: 7}, [0, 9, 9, 9, 9, 9, 0], {9: 1})
    assert counts == [[3 / 5, 1, 0, 0], [0, 0, 0, 1]]


def test_half_is_no_match():
    assert count([4, 4, 4, 4], {4: 1}, [9, 9, 0, 0], {9: 1}) == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_another_category_is_no_match():
    assert count([4, 4], {4: 1}, [9, 9], {9: 7}) == [[0, 0, 0, 1], [0, 0, 1, 0]]


def test_a_prediction_more_than_half_in_void_is_ignored():
    assert count([0, 0, 4], {4: 1}, [9, 9, 9], {9: 7}) == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert count([0, 0, 4, 4], {4: 1}, [9, 9, 9, 9], {9: 7}) == [[0, 0, 0, 1], [0, 0, 1, 0]]


def test_crowd_is_neither_matched_nor_missed_and_ignores_its_own_category():
    truth = [4, 4, 4, 5]
    names = {4: 1, 5: 7}
    assert count(truth, names, [9, 9, 9, 0], {9: 1}, crowd={4}) == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert count(truth, names, [9, 9, 9, 0], {9: 7}, crowd={4}) == [[0, 0, 0, 0], [0, 0, 1, 1]]


def test_void_and_crowd_add_up():
    # 1 void + 2 crowd of 5 pixels: ignored; without the void pixel 2 of 4: counted.
    names = {4: 1, 5: 7}
    assert count([0, 4, 4, 5, 5], names, [9] * 5, {9: 1}, {4})[0] == [0, 0, 0, 0]
    assert count([0, 4, 4, 5, 5], names, [0, *[9] * 4], {9: 1}, {4})[0] == [0, 0, 1, 0]


def test_of_two_crowd_regions_of_a_category_the_last_one_listed_counts():
    truth = np.array([[4, 4, 4, 5, 5]], np.int32)
    listed = segments_info(truth, {4: 1, 5: 1}, crowd={4, 5})
    guess = np.array([[9, 9, 9, 9, 9]], np.int32)
    guess_segments = segments_info(guess, {9: 1})
    forwards = image_counts(truth, listed, guess, guess_segments, ROWS)
    backwards = image_counts(truth, listed[::-1], guess, guess_segments, ROWS)
    assert forwards[0].tolist() == [0, 0, 1, 0]
    assert backwards[0].tolist() == [0, 0, 0, 0]


def test_areas_are_those_of_the_pixels_whatever_the_json_says():
    truth = np.array([[4, 4, 4, 4]], np.int32)
    guess = np.array([[9, 9, 9, 0]], np.int32)
    guess_segments = [{"id": 9, "category_id": 1, "area": 1}]
    for area in ({}, {"area": 5}, {"area": 0}, {"area": 3}):
        listed = [{"id": 4, "category_id": 1, "iscrowd": 0, **area}]
        assert image_counts(truth, listed, guess, guess_segments, ROWS)[0].tolist() == [
            0.75,
            1,
            0,
            0,
        ]
        assert image_counts(truth, listed, truth, listed, ROWS)[0].tolist() == [1, 1, 0, 0]


def test_a_crowd_ignores_by_its_pixels_whatever_the_json_says():
    truth, guess = np.array([[4, 4, 5]], np.int32), np.array([[9, 9, 9]], np.int32)
    listed = segments_info(truth, {4: 1, 5: 7}, crowd={4})
    wrong = [segment | {"area": 900} for segment in listed]
    guess_segments = [{"id": 9, "category_id": 1}]
    counts = image_counts(truth, listed, guess, guess_segments, ROWS)
    assert image_counts(truth, wrong, guess, guess_segments, ROWS).tolist() == counts.tolist()


def test_unlisted_true_pixels_are_not_void():
    truth, guess = np.array([[4, 4]], np.int32), np.array([[9, 9]], np.int32)
    counts = image_counts(truth, [], guess, [{"id": 9, "category_id": 1}], ROWS)
    assert counts[0].tolist() == [0, 0, 1, 0]


def test_nothing_on_either_side():
    void = np.zeros((2, 2), np.int32)
    assert not image_counts(void, [], void, [], ROWS).any()


def test_random_images_equal_the_definition(images, categories):
    rows = {category.id: row for row, category in enumerate(categories)}
    total = sum(image_counts(*image, rows) for image in images)
    expected = panoptic_quality_reference(images, list(rows))
    np.testing.assert_allclose(total, [expected[key] for key in rows], rtol=1e-12)
    assert (total > 0).all(), "the images should try every kind of outcome"


def test_no_prediction_equals_an_empty_one(images, categories):
    rows = {category.id: row for row, category in enumerate(categories)}
    for truth, segments, *_ in images:
        empty = image_counts(truth, segments, np.zeros_like(truth), [], rows)
        np.testing.assert_array_equal(missed_counts(segments, rows), empty)


@pytest.mark.parametrize(
    ("guess", "segments", "message"),
    [
        ([[9]], [{"id": 9, "category_id": 1}], r"has \(height, width\) \(1, 1\), the truth"),
        ([[9, 8]], [{"id": 9, "category_id": 1}], r"PNG but not in the JSON: \[8\]"),
        (
            [[9, 9]],
            [{"id": 9, "category_id": 1}, {"id": 8, "category_id": 1}],
            r"JSON but not in the PNG: \[8\]",
        ),
        ([[9, 9]], [{"id": 9, "category_id": 2}], "segment 9 has category_id 2"),
    ],
)
def test_contradictions_are_refused(guess, segments, message):
    truth = np.array([[4, 4]], np.int32)
    truth_segments = [{"id": 4, "category_id": 1, "area": 2, "iscrowd": 0}]
    with pytest.raises(ValueError, match=message):
        image_counts(truth, truth_segments, np.array(guess, np.int32), segments, ROWS)
