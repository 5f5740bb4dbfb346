"""Folders of images with masks and edges."""

from __future__ import annotations

from pathlib import Path

import pytest
from cutting import add

from trace_d2.propagation.calibration import SAMPLE_IMAGES


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of more images than are sampled, one of them without a mask."""
    add(tmp_path, *(f"s{number:02}" for number in range(SAMPLE_IMAGES + 12)))
    (tmp_path / "semantic/s05.png").unlink()
    return tmp_path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder of nine images."""
    add(tmp_path, *(f"s{number}" for number in range(9)))
    return tmp_path
