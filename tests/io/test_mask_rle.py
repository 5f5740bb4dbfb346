"""Segmentations are checked number by number, and decoded as pycocotools does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from trace_d2.io.mask_rle import (
    SegmentationError,
    SoundMask,
    check_segmentation,
    decode_segmentation,
    run_lengths,
)

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))
DISC = np.hypot(*np.mgrid[-30:31, -40:41]) < 25


def encode(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def counted(mask: np.ndarray) -> list[int]:
    """Uncompressed counts, the plain way."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@settings(max_examples=80, deadline=None)
@given(MASKS)
def test_compressed_and_listed_counts_say_the_same(mask: np.ndarray) -> None:
    rle, listed = encode(mask), {"size": list(mask.shape), "counts": counted(mask)}
    assert run_lengths(rle["counts"]) == listed["counts"]
    assert run_lengths(rle["counts"].encode()) == listed["counts"]
    for segmentation in (rle, listed):
        sound = check_segmentation(segmentation)
        assert sound.area == mask.sum()
        assert sound.box() == coco_mask.toBbox(rle).tolist()
        decoded = decode_segmentation(segmentation, *mask.shape)
        assert decoded.dtype == np.bool_
        assert np.array_equal(decoded, mask)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(encode(DISC)["counts"]) - 1), st.integers(32, 126), st.booleans())
def test_a_changed_character_is_seen_or_changes_a_whole_mask(
    place: int, code: int, drop: bool
) -> None:
    counts = encode(DISC)["counts"]
    spoilt = counts[:place] + ("" if drop else chr(code)) + counts[place + 1 :]
    segmentation = {"size": list(DISC.shape), "counts": spoilt}
    try:
        area = check_segmentation(segmentation).area
    except SegmentationError:
        return
    # Another mask, but a mask.
    assert decode_segmentation(segmentation, *DISC.shape).sum() == area


BROKEN = {
    "no counts": ({"size": [2, 2]}, "counts hold None"),
    "empty text": ({"size": [2, 2], "counts": ""}, "counts are empty"),
    "empty list": ({"size": [2, 2], "counts": []}, "counts are empty"),
    "letters": ({"size": [2, 2], "counts": "~~"}, "characters that no RLE has"),
    "umlaut": ({"size": [2, 2], "counts": "ä4"}, "characters that no RLE has"),
    "cut": ({"size": [61, 81], "counts": encode(DISC)["counts"][:-3] + "P"}, "within a number"),
    "shorter": ({"size": [61, 81], "counts": "12"}, "cover 3 pixels, its size is 61x81"),
    "endless": ({"size": [2, 2], "counts": "P" * 9 + "0"}, "beyond all sizes"),
    "wrapping": ({"size": [2, 2], "counts": [2**63, 2**63, 4]}, "runs cover 18446744073709551620"),
    "wrapping text": ({"size": [2, 2], "counts": "oooooo3" * 99}, "runs cover"),
    "beyond integers": ({"size": [2, 2], "counts": [10**40]}, "its runs cover 1000"),
    "huge": ({"size": [31623, 31623], "counts": [31623**2]}, "not read: .*TRACE_D2_MAX_PIXELS"),
    "other size": ({"size": [81, 60], "counts": encode(DISC)["counts"]}, "4941 pixels"),
    "negative": ({"size": [2, 2], "counts": [5, -1]}, "a run length is negative"),
    "floats": ({"size": [2, 2], "counts": [1.0, 3.0]}, "counts hold 1.0"),
    "no size": ({"counts": [4]}, "its size is None"),
    "size of text": ({"size": ["2", 2], "counts": [4]}, "its size is"),
    "zero size": ({"size": [0, 2], "counts": [0]}, "its size is"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_rle(how: str) -> None:
    segmentation, message = BROKEN[how]
    with pytest.raises(SegmentationError, match=message) as caught:
        check_segmentation(segmentation)
    assert caught.value.kind == "broken RLE"


@pytest.mark.parametrize(
    "polygons",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[0, 0, 9, 0, float("nan"), 9]],
        [[0, 0, 9, 0, float("inf"), 9]],
        [[0, 0, 9, 0, 10**400, 9]],
        [[0, 0, 9, 0, "9", 9]],
        [[0, 0, 9, 0, None, 9]],
        [[]],
    ],
)
def test_broken_polygons(polygons: list) -> None:
    with pytest.raises(SegmentationError) as caught:
        check_segmentation(polygons)
    assert caught.value.kind == "broken polygon"


@pytest.mark.parametrize("segmentation", [None, []])
def test_no_mask_at_all(segmentation: object) -> None:
    with pytest.raises(SegmentationError, match="no mask") as caught:
        check_segmentation(segmentation)
    assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    ("segmentation", "found"),
    [
        ([10, 10, 20, 10, 20, 20], "one flat list of numbers"),
        ([[10, 10], [20, 10]], r"one list of \[x, y\] points"),
        ([[10, 10], [20, 10], [20, 20]], r"one list of \[x, y\] points"),
        ([[[10, 10], [20, 10], [20, 20]]], r"polygons of \[x, y\] points"),
        ([{"size": [2, 2], "counts": [4]}], "a list around RLE"),
        ([None, [10, 10, 20, 10, 20, 20]], "None"),
        ("", "''"),
        (7, "7"),
        (float("nan"), "nan"),
    ],
)
def test_other_forms_are_told_the_right_one(segmentation: object, found: str) -> None:
    right = r"neither RLE, .*, nor a list of polygons: \[\[x, y, \.\.\.\]\]"
    with pytest.raises(SegmentationError, match=f"is .*{found}.*, {right}") as caught:
        check_segmentation(segmentation)
    assert caught.value.kind == "form"


def test_polygons_are_united() -> None:
    polygons = [[0, 0, 4, 0, 4, 3, 0, 3], [6.0, 2.0, 8.0, 2.0, 8.0, 5.0, 6.0, 5.0]]
    sound = check_segmentation(polygons)
    assert (sound.segmentation, sound.area, sound.short) == (polygons, 18, 0)
    assert sound.box() == [0, 0, 8, 5]
    expected = np.zeros((6, 10), bool)
    expected[0:3, 0:4] = expected[2:5, 6:8] = True
    assert np.array_equal(decode_segmentation(polygons, 6, 10), expected)


@pytest.mark.parametrize("short", [[10, 10, 10, 15], [], [1], [1, 2, 3, 4, 5]])
def test_short_polygons_beside_good_ones_are_left_out_and_counted(short: list) -> None:
    good = [0, 0, 4, 0, 4, 3, 0, 3]
    sound = check_segmentation([short, good, short])
    assert (sound.segmentation, sound.short) == ([good], 2)
    assert sound.box() == [0, 0, 4, 3]


def test_sizes_of_whole_floats_are_integers() -> None:
    sound = check_segmentation({"size": [6.0, 8.0], "counts": [48]})
    assert [type(side) for side in sound.segmentation["size"]] == [int, int]


def test_masks_without_a_pixel_and_normalised_ones_are_seen() -> None:
    def of(*polygon: float) -> SoundMask:
        return check_segmentation([list(polygon)])

    sliver = of(10, 10, 20, 20, 30, 30)
    assert not sliver.has_pixels()
    assert not sliver.has_pixels(48, 64)
    assert of(10, 10, 20, 10, 20, 20).has_pixels(48, 64)
    assert not of(70, 10, 90, 10, 90, 20).has_pixels(48, 64)  # beside the image
    assert of(70, 10, 90, 10, 90, 20).has_pixels()
    share = of(0.1, 0.2, 0.6, 0.2, 0.6, 0.8)
    assert share.normalised()
    assert not of(0.1, 0.2, 2.6, 0.2, 0.6, 0.8).normalised()
    empty = check_segmentation({"size": [6, 8], "counts": [48]})
    assert not empty.has_pixels()
    assert not empty.normalised()


def test_polygons_far_outside_are_not_painted() -> None:
    with pytest.raises(SegmentationError, match="far outside"):
        decode_segmentation([[0, 0, 1e12, 0, 1e12, 1e12]], 6, 10)


def test_outlines_that_would_fill_the_memory_are_not_painted() -> None:
    polygon = [0, 0, 9000, 9000] * 500
    with pytest.raises(SegmentationError, match="an outline of more than"):
        decode_segmentation([polygon], 9000, 9000)


def test_masks_of_another_size_are_not_decoded() -> None:
    with pytest.raises(
        SegmentationError, match=r"61 x 81 \(height x width\), .* 81 x 61"
    ) as caught:
        decode_segmentation(encode(DISC), 81, 61)
    assert caught.value.kind == "size"
