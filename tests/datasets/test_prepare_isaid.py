"""iSAID to patches, on a miniature of its folders; and the official layout of HRSID."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from trace_d2.data.prepare import isaid
from trace_d2.data.prepare.isaid import class_map, patch_boxes, patch_instances
from trace_d2.data.registration import register_class_agnostic, register_instances
from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.coco_panoptic import id2rgb
from trace_d2.io.images import read_image

SHIP, CAR = (0, 0, 63), (0, 0, 127)  # colours; classes 1 and 9


@pytest.fixture
def root(tmp_path, monkeypatch):
    """P0003 of 14 x 18, in patches of 8 with an overlap of 2, and P0004 of 6 x 20, whole."""
    monkeypatch.setattr(isaid, "PATCH", 8)
    monkeypatch.setattr(isaid, "OVERLAP", 2)
    folder = tmp_path / "iSAID/val/images"
    rng = np.random.default_rng(0)
    for stem, height, width in (("P0003", 14, 18), ("P0004", 6, 20)):
        ids = np.zeros((height, width), np.int32)
        colours = np.zeros((height, width, 3), np.uint8)
        ids[1:5, 2:8], colours[1:5, 2:8] = 4592855, SHIP  # of 24 pixels
        ids[1:5, 12:18], colours[1:5, 12:18] = 70000, CAR
        ids[0, :5], colours[0, :5] = 256, CAR  # too small
        write(folder, stem, ids, colours, rng.integers(0, 256, (height, width, 3), np.uint8))
    write(folder, "P1527", np.zeros((2, 2), np.int32), np.zeros((2, 2, 3), np.uint8))
    return tmp_path


def write(folder: Path, stem: str, ids: np.ndarray, colours: np.ndarray, image=None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / f"{stem}.png", colours if image is None else image)
    write_png(folder / f"{stem}_instance_id_RGB.png", id2rgb(ids))
    write_png(folder / f"{stem}_instance_color_RGB.png", colours)


@pytest.fixture
def run(load_script, tmp_path):
    """``run()``: the exit status of the script on the split "val" of ``tmp_path``."""
    main = load_script("prepare_isaid_patches").main
    arguments = ["--root", str(tmp_path), "--splits", "val", "--workers", "1", "--quiet"]
    return lambda: main(arguments)


def test_patches_are_the_devkits():
    # 1147 x 1023 and 824 x 1464 (W x H), as its example images P0003 and P0004.
    assert patch_boxes(1023, 1147) == [
        (0, 800, 0, 800), (223, 1023, 0, 800), (0, 800, 347, 1147), (223, 1023, 347, 1147),
    ]  # fmt: skip
    tops = [box[:2] for box in patch_boxes(1464, 824) if box[2] == 24]
    assert tops == [(0, 800), (600, 1400), (664, 1464)]
    assert patch_boxes(800, 5000) == [(0, 800, 0, 5000)]
    lefts = sorted({box[2] for box in patch_boxes(801, 1400)})
    assert lefts == [0, 600]  # the third one, from 1200, would be the second again


def test_patches_and_their_instances(run, root, capsys):
    assert run() == 0
    output = root / "iSAID_patches/val"
    assert "2 images, 7 patches with 4 instances" in capsys.readouterr().out
    content = json.loads((output / "instances.json").read_text())
    assert [(c["id"], c["name"]) for c in content["categories"]][::8] == [
        (1, "ship"), (9, "Small_Vehicle"),
    ]  # fmt: skip
    names = [image["file_name"] for image in content["images"]]
    assert names == [
        "P0003_0_8_0_8.png", "P0003_6_14_0_8.png", "P0003_0_8_6_14.png", "P0003_6_14_6_14.png",
        "P0003_0_8_10_18.png", "P0003_6_14_10_18.png", "P0004.png",
    ]  # fmt: skip
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5, 6, 7]
    found = [(a["image_id"], a["category_id"], a["area"]) for a in content["annotations"]]
    # The middle patch shows a third of each, 8 pixels: too few.
    assert found == [(1, 1, 24), (5, 9, 24), (7, 9, 24), (7, 1, 24)]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4]
    mask = coco_mask.decode(content["annotations"][1]["segmentation"])
    assert mask.nonzero()[1].min() == 2  # column 12 of the image
    whole = read_image(root / "iSAID/val/images/P0003.png").pixels
    for image in content["images"][:6]:
        top, bottom, left, right = map(int, Path(image["file_name"]).stem.split("_")[1:])
        patch = read_image(output / "images" / image["file_name"]).pixels
        assert np.array_equal(patch, whole[top:bottom, left:right])


def test_the_same_command_continues(run, root, monkeypatch):
    run()
    output = root / "iSAID_patches/val"
    first = (output / "instances.json").read_bytes()
    written = []
    monkeypatch.setattr(isaid, "_read_patches", lambda stem, *rest: written.append(stem) or _NONE)
    assert run() == 0
    assert written == []
    assert (output / "instances.json").read_bytes() == first
    monkeypatch.undo()
    monkeypatch.setattr(isaid, "PATCH", 8)
    monkeypatch.setattr(isaid, "OVERLAP", 2)
    (output / "images/P0003_0_8_0_8.png").unlink()
    patch = output / "images/P0003_6_14_0_8.png"
    before = patch.read_bytes()
    patch.write_bytes(b"")  # as a full disk or a crash leaves it
    (output / "records/P0004.json").write_text("{")
    assert run() == 0
    record = output / "records/P0003.json"
    record.write_text(record.read_text().replace('"annotations"', '"marks"'))
    assert run() == 0
    assert (output / "images/P0003_0_8_0_8.png").is_file()
    assert patch.read_bytes() == before
    assert (output / "instances.json").read_bytes() == first


_NONE = ([], 0)


def test_what_is_wrong_is_told_and_what_is_done_is_kept(run, root, capsys):
    folder, output = root / "iSAID/val/images", root / "iSAID_patches/val"
    colours = np.zeros((14, 18, 3), np.uint8)
    colours[3, 4] = (1, 2, 3)
    write_png(folder / "P0003_instance_color_RGB.png", colours)
    assert run() == 2
    message = capsys.readouterr().err
    assert "P0003_instance_color_RGB.png: it has the colour 1, 2, 3, which no class has" in message
    assert (output / "records/P0004.json").is_file()
    assert not (output / "instances.json").exists()
    colours[3, 4] = CAR
    write_png(folder / "P0003_instance_color_RGB.png", colours)
    assert run() == 2
    assert "disagree at 68 of 69 pixels on what is drawn" in capsys.readouterr().err
    write_png(folder / "P0003_instance_color_RGB.png", colours[:4])
    assert run() == 2
    assert "P0003_instance_color_RGB.png differ in size" in capsys.readouterr().err
    (folder / "P0003_instance_color_RGB.png").unlink()
    (folder / "P0004.png").unlink()
    assert run() == 2
    message = capsys.readouterr().err
    assert "P0003.png has no P0003_instance_color_RGB.png beside it" in message
    assert "P0004_instance_id_RGB.png has no image P0004.png: put DOTA's there" in message


def test_an_image_that_exif_turns_is_as_large_as_its_maps(run, root, capsys):
    path, exif = root / "iSAID/val/images/P0003.png", Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    assert run() == 2
    said = "P0003.png is 14x18 pixels (18x14 as stored, which EXIF turns), its annotations 18x14"
    assert said in capsys.readouterr().err
    assert not list((root / "iSAID_patches").rglob("P0003*"))


def test_an_instance_is_of_the_class_of_most_of_its_pixels():
    ids, classes = np.zeros((6, 8), np.int32), np.zeros((6, 8), np.uint8)
    ids[:4, :4], classes[:4, :4] = 5, 9
    classes[0, :3] = 1  # of 16 pixels 3 ships
    ids[5, 7] = 8  # of no class
    annotations, drawn, disagreeing = patch_instances(ids, classes)
    assert [(a["category_id"], a["area"]) for a in annotations] == [(9, 16)]
    assert (drawn, disagreeing) == (17, 4)


def test_colours_of_all_classes():
    categories = isaid.load_categories("isaid")
    colours = np.array([[(0, 0, 0), *(c.color for c in categories)]], np.uint8)
    assert class_map(colours[..., ::-1]).tolist() == [list(range(16))]
    # As pixels of the devkit's example images have them.
    assert {c.name: c.color for c in categories}["Large_Vehicle"] == (0, 127, 127)


def test_instances_with_their_classes(run, root):
    run()
    folder = root / "iSAID_patches/val"
    register_instances("t_isaid", folder / "instances.json", folder / "images", "isaid")
    try:
        records = DatasetCatalog.get("t_isaid")
        found = [[a["category_id"] for a in record["annotations"]] for record in records]
        assert found == [[0], [], [], [], [8], [], [8, 0]]
        metadata = MetadataCatalog.get("t_isaid")
        assert metadata.evaluator_type == "coco"
        assert metadata.thing_classes[8] == "Small_Vehicle"
        assert metadata.thing_dataset_id_to_contiguous_id[9] == 8
        content = json.loads((folder / "instances.json").read_text())
        content["categories"][0]["name"] = "plane"  # as the devkit numbers them in its own order
        write_json(folder / "instances.json", content)
        with pytest.raises(ValueError, match="1 is 'plane' there and 'ship' here"):
            DatasetCatalog.get("t_isaid")
        content["categories"][0]["name"] = "ship"
        content["annotations"][2]["category_id"] = 77
        write_json(folder / "instances.json", content)
        with pytest.raises(ValueError, match="has category_id 77, which categories lack"):
            DatasetCatalog.get("t_isaid")
    finally:
        DatasetCatalog.remove("t_isaid")


def test_hrsid_is_read_as_it_is(tmp_path):
    """Polygons, boxes, and file names as its archive has them."""
    folder = tmp_path / "HRSID_JPG"
    (folder / "JPEGImages").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "JPEGImages/P0001_0_800_7200_8000.jpg")
    ship = [2.0, 2.0, 6.0, 2.0, 6.0, 5.0, 2.0, 5.0]
    write_json(
        tmp_path / "test2017.json",
        {
            "info": "", "license": ["none"],
            "images": [
                {"file_name": "P0001_0_800_7200_8000.jpg", "id": 0, "height": 16, "width": 16}
            ],
            "type": "instances",
            "annotations": [
                {
                    "id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "ignore": 0,
                    "segmentation": [ship], "bbox": [2.0, 2.0, 4.0, 3.0], "area": 12.0,
                }
            ],
            "categories": [{"supercategory": "none", "id": 1, "name": "ship"}],
        },
    )  # fmt: skip
    register_class_agnostic("t_hrsid", tmp_path / "test2017.json", folder / "JPEGImages")
    try:
        (record,) = DatasetCatalog.get("t_hrsid")
        assert record["annotations"][0]["segmentation"] == [ship]
        assert MetadataCatalog.get("t_hrsid").evaluator_type == "class_agnostic"
    finally:
        DatasetCatalog.remove("t_hrsid")
