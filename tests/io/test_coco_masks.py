"""Every peculiarity of files of masks is named, and what can be used is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from trace_d2.io.coco_masks import MaskFile, load_mask_json


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = (6, 9)) -> dict:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return rle(mask)


def content(**changes: Any) -> dict[str, Any]:
    """A sound file of two images of 9 x 6 pixels with three masks."""
    plain = {
        "images": [
            {"id": 4, "file_name": "a.jpg", "height": 6, "width": 9},
            {"id": 7, "file_name": "b.jpg", "height": 6, "width": 9},
        ],
        "annotations": [
            annotation(1, 4, box(0, 0, 2, 3)),
            annotation(2, 4, box(3, 3, 2, 2)),
            annotation(3, 7, box(1, 1, 3, 3)),
        ],
        "categories": [{"id": 1, "name": "fg", "supercategory": "fg"}],
    }
    return {**plain, **changes}


def annotation(number: int, image_id: Any, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": segmentation,
        **more,
    }


def load(tmp_path: Path, value: Any, images: Any = None) -> MaskFile:
    path = tmp_path / "masks.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    if images is None:
        return load_mask_json(path)
    (tmp_path / "images.json").write_text(json.dumps(images))
    return load_mask_json(path, tmp_path / "images.json")


def with_first(**changes: Any) -> dict[str, Any]:
    """The sound file with a changed first annotation."""
    value = content()
    value["annotations"][0].update(changes)
    return value


def test_a_sound_file_has_no_findings(tmp_path: Path) -> None:
    file = load(tmp_path, content())
    assert file.findings.lines() == []
    assert [image.image_id for image in file.images] == [4, 7]
    assert [len(image.masks) for image in file.images] == [2, 1]
    assert {image.size for image in file.images} == {(6, 9)}
    assert file.images[0].masks[0].score is None
    assert file.categories == ({"id": 1, "name": "fg", "supercategory": "fg"},)


LEFT_OUT = {
    "dangling": ({"image_id": 99}, "image_id that images[] lacks", "image_id 99"),
    "dangling text": ({"image_id": "4"}, "image_id that images[] lacks", "image_id '4'"),
    "dangling list": ({"image_id": [4]}, "image_id that is no id", "[4]"),
    "dangling null": ({"image_id": None}, "image_id that is no id", "None"),
    "dangling object": ({"image_id": {}}, "image_id that is no id", "{}"),
    "bbox only": ({"segmentation": None, "bbox": [1, 1, 2, 2]}, "have no mask", "it has no mask"),
    "nothing": ({"segmentation": []}, "have no mask", "it has neither mask"),
    "flat": ({"segmentation": [1, 1, 3, 1, 3, 3]}, "a list of polygons", "flat list of numbers"),
    "broken": ({"segmentation": {"size": [6, 9], "counts": "~"}}, "broken RLE", "characters"),
    "runs": ({"segmentation": {"size": [6, 8], "counts": [54]}}, "broken RLE", "54 pixels"),
    "polygon": ({"segmentation": [[1, 2, 3]]}, "broken polygon", "fewer than three points"),
    "sliver": ({"segmentation": [[1, 1, 3, 3, 5, 5]]}, "empty mask", "its mask is empty"),
    "size": ({"segmentation": box(0, 0, 2, 2, (5, 5))}, "another size than", "5x5"),
    "empty": ({"segmentation": box(0, 0, 0, 0)}, "empty mask", "its mask is empty"),
    "crowd": ({"iscrowd": 1}, "crowd regions", "crowd"),
    "crowd text": ({"iscrowd": "0"}, "neither 0 nor 1", "its iscrowd is '0'"),
    "crowd list": ({"iscrowd": [0]}, "neither 0 nor 1", "its iscrowd is [0]"),
    "score true": ({"score": True}, "no finite number", "its score is True"),
    "category text": ({"category_id": "1"}, "no whole number", "its category_id is '1'"),
    "NaN": ({"score": float("nan")}, "no finite number", "its score is nan"),
    "infinite": ({"score": float("inf")}, "no finite number", "its score is inf"),
    "score text": ({"score": "0.5"}, "no finite number", "'0.5'"),
    "category": ({"category_id": 3}, "category_id that categories lack", "category_id is 3"),
}  # fmt: skip


@pytest.mark.parametrize("how", LEFT_OUT)
def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path, how: str) -> None:
    changes, kind, reason = LEFT_OUT[how]
    file = load(tmp_path, with_first(**changes))
    line = file.findings.lines()[0]
    assert line.startswith("1 annotation")
    assert kind in line
    assert "(left out); first: annotation 1: " in line
    assert reason in line
    (left,) = file.findings.left_out
    assert (left["number"], left["annotation_id"]) == (0, 1)
    assert reason in left["reason"]
    assert [mask.number for mask in file.images[0].masks] == [1]
    if "dangling" not in how:
        assert reason in file.images[0].left_out[0]


def test_an_entry_that_is_no_object(tmp_path: Path) -> None:
    value = content()
    value["annotations"].insert(0, "oops")
    assert "1 annotations are no JSON objects" in load(tmp_path, value).findings.lines()[0]


NOTED = {
    "one pixel": (with_first(segmentation=box(2, 2, 1, 1)), "1 masks are one pixel"),
    "full": (with_first(segmentation=box(0, 0, 6, 9)), "1 masks cover the whole image"),
    "list": (with_first(segmentation={"size": [6, 9], "counts": [50, 4]}), "uncompressed RLE"),
    "polygons": (with_first(segmentation=[[0, 0, 3, 0, 3, 3]]), "1 masks are polygons"),
    "short polygon": (
        with_first(segmentation=[[9, 9, 9, 15], [0, 0, 3, 0, 3, 3]]),
        "1 masks have polygons of fewer than three points",
    ),
    "no box": (with_first(bbox=[0, 0, 0, 0]), "1 masks have a bbox that is no box"),
    "far box": (with_first(bbox=[5, 4, 3, 2]), "1 masks are not where their bbox is"),
    "duplicate id": (with_first(id=2), "1 annotation ids are missing or occur twice"),
    "no category": (with_first(category_id=None), "1 annotations have no category_id"),
    "no masks": (
        content(images=[*content()["images"], {"id": 9, "file_name": "c.jpg"}]),
        "1 images have no mask; first: c.jpg",
    ),
    "bad image": (content(images=[*content()["images"], {"id": 9}]), "no id or file_name"),
}


@pytest.mark.parametrize("how", NOTED)
def test_what_is_unusual_is_used_and_told(tmp_path: Path, how: str) -> None:
    value, line = NOTED[how]
    file = load(tmp_path, value)
    lines = [
        found for found in file.findings.lines() if how == "polygons" or "polygons;" not in found
    ]
    assert len(lines) == 1
    assert line in lines[0]
    assert [len(image.masks) for image in file.images][:2] == [2, 1]
    assert not file.findings.left_out


@pytest.mark.parametrize("far", [30, 10_000])
def test_polygons_beside_their_image_are_told(tmp_path: Path, far: int) -> None:
    file = load(tmp_path, with_first(segmentation=[[20, 1, far, 1, far, 5]]))
    assert file.findings.lines()[0] == (
        "1 masks lie outside their image as images[] has it; first: annotation 1"
    )


def test_swapped_sizes_are_swapped_back(tmp_path: Path) -> None:
    value = content()
    for image in value["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    file = load(tmp_path, value)
    assert [image.size for image in file.images] == [(6, 9), (6, 9)]
    assert file.findings.lines() == [
        "2 images have width and height swapped in images[]: swapped back; first: a.jpg is said "
        "to be 6x9, its masks are 9x6"
    ]


def test_sizes_that_are_wrong_or_missing_come_from_the_masks(tmp_path: Path) -> None:
    value = content()
    value["images"][0].update(height=100, width=100)
    del value["images"][1]["height"]
    file = load(tmp_path, value)
    assert [image.size for image in file.images] == [(6, 9), (6, 9)]
    assert "1 images have another size in images[]" in file.findings.lines()[0]
    assert "1 images have no size in images[]" in file.findings.lines()[1]


def test_scores_are_kept_and_missing_ones_count_as_1(tmp_path: Path) -> None:
    file = load(tmp_path, with_first(score=0.25))
    assert [mask.score for image in file.images for mask in image.masks] == [0.25, 1.0, 1.0]
    assert file.findings.counts["unscored"] == 2


def test_an_id_of_two_images_owns_nothing(tmp_path: Path) -> None:
    images = [*content()["images"], {"id": 4, "file_name": "c.jpg"}]
    file = load(tmp_path, content(images=images))
    assert [image.file_name for image in file.images] == ["b.jpg"]
    assert "2 annotations point to an image_id that two images have" in file.findings.lines()[0]


def test_an_image_listed_twice_is_one(tmp_path: Path) -> None:
    images = [*content()["images"], {"id": 8, "file_name": "a.jpg"}]
    value = content(images=images)
    value["annotations"][1]["image_id"] = 8
    file = load(tmp_path, value)
    assert [len(image.masks) for image in file.images] == [2, 1]
    assert "1 images are listed twice: joined; first: a.jpg (ids 4, 8)" in file.findings.lines()


def test_folders_and_duplicated_basenames_are_told(tmp_path: Path) -> None:
    value = content()
    for image, name in zip(value["images"], ("n01/x.JPEG", "n02/x.JPEG"), strict=True):
        image["file_name"] = name
    assert load(tmp_path, value).findings.lines() == [
        "2 file names have folders; first: n01/x.JPEG",
        "1 file names differ from another one in their folder only; first: n02/x.JPEG",
    ]


def test_a_list_of_results(tmp_path: Path) -> None:
    results = [annotation(0, 4, box(0, 0, 2, 3), score=0.5, category_id=2)]
    del results[0]["id"]
    file = load(tmp_path, results)
    assert [(i.image_id, i.file_name, i.size) for i in file.images] == [(4, "4", (6, 9))]
    assert file.categories == ({"id": 2, "name": "object"},)
    assert "unsized" in file.findings.counts
    given = [{"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    file = load(tmp_path, results, content(categories=given))
    assert [(i.file_name, len(i.masks)) for i in file.images] == [("a.jpg", 1), ("b.jpg", 0)]
    assert list(file.categories) == given
    assert file.findings.counts == {"no masks": 1}


def test_a_list_of_images_counts_by_the_names_of_the_file(tmp_path: Path) -> None:
    """Where ids of the masks' own images are those of other images in the list."""
    listed = [{"id": 7, "file_name": "a.png"}, {"id": 4, "file_name": "b.png"}]
    file = load(tmp_path, content(), {"images": listed})
    assert [(i.image_id, i.file_name, len(i.masks)) for i in file.images] == [
        (7, "a.png", 2), (4, "b.png", 1),
    ]  # fmt: skip
    results = [annotation(n, key, box(0, 0, 2, 3)) for n, key in enumerate(("4", "4", "7"), 1)]
    file = load(tmp_path, results, content())
    assert [len(image.masks) for image in file.images] == [2, 1]
    with pytest.raises(ValueError, match=r"images\.json has no list of images"):
        load(tmp_path, results, {"images": None})


def test_ids_and_sizes_of_whole_floats(tmp_path: Path) -> None:
    value = content()
    for entry in value["images"]:
        entry.update(id=float(entry["id"]), height=6.0, width=9.0)
    for row in value["annotations"]:
        row.update(image_id=float(row["image_id"]), category_id=1.0)
        row["segmentation"]["size"] = [6.0, 9.0]
    file = load(tmp_path, value)
    assert not file.findings.lines()
    assert repr([image.image_id for image in file.images]) == "[4, 7]"
    assert repr(file.images[0].masks[0].segmentation["size"]) == "[6, 9]"
    assert repr(file.images[0].masks[0].category_id) == "1"


def test_text_that_should_be_a_number_is_named(tmp_path: Path) -> None:
    (left,) = load(tmp_path, with_first(image_id="4")).findings.left_out
    assert left["reason"] == (
        "image_id '4' is not in images[], which has 4; write both as numbers, or both as text"
    )


@pytest.mark.parametrize("bad", [None, "fg", {"name": "x"}, {"id": "1"}, {"id": [1]}, {"id": 1}])
def test_categories_without_an_id_of_their_own_are_told(tmp_path: Path, bad: Any) -> None:
    good = {"id": 1, "name": "fg"}
    file = load(tmp_path, content(categories=[good, bad]))
    assert file.categories == (good,)
    assert file.findings.lines()[0].startswith("1 entries of categories have no id of their own")


def test_ids_that_are_stems_are_numbered(tmp_path: Path) -> None:
    results = [annotation(1, name, box(0, 0, 2, 3)) for name in ("b", "a", "b")]
    file = load(tmp_path, results)
    assert [(i.image_id, i.file_name, len(i.masks)) for i in file.images] == [
        (1, "b", 2), (2, "a", 1),
    ]  # fmt: skip
    assert file.findings.counts["image ids"] == 2


def test_what_json_cannot_hold_of_categories_is_not_passed_on(tmp_path: Path) -> None:
    given = [{"id": 1, "name": "fg", "color": [float("nan"), 0, 0], "supercategory": "fg"}]
    file = load(tmp_path, content(categories=given))
    assert file.categories == ({"id": 1, "name": "fg", "supercategory": "fg"},)


def test_categories_are_made_from_the_ids_in_use(tmp_path: Path) -> None:
    value = with_first(category_id=5)
    del value["categories"]
    assert [c["id"] for c in load(tmp_path, value).categories] == [1, 5]


FATAL = {
    "no JSON": ("{", r"masks\.json is not valid JSON .*write it again"),
    "a number": ("7", r'has no list "annotations": give COCO JSON'),
    "no annotations": ({"images": []}, r'has no list "annotations"'),
    "panoptic": ({"annotations": {}}, r'has no list "annotations"'),
    "empty": (content(annotations=[]), r"no annotations at all: make the masks first"),
    "empty results": ([], r"no annotations at all"),
    "images": (content(images={}), r'"images" is no list'),
    "all dangle": (content(images=[]), r"no mask that can be used: .*\n  3 annotations point to"),
    "boxes": ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], r"1 annotations have no"),
    "normalised": (
        [annotation(1, 1, [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]])] * 2,
        r"all polygons lie within 0\.\.1 and look normalised; multiply x by the width",
    ),
}


@pytest.mark.parametrize("how", FATAL)
def test_what_is_fatal_says_what_to_do(tmp_path: Path, how: str) -> None:
    value, message = FATAL[how]
    with pytest.raises(ValueError, match=message):
        load(tmp_path, value)


def test_a_missing_file_and_a_list_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*gone\.json"):
        load_mask_json(tmp_path / "gone.json")
    with pytest.raises(ValueError, match=r"images\.json has no list of images"):
        load(tmp_path, content(), {"categories": []})
