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
    assert not sizes_are_swapped(by_id, [None, {"image_id": 9}, {"image_id": 1}])
    with pytest.raises(ValueError, match=r"a mask of image 1 .* 8 x 6 .* 6 x 8"):
        read_truth(content | {"annotations": [*content["annotations"], wrong]}, masks=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"segmentation": RLE}, "annotation 0 has no image_id"),
        ({"image_id": 1, "bbox": [0, 0, 1, 1]}, "has no mask .*: give all .* or score boxes alone"),
        ({"image_id": 1, "segmentation": []}, "has neither segmentation nor bbox"),
        ({"image_id": 1, "segmentation": [[1, 2, 3]]}, r"annotation 0 \(image 1\): a polygon is"),
        ({"image_id": 1, "segmentation": {"size": [6, 8]}}, "counts are NoneType"),
        ({"image_id": 1, "segmentation": {"size": [6, 8], "counts": "018"}}, "its runs cover"),
        ({"image_id": 1, "segmentation": RLE, "bbox": [1, 2]}, r"has bbox \[1, 2\]"),
        ({"image_id": 1, "segmentation": RLE, "score": float("nan")}, "has score nan"),
        ({"image_id": 1, "segmentation": RLE, "score": "high"}, "has score 'high'"),
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
    with pytest.raises(ValueError, match=r"\(image 2\) is of an image that the file does not list"):
        read_truth(
            {"images": [IMAGE], "annotations": [{"image_id": 2, "segmentation": RLE}]}, masks=True
        )
    with pytest.raises(ValueError, match="holds no annotations"):
        read_predictions({"images": []}, masks=True)
