from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_api

from trace_d2.io.coco_instances import (
    InstanceFile,
    read_predictions,
    read_truth,
    sizes_are_swapped,
)

IMAGE = {"id": 1, "height": 6, "width": 8}


def test_rle_of_all_three_kinds():
    file = InstanceFile("file", {1: IMAGE}, [])
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:5] = 1
    compressed = mask_api.encode(np.asfortranarray(mask))
    uncompressed = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    for given_mask in (compressed, uncompressed, polygon):
        encoded = file.rle({"image_id": 1, "segmentation": given_mask})
        np.testing.assert_array_equal(mask_api.decode(encoded), mask)


def test_sizes():
    truth = read_truth({"images": [IMAGE | {"file_name": "a.jpg"}], "annotations": []}, masks=True)
    truth.check_fit({"image_id": 1, "segmentation": {"size": [6, 8], "counts": [48]}}, "file")
    truth.check_fit({"image_id": 1, "bbox": [0, 0, 1, 1]}, "file")
    turned = {"image_id": 1, "segmentation": {"size": [8, 6], "counts": [48]}}
    with pytest.raises(ValueError, match=r"file: a mask of image 1 \(a\.jpg\) .* 8 x 6 .* 6 x 8;"):
        truth.check_fit(turned, "file")

    outside = {"image_id": 1, "segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}
    with pytest.raises(ValueError, match=r"file: a mask of image 1 \(a\.jpg\) .* far outside"):
        truth.check_fit(outside, "file")


RLE = {"size": [6, 8], "counts": [48]}


def test_swapped_sizes_are_swapped_back(caplog):
    """By the majority of the masks of images that are not square; one wrong mask changes little."""
    square = {"id": 3, "height": 5, "width": 5}
    content = {
        "images": [{"id": 1, "height": 8, "width": 6}, {"id": 2, "height": 8, "width": 6}, square],
        "annotations": [
            {"image_id": 3, "segmentation": {"size": [5, 5], "counts": [25]}},
            {"image_id": 1, "segmentation": RLE},
            {"image_id": 2, "segmentation": RLE},
        ],
    }
    images = read_truth(content, masks=True).images
    assert [(image["height"], image["width"]) for image in images.values()] == [(6, 8)] * 2 + [
        (5, 5)
    ]
    assert "the truth: width and height of its images are swapped" in caplog.text
    assert content["images"][0]["height"] == 8
    wrong = {"image_id": 1, "segmentation": {"size": [8, 6], "counts": [48]}}
    by_id = {image["id"]: image for image in content["images"]}
    assert sizes_are_swapped(by_id, [*content["annotations"], wrong])
    assert not sizes_are_swapped(by_id, [*content["annotations"], wrong, wrong])
    assert not sizes_are_swapped(by_id, [{"image_id": 1}])
    with pytest.raises(
        ValueError, match=r"annotation no\. 3 \(image 1\): its size is 8 x 6 .* 6 x 8"
    ):
        read_truth(content | {"annotations": [*content["annotations"], wrong]}, masks=True)


def test_swapped_sizes_are_found_among_faulty_annotations(caplog):
    content = {
        "images": [{"id": 1, "height": 8, "width": 6}],
        "annotations": [
            None,
            {"image_id": [1]},
            {"image_id": {}},
            {"image_id": 1, "bbox": 3},
            {"image_id": 1, "segmentation": RLE | {"counts": [40, 8]}},
        ],
    }
    truth = read_truth(content, masks=None, leave_out=True)
    assert (truth.images[1]["height"], truth.images[1]["width"]) == (6, 8)
    assert len(truth.annotations) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"segmentation": RLE}, "annotation no. 0: its image_id is None"),
        ({"image_id": 1, "bbox": [0, 0, 1, 1]}, "has no mask .*: give all annotations one$"),
        ({"image_id": 1, "segmentation": []}, "has neither mask .* nor bbox"),
        (
            {"image_id": 1, "segmentation": [[1, 2, 3]]},
            r"annotation no\. 0 \(image 1\): all its polygons",
        ),
        ({"image_id": 1, "segmentation": {"size": [6, 8]}}, "counts hold None"),
        ({"image_id": 1, "segmentation": {"size": [6, 8], "counts": "018"}}, "its runs cover"),
        ({"image_id": 1, "segmentation": RLE, "score": float("nan")}, "its score is nan"),
        ({"image_id": 1, "segmentation": RLE, "score": "high"}, "its score is 'high'"),
    ],
)
def test_faulty_predictions(row, message):
    with pytest.raises(ValueError, match=message):
        read_predictions([row], masks=True)


def test_scores_on_all_or_none():
    rows = [{"image_id": 1, "bbox": [0, 0, 1, 1]}, {"image_id": 1, "bbox": [0, 0, 1, 1]}]
    found = read_predictions(rows, masks=False)
    assert [row["score"] for row in found.annotations] == [1, 1]
    with pytest.raises(ValueError, match=r"2 of 2 predictions have no score; .* one$"):
        read_predictions(rows, masks=False, need_scores=True)
    with pytest.raises(ValueError, match=r"1 of 2 predictions have no score; .* or none"):
        read_predictions([rows[0] | {"score": 0.5}, rows[1]], masks=False)


def test_faulty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_truth(tmp_path / "absent.json", masks=True)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON"):
        read_truth(tmp_path / "bad.json", masks=True)
    with pytest.raises(ValueError, match="no COCO instances file"):
        read_truth({"images": []}, masks=True)
    with pytest.raises(ValueError, match="image 1 has no height"):
        read_truth({"images": [{"id": 1}], "annotations": []}, masks=True)
    with pytest.raises(ValueError, match="lists image 1 twice"):
        read_truth({"images": [IMAGE, IMAGE], "annotations": []}, masks=True)
    with pytest.raises(ValueError, match=r"image_id 2 is not in images\[\]"):
        read_truth(
            {"images": [IMAGE], "annotations": [{"image_id": 2, "segmentation": RLE}]}, masks=True
        )
    with pytest.raises(ValueError, match="holds no annotations"):
        read_predictions({"images": []}, masks=True)


MASK = {"size": [6, 8], "counts": [13, 2, 4, 2, 4, 2, 21]}  # x 2..4, y 1..2
OWN = [2, 1, 3, 2]
POLYGON = [[2, 1, 5, 1, 5, 3, 2, 3]]
NAN, INFINITE = float("nan"), float("inf")


def truth_of(**fields):
    rows = [{"id": 1, "image_id": 1, "segmentation": MASK} | fields]
    return read_truth({"images": [IMAGE], "annotations": rows}, masks=None)


NO_BOXES = [
    [0, 0, 0, 0], [2, 1, -3, 2], [2, 1, 3, 0], [NAN, 1, 3, 2], [2, 1, INFINITE, 2], [1, 2],
    [2, 1, 3, 2, 0], ["2", "1", "3", "2"], [2, 1, None, 2], [True, 1, 3, 2], "2 1 3 2", 7, {},
    [[2, 1], [3, 2]], [10**400, 1, 3, 2],
]  # fmt: skip


@pytest.mark.parametrize("mask", [MASK, POLYGON])
@pytest.mark.parametrize("box", NO_BOXES)
def test_the_mask_decides_over_what_is_no_box(box, mask, caplog):
    (row,) = truth_of(bbox=box, segmentation=mask).annotations
    assert row["bbox"] == OWN
    assert "1 masks have a bbox that is no box: the mask's own counts" in caplog.text
    caplog.clear()
    (row,) = read_predictions(
        [{"image_id": 1, "segmentation": mask, "bbox": box}], True
    ).annotations
    assert row["bbox"] == OWN
    assert "the mask's own counts" in caplog.text
    for read in (
        lambda: truth_of(bbox=box, segmentation=None),
        lambda: read_predictions([{"image_id": 1, "bbox": box}], False),
    ):
        caplog.clear()
        if box in ([0, 0, 0, 0], [2, 1, 3, 0]):
            assert read().annotations[0]["bbox"] == box
            assert "1 boxes without masks have no area: nothing can match them" in caplog.text
            continue
        with pytest.raises(ValueError, match=r"its bbox is .*, not .* or more: correct the ann"):
            read()


def test_the_mask_decides_over_a_box_elsewhere(caplog):
    """Corners in place of sides, as in x, y, x, y, are elsewhere; a pixel more or less is not."""
    for box, expected in (
        ([2, 1, 5, 3], OWN),
        ([20, 30, 3, 2], OWN),
        ([1.5, 0.5, 4, 3], [1.5, 0.5, 4, 3]),
        (None, None),
    ):
        caplog.clear()
        (row,) = truth_of(bbox=box).annotations
        assert row.get("bbox") == expected
        assert ("1 masks are not where their bbox is" in caplog.text) == (expected == OWN)


def test_predicted_boxes_stay_unless_most_are_elsewhere(caplog):
    """Detectors predict boxes and masks, and may be wrong in one of both."""
    far, near = [{"image_id": 1, "segmentation": MASK, "bbox": box} for box in ([5, 3, 3, 3], OWN)]
    found = read_predictions([far, near], masks=True).annotations
    assert [row["bbox"] for row in found] == [far["bbox"], OWN]
    assert not caplog.records
    found = read_predictions([far, far, near], masks=True).annotations
    assert [row["bbox"] for row in found] == [OWN] * 3
    assert "2 masks are not where their bbox is" in caplog.text


def test_areas_that_are_not_of_the_mask_give_way_to_its_own(caplog):
    square = {"size": [40, 50], "counts": [0, 1000, 1000]}
    image = {"id": 1, "height": 40, "width": 50}
    for area, expected in ((900, 900), (300, 1000), (1e12, 1000), (0, 1000), (None, None)):
        row = {"image_id": 1, "segmentation": square, "area": area}
        truth = read_truth({"images": [image], "annotations": [row]}, masks=True)
        assert truth.annotations[0].get("area") == expected
    assert caplog.text.count("1 masks are not of their area") == 3
    with pytest.raises(ValueError, match=r"its area is '768.0', not a finite number"):
        truth_of(area="768.0")
    with pytest.raises(ValueError, match="its area is -1, less than 0"):
        truth_of(area=-1)


@pytest.mark.parametrize("value", [[1], {}, 1e308, "0", "1", 2, NAN])
def test_iscrowd_is_a_flag(value):
    with pytest.raises(ValueError, match=r"its iscrowd is .*, neither 0 nor 1"):
        truth_of(iscrowd=value)
    row = {"image_id": 1, "segmentation": MASK, "iscrowd": value}
    with pytest.raises(ValueError, match=r"its iscrowd is .*, neither 0 nor 1"):
        read_predictions([row], masks=True)
    assert truth_of(iscrowd=1.0).annotations[0]["iscrowd"] == 1
    assert truth_of(iscrowd=None).annotations[0]["iscrowd"] == 0


@pytest.mark.parametrize("value", [None, {}, [1], True, 1.5, NAN])
def test_ids_are_numbers_or_text(value):
    with pytest.raises(ValueError, match=r"its image_id is .*, neither a whole number nor text"):
        truth_of(image_id=value)
    with pytest.raises(ValueError, match=r"its image_id is .*, neither a whole number nor text"):
        read_predictions([{"image_id": value, "segmentation": MASK}], masks=True)
    for read in (
        lambda images: read_truth({"images": images, "annotations": []}, True),
        lambda images: read_predictions({"images": images, "annotations": []}, True),
    ):
        with pytest.raises(ValueError, match=r"the id of image no\. 0 is .*: give it one"):
            read([IMAGE | {"id": value}])


def test_whole_floats_are_ids_and_sizes():
    image = {"id": 1.0, "height": 6.0, "width": 8.0}
    row = {"image_id": 1.0, "segmentation": MASK | {"size": [6.0, 8.0]}}
    truth = read_truth({"images": [image], "annotations": [row]}, masks=True)
    assert repr(truth.images) == "{1: {'id': 1, 'height': 6, 'width': 8}}"
    assert repr(truth.annotations[0]["image_id"]) == "1"


@pytest.mark.parametrize(("own", "other"), [(1, "1"), ("1", 1)])
def test_text_that_should_be_a_number_is_named(own, other):
    row = {"image_id": other, "segmentation": MASK}
    with pytest.raises(
        ValueError, match=f"image_id {other!r} is not in .*, which has {own!r}; write"
    ):
        read_truth({"images": [IMAGE | {"id": own}], "annotations": [row]}, masks=True)


@pytest.mark.parametrize("value", [True, "0.5", [0.5], NAN, 10**400])
def test_scores_are_numbers(value):
    row = {"image_id": 1, "segmentation": MASK, "score": value}
    with pytest.raises(ValueError, match=r"its score is .*, not a finite number"):
        read_predictions([row], masks=True)


def test_a_short_polygon_beside_a_good_one_is_counted(caplog):
    mask = [[10, 10, 10, 15], *POLYGON]
    assert truth_of(segmentation=mask).annotations[0]["segmentation"] == POLYGON
    row = {"image_id": 1, "segmentation": mask}
    assert read_predictions([row], masks=True).annotations[0]["segmentation"] == POLYGON
    assert caplog.text.count("1 masks have polygons of fewer than three points: those are") == 2


def test_normalised_polygons_are_refused_or_told(caplog):
    share = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]
    rows = [{"id": number, "image_id": 1, "segmentation": share} for number in (1, 2)]
    file = {"images": [IMAGE], "annotations": rows}
    for read in (
        lambda: read_truth(file, True),
        lambda: read_truth(file, None, leave_out=True),
        lambda: read_predictions(rows, True),
    ):
        with pytest.raises(
            ValueError, match=r"all polygons lie within 0..1 .*; multiply x by the w"
        ):
            read()
    rows[0]["segmentation"] = POLYGON
    assert len(read_truth(file, True).annotations) == 2
    assert "1 masks are polygons within 0..1, as if shares of the image" in caplog.text


@pytest.mark.parametrize(
    "mask", [{"size": [6, 8], "counts": [48]}, [[1, 1, 3, 3, 5, 5]], [[20, 1, 30, 1, 30, 5]]]
)
def test_masks_without_a_pixel_are_counted(mask, caplog):
    (row,) = truth_of(segmentation=mask).annotations
    assert row["segmentation"] == mask
    assert "1 masks have no pixel: nothing can match them" in caplog.text
    rows = [{"image_id": 1, "segmentation": mask}, {"image_id": 1, "segmentation": MASK}]
    truth = read_truth({"images": [IMAGE], "annotations": rows}, None, leave_out=True)
    assert len(truth.annotations) == 1
    assert "1 annotations have an empty mask (left out)" in caplog.text


def test_what_occurs_twice_or_is_nowhere_is_told(caplog):
    images = [IMAGE | {"file_name": "a.jpg"}, IMAGE | {"id": 2, "file_name": "a.jpg"}]
    rows = [{"id": 7, "image_id": 1, "category_id": c, "segmentation": MASK} for c in (1, 9, "1")]
    categories = [{"id": 1, "name": "cat"}]
    content = {"images": images, "annotations": rows, "categories": categories}
    assert len(read_truth(content, masks=True).annotations) == 3
    assert "1 file names are those of several images" in caplog.text
    assert "2 annotation ids are missing or occur twice" in caplog.text
    assert "1 annotations have a category_id that categories lack" in caplog.text


@pytest.mark.parametrize("images", [None, {}, "a", [None], [[]], [{"id": None}], 3])
def test_images_that_are_none(images):
    for read in (read_truth, read_predictions):
        if read is read_predictions and images in (None, {}):
            continue  # as good as absent
        with pytest.raises(ValueError, match=r"the (truth|predictions)"):
            read({"images": images, "annotations": []}, masks=True)


def test_sizes_are_limited_before_anything_is_decoded():
    side = 31623
    image = IMAGE | {"height": side, "width": side}
    row = {"image_id": 1, "segmentation": {"size": [side, side], "counts": [side**2]}}
    with pytest.raises(ValueError, match="TRACE_D2_MAX_PIXELS"):
        read_truth({"images": [image], "annotations": []}, masks=True)
    with pytest.raises(ValueError, match="TRACE_D2_MAX_PIXELS"):
        read_predictions([row], masks=True)
