from __future__ import annotations

import copy

import numpy as np
import pytest
from pycocotools import mask as mask_api

from trace_d2.labels.self_training import merge_predictions


def rle(y: int, x: int, height: int, width: int, size=(20, 30)) -> dict:
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = mask_api.encode(mask)
    return {"size": list(size), "counts": encoded["counts"].decode()}


def labels(*rows) -> dict:
    return {
        "images": [
            {"id": key, "height": 20, "width": 30, "file_name": f"{key}.jpg"} for key in (4, 2, 9)
        ],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": 5, "segmentation": mask}
            for number, (image_id, mask) in enumerate(rows)
        ],
        "categories": [{"id": 5, "name": "fg"}],
    }


def found(image_id: int, score: float, *corner: int) -> dict:
    return {"image_id": image_id, "score": score, "category_id": 1, "segmentation": rle(*corner)}


def test_by_hand():
    # Each label is 10 x 10. The predictions on it have an IoU of exactly 0.5, of 0.6, and none.
    earlier = labels((4, rle(0, 0, 10, 10)), (4, rle(0, 20, 10, 10)), (2, rle(5, 5, 10, 10)))
    predictions = [
        found(4, 0.7, 0, 0, 10, 5),
        found(4, 0.9, 0, 20, 10, 6),
        found(2, 0.69, 5, 5, 10, 10),
        found(2, 0.99, 0, 0, 0, 0),
    ]
    before = copy.deepcopy((earlier, predictions))
    content, summary = merge_predictions(earlier, predictions)
    assert (earlier, predictions) == before
    rows = [(row["id"], row["image_id"], row["bbox"]) for row in content["annotations"]]
    assert rows == [
        (1, 4, [20, 0, 6, 10]),
        (2, 4, [0, 0, 5, 10]),
        (3, 4, [0, 0, 10, 10]),
        (4, 2, [5, 5, 10, 10]),
    ]
    assert [row["area"] for row in content["annotations"]] == [60, 50, 100, 100]
    assert {row["category_id"] for row in content["annotations"]} == {1}
    assert content["images"] == earlier["images"]
    assert content["categories"] == [{"id": 1, "name": "object"}]
    assert (summary.new, summary.kept, summary.replaced) == (2, 2, 1)
    assert (summary.below_threshold, summary.empty) == (1, 1)
    assert (summary.images, summary.unlabelled) == (3, 1)
    assert "4 labels: 2 new predictions, 2 earlier labels kept" in str(summary)


def test_thresholds():
    earlier = labels((4, rle(0, 0, 10, 10)))
    predictions = [found(4, 0.5, 0, 0, 10, 4)]
    assert merge_predictions(earlier, predictions)[1].new == 0
    assert merge_predictions(earlier, predictions, threshold=0.5)[1].kept == 1
    assert merge_predictions(earlier, predictions, threshold=0.5, overlap=0.3)[1].replaced == 1
    with pytest.raises(ValueError, match=r"threshold is 70; it must lie in 0\.\.1"):
        merge_predictions(earlier, predictions, threshold=70)


def test_rounds_without_predictions_change_nothing():
    earlier = labels((4, rle(0, 0, 10, 10)), (2, [[1, 1, 9, 1, 9, 9, 1, 9]]))
    earlier["annotations"][0]["iscrowd"] = 1
    once, summary = merge_predictions(earlier, [])
    assert summary.kept == 2
    assert [row["iscrowd"] for row in once["annotations"]] == [1, 0]
    twice, _ = merge_predictions(once, [])
    assert twice == once


def test_bad_input():
    earlier = labels((4, rle(0, 0, 10, 10)))
    with pytest.raises(ValueError, match="predictions of 1 images that the truth lacks"):
        merge_predictions(earlier, [found(5, 0.9, 0, 0, 5, 5)])
    with pytest.raises(ValueError, match="1 of 1 predictions have no score"):
        merge_predictions(earlier, [{"image_id": 4, "segmentation": rle(0, 0, 5, 5)}])
    other = {"image_id": 4, "score": 0.9, "segmentation": rle(0, 0, 5, 5, size=(30, 20))}
    with pytest.raises(ValueError, match=r"mask of image 4 \(4\.jpg\) .* 30 x 20"):
        merge_predictions(earlier, [other])


def test_labels_and_predictions_without_a_pixel_are_dropped_and_counted(caplog):
    earlier = labels((4, rle(0, 0, 10, 10)), (4, rle(0, 0, 0, 0)), (2, [[1, 1, 3, 3, 5, 5]]))
    content, summary = merge_predictions(earlier, [found(2, 0.9, 0, 0, 0, 0)])
    assert [row["area"] for row in content["annotations"]] == [100]
    assert (summary.kept, summary.new, summary.replaced, summary.empty) == (1, 0, 0, 3)
    assert "2 masks have no pixel" in caplog.text


def test_predictions_are_of_the_images_that_their_file_names(caplog):
    """Ids of another numbering are told by the names; text and numbers are one id."""
    earlier = labels((4, rle(0, 0, 10, 10)))
    images = [{"id": 9, "file_name": "4.png"}, {"id": 4, "file_name": "9.png"}]
    rows = [found(9, 0.9, 0, 0, 10, 10)]
    content, summary = merge_predictions(earlier, {"images": images, "annotations": rows})
    assert [row["image_id"] for row in content["annotations"]] == [4]
    assert summary.replaced == 1
    assert "do not mean the same images by their ids" in caplog.text
    content, _ = merge_predictions(earlier, [found("4", 0.9, 0, 0, 10, 10)])
    assert [row["image_id"] for row in content["annotations"]] == [4]


def test_swapped_sizes_of_the_labels_are_repaired(caplog):
    earlier = labels((4, rle(0, 0, 10, 10)))
    for image in earlier["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    content, summary = merge_predictions(earlier, [found(2, 0.9, 0, 0, 5, 5)])
    assert (summary.new, summary.kept) == (1, 1)
    assert [(image["height"], image["width"]) for image in content["images"]] == [(20, 30)] * 3
    assert "are swapped" in caplog.text
