"""VOC 2012 and SBD to panoptic, on a miniature of their folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from trace_d2.data.prepare.voc import list_sources, sbd_segments, voc_segments
from trace_d2.io.coco_panoptic import read_panoptic_png

PERSON, DOG = 15, 12


def save_palette(path: Path, pixels: np.ndarray) -> None:
    """As VOC stores its masks: indices into a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8), mode="P")
    image.putpalette([channel for i in range(256) for channel in (i, 255 - i, (7 * i) % 256)])
    image.save(path)


def voc_masks() -> tuple[np.ndarray, np.ndarray]:
    """(6, 8): two persons of 2x2 each, a border of 255 between them, background around."""
    classes, objects = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    classes[1:3, 1:6] = PERSON
    objects[1:3, 1:3], objects[1:3, 4:6] = 1, 2
    classes[1:3, 3], objects[1:3, 3] = 255, 255
    return classes, objects


@pytest.fixture
def root(tmp_path):
    """VOC train: 2007_000001; VOC val: 2007_000002; SBD adds 2008_000003 and has the val image."""
    voc, sbd = tmp_path / "VOC2012", tmp_path / "sbd"
    lists = voc / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n")
    classes, objects = voc_masks()
    for stem in ("2007_000001", "2007_000002"):
        save_palette(voc / f"SegmentationClass/{stem}.png", classes)
        save_palette(voc / f"SegmentationObject/{stem}.png", objects)
    (voc / "JPEGImages").mkdir()
    for stem in ("2007_000001", "2007_000002", "2008_000003", "2008_000009"):
        Image.new("RGB", (8, 6)).save(voc / f"JPEGImages/{stem}.jpg")
    inst = sbd / "inst"
    inst.mkdir(parents=True)
    (sbd / "train.txt").write_text("2007_000001\n2008_000003\n")
    (sbd / "val.txt").write_text("2007_000002\n")
    segmentation = np.zeros((6, 8), np.uint8)
    segmentation[:, :3], segmentation[5, 7] = 1, 2
    truth = {"Segmentation": segmentation, "Categories": np.array([[DOG], [PERSON]], np.uint8)}
    savemat(inst / "2008_000003.mat", {"GTinst": truth})
    return tmp_path


@pytest.fixture
def prepare(load_script):
    return load_script("prepare_voc_panoptic")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def run(prepare: ModuleType, root: Path, *more: str) -> int:
    return prepare.main(["--root", str(root), "--workers", "1", "--quiet", *more])


def test_val_has_objects_background_and_void(prepare, root):
    assert run(prepare, root, "--splits", "val") == 0
    output = root / "VOC2012/panoptic_val"
    panoptic = read(output / "panoptic.json")
    assert [c["name"] for c in panoptic["categories"]][-1] == "background"
    assert [c["isthing"] for c in panoptic["categories"]] == [1] * 20 + [0]
    assert panoptic["images"] == [
        {"id": 2007000002, "file_name": "2007_000002.jpg", "height": 6, "width": 8}
    ]
    segments = panoptic["annotations"][0]["segments_info"]
    assert [(s["category_id"], s["area"], s["bbox"]) for s in segments] == [
        (PERSON, 4, [1, 1, 2, 2]),
        (PERSON, 4, [4, 1, 2, 2]),
        (0, 38, [0, 0, 8, 6]),
    ]
    segment_ids = read_panoptic_png(output / "panoptic/2007_000002.png")
    assert (segment_ids[1:3, 3] == 0).all()
    assert np.bincount(segment_ids.ravel()).tolist() == [2, 4, 4, 38]


def test_train_aug_takes_voc_first_then_sbd_and_never_val(prepare, root):
    assert run(prepare, root, "--splits", "train_aug") == 0
    output = root / "VOC2012/panoptic_train_aug"
    panoptic = read(output / "panoptic.json")
    assert [i["id"] for i in panoptic["images"]] == [2007000001, 2008000003]
    by_image = {a["image_id"]: a["segments_info"] for a in panoptic["annotations"]}
    found = {k: [(s["category_id"], s["area"]) for s in v] for k, v in by_image.items()}
    assert found == {
        2007000001: [(PERSON, 4), (PERSON, 4), (0, 38)],
        2008000003: [(DOG, 18), (PERSON, 1), (0, 29)],
    }


def test_instances_are_the_things(prepare, root):
    run(prepare, root)
    instances = read(root / "VOC2012/panoptic_train_aug/instances.json")
    assert [(a["id"], a["category_id"], a["area"]) for a in instances["annotations"]] == [
        (1, PERSON, 4), (2, PERSON, 4), (3, DOG, 18), (4, PERSON, 1),
    ]  # fmt: skip
    assert len(instances["categories"]) == 20
    mask = coco_mask.decode(instances["annotations"][2]["segmentation"])
    expected = np.zeros((6, 8), bool)
    expected[:, :3] = True
    assert np.array_equal(mask.astype(bool), expected)
    one = read(root / "VOC2012/panoptic_train_aug/class_agnostic.json")
    assert {a["category_id"] for a in one["annotations"]} == {1}
    assert [c["name"] for c in one["categories"]] == ["object"]
    assert len(one["annotations"]) == 4


def test_again_gives_the_same_files(prepare, root):
    run(prepare, root, "--splits", "val")
    output = root / "VOC2012/panoptic_val"
    first = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    assert run(prepare, root, "--splits", "val") == 0
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == first


def test_archive_folders_of_sbd_are_found(root):
    inner = root / "sbd/benchmark_RELEASE/dataset"
    inner.mkdir(parents=True)
    for path in list((root / "sbd").iterdir()):
        if path.name != "benchmark_RELEASE":
            path.rename(inner / path.name)
    sources = list_sources(root / "VOC2012", root / "sbd", "train_aug")
    assert sources["2008_000003"] == inner / "inst/2008_000003.mat"


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("VOC2012/JPEGImages", "no folder of images at"),
        ("VOC2012/ImageSets", "no list of images at"),
        ("VOC2012/SegmentationClass", "no annotation at"),
        ("sbd/inst", "no inst/ in"),
        ("sbd/train.txt", "no list of images at"),
        ("VOC2012/JPEGImages/2008_000003.jpg", "1 images of train_aug are not in"),
    ],
)
def test_what_is_missing_is_named(prepare, root, missing, named, capsys):
    (root / missing).rename(root / "elsewhere")
    assert run(prepare, root, "--splits", "train_aug") == 2
    message = capsys.readouterr().err
    assert named in message
    assert str(root) in message
    assert not (root / "VOC2012/panoptic_train_aug/panoptic.json").exists()


def test_all_bad_annotations_are_told_at_once(prepare, root, capsys):
    objects = root / "VOC2012/SegmentationObject/2007_000001.png"
    objects.write_bytes(objects.read_bytes()[:-20])
    matrix = root / "sbd/inst/2008_000003.mat"
    matrix.write_bytes(b"")
    output = root / "VOC2012/panoptic_train_aug"
    assert run(prepare, root, "--splits", "train_aug") == 2
    message = capsys.readouterr().err
    assert "several things are wrong" in message
    assert [str(path) in message for path in (objects, matrix)] == [True, True]
    assert not (output / "panoptic.json").exists()


def test_photographs_are_as_large_as_their_annotations(prepare, root, capsys):
    path = root / "VOC2012/JPEGImages/2007_000002.jpg"
    Image.new("RGB", (9, 6)).save(path)
    assert run(prepare, root, "--splits", "val") == 2
    assert f"{path} is 9x6 pixels, its annotations 8x6: unpack" in capsys.readouterr().err


def test_a_few_of_another_size_are_left_out_by_name(prepare, root, capsys, caplog):
    voc = root / "VOC2012"
    stems = [f"2009_{rank:06d}" for rank in range(101)]
    (voc / "ImageSets/Segmentation/val.txt").write_text("".join(f"{stem}\n" for stem in stems))
    classes, objects = voc_masks()
    for stem in stems:
        save_palette(voc / f"SegmentationClass/{stem}.png", classes)
        save_palette(voc / f"SegmentationObject/{stem}.png", objects)
        Image.new("RGB", (8, 6)).save(voc / f"JPEGImages/{stem}.jpg")
    path = voc / f"JPEGImages/{stems[7]}.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    assert run(prepare, root, "--splits", "val") == 0
    content = read(voc / "panoptic_val/panoptic.json")
    kept = {f"{stem}.png" for stem in stems if stem != stems[7]}
    assert {one["file_name"] for one in content["annotations"]} == kept
    assert {path.name for path in (voc / "panoptic_val/panoptic").iterdir()} == kept
    assert len(read(voc / "panoptic_val/instances.json")["images"]) == 100
    assert f"{path} is 6x8 pixels (8x6 as stored, which EXIF turns)" in caplog.text
    (voc / "ImageSets/Segmentation/val.txt").write_text(f"{stems[7]}\n")
    assert run(prepare, root, "--splits", "val") == 2
    assert "8x6: take the EXIF orientation out of the file" in capsys.readouterr().err


def test_a_bad_mask_is_named_once_and_strangers_are_told(prepare, root, capsys, caplog):
    run(prepare, root, "--splits", "val")
    output = root / "VOC2012/panoptic_val/panoptic"
    (output / "2007_000009.png").touch()
    assert run(prepare, root, "--splits", "val") == 0
    assert "1 files that are not of this data set, such as 2007_000009.png" in caplog.text
    path = root / "VOC2012/SegmentationClass/2007_000002.png"
    Image.new("L", (8, 6)).save(path, format="JPEG")
    assert run(prepare, root, "--splits", "val") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"prepare_voc_panoptic: {path} cannot be read (it is a JPEG, not a PNG)")
    assert "SegmentationObject" not in said


def test_class_of_an_object_is_that_of_most_pixels():
    classes = np.array([[15, 15, 12, 255, 0, 7]], np.uint8)
    objects = np.array([[3, 3, 3, 3, 0, 0]], np.uint8)
    segment_ids, category_of = voc_segments(classes, objects)
    assert segment_ids.tolist() == [[1, 1, 1, 0, 2, 0]]  # a thing without object is void
    assert category_of == {1: 15, 2: 0}


def test_object_that_is_all_border_is_left_out():
    classes = np.array([[255, 15, 15]], np.uint8)
    objects = np.array([[255, 1, 1]], np.uint8)
    segment_ids, category_of = voc_segments(classes, objects)
    assert (segment_ids.tolist(), category_of) == ([[0, 1, 1]], {1: 15})


def test_contradictions_are_errors():
    with pytest.raises(ValueError, match="object 1 has no pixel of a class"):
        voc_segments(np.zeros((1, 2), np.uint8), np.ones((1, 2), np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        voc_segments(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8))
    with pytest.raises(ValueError, match=r"must be in 1\.\.20"):
        sbd_segments(np.array([[1, 2]]), np.array([15]))


def test_help_says_what_is_read_and_written(prepare, capsys):
    with pytest.raises(SystemExit) as end:
        prepare.main(["--help"])
    assert end.value.code == 0
    assert "VOC2012/panoptic_val/" in capsys.readouterr().out
