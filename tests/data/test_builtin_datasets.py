"""The built-in names, on a miniature of the folders below DETECTRON2_DATASETS."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from trace_d2.complaints import Complaints
from trace_d2.data import known
from trace_d2.data.builtin_datasets import NAMES, register_builtin_datasets
from trace_d2.engine.checks import _mapper_of, check_categories
from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.categories import category_entries, load_categories, parse_categories
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)


def remove_names() -> None:
    for name in NAMES:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def root(tmp_path):
    """A root of data sets; afterwards the names stand for the usual root again."""
    remove_names()
    yield tmp_path
    remove_names()
    register_builtin_datasets()


def test_importing_registers_all_names():
    assert set(NAMES) <= set(DatasetCatalog)
    assert len(set(NAMES)) == len(NAMES)
    register_builtin_datasets()  # again, as the plugin may


@pytest.mark.parametrize("name", NAMES)
def test_missing_folder_says_what_to_put_where(name, root):
    register_builtin_datasets(root)
    with pytest.raises(FileNotFoundError) as error:
        DatasetCatalog.get(name)
    assert str(root) in str(error.value)
    assert "datasets/README.md shows" in str(error.value)


def test_classes_are_known_without_files(root):
    register_builtin_datasets(root)
    voc = MetadataCatalog.get("voc_2012_val_panoptic")
    assert len(voc.thing_classes) == 21
    assert voc.thing_classes[-1] == "background"
    assert list(voc.stuff_dataset_id_to_contiguous_id.items()) == [(0, 20)]
    coco = MetadataCatalog.get("trace_coco_2017_train")
    assert len(coco.thing_dataset_id_to_contiguous_id) == 80
    assert len(coco.stuff_dataset_id_to_contiguous_id) == 53
    theirs = MetadataCatalog.get("coco_2017_val_panoptic")
    for key in ("thing", "stuff"):
        name = f"{key}_dataset_id_to_contiguous_id"
        assert getattr(coco, name) == getattr(theirs, name)
    check_categories(["trace_coco_2017_train", "trace_coco_2017_val", "coco_2017_val_panoptic"])
    check_categories(["trace_voc_2012_train_aug", "tag_voc_2012_train_aug"], 21)
    with pytest.raises(ValueError, match="has 133 classes and voc_2012_val_panoptic has 21"):
        check_categories(["trace_coco_2017_train", "voc_2012_val_panoptic"])


def test_what_is_known_before_detectron2_is_what_it_will_know(root):
    register_builtin_datasets(root)
    for name, kind, table in (
        ("isaid_val", "INSTANCES", "instances"),
        ("cls_agnostic_isaid_val", "INSTANCES", "instances"),
        ("tnbc_panoptic", "PANOPTIC", "panoptic"),
    ):
        told = known._facts(Complaints(), kind, known.TABLE[table][name])
        assert told == {key: MetadataCatalog.get(name).get(key) for key in told}
    assert len(MetadataCatalog.get("isaid_val").thing_classes) == 15
    assert _mapper_of("isaid_val", "trace") == "detectron2"


def test_other_root_is_an_error(root):
    register_builtin_datasets(root)
    with pytest.raises(ValueError, match="registered already, with other arguments"):
        register_builtin_datasets(root / "elsewhere")


def test_names_of_cutler_are_left_to_it(root, caplog):
    DatasetCatalog.register("cls_agnostic_coco", lambda: [{"theirs": True}])
    try:
        with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
            patch.setattr("trace_d2.data.registration._REGISTERED", {})
            register_builtin_datasets(root)
        assert DatasetCatalog.get("cls_agnostic_coco") == [{"theirs": True}]
        assert "another project has registered cls_agnostic_coco before" in caplog.text
    finally:
        remove_names()


def write_panoptic(root: Path, json_file: str, png: str, name: str, image: str) -> None:
    """One image of 6 x 8 that is all background."""
    segment_ids = np.full((6, 8), 3, np.int32)
    (root / png).parent.mkdir(parents=True, exist_ok=True)
    write_panoptic_png(root / png, segment_ids)
    voc = "voc" in json_file.lower()
    categories = load_categories("voc" if voc else "coco-panoptic")
    segments = segments_info(segment_ids, {3: categories[-1].id})
    (root / json_file).parent.mkdir(parents=True, exist_ok=True)
    content = coco_dataset(
        [image_entry(1, Path(image).name, 6, 8)],
        [panoptic_annotation(1, name, segments)],
        categories,
    )
    write_json(root / json_file, content)
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(root / image)


@pytest.mark.parametrize(
    ("name", "json_file", "png", "file_name", "image"),
    [
        (
            "voc_2012_val_panoptic",
            "VOC2012/panoptic_val/panoptic.json",
            "VOC2012/panoptic_val/panoptic/a.png",
            "a.png",
            "VOC2012/JPEGImages/a.jpg",
        ),
        (
            "trace_coco_2017_val",
            "coco/annotations/panoptic_val2017.json",
            "coco/panoptic_val2017/a.png",
            "a.png",
            "coco/val2017/a.jpg",
        ),
        (
            "trace_coco_2014_val",
            "coco/annotations/panoptic_val2014.json",
            "coco/panoptic_train2017/a.png",
            "panoptic_train2017/a.png",
            "coco/val2014/COCO_val2014_a.jpg",
        ),
        (
            "trace_voc_2012_train_aug",
            "trace/voc_2012_train_aug/panoptic.json",
            "trace/voc_2012_train_aug/panoptic/a.png",
            "a.png",
            "VOC2012/JPEGImages/a.jpg",
        ),
    ],
)
def test_panoptic_files_are_found(root, name, json_file, png, file_name, image):
    register_builtin_datasets(root)
    write_panoptic(root, json_file, png, file_name, image)
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(root / image)
    assert record["pan_seg_file_name"] == str(root / png)
    (segment,) = record["segments_info"]
    classes = MetadataCatalog.get(name).thing_classes
    assert (segment["category_id"], segment["area"]) == (len(classes) - 1, 48)


def test_label_folder_brings_its_own_categories(root, caplog):
    folder = root / "trace/coco_2014_train"
    folder.mkdir(parents=True)
    own = parse_categories([{"id": 4, "name": "cat", "isthing": 1}], "the test's")
    write_json(folder / "settings.json", {"format": 1, "categories": category_entries(own)})
    damaged = root / "trace/coco_2017_train"
    damaged.mkdir()
    (damaged / "settings.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        register_builtin_datasets(root)
    assert MetadataCatalog.get("trace_coco_2014_train").thing_classes == ["cat"]
    assert len(MetadataCatalog.get("trace_coco_2017_train").thing_classes) == 133
    assert "coco_2017_train: its categories cannot be read" in caplog.text


def test_masks_and_edges_are_found(root):
    register_builtin_datasets(root)
    (root / "VOC2012/JPEGImages").mkdir(parents=True)
    for stem in ("2007_000001", "2007_000002"):
        Image.new("RGB", (8, 6)).save(root / f"VOC2012/JPEGImages/{stem}.jpg")
    for kind in ("tag_masks", "edges"):
        (root / kind / "voc_2012_train_aug").mkdir(parents=True)
        path = root / kind / "voc_2012_train_aug/2007_000002.png"
        write_png(path, np.zeros((6, 8), np.uint8))
    (record,) = DatasetCatalog.get("tag_voc_2012_train_aug")
    assert record["file_name"] == str(root / "VOC2012/JPEGImages/2007_000002.jpg")
    assert record["trace_semantic_file_name"].endswith(
        "tag_masks/voc_2012_train_aug/2007_000002.png"
    )
    assert record["trace_edges_file_name"].endswith("edges/voc_2012_train_aug/2007_000002.png")
