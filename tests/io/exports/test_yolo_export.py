"""Masks come back from YOLO's lines as Ultralytics' programs read them."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import yaml

from trace_d2.io.exports.shapes import shape_of
from trace_d2.io.exports.yolo import check_image_name, data_yaml, outline, yolo_lines


def read_back(line: str, height: int, width: int) -> tuple[int, np.ndarray]:
    """Class and mask of a line, by the definition: shares to pixels, cut down, drawn and filled."""
    name, *numbers = line.split()
    shares = np.array(numbers, np.float32).reshape(-1, 2)
    assert len(shares) >= 3
    assert shares.min() >= 0
    assert shares.max() <= 1
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [(shares * np.float32((width, height))).astype(np.int32)], 1)
    return int(name), canvas.astype(bool)


def round_trip(mask: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    lines, lost = yolo_lines([shape_of(mask, 7)], {7: 2}, *mask.shape)
    name, found = read_back(lines[0], *mask.shape)
    assert name == 2
    return found, lost


def drawn(height: int, width: int, *parts: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of rectangles (top, left, bottom, right), each of which turns what it covers."""
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in parts:
        mask[top:bottom, left:right] ^= True
    return mask


@pytest.mark.parametrize(
    "parts",
    [
        [(2, 3, 9, 11)],
        [(0, 0, 20, 30)],  # all of the image
        [(5, 6, 6, 7)],  # one pixel
        [(19, 29, 20, 30)],  # the last one
        [(5, 6, 6, 20)],  # a line
        [(3, 4, 17, 5)],
        [(2, 2, 18, 28), (5, 5, 8, 9)],  # a hole
        [(2, 2, 18, 28), (5, 5, 6, 6), (9, 5, 12, 20), (14, 20, 16, 27)],  # several
        [(0, 0, 20, 30), (1, 1, 19, 29), (3, 3, 17, 27), (5, 5, 15, 25)][:2],  # a frame
    ],
)
def test_one_part_with_any_holes_comes_back_to_the_pixel(parts):
    mask = drawn(20, 30, *parts)
    found, lost = round_trip(mask)
    np.testing.assert_array_equal(found, mask)
    assert not +lost


def test_parts_are_joined_by_the_shortest_line():
    mask = drawn(20, 40, (2, 2, 8, 8), (4, 12, 10, 18), (3, 30, 6, 36))
    found, lost = round_trip(mask)
    assert not (mask & ~found).any()
    added = found & ~mask
    assert lost == {"bridged": 1, "added": 4 + 12, "twins": 0}
    assert np.count_nonzero(added) == 16
    assert cv2.connectedComponents(found.astype(np.uint8))[0] == 2  # one, and the background


def test_a_part_within_a_hole_is_joined_too():
    mask = drawn(30, 30, (2, 2, 28, 28), (6, 6, 24, 24), (10, 10, 20, 20))
    found, lost = round_trip(mask)
    assert not (mask & ~found).any()
    assert lost["added"] == np.count_nonzero(found & ~mask) == 4


def test_any_mask_loses_no_pixel_and_one_without_parts_gains_none():
    rng = np.random.default_rng(5)
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 48, 2))
        blurred = cv2.GaussianBlur(rng.random((height, width)), (0, 0), float(rng.uniform(0.5, 4)))
        mask = blurred > rng.uniform(0.4, 0.6)
        if not mask.any():
            continue
        found, lost = round_trip(mask)
        assert not (mask & ~found).any()
        parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
        assert lost["added"] == np.count_nonzero(found & ~mask)
        assert parts > 1 or not lost["added"]


@pytest.mark.parametrize("side", [640, 1000, 4999, 21333])
def test_shares_are_exact_enough_for_large_images(side):
    mask = np.zeros((4, side), bool)
    mask[1:3, 7 : side - 3] = True
    mask[2, 1::3] ^= True
    found, lost = round_trip(mask)
    assert not (mask & ~found).any()
    assert lost["added"] == np.count_nonzero(found & ~mask)


def test_places_between_the_points_that_are_written_draw_the_same():
    """Ultralytics puts a thousand points on an outline, and cuts those to pixels."""
    mask = drawn(60, 80, (2, 2, 50, 70), (10, 10, 20, 30), (44, 60, 58, 78))
    points = outline(mask) + 0.5
    closed = np.concatenate((points, points[:1]))
    at = np.union1d(np.linspace(0, len(points), 1000), np.arange(len(points)))
    dense = np.stack([np.interp(at, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)], 1)
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(canvas, [dense.astype(np.int32)], 1)
    np.testing.assert_array_equal(canvas.astype(bool), mask)


def test_lines_of_one_class_and_box_are_counted():
    ring, disc = drawn(20, 20, (2, 2, 10, 10), (4, 4, 8, 8)), drawn(20, 20, (2, 2, 10, 10))
    _, lost = yolo_lines(
        [shape_of(ring, 1), shape_of(disc, 1), shape_of(disc, 2)], {1: 0, 2: 1}, 20, 20
    )
    assert lost["twins"] == 1


def test_the_list_of_classes_reads_as_yaml():
    names = ["cat", "yes", "null", "1", "a: b # c", "Bär", "it's"]
    content = yaml.safe_load(data_yaml(names, True))
    assert content == {"train": "train.txt", "val": "val.txt", "names": dict(enumerate(names))}
    assert yaml.safe_load(data_yaml(names, False))["val"] == "train.txt"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a/images/x.jpg", "sub-folder that is called images"),
        ("a/x.gif", "YOLO does not read"),
        ("a/x\u2028y.jpg", "has a line break"),
        ("a\n./images/x.jpg", "has a line break"),
    ],
)
def test_images_that_yolo_would_not_find_labels_of(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_image_name(name)
    check_image_name("images.jpg")
    check_image_name("train/x.JPEG")
