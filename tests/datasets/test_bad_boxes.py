"""Boxes that are none of their image: a few are left out and told, more are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from official_layouts import make_openimages
from PIL import Image

from trace_d2.data.prepare.boxes import Box, BoxedImage, write_boxes
from trace_d2.data.prepare.one_class import prepare_class_agnostic

WIDTH, HEIGHT = 64, 48
SQUARE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]]
ORIENTATION = 0x0112


def prepare(folder: Path, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What is written of ``rows``, one of each image."""
    images = [
        {"id": k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH}
        for k in range(len(rows))
    ]
    listed = [{"id": k + 1, "image_id": k, "category_id": 1, **row} for k, row in enumerate(rows)]
    source = folder / "in.json"
    source.write_text(json.dumps({"images": images, "annotations": listed}))
    prepare_class_agnostic(source, folder / "out.json", progress=False)
    return json.loads((folder / "out.json").read_text())["annotations"]


def boxes(*some: list[float]) -> list[dict[str, Any]]:
    return [{"bbox": box, "area": 1.0, "iscrowd": 0} for box in some]


def test_corners_and_shares_are_refused(tmp_path):
    corners = [[30 + k % 5, 20, 60, 40 + k % 4] for k in range(60)]
    with pytest.raises(ValueError, match=r"in\.json.*\[x1, y1, x2, y2\]"):
        prepare(tmp_path, *boxes(*corners))
    with pytest.raises(ValueError, match=r"in\.json: all boxes lie within 0\.\.1"):
        prepare(tmp_path, *boxes(*[[0.1, 0.2, 0.3 + k / 100, 0.4] for k in range(20)]))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("bad", [[5, 5, 0, 7], [5, 5, -4, 7], [WIDTH, 5, 9, 7]])
def test_a_few_without_a_pixel_are_left_out(tmp_path, caplog, bad):
    good = [4, 6, 20, 10]
    made = prepare(tmp_path, *boxes(*[good] * 57, bad, *[good] * 63))
    assert [row["image_id"] for row in made] == [*range(57), *range(58, 121)]
    assert [row["id"] for row in made] == [*range(1, 121)]
    assert {tuple(row["bbox"]) for row in made} == {tuple(good)}
    assert "in.json: 1 of 121 " in caplog.text
    assert "57.jpg" in caplog.text or "annotation 58" in caplog.text
    (tmp_path / "out.json").unlink()
    with pytest.raises(ValueError, match=r"correct (it|the annotation)"):
        prepare(tmp_path, *boxes(*[good] * 57, bad))
    assert not (tmp_path / "out.json").exists()


def test_a_few_without_a_mask_are_left_out(tmp_path, caplog):
    rows = [{"segmentation": SQUARE, "iscrowd": 0} for _ in range(120)]
    rows[7] = {"segmentation": [], "bbox": [1, 1, 8, 8], "iscrowd": 0}
    made = prepare(tmp_path, *rows)
    assert {row["image_id"] for row in made} == {*range(120)} - {7}
    assert all(row["segmentation"] == SQUARE for row in made)
    assert "1 of 120 annotations have no mask: left out; first: annotation 8" in caplog.text
    with pytest.raises(ValueError, match=r"annotation 8 .* has no mask"):
        prepare(tmp_path, *rows[:20])


def photograph(path: Path, size: tuple[int, int], orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def write(folder: Path, *some: Box) -> dict[str, Any]:
    """What is written of one box of each image, ``0.jpg``, ``1.jpg``, ..."""
    images = [BoxedImage(f"{k}.jpg", [box]) for k, box in enumerate(some)]
    write_boxes(folder / "out.json", folder, images, "boxes", progress=False)
    return json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize(
    "corners", [(30.0, 5.0, 20.0, 9.0), (30.0, 5.0, 30.0, 9.0), (70.0, 5.0, 80.0, 9.0)]
)
def test_corners_without_a_pixel_are_left_out(tmp_path, caplog, corners):
    for k in range(120):
        photograph(tmp_path / f"{k}.jpg", (WIDTH, HEIGHT))
    some = [Box((4.0, 6.0, 24.0, 16.0), f"{k}.xml, object 1") for k in range(120)]
    some[9] = Box(corners, "9.xml, object 1")
    made = write(tmp_path, *some)
    assert len(made["images"]) == 120
    assert {row["image_id"] for row in made["annotations"]} == {*range(120)} - {9}
    assert "1 of 120 boxes have no pixel of their image: left out; first: 9.xml" in caplog.text
    with pytest.raises(ValueError, match=r"9\.xml, object 1: the box .* has no pixel of 9\.jpg"):
        write(tmp_path, *some[:20])


def test_boxes_that_were_drawn_on_what_is_stored(tmp_path, caplog):
    for k in range(120):
        photograph(tmp_path / f"{k}.jpg", (WIDTH, HEIGHT), 6 if k == 9 else 1)
    corners = (4.0, 6.0, 24.0, 16.0)
    some = [Box(corners, f"{k}.xml, object 1", drawn_on=(WIDTH, HEIGHT)) for k in range(120)]
    made = write(tmp_path, *some)
    assert {image["id"] for image in made["images"]} == {*range(120)} - {9}
    assert {row["image_id"] for row in made["annotations"]} == {*range(120)} - {9}
    fault = (
        "9.jpg is 48x64 pixels (64x48 as stored, which EXIF turns), but 9.xml, object 1 was drawn"
    )
    assert f"{fault} on 64x48: left out with its annotations" in caplog.text
    with pytest.raises(ValueError, match="on 64x48: take the EXIF orientation out of the file"):
        write(tmp_path, *some[:20])
    some[9] = Box(corners, "9.xml, object 1", drawn_on=(HEIGHT, WIDTH))
    assert len(write(tmp_path, *some)["annotations"]) == 120


def test_groups_of_which_nobody_knows(load_script, tmp_path, caplog):
    make_openimages(tmp_path)
    table = tmp_path / "openImages/annotations/validation-annotations-bbox.csv"
    table.write_text(table.read_text().replace("0,0,1,0,0", "-1,-1,-1,-1,-1", 1))
    script = load_script("prepare_openimages_class_agnostic")
    assert script.main(["--root", str(tmp_path), "--quiet"]) == 0
    made = json.loads((table.parent / "openimages_val_cls_agnostic.json").read_text())
    assert [row["iscrowd"] for row in made["annotations"]] == [0, 0, 0, 1]
    assert "1 boxes may be around groups (IsGroupOf is -1, unknown)" in caplog.text
    assert "first: " + str(table) + ", line 4" in caplog.text
