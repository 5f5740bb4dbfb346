"""What the folders of LLaVA and Qwen2.5-VL must hold, and what of them is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file

from tests.backbones.multimodal_models import NAMES, backbone_cfg, picture, read
from trace_d2.backbones import build_backbone
from trace_d2.backbones.multimodal import (
    LlavaBackbone,
    QwenVisionBackbone,
)
from trace_d2.backbones.preflight import check_backbone
from trace_d2.edges.detector import EdgeDetector


def _refused(error, message, **options):
    """Both preflight and building say so."""
    for act in (check_backbone, build_backbone):
        with pytest.raises(error, match=message):
            act(backbone_cfg(**options))


def test_a_folder_by_itself(tiny_multimodal_folder):
    for kind, family in (("llava", LlavaBackbone), ("qwen2_5_vl", QwenVisionBackbone)):
        backbone = build_backbone(backbone_cfg(NAME=str(tiny_multimodal_folder(kind))))
        assert type(backbone) is family
        assert backbone.resolution == {"llava": 56, "qwen2_5_vl": 896}[kind]
        check_backbone(backbone_cfg(NAME=str(tiny_multimodal_folder(kind))))


def _shards(folder: Path, part: str) -> tuple[set[str], set[str]]:
    """Names of the shards that hold some of a part, and of the others."""
    table = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    own = {file for name, file in table.items() if name.startswith(part)}
    return own, set(table.values()) - own


@pytest.fixture(params=["llava-1.5-13b-tower", "qwen2.5-vl-7b"])
def tower(request, tiny_multimodal_folder, tmp_path):
    """(name, copy of its folder, what its tensors begin with)."""
    kind = NAMES[request.param][0]
    folder = shutil.copytree(tiny_multimodal_folder(kind), tmp_path / "copy")
    return request.param, folder, "vision_tower." if kind == "llava" else "visual."


def test_the_towers_shards_alone_are_needed(tower, build):
    name, folder, part = tower
    image = picture((168, 140))
    expected = read(build(name), image)
    own, others = _shards(folder, part)
    assert own
    assert others
    for file in others:
        (folder / file).unlink()
    check_backbone(backbone_cfg(NAME=name, WEIGHTS=str(folder)))
    assert torch.equal(read(build(name, folder), image), expected)
    if part == "vision_tower.":
        _refused(
            FileNotFoundError,
            "holds no complete weights",
            NAME="llava-1.5-13b",
            WEIGHTS=str(folder),
        )
    path = folder / sorted(own)[0]
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    _refused(ValueError, f"{path.name} is no whole safetensors", NAME=name, WEIGHTS=str(folder))
    path.unlink()
    _refused(FileNotFoundError, f"lacks {path.name}, which", NAME=name, WEIGHTS=str(folder))


def test_one_file_and_other_names_of_tensors(tower, build):
    name, folder, part = tower
    image = picture((168, 140))
    expected = read(build(name), image)
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    # As on the hub (LLaVA's tower), and as later versions write them.
    inside = f"{part}vision_model." if part == "vision_tower." else f"model.{part}"
    renamed = {k.replace(part, inside, 1): v for k, v in tensors.items() if k.startswith(part)}
    save_file({**renamed, "model.norm.weight": torch.ones(2)}, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    check_backbone(backbone_cfg(NAME=name, WEIGHTS=str(folder)))
    assert torch.equal(read(build(name, folder), image), expected)
    gone = next(k for k in renamed if k.endswith("weight"))
    save_file({k: v for k, v in renamed.items() if k != gone}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="lack"):
        build(name, folder)
    save_file({"model.norm.weight": torch.ones(2)}, folder / "model.safetensors")
    _refused(ValueError, "hold no tensor of", NAME=name, WEIGHTS=str(folder))
    (folder / "model.safetensors").unlink()
    _refused(FileNotFoundError, "must be safetensors", NAME=name, WEIGHTS=str(folder))


def test_the_whole_llava_by_its_names_on_the_hub(tiny_multimodal_folder, tmp_path, build):
    folder = shutil.copytree(tiny_multimodal_folder("llava"), tmp_path / "copy")
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    part = "vision_tower."
    renamed = {k.replace(part, f"{part}vision_model."): v for k, v in tensors.items()}
    positions = {f"{part}vision_model.embeddings.position_ids": torch.arange(17)[None]}
    assert len(renamed.keys() - tensors.keys()) > 40
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in renamed
    save_file({**renamed, **positions}, folder / "model.safetensors", {"format": "pt"})
    image = picture((56, 56))
    for name in ("llava-1.5-13b", "llava-1.5-13b-tower"):
        assert torch.equal(read(build(name, folder), image), read(build(name), image))


def _change(folder: Path, **content: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def test_what_a_tower_cannot_be(tower, build):
    name, folder, part = tower
    _change(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    _refused(ValueError, "bitsandbytes", NAME=name, WEIGHTS=str(folder))
    other = "qwen2.5-vl-7b" if part == "vision_tower." else "llava-1.5-13b-tower"
    _refused(ValueError, "needs a folder of", NAME=other, WEIGHTS=str(folder))
    _change(folder, quantization_config=None)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    _refused(ValueError, "no index of weights", NAME=name, WEIGHTS=str(folder))


def test_llava_that_is_another(tiny_multimodal_folder, tmp_path, build):
    folder = shutil.copytree(tiny_multimodal_folder("llava"), tmp_path / "copy")
    options = {"NAME": "llava-1.5-13b", "WEIGHTS": str(folder)}
    _change(folder, vision_feature_select_strategy="full")
    with pytest.raises(ValueError, match="must be default"):
        build("llava-1.5-13b", folder)
    _change(folder, vision_feature_select_strategy="default", image_token_index=41)
    with pytest.raises(ValueError, match=r"makes 0 image tokens \(id 41\)"):
        build("llava-1.5-13b", folder)
    (folder / "tokenizer.json").unlink()
    _refused(FileNotFoundError, r"has no tokenizer \(tokenizer\.json", **options)
    _change(folder, vision_config={"model_type": "siglip_vision_model"})
    with pytest.raises(ValueError, match="the vision tower is a siglip_vision_model"):
        build("llava-1.5-13b-tower", folder)


def test_qwen_of_one_window(build):
    for side in (56, 112):
        with pytest.raises(ValueError, match=r"one window .*RESOLUTION above 112"):
            build("qwen2.5-vl-7b", RESOLUTION=side)
    assert build("qwen2.5-vl-7b", RESOLUTION=140).layout((140, 140)).calls == 2


def test_a_hub_tower_is_its_shards(tower, tmp_path, monkeypatch):
    name, folder, part = tower
    snapshot, fetched = tmp_path / "snapshots" / "abc123", []

    def download(repo_id, file, revision=None):
        if not (folder / file).is_file():
            raise EntryNotFoundError(file)
        fetched.append(file)
        snapshot.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(folder / file, snapshot / file))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    backbone = build_backbone(backbone_cfg(NAME=name))
    assert backbone.commit == "abc123"
    own, _ = _shards(folder, part)
    small = {"config.json", "preprocessor_config.json", "model.safetensors.index.json"}
    assert set(fetched) == own | small


def test_blocks_are_checked_before_the_first_image(build):
    cfg = backbone_cfg()
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = [1]
    assert EdgeDetector.from_config(cfg, build("qwen2.5-vl-7b")).attention.blocks == (1,)
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = [1, 2]
    with pytest.raises(ValueError, match=r"do not exist: \[2\]. .* has 2 self-attention blocks"):
        EdgeDetector.from_config(cfg, build("qwen2.5-vl-7b"))
