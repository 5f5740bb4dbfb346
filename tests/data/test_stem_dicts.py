"""Dataset dicts of images with semantic masks or pseudo edges, and what is said of bad folders."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.data.label_folder import UnfinishedLabelsError
from trace_d2.data.registration import register_from_config, register_trace_edges
from trace_d2.data.stem_dicts import load_edge_dicts, load_semantic_dicts, png_size
from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.edge_maps import write_ternary
from trace_d2.jobs.journal import DONE, FAILED, ImageEntry, JournalWriter, Record
from trace_d2.jobs.kinds.edges import PseudoEdgeJob
from trace_d2.jobs.store import FORMAT, JobStore

REMEDY = "correct the folders"


def test_semantic_dicts(tmp_path, images, masks):
    edges = tmp_path / "edges"
    edges.mkdir()
    for name in ("photo_0.png", "photo_1.npy", "photo_3.png"):
        (edges / name).touch()
    records = load_semantic_dicts(images, masks, edges, REMEDY)
    assert records[1] == {
        "file_name": str(images / "photo_1.jpg"),
        "image_id": 2,
        "height": 6,
        "width": 8,
        "trace_semantic_file_name": str(masks / "photo_1.png"),
        "trace_edges_file_name": str(edges / "photo_1.npy"),
    }
    assert [r["image_id"] for r in records] == [1, 2, 4]
    assert "trace_edges_file_name" not in load_semantic_dicts(images, masks, None, REMEDY)[0]
    (edges / "photo_1.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images with a mask have no edges in"):
        load_semantic_dicts(images, masks, edges, REMEDY)
    (edges / "photo_1.npy").touch()
    (edges / "photo_1.png").touch()
    with pytest.raises(ValueError, match=r"both photo_1\.npy and photo_1\.png"):
        load_semantic_dicts(images, masks, edges, REMEDY)


def test_masks_of_other_images(images, masks):
    (masks / "photo_9.png").touch()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 masks .* no image .* photo_9\.png"):
        load_semantic_dicts(images, masks, None, REMEDY)
    for mask in masks.iterdir():
        mask.unlink()
    with pytest.raises(ValueError, match=r"no image of .* has a mask"):
        load_semantic_dicts(images, masks, None, REMEDY)


def test_png_size(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((3, 500), np.uint8))
    assert png_size(tmp_path / "a.png") == (3, 500)
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png", format="JPEG")
    with pytest.raises(ValueError, match=r"b\.png cannot be read \(it is a JPEG, not a PNG\)"):
        png_size(tmp_path / "b.png")


# Pseudo edges

STEMS = ("0007", "0012", "0031")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for stem in STEMS:
        Image.new("RGB", (8, 6)).save(folder / f"{stem}.jpg")
    return folder


@pytest.fixture
def maps(tmp_path):
    """An output folder with the maps of all images."""
    root = tmp_path / "output"
    (root / "pseudo_edges").mkdir(parents=True)
    for stem in STEMS:
        write_ternary(root / "pseudo_edges" / f"{stem}.png", np.zeros((6, 8), np.int8))
    return root


def as_job(root: Path, statuses: dict[str, str]) -> None:
    """Make ``root`` the folder of a job that came to the images of ``statuses``."""
    write_json(root / "settings.json", {"format": FORMAT})
    store = JobStore(root, PseudoEdgeJob.layout)
    store.write_images([ImageEntry(s, f"{s}.jpg", int(s)) for s in STEMS], len(STEMS))
    with JournalWriter(store.journal_path) as journal:
        for stem, status in statuses.items():
            journal.append(Record(stem, f"{stem}.jpg", status, reason="a reason"))


def test_records_name_image_and_map(photos, maps):
    record = load_edge_dicts(photos, maps, "")[1]

    assert record == {
        "file_name": f"{photos}/0012.jpg",
        "image_id": 12,
        "height": 6,
        "width": 8,
        "trace_pseudo_edges_file_name": f"{maps}/pseudo_edges/0012.png",
    }
    assert load_edge_dicts(photos, maps / "pseudo_edges", "")[1] == record


def test_images_without_a_map_are_left_out_with_a_word(photos, maps, caplog):
    (maps / "pseudo_edges" / "0012.png").unlink()

    with caplog.at_level(logging.WARNING):
        assert [r["image_id"] for r in load_edge_dicts(photos, maps, "")] == [7, 31]

    assert "1 of 3 images" in caplog.text


def test_images_that_failed_are_left_out_with_the_reason(photos, maps, caplog):
    as_job(maps, {"0007": DONE, "0012": FAILED, "0031": DONE})

    with caplog.at_level(logging.WARNING):
        assert [r["image_id"] for r in load_edge_dicts(photos, maps, "")] == [7, 31]

    assert "0012.jpg: a reason" in caplog.text


def test_a_folder_that_is_still_made_is_refused(photos, maps):
    as_job(maps, {"0007": DONE, "0012": DONE})

    for folder in (maps, maps / "pseudo_edges"):
        with pytest.raises(UnfinishedLabelsError, match=r"1 of 3 images, such as 0031\.jpg"):
            load_edge_dicts(photos, folder, "")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("output/pseudo_edges/0007.png", r"1 of 3 maps of .* are missing, such as 0007: mend it"),
        ("photos/0007.jpg", r"1 of 3 maps of .* have no image in .*photos, such as 0007: mend it"),
    ],
)
def test_lost_files_are_named(lost, message, photos, maps, tmp_path):
    as_job(maps, dict.fromkeys(STEMS, DONE))
    (tmp_path / lost).unlink()

    with pytest.raises(FileNotFoundError, match=message):
        load_edge_dicts(photos, maps, "mend it")


def test_folders_that_are_not_there_are_named(photos, maps, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of pseudo edges at .*absent: mend it"):
        load_edge_dicts(photos, tmp_path / "absent", "mend it")
    with pytest.raises(FileNotFoundError, match=r"no folder of images at .*absent: mend it"):
        load_edge_dicts(tmp_path / "absent", maps, "mend it")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no image of .* has pseudo edges .*empty: mend it"):
        load_edge_dicts(photos, empty, "mend it")


def test_registration_from_the_config(photos, maps, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(photos.parent))
    cfg = get_trace_cfg()
    cfg.DATASETS.TRACE.EDGES = [["dicts_edges", "photos", "output"]]
    try:
        register_from_config(cfg)
        register_from_config(cfg)  # the same again

        assert len(DatasetCatalog.get("dicts_edges")) == 3
        metadata = MetadataCatalog.get("dicts_edges")
        assert metadata.pseudo_edges_root == str(maps / "pseudo_edges")
        assert metadata.get("evaluator_type") is None
        with pytest.raises(ValueError, match="'dicts_edges' is registered already"):
            register_trace_edges("dicts_edges", photos, photos)
    finally:
        DatasetCatalog.remove("dicts_edges")
        MetadataCatalog.pop("dicts_edges")


def test_entries_have_three_parts():
    cfg = get_trace_cfg()
    cfg.DATASETS.TRACE.EDGES = [["name", "images"]]

    with pytest.raises(ValueError, match=r"DATASETS\.TRACE\.EDGES holds .*NAME, IMAGES, PSEUDO"):
        register_from_config(cfg)


def test_accents_are_one_however_they_are_written(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for folder, stem in (("images", apart), ("masks", composed), ("edges", apart)):
        (tmp_path / folder).mkdir()
        write_png(tmp_path / folder / f"{stem}.png", np.zeros((6, 8), np.uint8))
    folders = [tmp_path / name for name in ("images", "masks", "edges")]
    (record,) = load_semantic_dicts(*folders, REMEDY)
    for key in ("file_name", "trace_semantic_file_name", "trace_edges_file_name"):
        assert Path(record[key]).is_file()
    (record,) = load_edge_dicts(folders[0], folders[1], REMEDY)
    assert Path(record["trace_pseudo_edges_file_name"]).is_file()
