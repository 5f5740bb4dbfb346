"""COCO, LVIS and SA-1B to the files of the built-in data sets, on miniatures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trace_d2.data.prepare.one_class import prepare_class_agnostic
from trace_d2.data.prepare.sa1b import prepare_sa1b

SQUARE = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def image(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": 6, "width": 8, "license": 1}


def instance(number: int, image_id: int, category: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "image_id": image_id, "category_id": category, "segmentation": SQUARE,
        "bbox": [1, 1, 2, 2], "area": 4, **more,
    }  # fmt: skip


@pytest.fixture
def run(load_script, tmp_path):
    """``run(name, *more)``: the exit status of a script on ``tmp_path``."""
    return lambda name, *more: load_script(name).main(["--root", str(tmp_path), "--quiet", *more])


@pytest.fixture
def annotations(tmp_path):
    """coco/annotations with three images in each file."""
    folder = tmp_path / "coco/annotations"
    for split in ("val2017", "train2014"):
        prefix = "COCO_train2014_" if split == "train2014" else ""
        write(
            folder / f"instances_{split}.json",
            {
                "images": [image(n, f"{prefix}{n:012d}.jpg") for n in (1, 2, 3)],
                "annotations": [
                    instance(0, 1, 18, iscrowd=0),
                    instance(7, 2, 1, iscrowd=1),
                    instance(9, 3, 90),
                ],
                "categories": [{"id": n, "name": str(n)} for n in (1, 18, 90)],
            },
        )
    return folder


def test_val2017_becomes_one_class(run, annotations):
    assert run("prepare_coco_class_agnostic") == 0
    content = read(annotations / "coco_cls_agnostic_instances_val2017.json")
    assert [c["name"] for c in content["categories"]] == ["object"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in content["annotations"]] == [
        (1, 1, 1), (2, 2, 1), (3, 3, 1),
    ]  # fmt: skip
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 1, 0]
    assert content["annotations"][0]["segmentation"] == SQUARE
    assert content["images"][0]["file_name"] == "000000000001.jpg"


def test_coco20k_keeps_the_images_of_the_list(run, annotations, tmp_path):
    names = tmp_path / "coco20k.txt"
    names.write_text("train2014/COCO_train2014_000000000003.jpg\n\n")
    assert run("prepare_coco_class_agnostic", "--coco20k", str(names)) == 0
    content = read(annotations / "coco20k_trainval_gt.json")
    assert [i["id"] for i in content["images"]] == [3]
    assert [(a["id"], a["image_id"]) for a in content["annotations"]] == [(1, 3)]


def test_list_of_other_images_is_an_error(run, annotations, tmp_path, capsys):
    names = tmp_path / "coco20k.txt"
    names.write_text("COCO_train2014_000000000003.jpg\nCOCO_train2014_000000000009.jpg\n")
    assert run("prepare_coco_class_agnostic", "--coco20k", str(names)) == 2
    message = capsys.readouterr().err
    assert "lacks 1 of the 2 images" in message
    assert "COCO_train2014_000000000009.jpg" in message


def test_cocofied_lvis_goes_where_cutler_has_it(run, annotations, tmp_path):
    entry = image(5, "")
    del entry["file_name"]
    entry["coco_url"] = "http://images.cocodataset.org/val2017/000000000005.jpg"
    lvis = write(
        tmp_path / "lvis_v1_val.json",
        {"images": [entry], "annotations": [instance(1, 5, 3)], "categories": [{"id": 3}]},
    )
    assert run("prepare_coco_class_agnostic", "--lvis", str(lvis)) == 0
    content = read(annotations / "lvis1.0_cocofied_val_cls_agnostic.json")
    assert content["images"][0]["file_name"] == "val2017/000000000005.jpg"
    assert content["annotations"][0]["iscrowd"] == 0


def test_any_file_goes_where_it_is_told(run, annotations, tmp_path, capsys):
    source = str(annotations / "instances_val2017.json")
    output = tmp_path / "kitti/annotations/trainval_cls_agnostic.json"
    arguments = ["--instances", source]
    assert run("prepare_coco_class_agnostic", *arguments, "--output", str(output)) == 0
    assert len(read(output)["annotations"]) == 3
    with pytest.raises(SystemExit):
        run("prepare_coco_class_agnostic", *arguments)
    assert "--instances needs --output" in capsys.readouterr().err


def test_missing_annotations_are_named(run, tmp_path, capsys):
    for name, path in (
        ("prepare_coco_class_agnostic", "coco/annotations/instances_val2017.json"),
        ("prepare_coco_2014_panoptic", "coco/annotations/instances_train2014.json"),
        ("prepare_sa1b_class_agnostic", "sa1b/images"),
    ):
        assert run(name) == 2
        assert str(tmp_path / path) in capsys.readouterr().err


CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 92, "name": "banner", "isthing": 0}]


def panoptic(numbers: list[int]) -> dict[str, Any]:
    return {
        "images": [image(n, f"{n:012d}.jpg") for n in numbers],
        "annotations": [
            {
                "image_id": n,
                "file_name": f"{n:012d}.png",
                "segments_info": [{"id": n, "category_id": 92, "area": 48, "iscrowd": 0}],
            }
            for n in numbers
        ],
        "categories": CATEGORIES,
    }


def test_coco_2014_takes_its_images_from_both_parts_of_2017(run, tmp_path):
    folder = tmp_path / "coco/annotations"
    write(folder / "panoptic_train2017.json", panoptic([1, 2, 3]))
    write(folder / "panoptic_val2017.json", panoptic([4]))
    names = [image(n, f"COCO_val2014_{n:012d}.jpg") for n in (4, 2)]
    write(folder / "instances_val2014.json", {"images": names})
    assert run("prepare_coco_2014_panoptic", "--splits", "val") == 0
    content = read(folder / "panoptic_val2014.json")
    assert [i["file_name"] for i in content["images"]] == [i["file_name"] for i in names]
    assert [(a["image_id"], a["file_name"]) for a in content["annotations"]] == [
        (4, "panoptic_val2017/000000000004.png"),
        (2, "panoptic_train2017/000000000002.png"),
    ]
    assert [c["name"] for c in content["categories"]] == ["person", "banner"]


def test_coco_2014_without_an_annotation_is_an_error(run, tmp_path, capsys):
    folder = tmp_path / "coco/annotations"
    for part in ("train", "val"):
        write(folder / f"panoptic_{part}2017.json", panoptic([1]))
    write(folder / "instances_val2014.json", {"images": [image(8, "a.jpg"), image(1, "b.jpg")]})
    assert run("prepare_coco_2014_panoptic", "--splits", "val") == 2
    assert "1 of 2 images have no annotation" in capsys.readouterr().err
    assert not (folder / "panoptic_val2014.json").exists()


def test_sa1b_is_joined_in_order_of_numbers(run, tmp_path, capsys):
    images = tmp_path / "sa1b/images"
    for number in (10, 9, 11):
        entry = {"image_id": number, "file_name": f"sa_{number}.jpg", "height": 6, "width": 8}
        masks = [instance(500 + k, 0, 0) for k in range(2)]
        write(images / f"sa_{number}.json", {"image": entry, "annotations": masks})
    for number in (9, 10):
        Image.new("RGB", (8, 6)).save(images / f"sa_{number}.jpg")
    (images / "sa_12.jpg").touch()
    assert run("prepare_sa1b_class_agnostic", "--limit", "2") == 2
    error = capsys.readouterr().err
    assert "2 of 4 photographs in" in error
    assert "lack their .jpg or their .json, such as sa_11: unpack the archive again" in error
    (images / "sa_11.json").unlink()
    (images / "sa_12.jpg").unlink()
    assert run("prepare_sa1b_class_agnostic") == 0
    content = read(tmp_path / "sa1b/annotations/sa1b_cls_agnostic.json")
    assert [i["id"] for i in content["images"]] == [9, 10]
    assert [(a["id"], a["image_id"]) for a in content["annotations"]] == [
        (1, 9), (2, 9), (3, 10), (4, 10),
    ]  # fmt: skip
    assert run("prepare_sa1b_class_agnostic", "--limit", "1") == 0
    assert len(read(tmp_path / "sa1b/annotations/sa1b_cls_agnostic.json")["images"]) == 1


def one_class(folder: Path, content: Any, names: Any = None) -> Any:
    write(folder / "in.json", content)
    prepare_class_agnostic(folder / "in.json", folder / "out.json", names, progress=False)
    return read(folder / "out.json")


def test_lists_take_folders_where_names_alone_do_not_tell(tmp_path):
    images = [image(1, "a/1.jpg"), image(2, "b/1.jpg"), image(3, "b/2.jpg")]
    content = {"images": images, "annotations": []}
    chosen = one_class(tmp_path, content, ["b\\1.jpg", "x/2.jpg"])["images"]
    assert [entry["id"] for entry in chosen] == [2, 3]
    with pytest.raises(ValueError, match=r"1\.jpg of the list could be a/1\.jpg or b/1\.jpg"):
        one_class(tmp_path, content, ["1.jpg"])


def test_sa1b_files_must_be_of_their_photographs(tmp_path):
    for stem in ("sa_1", "sa_2"):
        (tmp_path / f"{stem}.jpg").touch()
        entry = {"image_id": 5, "file_name": f"{stem}.jpg", "height": 6, "width": 8}
        write(tmp_path / f"{stem}.json", {"image": entry, "annotations": []})
    with pytest.raises(ValueError, match=r"sa_2\.json has the image_id of sa_1\.json"):
        prepare_sa1b(tmp_path, tmp_path / "out.json", progress=False)
    (tmp_path / "sa_2.json").write_text((tmp_path / "sa_1.json").read_text())
    with pytest.raises(ValueError, match=r"sa_2\.json is of the photograph sa_1\.jpg"):
        prepare_sa1b(tmp_path, tmp_path / "out.json", progress=False)


def test_all_that_is_wrong_with_sa1b_is_told(tmp_path):
    entry = {"image_id": 1, "file_name": "sa_1.jpg", "height": 6, "width": 8}
    contents = [{"image": entry, "annotations": []}, {}, {"image": {"image_id": 3.5}}]
    for number, content in enumerate(contents, start=1):
        Image.new("RGB", (8, 5)).save(tmp_path / f"sa_{number}.jpg")
        write(tmp_path / f"sa_{number}.json", content)
    (tmp_path / "sa_3.json").write_bytes(b'{"image"')
    with pytest.raises(ValueError, match=r"sa_2\.json has no \"image\"") as wrong:
        prepare_sa1b(tmp_path, tmp_path / "out.json", progress=False)
    assert "sa_3.json" in str(wrong.value)
    with pytest.raises(ValueError, match=r"sa_1\.jpg is 8x5 pixels, its annotations 8x6"):
        prepare_sa1b(tmp_path, tmp_path / "out.json", limit=1, progress=False)


def test_ids_of_2014_must_be_those_of_2017(annotations, capsys, run):
    for split in ("train", "val"):
        segments = {"segments_info": [], "image_id": 1, "file_name": "x.png"}
        content = {
            "images": [image(1, f"{2:012d}.jpg")],
            "annotations": [segments] if split == "val" else [],
            "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        }
        write(annotations / f"panoptic_{split}2017.json", content)
    content = {"images": [image(1, f"COCO_val2014_{1:012d}.jpg")], "annotations": []}
    write(annotations / "instances_val2014.json", content)
    assert run("prepare_coco_2014_panoptic", "--splits", "val") == 2
    assert "image 1 is 000000000002.jpg, but COCO_val2014_" in capsys.readouterr().err
