"""COCO instances as dataset dicts of one class."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trace_d2.data.coco_dicts import load_class_agnostic_dicts
from trace_d2.io.atomic import write_json
from trace_d2.io.coco_panoptic import encode_mask, image_entry

MASK = np.zeros((6, 8), bool)
MASK[1:3, 2:7] = True
POLYGON = [1.0, 1.0, 3.0, 1.0, 3.0, 3.0]
SOUND = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": encode_mask(MASK)}


def load(images: Path, annotations: list[Any], **image: Any) -> list[dict[str, Any]]:
    """The dicts of a file of one image."""
    entry = {**image_entry(1, "photo_0.jpg", 6, 8), **image}
    path = images.parent / "instances.json"
    content = {"images": [entry], "annotations": annotations, "categories": []}
    path.write_text(json.dumps(content))  # NaN and all
    return load_class_agnostic_dicts(path, images, "correct the paths")


def test_all_kinds_of_masks(images):
    counts = [13, 2, 4, 2, 4, 2, 4, 2, 4, 2, 9]  # MASK, down the columns
    (record,) = load(
        images,
        [
            {"id": 0, "image_id": 1, "category_id": 18, "bbox": [1, 1, 2, 2],
             "segmentation": [POLYGON]},
            {"id": 0, "image_id": 1, "category_id": 0, "iscrowd": 1,
             "segmentation": {"size": [6, 8], "counts": counts}},
            {"id": 3, "image_id": 1, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
        ],
    )  # fmt: skip
    assert record["file_name"] == f"{images}/photo_0.jpg"
    assert (record["height"], record["width"], record["image_id"]) == (6, 8, 1)
    first, second, third = record["annotations"]
    assert (first["category_id"], first["segmentation"]) == (0, [POLYGON])
    assert (second["category_id"], second["iscrowd"]) == (0, 1)
    assert second["bbox"] == [2, 1, 5, 2]
    assert second["segmentation"]["counts"].decode() == encode_mask(MASK)["counts"]
    assert third["bbox"] == [1, 1, 2, 2]


def test_boxes_alone(images):
    (record,) = load(images, [{"image_id": 1, "bbox": [1, 1, 2, 2]}])
    (annotation,) = record["annotations"]
    assert annotation["bbox"] == [1, 1, 2, 2]
    assert "segmentation" not in annotation


def test_images_without_annotations(images):
    assert load(images, [])[0]["annotations"] == []


def test_swapped_sizes_of_maskcut_files(images, caplog):
    with caplog.at_level(logging.WARNING):
        (record,) = load(images, [SOUND], height=8, width=6)
    assert (record["height"], record["width"]) == (6, 8)
    assert len(record["annotations"]) == 1
    assert "width and height of its images are swapped" in caplog.text


BROKEN = {
    "its size is 5 x 8": {"segmentation": {"size": [5, 8], "counts": [40]}},
    "its runs cover": {"segmentation": {"size": [6, 8], "counts": [3, 4]}},
    "counts end within a number": {"segmentation": {"size": [6, 8], "counts": "P"}},
    "counts hold None": {"segmentation": {"size": [6, 8]}},
    "all its polygons have fewer": {"segmentation": [[1, 2, 3]]},
    "a polygon holds nan": {"segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
    "far outside": {"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]},
    "its mask has no pixel": {"segmentation": {"size": [6, 8], "counts": [48]}},
    "its iscrowd is '0'": {"segmentation": [POLYGON], "iscrowd": "0"},
    "neither mask .* nor bbox": {},
    "has no mask": {"bbox": [0, 0, 1, 1]},
    r"image_id 77 is not in images\[\]": {"segmentation": [POLYGON], "image_id": 77},
    "its image_id is {}": {"segmentation": [POLYGON], "image_id": {}},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_broken_annotations_are_left_out(images, reason, caplog):
    bad = {"id": 4, "image_id": 1, **BROKEN[reason]}
    with caplog.at_level(logging.WARNING):
        (record,) = load(images, [SOUND, bad, bad, SOUND | {"id": 2}])
    assert len(record["annotations"]) == 2
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith(f"{images.parent / 'instances.json'}: 2 annotations ")
    assert "(left out); first: annotation 4: " in line
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=reason):
        load(images, [bad, {**SOUND, "segmentation": {"size": [6, 8], "counts": ""}}])
    assert not caplog.records


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [2, 1, -5, 2], [1, 2], [2, 1, 7, 3], None])
def test_the_mask_decides_over_the_box(images, box, caplog):
    with caplog.at_level(logging.WARNING):
        (record,) = load(images, [SOUND | {"bbox": box}])
    assert record["annotations"][0]["bbox"] == [2, 1, 5, 2]
    assert ("the mask's own counts" in caplog.text) == (box is not None)


def test_boxes_alone_that_are_none_are_left_out(images, caplog):
    boxes = [[1, 1, 2, 2], [1, 1, 0, 2], [1, 1, 2, -2], [float("nan"), 1, 2, 2], [90, 1, 2, 2]]
    rows = [{"id": number, "image_id": 1, "bbox": box} for number, box in enumerate(boxes, 1)]
    with caplog.at_level(logging.WARNING):
        (record,) = load(images, rows)
    assert [row["bbox"] for row in record["annotations"]] == [[1, 1, 2, 2]]
    assert "4 annotations have no mask, and a bbox that is no box (left out)" in caplog.text


@pytest.mark.parametrize("name", ["../photo_0.jpg", "/etc/passwd", "a\\..\\..\\photo_0.jpg"])
def test_file_names_that_lead_out_of_the_folder(images, name):
    with pytest.raises(ValueError, match=r"image 1: the file name .* leads out of its folder"):
        load(images, [SOUND], file_name=name)


def test_entries_that_are_no_annotations(images, caplog):
    with caplog.at_level(logging.WARNING):
        (record,) = load(images, [7, {"id": 1}, SOUND])
    assert len(record["annotations"]) == 1
    assert "1 annotations are no JSON objects (left out); first: annotation no. 0" in caplog.text
    assert "1 annotations have an image_id that is no id (left out)" in caplog.text


def test_files_that_are_no_instances(images, tmp_path):
    def read(name: str) -> None:
        load_class_agnostic_dicts(tmp_path / name, images, "correct the paths")

    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.json: correct the paths"):
        read("none.json")
    (tmp_path / "torn.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"torn\.json is not valid JSON"):
        read("torn.json")
    write_json(tmp_path / "list.json", [SOUND])
    with pytest.raises(ValueError, match=r"list\.json is no COCO instances file"):
        read("list.json")
    write_json(tmp_path / "empty.json", {"images": [], "annotations": []})
    with pytest.raises(ValueError, match="lists no images"):
        read("empty.json")
    with pytest.raises(FileNotFoundError, match="1 of 1 images are missing"):
        load(images, [], file_name="lost.jpg")
    with pytest.raises(ValueError, match="image 1 has no file_name"):
        load(images, [], file_name=None)
    with pytest.raises(ValueError, match='image 1: "height" is 0, not a number of pixels'):
        load(images, [], height=0)
