"""Masks in which everything that touches is one."""

from __future__ import annotations

import json

import numpy as np
from pycocotools import mask as coco_mask

from trace_d2.data.merged_masks import write_merged_masks
from trace_d2.formats.categories import parse_categories
from trace_d2.formats.coco_panoptic import (
    coco_dataset,
    image_entry,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)

CATEGORIES = parse_categories(
    [
        {"id": 1, "name": "cat", "isthing": 1},
        {"id": 2, "name": "dog", "isthing": 1},
        {"id": 3, "name": "sky", "isthing": 0},
    ],
    "the test",
)


def test_things_that_touch_are_one_mask(tmp_path):
    ids = np.full((6, 8), 9)  # sky
    ids[1:3, 1:3], ids[1:3, 3:5] = 1, 2  # a cat beside a dog
    ids[4, 6] = 3  # a cat on its own
    ids[5, 5] = 4  # a crowd, which touches it by a corner
    write_panoptic_png(tmp_path / "a.png", ids)
    segments = segments_info(ids, {1: 1, 2: 2, 3: 1, 4: 1, 9: 3}, crowd=[4])
    content = coco_dataset(
        [image_entry(7, "a.jpg", 6, 8)],
        [panoptic_annotation(7, "a.png", segments)],
        CATEGORIES,
        "the test",
    )
    (tmp_path / "panoptic.json").write_text(json.dumps(content))

    count = write_merged_masks(
        tmp_path / "panoptic.json", tmp_path, tmp_path / "merged.json", progress=False
    )

    merged = json.loads((tmp_path / "merged.json").read_text())
    assert count == len(merged["annotations"]) == 2
    assert [a["id"] for a in merged["annotations"]] == [1, 2]
    assert {a["image_id"] for a in merged["annotations"]} == {7}
    assert [a["area"] for a in merged["annotations"]] == [8, 1]
    assert [a["bbox"] for a in merged["annotations"]] == [[1, 1, 4, 2], [6, 4, 1, 1]]
    masks = [coco_mask.decode(a["segmentation"]).astype(bool) for a in merged["annotations"]]
    np.testing.assert_array_equal(masks[0], np.isin(ids, [1, 2]))
    np.testing.assert_array_equal(masks[1], ids == 3)
