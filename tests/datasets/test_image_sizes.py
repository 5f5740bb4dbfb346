"""Annotations of images whose files are of another size are refused, or left out by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trace_d2.data.prepare.boxes import Box, BoxedImage, write_boxes
from trace_d2.data.prepare.one_class import prepare_class_agnostic

WIDTH, HEIGHT = 8, 6
SQUARE = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]
ORIENTATION = 0x0112


def save(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def listed(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}


def instance(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": number, "category_id": 1, "segmentation": SQUARE, **more}


def prepare(folder: Path, *names: str) -> dict[str, Any]:
    images = [listed(rank, name) for rank, name in enumerate(names)]
    content = {"images": images, "annotations": [instance(k) for k in range(len(names))]}
    output = folder / "out.json"
    prepare_class_agnostic(content, output, progress=False, folder=folder, name="in.json")
    return json.loads(output.read_text())


def test_masks_of_kins_are_of_their_images(load_script, tmp_path, capsys):
    row = instance(3) | {"i_segm": SQUARE, "i_bbox": [1, 1, 2, 2], "i_area": 4}
    content = {"images": [listed(3, "000003.png")], "annotations": [row]}
    path = tmp_path / "kitti/kins/update_train_2020.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    image = tmp_path / "kitti/training/image_2/000003.png"
    save(image, (WIDTH, HEIGHT + 1))
    script = load_script("prepare_kitti_class_agnostic")
    command = ["--root", str(tmp_path), "--quiet", "--kins"]
    assert script.main(command) == 2
    assert f"{image} is 8x7 pixels, its annotations 8x6: put" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*cls_agnostic.json"))
    save(image)
    assert script.main(command) == 0


def test_all_of_another_size_are_told_at_once(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (4, 4))
    (tmp_path / "c.jpg").touch()
    with pytest.raises(ValueError, match="several things are wrong") as wrong:
        prepare(tmp_path, "a.png", "b.png", "c.jpg")
    said = str(wrong.value)
    assert f"{tmp_path / 'a.png'} is 4x4 pixels" in said
    assert f"{tmp_path / 'b.png'} is 4x4 pixels" in said
    assert "c.jpg cannot be read (it is empty)" in said


def test_a_few_are_left_out_by_name(tmp_path, caplog):
    names = [f"{rank:03d}.png" for rank in range(101)]
    for name in names:
        save(tmp_path / name, (WIDTH, HEIGHT) if name != "007.png" else (HEIGHT, WIDTH))
    made = prepare(tmp_path, *names)
    assert [image["file_name"] for image in made["images"]] == [n for n in names if n != "007.png"]
    assert {row["image_id"] for row in made["annotations"]} == {*range(101)} - {7}
    assert "007.png is 6x8 pixels, its annotations 8x6: left out" in caplog.text


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_sizes_are_those_of_what_is_seen(tmp_path, name):
    save(tmp_path / name, (HEIGHT, WIDTH), orientation=6)
    assert prepare(tmp_path, name)["images"] == [listed(0, name)]
    save(tmp_path / name, (WIDTH, HEIGHT), orientation=8)
    with pytest.raises(ValueError, match=r"is 6x8 pixels \(8x6 as stored, which EXIF turns\)") as e:
        prepare(tmp_path, name)
    assert "8x6: take the EXIF orientation out of the file if" in str(e.value)


def test_boxes_are_of_images_as_they_are_seen(tmp_path, caplog):
    save(tmp_path / "1.jpg", (HEIGHT, WIDTH), orientation=6)
    images = [BoxedImage("1.jpg", [Box((0.5, 0.5, 1.0, 1.0), "table, line 2", relative=True)])]
    write_boxes(tmp_path / "out.json", tmp_path, images, "boxes", progress=False)
    made = json.loads((tmp_path / "out.json").read_text())
    assert made["images"] == [listed(1, "1.jpg")]
    assert made["annotations"][0]["bbox"] == [4.0, 3.0, 4.0, 3.0]
    assert "1 boxes of images are of such as EXIF turns" in caplog.text
