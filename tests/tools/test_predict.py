"""Predictions of trained models: their files, the report page, and what is said of mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog

from trace_d2.io.categories import load_categories
from trace_d2.io.coco_panoptic import load_panoptic_json, read_panoptic_png

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[2] / "configs"
MASK2FORMER = CONFIGS / "panoptic" / "coco_mask2former_R50.yaml"
MASK_RCNN = CONFIGS / "instance" / "mask_rcnn_R50_FPN.yaml"


@pytest.fixture(scope="module")
def predict(load_tool) -> ModuleType:
    return load_tool("predict")


@pytest.fixture(scope="module")
def trained(small_options, tmp_path_factory, load_tool):
    """``trained(config)``: the folder of a training of one iteration, its data sets forgotten."""
    made: dict[Path, Path] = {}

    def make(config: Path) -> Path:
        if config not in made:
            output = tmp_path_factory.mktemp(config.stem)
            options = [*small_options(config, output), "SOLVER.MAX_ITER", "1"]
            assert load_tool("train_net").main(["--config-file", str(config), *options]) == 0
            made[config] = output
        for name in ("small_panoptic", "small_instances"):
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
        return made[config]

    return make


@pytest.fixture(scope="module")
def photographs(small_scenes, tmp_path_factory) -> Path:
    """Three scenes' worth of images of two sizes, one turned by EXIF, and one that is damaged."""
    folder = tmp_path_factory.mktemp("photographs")
    first, second = sorted((small_scenes / "images").iterdir())
    shutil.copy(first, folder / "a.png")
    Image.open(second).resize((80, 56)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(first).resize((72, 40)).save(folder / "c.jpg", exif=exif)
    (folder / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


def command(folder: Path, images: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--config-file", str(folder / "config.yaml")),
        *("--weights", str(folder / "model_final.pth")),
        *("--images", str(images), "--output", str(output), "--quiet", "--workers", "1"),
        *more,
    ]


# So that a model which has learned nothing says something.
EAGER = ["MODEL.TRACE.MASK2FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0"]
EAGER += ["MODEL.TRACE.MASK2FORMER.TEST.OVERLAP_THRESHOLD", "0.0"]


def contents(output: Path) -> dict[str, bytes]:
    names = ("predictions.json", "panoptic.json", "categories.json")
    paths = [output / name for name in names if (output / name).exists()]
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in [*paths, *(output / "panoptic").glob("*")]
    }


def test_mask2former_gives_both(predict, trained, photographs, small_scenes, tmp_path, capsys):
    folder, output = trained(MASK2FORMER), tmp_path / "out"
    assert predict.main(command(folder, photographs, output, "--score", "0", *EAGER)) == 3
    out, err = capsys.readouterr()
    assert "3 predicted (0 of them before), 0 skipped, 1 failed" in out
    assert "d.png" in err

    truth = load_categories(small_scenes / "categories.json")
    assert load_categories(output / "categories.json") == truth
    panoptic = load_panoptic_json(output / "panoptic.json")
    assert panoptic.categories == truth
    assert panoptic.sizes == {1: (64, 64), 2: (56, 80), 3: (72, 40)}  # c is turned
    for annotation in panoptic.annotations.values():
        ids = read_panoptic_png(output / "panoptic" / annotation["file_name"])
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids)) - {0}
    instances = json.loads((output / "predictions.json").read_text())
    things = {c.id for c in truth if c.isthing}
    assert {c["id"] for c in instances["categories"]} == things
    assert instances["annotations"]
    for row in instances["annotations"]:
        assert row["category_id"] in things
        assert row["area"] == coco_mask.area(row["segmentation"]) > 0
        assert 0 <= row["score"] <= 1
    for image in instances["images"]:
        scores = [r["score"] for r in instances["annotations"] if r["image_id"] == image["id"]]
        assert scores == sorted(scores, reverse=True)
    page = (output / "report.html").read_text()
    assert page.count("data:image/webp") == 3
    assert f"{truth[0].name}" in page

    # Whatever runs it, and however often it was cut short.
    before = contents(output)
    again = tmp_path / "again"
    limited = command(folder, photographs, again, "--score", "0", "--limit", "1", *EAGER)
    assert predict.main(limited) == 0
    whole = command(folder, photographs, again, "--score", "0", *EAGER)
    assert predict.main([*whole[:-4], "--workers", "3", *EAGER]) == 3
    assert contents(again) == before
    (again / "panoptic" / "a.png").unlink()
    assert predict.main(whole) == 3
    assert contents(again) == before


def test_predictions_are_those_that_evaluation_scores(
    predict, trained, small_options, small_scenes, load_tool, tmp_path
):
    folder, output = trained(MASK_RCNN), tmp_path / "out"
    options = [*small_options(MASK_RCNN, tmp_path / "evaluated")]
    options += ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    evaluate = ["--eval-only", "--config-file", str(MASK_RCNN), *options]
    assert load_tool("train_net").main(evaluate) == 0
    name = "evaluated/inference/small_instances/coco_instances_results.json"
    expected = json.loads((tmp_path / name).read_text())

    truth = str(small_scenes / "instances.json")
    more = ["--score", "0", "--images-json", truth]
    assert predict.main(command(folder, small_scenes / "images", output, *more)) == 0
    found = json.loads((output / "predictions.json").read_text())
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")

    def rows(entries: list) -> list:
        kept = [e for e in entries if coco_mask.area(e["segmentation"])]
        return sorted(json.dumps([e[key] for key in keys]) for e in kept)

    assert [c["name"] for c in found["categories"]] == ["object"]
    assert expected
    assert rows(found["annotations"]) == rows(expected)
    assert not (output / "panoptic.json").exists()
