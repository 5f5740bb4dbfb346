"""Registration with Detectron2's catalogues: dicts, metadata, and what is said of bad folders."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from filelock import FileLock

from trace_d2.config import get_trace_cfg
from trace_d2.data.label_folder import UnfinishedLabelsError
from trace_d2.data.registration import (
    register_class_agnostic,
    register_from_config,
    register_trace_panoptic,
    register_trace_semantic,
)
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import category_entries, parse_categories
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    panoptic_annotation,
)
from trace_d2.jobs.journal import ImageEntry, JournalWriter, Record
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.store import JobStore

CATEGORIES = parse_categories(
    [
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 3, "name": "cat", "isthing": 1},
        {"id": 0, "name": "ground", "isthing": 0},
    ],
    "the test's",
)
COUNT = 4


@pytest.fixture(autouse=True)
def _clean_catalogues():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def segments_of(number: int) -> list[dict[str, Any]]:
    """A cat and ground; image 2 has no segment."""
    if number == 2:
        return []
    return [
        {"id": 5, "category_id": 3, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 0},
        {"id": 9, "category_id": 0, "area": 44, "bbox": [0, 0, 8, 6], "iscrowd": 0},
    ]


def write_folder(root: Path, count: int = COUNT, categories: Any = CATEGORIES) -> Path:
    """panoptic.json and panoptic/."""
    (root / "panoptic").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / f"panoptic/photo_{number}.png").touch()  # loading opens no PNG
    content = coco_dataset(
        [image_entry(n, f"photo_{n}.jpg", 6, 8) for n in range(count)],
        [panoptic_annotation(n, f"photo_{n}.png", segments_of(n)) for n in range(count)],
        categories,
    )
    write_json(root / "panoptic.json", content)
    return root


@pytest.fixture
def truth(tmp_path):
    return write_folder(tmp_path / "truth")


@pytest.fixture
def labels(tmp_path, images):
    """A finished folder of the label maker."""
    store = JobStore(tmp_path / "labels", LabelJob.layout)
    store.open({"categories": category_entries(CATEGORIES)})
    write_folder(store.root)
    (store.root / "semantic").mkdir(exist_ok=True)
    for number in range(COUNT):
        (store.root / f"semantic/photo_{number}.png").touch()
    entries = [ImageEntry(f"photo_{n}", f"photo_{n}.jpg", n) for n in range(COUNT)]
    store.write_images(entries, COUNT)
    journal(store, *(Record(f"photo_{n}", f"photo_{n}.jpg", "done") for n in range(COUNT)))
    return store


def journal(store: JobStore, *records: Record) -> None:
    store.journal_path.unlink(missing_ok=True)
    with JournalWriter(store.journal_path) as writer:
        for record in records:
            writer.append(record)


# Panoptic


def test_panoptic_dicts_and_metadata(truth, images):
    register_trace_panoptic("t_truth", truth, images)
    records = DatasetCatalog.get("t_truth")
    assert len(records) == COUNT
    assert records[0] == {
        "file_name": str(images / "photo_0.jpg"),
        "image_id": 0,
        "height": 6,
        "width": 8,
        "pan_seg_file_name": str(truth / "panoptic/photo_0.png"),
        "segments_info": [
            {"id": 5, "category_id": 1, "iscrowd": 0, "isthing": True, "area": 4,
             "bbox": [0, 0, 2, 2]},
            {"id": 9, "category_id": 2, "iscrowd": 0, "isthing": False, "area": 44,
             "bbox": [0, 0, 8, 6]},
        ],
    }  # fmt: skip
    assert records[2]["segments_info"] == []
    metadata = MetadataCatalog.get("t_truth")
    assert metadata.thing_classes == metadata.stuff_classes == ["dog", "cat", "ground"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 3: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {0: 2}
    assert metadata.thing_colors == metadata.stuff_colors == [list(c.color) for c in CATEGORIES]
    assert metadata.categories == CATEGORIES
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    assert metadata.panoptic_json == str(truth / "panoptic.json")
    assert metadata.panoptic_root == str(truth / "panoptic")
    assert metadata.image_root == str(images)


def test_label_folder_has_semantic_maps_and_truth_has_none(labels, truth, images):
    (truth / "semantic").mkdir()  # of scenes: category ids, not contiguous ones
    register_trace_panoptic("t_truth", truth, images)
    register_trace_panoptic("t_labels", labels.root, images)
    assert "sem_seg_file_name" not in DatasetCatalog.get("t_truth")[0]
    records = DatasetCatalog.get("t_labels")
    assert records[1]["sem_seg_file_name"] == str(labels.root / "semantic/photo_1.png")
    assert MetadataCatalog.get("t_labels").json_file == str(labels.root / "instances.json")
    (labels.root / "semantic/photo_3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no semantic map at .*photo_3\.png"):
        DatasetCatalog.get("t_labels")


def test_same_name_again(truth, labels, images):
    register_trace_panoptic("t_one", truth, images)
    register_trace_panoptic("t_one", str(truth), str(images))
    with pytest.raises(ValueError, match="'t_one' is registered already, with other arguments"):
        register_trace_panoptic("t_one", labels.root, images)
    DatasetCatalog.register("t_theirs", list)
    with pytest.raises(ValueError, match="'t_theirs' is registered already, by somebody else"):
        register_trace_panoptic("t_theirs", truth, images)
    with pytest.raises(ValueError, match="non-empty text"):
        register_trace_panoptic("", truth, images)


def test_removed_name_can_be_used_anew(truth, labels, images):
    register_trace_panoptic("t_one", truth, images)
    DatasetCatalog.remove("t_one")
    register_trace_panoptic("t_one", labels.root, images)
    assert MetadataCatalog.get("t_one").panoptic_root == str(labels.root / "panoptic")


def test_folder_without_labels(tmp_path, images):
    with pytest.raises(FileNotFoundError, match=r"no panoptic\.json in .*make_pseudo_panoptic"):
        register_trace_panoptic("t_none", tmp_path / "none", images)
    assert "t_none" not in DatasetCatalog


def test_folder_that_is_made_later(tmp_path, images):
    folder = tmp_path / "later"
    register_trace_panoptic("t_later", folder, images, categories=CATEGORIES)
    assert MetadataCatalog.get("t_later").thing_classes == ["dog", "cat", "ground"]
    with pytest.raises(FileNotFoundError, match="no panoptic JSON at"):
        DatasetCatalog.get("t_later")
    write_folder(folder)
    assert len(DatasetCatalog.get("t_later")) == COUNT


def test_categories_of_folder_and_argument_must_agree(truth, images):
    with pytest.raises(ValueError, match=r"number 0 is 'dog' \(id 7, thing\) there and 'aerop"):
        register_trace_panoptic("t_voc", truth, images, categories="voc")
    register_trace_panoptic("t_truth", truth, images)
    renamed = (*CATEGORIES[:2], replace(CATEGORIES[2], name="floor"))
    write_folder(truth, categories=renamed)
    with pytest.raises(ValueError, match=r"'floor' \(id 0, stuff\) there and 'ground'"):
        DatasetCatalog.get("t_truth")


def test_files_that_contradict_themselves(truth, images):
    register_trace_panoptic("t_truth", truth, images)
    content = json.loads((truth / "panoptic.json").read_text())
    del content["images"][3]
    write_json(truth / "panoptic.json", content)
    with pytest.raises(ValueError, match='"images" lacks image 3'):
        DatasetCatalog.get("t_truth")
    content["annotations"][1]["segments_info"][0]["category_id"] = 99
    write_json(truth / "panoptic.json", content)
    with pytest.raises(ValueError, match=r"image 1, segment 5 has category 99, which"):
        DatasetCatalog.get("t_truth")


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("images/photo_1.jpg", r"1 of 4 images are missing, such as .*photo_1\.jpg"),
        ("truth/panoptic/photo_0.png", "1 of 4 panoptic PNG files are missing"),
        ("images", "no folder of images at"),
        ("truth/panoptic", "no folder of panoptic PNG files at"),
    ],
)
def test_missing_files(tmp_path, truth, images, lost, named):
    register_trace_panoptic("t_truth", truth, images)
    register_trace_panoptic("t_unchecked", truth, images, check=False)
    (tmp_path / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=named):
        DatasetCatalog.get("t_truth")
    assert len(DatasetCatalog.get("t_unchecked")) == COUNT


def test_under_one_per_cent_missing_is_a_warning(tmp_path, images, caplog):
    write_folder(tmp_path / "many", count=101)
    for number in range(100):
        (images / f"photo_{number}.jpg").touch()
    register_trace_panoptic("t_many", tmp_path / "many", images)
    with caplog.at_level(logging.WARNING):
        assert [r["image_id"] for r in DatasetCatalog.get("t_many")] == list(range(100))
    assert "1 of 101 images are missing" in caplog.text


# Label folders that are not ready


def test_folder_that_a_job_holds(labels, images):
    register_trace_panoptic("t_labels", labels.root, images)
    (labels.root / ".locks").mkdir()
    lock = labels.root / ".locks/job-2-of-3.lock"
    with FileLock(lock), pytest.raises(UnfinishedLabelsError, match="still being written"):
        DatasetCatalog.get("t_labels")
    assert len(DatasetCatalog.get("t_labels")) == COUNT


def test_pending_images(labels, images):
    register_trace_panoptic("t_labels", labels.root, images)
    register_trace_panoptic("t_unchecked", labels.root, images, check=False)
    journal(labels, Record("photo_0", "photo_0.jpg", "done"))
    with pytest.raises(UnfinishedLabelsError, match=r"3 of 4 images, such as photo_1\.jpg"):
        DatasetCatalog.get("t_labels")
    assert len(DatasetCatalog.get("t_unchecked")) == COUNT


def test_shards_that_are_not_joined(labels, images):
    register_trace_panoptic("t_labels", labels.root, images)
    (labels.root / "shards").mkdir(exist_ok=True)
    labels.journal_path.rename(labels.root / "shards/journal-1-of-2.jsonl")
    with pytest.raises(UnfinishedLabelsError, match=r"not joined yet: .* --merge"):
        DatasetCatalog.get("t_labels")


def test_failed_images_are_a_warning(labels, images, caplog):
    write_folder(labels.root, count=3)
    done = [Record(f"photo_{n}", f"photo_{n}.jpg", "done") for n in range(3)]
    journal(labels, *done, Record("photo_3", "photo_3.jpg", "failed", "truncated"))
    register_trace_panoptic("t_labels", labels.root, images)
    with caplog.at_level(logging.WARNING):
        assert len(DatasetCatalog.get("t_labels")) == 3
    assert "the labels of 1 of 4 images failed (photo_3.jpg: truncated" in caplog.text


def test_metadata_of_semantic_and_class_agnostic_data_sets(tmp_path, images, masks):
    register_trace_semantic("t_tags", images, masks, CATEGORIES)
    assert [record["image_id"] for record in DatasetCatalog.get("t_tags")] == [1, 2, 4]
    metadata = MetadataCatalog.get("t_tags")
    assert metadata.thing_classes == ["dog", "cat", "ground"]
    assert metadata.get("evaluator_type") is None
    path = tmp_path / "instances.json"
    write_json(path, {"images": [image_entry(1, "photo_0.jpg", 6, 8)], "annotations": []})
    register_class_agnostic("t_instances", path, images)
    assert [record["image_id"] for record in DatasetCatalog.get("t_instances")] == [1]
    metadata = MetadataCatalog.get("t_instances")
    assert metadata.thing_classes == ["object"]
    assert (metadata.evaluator_type, metadata.json_file) == ("class_agnostic", str(path))


# Config and agreement


def test_from_config(truth, images, masks, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    entry = image_entry(1, "photo_0.jpg", 6, 8)
    write_json(tmp_path / "instances.json", {"images": [entry], "annotations": []})
    cfg = get_trace_cfg()
    cfg.merge_from_list(
        [
            "DATASETS.TRACE.PANOPTIC", [["t_p", "truth", "images"]],
            "DATASETS.TRACE.SEMANTIC", [["t_s", "images", str(masks), "voc"]],
            "DATASETS.TRACE.INSTANCES", "[['t_i', 'instances.json', 'images']]",
        ]
    )  # fmt: skip
    register_from_config(cfg)
    register_from_config(cfg)
    assert [len(DatasetCatalog.get(name)) for name in ("t_p", "t_s", "t_i")] == [COUNT, 3, 1]
    assert len(MetadataCatalog.get("t_s").thing_classes) == 21


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("PANOPTIC", ["name", "folder"]),
        ("SEMANTIC", "name"),
        ("INSTANCES", ["name", "a.json", "images", "voc", "more"]),
        ("INSTANCES", ["name", 3, "images"]),
    ],
)
def test_config_entries_that_are_none(key, entry):
    cfg = get_trace_cfg()
    cfg.DATASETS.TRACE[key] = [entry]
    with pytest.raises(ValueError, match=rf"DATASETS\.TRACE\.{key} holds .*each entry is a list"):
        register_from_config(cfg)


def edited(folder: Path, change: Any) -> Path:
    """The panoptic JSON of ``folder``, changed."""
    content = json.loads((folder / "panoptic.json").read_text())
    change(content)
    write_json(folder / "panoptic.json", content)
    return folder


def test_pngs_of_other_images_are_refused(truth, images):
    """With ids by rank on one side, each image would be trained on with another's label."""

    def swap(content):
        names = [one["file_name"] for one in content["annotations"]]
        for one, name in zip(content["annotations"], names[::-1], strict=True):
            one["file_name"] = name

    edited(truth, swap)
    with pytest.raises(ValueError, match="which is the PNG of another image"):
        register_trace_panoptic("swapped", truth, images)


@pytest.mark.parametrize("name", ["../photo_0.jpg", "/etc/photo_0.jpg", "..\\photo_0.jpg"])
def test_names_lead_nowhere_else(truth, images, name):
    def change(content):
        content["images"][0]["file_name"] = name

    register_trace_panoptic("elsewhere", edited(truth, change), images)
    with pytest.raises(ValueError, match=r"image 0: the file name .* leads out of its folder"):
        DatasetCatalog.get("elsewhere")


def test_names_of_macos_and_windows_are_found(truth, images):
    (images / "sub").mkdir()
    (images / "photo_0.jpg").rename(images / "sub/cafe\u0301.jpg")
    (truth / "panoptic/photo_0.png").rename(truth / "panoptic/cafe\u0301.png")

    def change(content):
        content["images"][0]["file_name"] = "sub\\caf\u00e9.jpg"
        content["annotations"][0]["file_name"] = "caf\u00e9.png"

    register_trace_panoptic("accents", edited(truth, change), images)
    record = DatasetCatalog.get("accents")[0]
    assert Path(record["file_name"]).is_file()
    assert Path(record["pan_seg_file_name"]).is_file()
