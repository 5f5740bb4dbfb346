"""Records of panoptic data sets, written on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trace_d2.io.atomic import write_png
from trace_d2.io.coco_panoptic import id2rgb


@pytest.fixture(scope="session")
def write_record():
    """``write_record(folder, ids, image, **more)``: the record of an image and its segment ids."""

    def write(folder: Path, ids: np.ndarray, image: np.ndarray, **more: Any) -> dict[str, Any]:
        Image.fromarray(image).save(folder / "image.png")
        Image.fromarray(id2rgb(ids)).save(folder / "panoptic.png")
        return {
            "file_name": str(folder / "image.png"),
            "image_id": 7,
            "height": image.shape[0],
            "width": image.shape[1],
            "pan_seg_file_name": str(folder / "panoptic.png"),
            **more,
        }

    return write


@pytest.fixture
def images(tmp_path):
    """A folder of ``photo_0.jpg`` to ``photo_3.jpg``, 8 x 6 pixels each."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 6)).save(folder / f"photo_{number}.jpg")
    return folder


@pytest.fixture
def masks(tmp_path):
    """A folder of masks for ``images`` 0, 1 and 3."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in (0, 1, 3):
        write_png(folder / f"photo_{number}.png", np.zeros((6, 8), np.uint8))
    return folder
