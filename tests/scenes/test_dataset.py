"""Scenes as a COCO data set: what is written is what was made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from trace_d2.evaluation import panoptic_quality
from trace_d2.io.categories import load_categories
from trace_d2.io.coco_panoptic import load_panoptic_json, read_panoptic_png
from trace_d2.scenes.dataset import (
    SceneSettings,
    scene_categories,
    write_scenes,
)
from trace_d2.scenes.procedural import make_scene


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 3, SceneSettings(series=9, size=(64, 80)), progress=False)
    return folder


def test_files_hold_the_scenes(dataset: Path) -> None:
    truth = load_panoptic_json(dataset / "panoptic.json")
    for index in range(3):
        scene = make_scene(9, index, (64, 80))
        name = f"scene_{index:06d}.png"
        np.testing.assert_array_equal(np.array(Image.open(dataset / "images" / name)), scene.image)
        ids = read_panoptic_png(dataset / "panoptic" / name)
        np.testing.assert_array_equal(ids, scene.segment_ids)
        semantic = np.array(Image.open(dataset / "semantic" / name))
        np.testing.assert_array_equal(semantic, scene.semantic())
        listed = truth.annotations[index + 1]["segments_info"]
        assert [s["category_id"] for s in listed] == list(scene.category_ids)
    assert load_categories(dataset / "categories.json") == scene_categories()


def test_instances_are_the_things(dataset: Path) -> None:
    coco = COCO(str(dataset / "instances.json"))
    things = {c.id for c in scene_categories() if c.isthing}
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len({a["id"] for a in annotations}) == len(annotations) > 0
    for annotation in annotations:
        assert annotation["category_id"] in things
        ids = read_panoptic_png(
            dataset / "panoptic" / coco.loadImgs(annotation["image_id"])[0]["file_name"]
        )
        mask = coco.annToMask(annotation).astype(bool)
        assert len(np.unique(ids[mask])) == 1
        assert mask.sum() == annotation["area"]


def test_truth_scores_100(dataset: Path) -> None:
    paths = (dataset / "panoptic.json", dataset / "panoptic")
    assert panoptic_quality(*paths, *paths).all.pq == pytest.approx(1.0)


def test_workers_write_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, 3, SceneSettings(9, (64, 80)), workers=2, progress=False)
    assert digest(tmp_path) == digest(dataset)


def test_noise_touches_only_the_semantic_masks(dataset: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, 3, SceneSettings(9, (64, 80), semantic_noise=1.0), progress=False)
    clean, noisy = digest(dataset), digest(tmp_path)
    changed = {name for name in clean if clean[name] != noisy[name]}
    assert changed
    assert all(name.startswith("semantic/") for name in changed)


def test_no_scene_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_scenes(tmp_path, 0, SceneSettings())


def test_json_is_plain(dataset: Path) -> None:
    categories = json.loads((dataset / "categories.json").read_text())
    assert [c["isthing"] for c in categories] == [1, 1, 1, 1, 0, 0]
