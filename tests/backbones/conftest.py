"""Backbones on tiny multimodal folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.backbones.multimodal_models import NAMES, backbone_cfg
from trace_d2.backbones import build_backbone


@pytest.fixture
def build(tiny_multimodal_folder):
    """``build(name, RESOLUTION=..)``: what a registered name stands for, on a tiny folder."""

    def make(name: str, folder: Path | None = None, **options: Any):
        folder = folder or tiny_multimodal_folder(NAMES[name][0])
        return build_backbone(backbone_cfg(NAME=name, WEIGHTS=str(folder), **options))

    return make
