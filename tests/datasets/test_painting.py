"""JSON files of which no map of classes can be painted are refused, with the place of the fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

SQUARE = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]


def image(number: Any, name: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": number, "file_name": name, "height": 6, "width": 8, **more}


def mask(image_id: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": 5, "image_id": image_id, "category_id": 1, "segmentation": SQUARE, "area": 4, **more,
    }  # fmt: skip


@pytest.fixture
def paint(load_script, tmp_path):
    """``paint(images, annotations)``: the exit status for COCO's instances."""

    def run(images: list[Any], annotations: list[Any]) -> int:
        path = tmp_path / "coco/annotations/instances_val2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
        options = ("--root", str(tmp_path), "--quiet", "--workers", "1", "--splits", "val")
        script = load_script("prepare_sem_seg")
        return script.main(["coco_object", "--from-instances", *options])

    return run


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([None], [], 'no. 0 of "images" is None, not an object'),
        ([image(1, "a.jpg")], [None], 'no. 0 of "annotations" is None, not an object'),
        ([image([1], "a.jpg")], [], 'image 0: "id" is [1], neither a whole number nor text'),
        ([image(1, "a.jpg")], [mask([1])], 'annotation 5: "image_id" is [1], neither'),
        ([image(1, "a.jpg")], [mask(1, area="4")], "annotation 5: \"area\" is '4', not a finite"),
        ([image(1, "a.jpg")], [mask(1, area=None)], 'annotation 5: "area" is None, not a finite'),
        ([image(1, "a.jpg")], [mask(1, iscrowd="0")], "\"iscrowd\" is '0', neither 0 nor 1"),
        ([image(1, "a.jpg")], [mask(7)], "has masks of 1 images that it does not list, such as"),
        ([image("1", "a.jpg")], [mask(1)], "has masks of 1 images that it does not list, such as"),
        ([image(1, "a.jpg"), image(1, "b.jpg")], [], "image 1 (b) has the id or the name of"),
        ([image(1, "a.jpg"), image(2, "a.png")], [], "image 1 (a) has the id or the name of"),
        ([image(1, "a.jpg", height=10**5, width=10**5)], [], "100000x100000 pixels, and more than"),
        ([image(1, "")], [], "image 0: \"file_name\" is '', not the name of a file"),
    ],
)
def test_what_cannot_be_painted(paint, tmp_path, capsys, images, annotations, message) -> None:
    assert paint(images, annotations) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "instances_val2017.json" in error
    assert not list(tmp_path.rglob("*.png"))


def test_masks_of_images_that_context_does_not_list_are_told(load_script, tmp_path, caplog) -> None:
    path = tmp_path / "VOC2010/trainval_merged.json"
    path.parent.mkdir(parents=True)
    content = {
        "images": [image(1, "a.jpg", phase="val")],
        "annos_segmentation": [mask(1, category_id=2), mask(2, category_id=2)],
    }
    path.write_text(json.dumps(content))
    options = ["context", "--root", str(tmp_path), "--quiet", "--splits", "val"]
    assert load_script("prepare_sem_seg").main(options) == 0
    assert "trainval_merged.json has masks of 1 images that it does not list" in caplog.text
