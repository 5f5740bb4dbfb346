"""Dataset dicts of images with semantic masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.data.semantic_dicts import load_semantic_dicts, png_size
from trace_d2.io.atomic import write_png

REMEDY = "correct the folders"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 6)).save(folder / f"photo_{number}.jpg")
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in (0, 1, 3):
        write_png(folder / f"photo_{number}.png", np.zeros((6, 8), np.uint8))
    return folder


def test_semantic_dicts(tmp_path: Path, images: Path, masks: Path) -> None:
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


def test_masks_of_other_images(images: Path, masks: Path) -> None:
    (masks / "photo_9.png").touch()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 masks .* no image .* photo_9\.png"):
        load_semantic_dicts(images, masks, None, REMEDY)
    for mask in masks.iterdir():
        mask.unlink()
    with pytest.raises(ValueError, match=r"no image of .* has a mask"):
        load_semantic_dicts(images, masks, None, REMEDY)


def test_png_size(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((3, 500), np.uint8))
    assert png_size(tmp_path / "a.png") == (3, 500)
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png", format="JPEG")
    with pytest.raises(ValueError, match=r"b\.png is no PNG file"):
        png_size(tmp_path / "b.png")
