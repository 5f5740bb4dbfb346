"""Sizes in ``config.json`` that no network has, and keys that do not go with those it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.backbones.multimodal_models import backbone_cfg
from trace_d2.backbones import build_backbone
from trace_d2.backbones.preflight import check_backbone


@pytest.fixture
def changed(tiny_vit_folder, tiny_multimodal_folder, tmp_path):
    """``changed(model_type, node, key=..)``: a copy of a tiny folder with other sizes."""

    def make(kind: str, node: str = "", **sizes: Any) -> Path:
        made = tiny_multimodal_folder if kind in ("llava", "qwen2_5_vl") else tiny_vit_folder
        folder = shutil.copytree(made(kind), tmp_path / kind, dirs_exist_ok=True)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        (config[node] if node else config).update(sizes)
        path.write_text(json.dumps(config))
        return folder

    return make


def _refused(message: str, blocks: tuple[int, ...] = (), **options: Any) -> None:
    """Preflight says so, and without ``blocks`` building does."""
    for act in (check_backbone, *(() if blocks else (build_backbone,))):
        cfg = backbone_cfg(**options)
        cfg.MODEL.TRACE.ATTENTION.BLOCKS = list(blocks)
        with pytest.raises(ValueError, match=message):
            act(cfg)


@pytest.mark.parametrize(
    ("kind", "node", "sizes", "said"),
    [
        ("vit", "", {"num_attention_heads": -2}, "num_attention_heads must be .* 1, not -2"),
        ("vit", "", {"num_attention_heads": 0}, "num_attention_heads must be .* 1, not 0"),
        ("vit", "", {"num_attention_heads": 3}, "heads must divide hidden_size 16, not 3"),
        ("dinov2", "", {"hidden_size": 0}, "hidden_size must be .* 1, not 0"),
        ("vit", "", {"hidden_size": "16"}, "hidden_size must be .* 1, not '16'"),
        ("vit", "", {"num_channels": 4}, "num_channels must be 3, as images are RGB, not 4"),
        ("dinov3_vit", "", {"num_register_tokens": -1}, "num_register_tokens must be .* not -1"),
        ("llava", "text_config", {"num_attention_heads": 0}, r"text_config\.num_attention_heads"),
        ("qwen2_5_vl", "vision_config", {"num_heads": 0}, r"vision_config\.num_heads must"),
        *(
            ("qwen2_5_vl", "vision_config", {"fullatt_block_indexes": wrong}, "must list blocks")
            for wrong in ([], [99], [-1], 3)
        ),
    ],
)
def test_sizes_that_no_network_has(kind, node, sizes, said, changed):
    folder = changed(kind, node, **sizes)
    _refused(rf"config\.json: .*{said}", NAME=str(folder))


def test_activations_that_are_not_known(changed):
    with pytest.raises(ValueError, match=r"KeyError\('nope'\); its config.json may be wrong"):
        build_backbone(backbone_cfg(NAME=str(changed("vit", hidden_act="nope"))))


def test_resolutions_of_a_single_token(changed, tiny_vit_folder):
    folder = str(tiny_vit_folder("vit"))
    for side in (3, 8, 11):
        _refused(
            rf"RESOLUTION {side} leaves a single token.* 16 or more", NAME=folder, RESOLUTION=side
        )
    check_backbone(backbone_cfg(NAME=folder, RESOLUTION=12))
    assert build_backbone(backbone_cfg(NAME=folder, RESOLUTION=12)).size_of((9, 9)) == (16, 16)
    folder = str(changed("dinov3_vit", image_size=8))  # its positions are not of weights
    with pytest.raises(ValueError, match="RESOLUTION 8 leaves a single token"):
        build_backbone(backbone_cfg(NAME=folder))


def test_qwen_of_one_window_is_known_before(tiny_multimodal_folder):
    folder = str(tiny_multimodal_folder("qwen2_5_vl"))
    for side in (100, 112):
        _refused(r"one window .*RESOLUTION above 112", NAME=folder, RESOLUTION=side)
    check_backbone(backbone_cfg(NAME=folder, RESOLUTION=140))


def test_blocks_are_known_before(tiny_multimodal_folder, tiny_vit_folder):
    for kind, count in (("llava", 2), ("qwen2_5_vl", 2), ("vit", 2)):
        folder = (tiny_vit_folder if kind == "vit" else tiny_multimodal_folder)(kind)
        said = rf"BLOCKS names blocks that do not exist: \[{count}\]\. .* has {count} self-"
        _refused(said, blocks=(0, count), NAME=str(folder))


def test_a_registered_name_is_one_kind(tiny_vit_folder):
    for name, kind in (("dino-vitb8", "dinov2"), ("dinov2-giant", "dinov2_with_registers")):
        folder = tiny_vit_folder(kind)
        _refused(rf"needs a folder of \w+; .* holds a {kind}", NAME=name, WEIGHTS=str(folder))


def test_a_folder_without_a_configuration(changed):
    folder = changed("vit")
    (folder / "config.json").unlink()
    for act in (check_backbone, build_backbone):
        with pytest.raises(FileNotFoundError, match=r"no model_index\.json, and no config\.json; "):
            act(backbone_cfg(NAME=str(folder)))


def test_bars_are_not_shown(tiny_vit_folder, capfd):
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    build_backbone(backbone_cfg(NAME=str(tiny_vit_folder("vit"))))
    assert "Loading weights" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled() == shown
