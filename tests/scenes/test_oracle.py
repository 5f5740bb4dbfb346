"""What perfect models would say of a panoptic data set, and masks that merge what touches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from trace_d2.io.categories import load_categories, parse_categories
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)
from trace_d2.scenes.dataset import SceneSettings, scene_categories, write_scenes
from trace_d2.scenes.oracle import (
    boundaries,
    punch_gaps,
    write_instances,
    write_merged_masks,
    write_oracle,
)


def test_boundaries_by_hand() -> None:
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1]])
    expected = np.array([[0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]) * 255
    np.testing.assert_array_equal(boundaries(ids), expected)


def test_gaps_take_about_the_share() -> None:
    edges = np.zeros((200, 200), np.uint8)
    edges[100], edges[:, 50] = 255, 255
    broken = punch_gaps(edges, 0.2, 0)
    gone = 1 - np.count_nonzero(broken) / np.count_nonzero(edges)
    assert 0.1 < gone < 0.25
    assert not (broken & ~edges).any()
    np.testing.assert_array_equal(broken, punch_gaps(edges, 0.2, 0))
    np.testing.assert_array_equal(punch_gaps(edges, 0.0, 0), edges)
    assert not punch_gaps(np.zeros((3, 3), np.uint8), 0.5, 0).any()
    with pytest.raises(ValueError, match=r"0\.\.1"):
        punch_gaps(edges, 1.5, 0)


def test_oracle_of_scenes_is_what_the_scenes_say(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", 2, SceneSettings(3, (48, 64)), progress=False)
    truth = (tmp_path / "s/panoptic.json", tmp_path / "s/panoptic")
    assert write_oracle(*truth, tmp_path / "o", progress=False) == 2
    for name in ("scene_000000.png", "scene_000001.png"):
        for ours, theirs in (("semantic", "semantic"), ("edges", "edges_oracle")):
            written = np.array(Image.open(tmp_path / "o" / ours / name))
            np.testing.assert_array_equal(
                written, np.array(Image.open(tmp_path / "s" / theirs / name))
            )
    assert load_categories(tmp_path / "o/categories.json") == scene_categories()


CATEGORIES = parse_categories(
    [
        {"id": 1, "name": "cat", "isthing": 1},
        {"id": 2, "name": "dog", "isthing": 1},
        {"id": 3, "name": "sky", "isthing": 0},
    ],
    "the test",
)


@pytest.fixture
def truth(tmp_path):
    """JSON, folder of its PNG, and the segment ids."""
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
    return tmp_path / "panoptic.json", tmp_path, ids


def masks_of(content) -> list[np.ndarray]:
    return [coco_mask.decode(a["segmentation"]).astype(bool) for a in content["annotations"]]


def test_things_that_touch_are_one_mask(truth, tmp_path):
    *files, ids = truth

    count = write_merged_masks(*files, tmp_path / "merged.json", progress=False)

    merged = json.loads((tmp_path / "merged.json").read_text())
    assert count == len(merged["annotations"]) == 2
    assert [a["id"] for a in merged["annotations"]] == [1, 2]
    assert {a["image_id"] for a in merged["annotations"]} == {7}
    assert [a["area"] for a in merged["annotations"]] == [8, 1]
    assert [a["bbox"] for a in merged["annotations"]] == [[1, 1, 4, 2], [6, 4, 1, 1]]
    masks = masks_of(merged)
    np.testing.assert_array_equal(masks[0], np.isin(ids, [1, 2]))
    np.testing.assert_array_equal(masks[1], ids == 3)


def test_per_class_things_of_one_category_that_touch_are_one_mask(truth, tmp_path):
    *files, ids = truth

    count = write_merged_masks(*files, tmp_path / "m.json", progress=False, per_class=True)

    merged = json.loads((tmp_path / "m.json").read_text())
    assert count == len(merged["annotations"]) == 3
    assert [a["category_id"] for a in merged["annotations"]] == [1, 1, 2]
    assert [a["id"] for a in merged["annotations"]] == [1, 2, 3]
    assert merged["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for mask, segment in zip(masks_of(merged), (1, 3, 2), strict=True):
        np.testing.assert_array_equal(mask, ids == segment)


def test_instances_are_the_things_and_the_crowds(truth, tmp_path):
    *files, ids = truth

    assert write_instances(*files, tmp_path / "instances.json", progress=False) == 4

    content = json.loads((tmp_path / "instances.json").read_text())
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 0, 0, 1]
    assert [a["category_id"] for a in content["annotations"]] == [1, 2, 1, 1]
    for mask, segment in zip(masks_of(content), (1, 2, 3, 4), strict=True):
        np.testing.assert_array_equal(mask, ids == segment)


def test_a_truth_whose_files_disagree_is_named(truth, tmp_path):
    *files, ids = truth
    write_panoptic_png(tmp_path / "a.png", np.where(ids == 3, 9, ids))
    with pytest.raises(ValueError, match=r"panoptic\.json: image 7: .*without a pixel: \[3\]"):
        write_instances(*files, tmp_path / "instances.json", progress=False)


def edited(truth, change):
    """The JSON of the truth, changed."""
    content = json.loads(truth[0].read_text())
    change(content)
    truth[0].write_text(json.dumps(content))


def test_oracle_files_are_named_after_the_images(truth, tmp_path):
    *files, _ = truth
    for name in ("x/photo", "/x/photo", "../photo"):
        edited(files, lambda c, name=name: c["images"][0].update(file_name=f"{name}.jpg"))
        output = tmp_path / name.replace("/", "-")
        write_oracle(*files, output, progress=False)
        stem = name if name == "x/photo" else "photo"  # nothing leads out of the output
        assert (output / f"semantic/{stem}.png").is_file()
        assert (output / f"edges/{stem}.png").is_file()


def test_oracle_refuses_what_eight_bits_cannot_hold(truth, tmp_path):
    *files, _ = truth

    def widen(content):
        content["categories"][0]["id"] = 300
        for segment in content["annotations"][0]["segments_info"]:
            segment["category_id"] = 300 if segment["category_id"] == 1 else segment["category_id"]

    edited(files, widen)
    with pytest.raises(ValueError, match="8 bits cannot hold category 300"):
        write_oracle(*files, tmp_path / "o", progress=False)


@pytest.mark.parametrize("make", [write_oracle, write_merged_masks, write_instances])
def test_pngs_of_other_ids_are_refused(truth, tmp_path, make):
    *files, ids = truth
    write_panoptic_png(tmp_path / "a.png", ids << 16)
    with pytest.raises(ValueError, match=r"image 7: the PNG holds .*order B, G, R"):
        make(*files, tmp_path / "o", progress=False)


def test_single_ids_that_are_not_listed_are_counted(truth, tmp_path, caplog):
    *files, ids = truth
    write_panoptic_png(tmp_path / "a.png", np.where(ids == 3, 77, ids))
    write_oracle(*files, tmp_path / "o", progress=False)
    assert "1 listed segments without a pixel, 1 segments of PNGs that are not" in caplog.text
