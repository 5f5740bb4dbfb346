"""Whole exports: what our tools made comes back from files as readers of the formats read them."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from trace_d2.io.coco_panoptic import read_panoptic_png


@pytest.fixture(scope="session")
def export_labels(load_tool) -> ModuleType:
    return load_tool("export_labels")


@pytest.fixture
def export(export_labels, tmp_path):
    """``export(LABELS, FORMAT, *more)``: run the tool; its status."""

    def run(labels: Path, form: str, *more: str) -> int:
        output = ["--output", str(tmp_path / form)] if "--output" not in more else []
        options = ["--format", form, *output, "--quiet", "--workers", "1", *more]
        return export_labels.main([str(labels), *options])

    return run


@pytest.fixture
def labels(label_job):
    """Labels of three images, two of them in a sub-folder where they can be."""
    label_job.add("b", "c", "d")
    assert label_job.run() == 0
    return label_job.output


def truth_of(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Category id and mask of every segment, by the file names of images."""
    content = json.loads((folder / "panoptic.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found = {}
    for annotation in content["annotations"]:
        ids = read_panoptic_png(folder / "panoptic" / annotation["file_name"])
        found[names[annotation["image_id"]]] = [
            (segment["category_id"], ids == segment["id"])
            for segment in annotation["segments_info"]
        ]
    return found


def same_masks(found, wanted) -> bool:
    """Whether two lists of (class, mask) hold the same, in any order."""
    left = list(wanted)
    for name, mask in found:
        place = next(
            (k for k, (n, m) in enumerate(left) if n == name and np.array_equal(m, mask)), None
        )
        if place is None:
            return False
        left.pop(place)
    return not left


def read_yolo(folder: Path, image: str, size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    names = yaml.safe_load((folder / "data.yaml").read_text())["names"]
    path = folder / "labels" / Path(image).with_suffix(".txt")
    found = []
    for line in path.read_text().splitlines():
        number, *shares = line.split()
        canvas = np.zeros(size, np.uint8)
        points = np.array(shares, np.float32).reshape(-1, 2) * np.float32(size[::-1])
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
        found.append((names[int(number)], canvas.astype(bool)))
    return found


def read_cvat(path: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    found = {}
    for image in ElementTree.parse(path).getroot().iter("image"):
        own = found[image.get("name")] = []
        for mask in image:
            left, top, wide, high = (int(mask.get(k)) for k in ("left", "top", "width", "height"))
            runs = [int(run) for run in mask.get("rle").split(",")]
            canvas = np.zeros((int(image.get("height")), int(image.get("width"))), bool)
            values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            canvas[top : top + high, left : left + wide] = values.reshape(high, wide)
            own.append((mask.get("label"), canvas))
    return found


def test_labels_come_back_from_yolo(export, labels, tmp_path, capsys):
    assert export(labels, "yolo", "--copy-images") == 0
    out = tmp_path / "yolo"
    names = {3: "cat", 7: "dog"}
    for image, segments in truth_of(labels).items():
        wanted = [(names[own], mask) for own, mask in segments if own in names]
        assert len(wanted) == 3  # two cats and a dog
        assert same_masks(read_yolo(out, image, (24, 32)), wanted)
        source = tmp_path / "images" / image
        assert (out / "images" / image).read_bytes() == source.read_bytes()
    lists = [(out / name).read_text().splitlines() for name in ("train.txt", "val.txt")]
    assert [len(names) for names in lists] == [2, 1]
    assert {*lists[0], *lists[1]} == {f"./images/{stem}.png" for stem in "bcd"}
    told = capsys.readouterr().out
    assert "note: 3 segments of stuff are left out (--stuff keep takes them)" in told
    assert "2 images to train on, 1 to look at meanwhile" in told


def test_labels_come_back_from_cityscapes(export, labels, tmp_path):
    assert export(labels, "cityscapes", "--link-images") == 0
    out = tmp_path / "cityscapes"
    table = json.loads((out / "labels.json").read_text())
    names = {row["id"]: row["name"] for row in table}
    assert names == {0: "unlabeled", 1: "cat", 2: "dog", 3: "ground"}  # id 0 is void there
    own = {0: "ground", 3: "cat", 7: "dog"}
    for image, segments in truth_of(labels).items():
        stem = Path(image).stem
        instances = np.array(Image.open(out / "gtFine" / f"{stem}_gtFine_instanceIds.png"))
        classes = np.array(Image.open(out / "gtFine" / f"{stem}_gtFine_labelIds.png"))
        found = [
            (names[value // 1000 if value >= 1000 else value], instances == value)
            for value in np.unique(instances).tolist()
            if value
        ]
        assert same_masks(found, [(own[key], mask) for key, mask in segments])
        covered = np.any([mask for _, mask in segments], axis=0)
        np.testing.assert_array_equal(classes == 0, ~covered)
        link = out / "leftImg8bit" / f"{stem}_leftImg8bit.png"
        assert link.is_symlink()
        assert link.resolve() == (tmp_path / "images" / image).resolve()


def test_labels_come_back_from_cvat(export, labels, tmp_path, capsys):
    assert export(labels, "cvat") == 0
    own = {0: "ground", 3: "cat", 7: "dog"}
    found = read_cvat(tmp_path / "cvat/annotations.xml")
    truth = truth_of(labels)
    assert [*found] == [*truth]
    for image, segments in truth.items():
        assert same_masks(found[image], [(own[key], mask) for key, mask in segments])
    assert "note:" not in capsys.readouterr().out  # nothing is lost
    listed = json.loads((tmp_path / "cvat/labels.json").read_text())
    assert [label["name"] for label in listed] == ["ground", "cat", "dog"]


def test_labels_keep_their_folders(export, label_job, tmp_path):
    for name in ("images", "semantic", "edges"):
        (label_job.root / name / "a").mkdir()
    label_job.add("a/x", "x")
    assert label_job.run() == 0
    assert export(label_job.output, "yolo", "--copy-images") == 0
    assert export(label_job.output, "cityscapes", "--link-images") == 0
    truth = truth_of(label_job.output)
    assert {*truth} == {"a/x.png", "x.png"}
    for image, segments in truth.items():
        wanted = [({3: "cat", 7: "dog"}[own], mask) for own, mask in segments if own]
        assert same_masks(read_yolo(tmp_path / "yolo", image, (24, 32)), wanted)
    assert (tmp_path / "yolo/images/a/x.png").is_file()
    out = tmp_path / "cityscapes"
    assert (out / "gtFine/a/x_gtFine_instanceIds.png").is_file()
    assert (out / "leftImg8bit/a/x_leftImg8bit.png").is_symlink()


def test_refined_masks_keep_their_folders(export, refine_masks, mask_job, tmp_path, capsys):
    mask_job.add("a/x.png", "b/x.png")
    assert mask_job.run() == 0
    content = json.loads(mask_job.output.read_text())
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    assert (
        export(mask_job.output, "yolo", "--images", str(tmp_path / "images"), "--link-images") == 0
    )
    assert export(mask_job.output, "cvat") == 0
    assert (tmp_path / "yolo/images/a/x.png").is_symlink()
    found = read_cvat(tmp_path / "cvat/annotations.xml")
    for name, key in ids.items():
        wanted = [
            ("fg", coco_mask.decode(row["segmentation"]).astype(bool))
            for row in content["annotations"]
            if row["image_id"] == key
        ]
        assert len(wanted) == 2
        assert same_masks(read_yolo(tmp_path / "yolo", name, (24, 32)), wanted)
        assert same_masks(found[name], wanted)


def test_predictions_that_overlap_and_score(export, tmp_path, capsys):
    """As predict.py leaves them: instances in a folder, with the classes beside."""
    folder = tmp_path / "predicted"
    folder.mkdir()
    boxes = {"high": (0.9, [2, 2, 8, 8]), "low": (0.3, [4, 4, 8, 8]), "weak": (0.05, [0, 0, 2, 2])}
    annotations = []
    for score, (left, top, wide, high) in boxes.values():
        mask = np.zeros((16, 20), np.uint8)
        mask[top : top + high, left : left + wide] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        rle["counts"] = rle["counts"].decode()
        annotations.append(
            {"id": len(annotations) + 1, "image_id": 5, "category_id": 1, "segmentation": rle,
             "bbox": [left, top, wide, high], "score": score}
        )  # fmt: skip
    image = {"id": 5, "file_name": "x.jpg", "height": 16, "width": 20}
    bare = {"id": 6, "file_name": "y.jpg", "height": 16, "width": 20}
    categories = [{"id": 1, "name": "cat", "isthing": 1}]
    content = {"images": [image, bare], "annotations": annotations, "categories": categories}
    (folder / "predictions.json").write_text(json.dumps(content))
    assert export(folder, "cityscapes", "--min-score", "0.2") == 0
    told = capsys.readouterr().out
    assert "1 shapes that score less than --min-score" in told
    assert "36 pixels of shapes lie under other shapes" in told
    values = np.array(Image.open(tmp_path / "cityscapes/gtFine/x_gtFine_instanceIds.png"))
    areas = {value: int(np.count_nonzero(values == value)) for value in (1000, 1001)}
    assert areas == {1000: 64, 1001: 28}
    assert export(folder, "yolo", "--min-score", "0.2") == 0
    assert (tmp_path / "yolo/labels/y.txt").read_text() == ""  # nothing was found there
    assert len((tmp_path / "yolo/labels/x.txt").read_text().splitlines()) == 2
    told = capsys.readouterr().out
    assert "YOLO looks for the images in" in told
    assert "nothing is exported" not in told
    assert export(folder, "cvat", "--min-score", "0.95") == 0
    said = "nothing is exported: none of 2 images has a shape that is wanted"
    assert f"note: {said}\nnote: 3 shapes that score" in capsys.readouterr().out
    assert said in (tmp_path / "cvat/report.html").read_text()


def test_classes_can_be_chosen_and_ordered(export, labels, tmp_path, capsys):
    assert export(labels, "yolo", "--classes", "dog, ground", "--stuff", "keep") == 0
    names = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["names"]
    assert names == {0: "dog", 1: "ground"}
    assert "6 shapes of classes that --classes does not name" in capsys.readouterr().out
    assert export(labels, "cvat", "--classes", "dgo") == 2
    assert "no category is called dgo (did you mean dog?): they are" in capsys.readouterr().err
    assert export(labels, "cvat", "--classes", "ground", "--stuff", "drop") == 2
    assert "are stuff: give --stuff keep" in capsys.readouterr().err


def test_an_export_goes_on_where_it_was_cut_short(export, labels, tmp_path, capsys):
    assert export(labels, "yolo", "--copy-images") == 0
    out = tmp_path / "yolo"
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    (out / "journal.jsonl").write_text("".join(lines[:1]) + lines[1][:20])
    (out / "labels/c.txt").unlink()
    (out / "images/b.png").unlink()
    (out / "data.yaml").unlink()
    capsys.readouterr()
    assert export(labels, "yolo", "--copy-images") == 0
    assert "3 exported (0 of them before)" in capsys.readouterr().out
    for path, content in whole.items():
        if path.name not in ("journal.jsonl", "report.html", "joined"):  # which tell the time
            assert path.read_bytes() == content, path
    assert export(labels, "yolo", "--copy-images") == 0
    assert "3 exported (3 of them before)" in capsys.readouterr().out
    assert export(labels, "yolo", "--copy-images", "--stuff", "keep") == 2
    assert "made with other settings" in capsys.readouterr().err


def test_shards_are_joined(export, export_labels, labels, tmp_path, capsys):
    assert export(labels, "cvat") == 0
    whole = (tmp_path / "cvat/annotations.xml").read_bytes()
    parts = tmp_path / "parts"
    for shard in ("1/2", "2/2"):
        assert export(labels, "cvat", "--output", str(parts), "--shard", shard) == 0
    assert not (parts / "annotations.xml").exists()
    assert export_labels.main(["--merge", str(parts)]) == 0
    assert (parts / "annotations.xml").read_bytes() == whole
    assert export_labels.main(["--merge", str(tmp_path / "nothing")]) == 2


def test_images_decide_on_the_frame(export, tmp_path):
    """Masks of an image as stored are turned with it, as people see it."""
    mask = np.zeros((16, 24), np.uint8)
    mask[2:6, 3:9] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images/x.jpg", exif=exif)
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle}
    content = {"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [row]}
    (tmp_path / "masks.json").write_text(json.dumps(content))
    assert export(tmp_path / "masks.json", "cvat", "--images", str(tmp_path / "images")) == 0
    [(_label, found)] = read_cvat(tmp_path / "cvat/annotations.xml")["x.jpg"]
    np.testing.assert_array_equal(found, np.rot90(mask.astype(bool), -1))


def test_complaints_name_what_to_do(export, export_labels, labels, tmp_path, capsys):
    def complaint(*arguments: str) -> str:
        assert export(*arguments) == 2
        return capsys.readouterr().err

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no panoptic.json, predictions.json or instances.json in" in complaint(empty, "yolo")
    assert "no labels at" in complaint(tmp_path / "none.json", "yolo")
    assert export_labels.main([str(labels), "--output", str(empty)]) == 2
    assert "--format missing" in capsys.readouterr().err
    assert export_labels.main(["--json"]) == 2
    said = capsys.readouterr().err
    assert "--format missing" in said
    assert "--watch and --json go with --status" in said
    assert export_labels.main(["--format", "yolo", "--output", str(empty)]) == 2
    assert "--labels missing" in capsys.readouterr().err
    assert "is not empty and holds no YOLO labels" in complaint(
        labels, "yolo", "--output", str(tmp_path / "images")
    )
    with (labels / "journal.jsonl").open("rb+") as journal:
        journal.truncate(len(journal.read().splitlines(keepends=True)[0]))
    assert "lacks the results of 2 of 3 images" in complaint(labels, "yolo")


def test_the_folder_of_another_job_is_told_as_what_it_is(export, labels, capsys):
    for more in ((), ("--overwrite",)):
        assert export(labels, "yolo", "--output", str(labels), *more) == 2
        said = capsys.readouterr().err
        assert f"{labels} holds labels, not YOLO labels: choose another --output" in said
        assert "other settings" not in said


def test_all_wrong_arguments_are_told_at_once(export, labels, tmp_path, capsys):
    wrong = ("--classes", "cat,cow,sheep", "--images", str(tmp_path / "none"), "--min-score", "nan")
    assert export(labels, "yolo", *wrong, "--shard", "3/2") == 2
    said = capsys.readouterr().err
    for part in ("called cow", "called sheep", "correct --images", "--min-score", "--shard is"):
        assert part in said
    assert export(labels, "yolo", "--classes", "", "--images", "") == 2
    said = capsys.readouterr().err
    assert "--classes is empty" in said
    assert "--images is empty" in said
    assert export(labels, "yolo", "--classes", ",") == 2
    assert "--classes , names no class" in capsys.readouterr().err


def test_an_output_that_cannot_be_made(export, labels, tmp_path, capsys, monkeypatch):
    """As below /proc or on a file system that is read only, whoever asks."""
    mkdir = Path.mkdir

    def refuse(path: Path, *args, **options) -> None:
        if tmp_path / "sealed" in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert export(labels, "yolo", "--output", str(tmp_path / "sealed/out")) == 2
    said = capsys.readouterr().err
    assert "choose another --output" in said
    assert "safe" not in said


def test_one_spoilt_label_costs_one_image(export, labels, tmp_path, capsys):
    (labels / "panoptic/c.png").write_bytes(b"no png")
    assert export(labels, "yolo") == 3
    assert "failed: c.png" in capsys.readouterr().err
    lists = (tmp_path / "yolo/train.txt").read_text() + (tmp_path / "yolo/val.txt").read_text()
    assert sorted(lists.split()) == ["./images/b.png", "./images/d.png"]


def test_names_of_cityscapes_stay_those_of_cityscapes(export, tmp_path):
    categories = [
        {"id": 24, "name": "person", "isthing": 1}, {"id": 23, "name": "sky", "isthing": 0}
    ]  # fmt: skip
    ids = np.zeros((6, 8, 3), np.uint8)
    ids[:3, :, 0], ids[3:, :4, 0] = 1, 2
    name = "bonn_000000_000019_leftImg8bit"
    (tmp_path / "truth").mkdir()
    Image.fromarray(ids).save(tmp_path / f"truth/{name}.png")
    segments = [{"id": 1, "category_id": 23}, {"id": 2, "category_id": 24, "iscrowd": 1}]
    annotation = {"image_id": 1, "file_name": f"{name}.png", "segments_info": segments}
    images = [{"id": 1, "file_name": f"bonn/{name}.png", "height": 6, "width": 8}]
    content = {"images": images, "annotations": [annotation], "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    assert export(tmp_path / "truth.json", "cityscapes") == 0
    path = tmp_path / "cityscapes/gtFine/bonn/bonn_000000_000019_gtFine_instanceIds.png"
    assert np.unique(np.array(Image.open(path))).tolist() == [0, 23, 24]
