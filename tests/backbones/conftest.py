"""Backbones on tiny multimodal folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backbones.multimodal_models import NAMES, backbone_cfg
from trace_d2.backbones import build_backbone


@pytest.fixture
def build(tiny_multimodal_folder):
    """``build(name, RESOLUTION=..)``: what a registered name stands for, on a tiny folder."""

    def make(name: str, folder: Path | None = None, **options: Any):
        folder = folder or tiny_multimodal_folder(NAMES[name][0])
        return build_backbone(backbone_cfg(NAME=name, WEIGHTS=str(folder), **options))

    return make


@pytest.fixture(scope="session")
def in_own_memory():
    """``in_own_memory(backbone)``: the backbone, its weights in memory of their own.

    Where a file is mapped they lie at any address, by which kernels of some processors round: equal
    weights would give results that differ in the last digit.
    """

    def move(backbone: Any) -> Any:
        for parameter in backbone.parameters():
            if type(parameter) is torch.nn.Parameter and parameter.is_floating_point():
                parameter.data = parameter.data.clone()
        return backbone

    return move
