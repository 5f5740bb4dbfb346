"""LLaVA and Qwen2.5-VL, loaded from a folder as a user's, against their real classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AttentionInterface,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from trace_d2.attention import KeyReader, SelfAttentionReader
from trace_d2.backbones import build_backbone
from trace_d2.backbones.backbone import compile_network
from trace_d2.backbones.multimodal import (
    LlavaBackbone,
    LlavaTowerBackbone,
    QwenPatches,
    QwenVisionBackbone,
    window_order,
)
from trace_d2.backbones.preflight import check_backbone
from trace_d2.backbones.settings import BackboneSettings
from trace_d2.backbones.vision_model_files import CLIP
from trace_d2.backbones.vision_transformers import PatchTokens
from trace_d2.config import get_trace_cfg
from trace_d2.edges.detector import EdgeDetector

# By registered name: what is read of which model, and the sizes (h, w) that are read here.
NAMES = {
    "llava-1.5-13b": ("llava", LlavaBackbone),
    "llava-1.5-13b-tower": ("llava", LlavaTowerBackbone),
    "qwen2.5-vl-7b": ("qwen2_5_vl", QwenVisionBackbone),
}
SIZES = [(56, 56), (42, 98), (168, 140), (196, 224)]
QWEN_SIZES = [(168, 140), (252, 336), (112, 140), (140, 84)]


@pytest.fixture
def build(tiny_multimodal_folder):
    """``build(name, RESOLUTION=..)``: what a registered name stands for, on a tiny folder."""

    def make(name: str, folder: Path | None = None, **options: Any):
        folder = folder or tiny_multimodal_folder(NAMES[name][0])
        return build_backbone(_cfg(NAME=name, WEIGHTS=str(folder), **options))

    return make


def _cfg(**options: Any):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE = "cpu"
    for key, value in options.items():
        cfg.MODEL.TRACE.BACKBONE[key] = value
    return cfg


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def read(backbone, *images: np.ndarray, blocks=()) -> torch.Tensor:
    """Maps (B, N, N) of images of one size in one pass, at their own size."""
    pixels = torch.stack([torch.tensor(image).permute(2, 0, 1) for image in images])
    layout = backbone.layout(images[0].shape[:2])
    with torch.no_grad(), SelfAttentionReader(layout, blocks=blocks) as reader:
        backbone.run(backbone.prepare(pixels.float() / 127.5 - 1), ())
    return reader.attention()


@pytest.fixture
def spied() -> Iterator[list[tuple[torch.Tensor, torch.Tensor, float]]]:
    """Query, key and scale of each call of transformers' attention "spy", which is eager."""
    calls: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def spy(module, query, key, value, attention_mask, scaling, **others):
        calls.append((query.double(), key.double(), scaling))
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        elif module.is_causal:
            length = scores.shape[-1]
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("spy", spy)
    yield calls
    del AttentionInterface._global_mapping["spy"]


def mean_map(calls, places: torch.Tensor) -> torch.Tensor:
    """The mean over calls and heads of softmax over the tokens at ``places``: (N, N) float64."""
    maps = []
    for query, key, scale in calls:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query[0][:, places] @ key[0][:, places].transpose(1, 2) * scale
        maps.append(scores.softmax(-1).mean(0))
    return torch.stack(maps).mean(0)


def normalised(image: np.ndarray, tiny_multimodal) -> torch.Tensor:
    pixels = (image / 255.0 - tiny_multimodal.MEAN) / tiny_multimodal.STD
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]


def assert_equal(attention: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.max() > 2 / len(expected)  # uneven, or the comparison would be easy
    torch.testing.assert_close(attention.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(attention.sum(-1), torch.ones(len(expected)), atol=1e-5, rtol=0)


# ---- attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_llava_tower(size, build, tiny_multimodal, tiny_multimodal_folder, spied):
    backbone, image = build("llava-1.5-13b-tower"), picture(size)
    assert backbone.layout(size).calls == 3
    assert backbone.resolution == 56
    model = LlavaForConditionalGeneration.from_pretrained(
        tiny_multimodal_folder("llava"), attn_implementation="spy"
    )
    pixels = normalised(image, tiny_multimodal)
    model.model.vision_tower(pixels, interpolate_pos_encoding=True)
    tokens = size[0] // 14 * (size[1] // 14)
    assert [query.shape[2] for query, _, _ in spied] == [1 + tokens] * 3
    assert_equal(read(backbone, image)[0], mean_map(spied, torch.arange(1, 1 + tokens)))


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_llava_language_model(size, build, tiny_multimodal, tiny_multimodal_folder, spied):
    """Of the whole model's own pass over ids and pixels: softmax over all image keys."""
    backbone, image = build("llava-1.5-13b"), picture(size)
    folder = tiny_multimodal_folder("llava")
    model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="spy")
    tokens = size[0] // 14 * (size[1] // 14)
    text = f"USER: {'<image>' * tokens}\nDescribe this image ASSISTANT:"
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text).input_ids])
    features = model.model.get_image_features(
        normalised(image, tiny_multimodal), interpolate_pos_encoding=True
    )
    spied.clear()
    model(input_ids=ids, mm_encoder_outputs={"image": features})
    places = (ids[0] == tiny_multimodal.IMAGE_TOKEN).nonzero().flatten()
    layout = backbone.layout(size)
    assert (layout.start, layout.calls, layout.ignore_masks) == (int(places[0]), 2, True)
    assert 0 < layout.start < layout.text_tokens == len(ids[0]) - tokens
    assert [query.shape[2] for query, _, _ in spied] == [len(ids[0])] * 2
    assert_equal(read(backbone, image)[0], mean_map(spied, places))


@pytest.mark.parametrize("size", QWEN_SIZES)
@torch.no_grad()
def test_qwen_tower(size, build, tiny_multimodal, tiny_multimodal_folder, spied):
    """Full attention alone, its tokens put in order by what the model itself says of them."""
    backbone, image = build("qwen2.5-vl-7b"), picture(size)
    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tiny_multimodal_folder("qwen2_5_vl"), attn_implementation="spy"
    )
    height, width = size[0] // 14, size[1] // 14
    grid = torch.tensor([[1, height, width]])
    patches = backbone.prepare(torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1).patches
    whole.model.visual(patches, grid)
    calls = [call for call in spied if call[0].shape[2] == height * width]
    assert len(calls) == 2 == backbone.layout(size).calls
    assert len(spied) > 4  # of windows as well

    positions = get_vision_position_ids(grid, 2)
    windows, _ = get_vision_window_index(grid, 2, 112, 14)
    rows, columns = positions.view(-1, 4, 2)[windows].view(-1, 2).T
    places = (rows * width + columns).argsort()
    assert_equal(read(backbone, image)[0], mean_map(calls, places))
    with KeyReader(backbone.layout(size)) as reader:
        backbone.run(QwenPatches(patches, grid), ())
    expected = calls[1][1][0][:, places].transpose(0, 1).flatten(1)
    torch.testing.assert_close(reader.keys()[0].double(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_qwen_as_published_is_read_in_four_blocks():
    """The published configuration, but narrow; at the resolution that it is read at by itself."""
    config = Qwen2_5_VLVisionConfig(
        hidden_size=8, intermediate_size=8, out_hidden_size=8, num_heads=1
    )
    tokens = PatchTokens(14, 0, 4, CLIP, 896)
    model = Qwen2_5_VisionTransformerPretrainedModel(config)
    backbone = QwenVisionBackbone(BackboneSettings(name="qwen2.5-vl-7b"), model, tokens)
    assert (config.depth, backbone.size_of((300, 500))) == (32, (896, 896))
    layout = backbone.layout((896, 896))
    assert layout.grids == ((64, 64),)
    with KeyReader(layout) as reader:
        backbone.run(backbone.prepare(torch.zeros(1, 3, 896, 896)), ())
    assert reader.keys().shape == (1, 4096, 8)
    assert reader.calls == 4


@pytest.mark.parametrize("grid", [(64, 64), (10, 12), (74, 2), (8, 10), (18, 26), (2, 40)])
def test_window_order_is_that_of_the_class(grid):
    thw = torch.tensor([[1, *grid]])
    positions = get_vision_position_ids(thw, 2)
    windows, _ = get_vision_window_index(thw, 2, 112, 14)
    rows, columns = positions.view(-1, 4, 2)[windows].view(-1, 2).T
    assert window_order(grid, 2, 8) == tuple((rows * grid[1] + columns).argsort().tolist())


def test_qwen_patches_are_those_of_its_image_processor(build, tiny_multimodal):
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(
        do_resize=False, image_mean=tiny_multimodal.MEAN, image_std=tiny_multimodal.STD
    )
    image = picture((168, 140))
    expected = processor(image, return_tensors="pt")
    backbone = build("qwen2.5-vl-7b")
    found = backbone.prepare(torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1)
    assert torch.equal(found.grid, expected["image_grid_thw"])
    torch.testing.assert_close(found.patches, expected["pixel_values"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_patches_row_by_row(name, build):
    """What one patch shows moves its own row most."""
    backbone, size = build(name), (168, 140)
    image = picture(size)
    changed = image.copy()
    changed[7 * 14 : 8 * 14, 3 * 14 : 4 * 14] = 255 - changed[7 * 14 : 8 * 14, 3 * 14 : 4 * 14]
    before, after = (read(backbone, picture, blocks=(0,))[0] for picture in (image, changed))
    assert int((after - before).abs().sum(1).argmax()) == 7 * 10 + 3


# ---- several images -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava-1.5-13b", "llava-1.5-13b-tower"])
def test_images_of_llava_share_a_pass(name, build):
    backbone, images = build(name), [picture((56, 56), seed) for seed in range(2)]
    together = read(backbone, *images)
    for image, attention in zip(images, together, strict=True):
        torch.testing.assert_close(attention, read(backbone, image)[0], atol=1e-5, rtol=0)


def test_images_of_qwen_do_not(build):
    backbone = build("qwen2.5-vl-7b", RESOLUTION=168)
    images = [picture((100, 80), seed) for seed in range(3)]
    detector = EdgeDetector(backbone, batch=3)
    together = detector.detect([detector.ready(image, "a") for image in images])
    assert not np.allclose(together[0].abdiv, together[1].abdiv)
    for image, found in zip(images, together, strict=True):
        assert found.abdiv.shape == (12, 12)
        assert np.array_equal(found.abdiv, detector(image, "b").abdiv)
    with pytest.raises(ValueError, match="run on one image a pass, not on 2"):
        backbone.prepare(torch.zeros(2, 3, 168, 168))
    prepared = backbone.prepare(torch.zeros(1, 3, 168, 168))
    with torch.no_grad(), SelfAttentionReader(backbone.layout((168, 168))) as reader:
        backbone.run(prepared, ())
        backbone.run(prepared, ())
    with pytest.raises(RuntimeError, match=r"showed 4 .* the layout has 2"):
        reader.attention()


@pytest.mark.parametrize("name", NAMES)
def test_edges_are_boundary_divergence_of_one_pass(name, build):
    backbone = build(name, RESOLUTION=168, ASPECT="keep", DTYPE="bfloat16")
    assert backbone.dtype == torch.bfloat16
    found = EdgeDetector(backbone)(picture((60, 90)), "a")
    assert (found.timestep, found.curve) == (None, {})
    assert found.edges.shape == (60, 90)
    assert found.abdiv.shape in {(10, 15), (10, 14)}
    assert np.isfinite(found.edges).all()
    assert 0 < found.edges.max() <= 1
    with pytest.raises(ValueError, match="reconstructs no image"):
        backbone.reconstruct(None, None)


@pytest.mark.parametrize("name", NAMES)
def test_other_kinds_of_attention_are_named(name, build):
    backbone = build(name)
    backbone.model.set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match=r'no self-attention .* attn_implementation "sdpa"'):
        read(backbone, picture((168, 140)))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_compiled_blocks_are_read(name, build):
    torch._dynamo.reset()
    backbone, size = build(name), (168, 140)
    pixels = torch.tensor(picture(size)).permute(2, 0, 1)[None] / 127.5 - 1
    compile_network(backbone.network, backend="eager")
    maps = []
    for _ in range(3):
        with SelfAttentionReader(backbone.layout(size), network=backbone.network) as reader:
            backbone.run(backbone.prepare(pixels), ())
        maps.append(reader.attention())
    expected = read(build(name), picture(size))
    for attention in maps:
        torch.testing.assert_close(attention, expected, atol=1e-6, rtol=0)
    torch._dynamo.reset()


def test_what_is_asked_after_the_image_does_not_matter(build):
    backbone, image = build("llava-1.5-13b"), picture((56, 56))
    expected, before = read(backbone, image), backbone.text_before
    backbone.text_after = torch.cat((backbone.text_after, backbone.text_after + 3), dim=1)
    torch.testing.assert_close(read(backbone, image), expected, atol=1e-6, rtol=0)
    backbone.text_before = torch.cat((before, before + 3), dim=1)
    assert (read(backbone, image) - expected).abs().max() > 1e-3


# ---- what lies in the folder --------------------------------------------------------------------


def _refused(error, message, **options):
    """Both preflight and building say so."""
    for act in (check_backbone, build_backbone):
        with pytest.raises(error, match=message):
            act(_cfg(**options))


def test_a_folder_by_itself(tiny_multimodal_folder):
    for kind, family in (("llava", LlavaBackbone), ("qwen2_5_vl", QwenVisionBackbone)):
        backbone = build_backbone(_cfg(NAME=str(tiny_multimodal_folder(kind))))
        assert type(backbone) is family
        assert backbone.resolution == {"llava": 56, "qwen2_5_vl": 896}[kind]
        check_backbone(_cfg(NAME=str(tiny_multimodal_folder(kind))))


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
    check_backbone(_cfg(NAME=name, WEIGHTS=str(folder)))
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
    check_backbone(_cfg(NAME=name, WEIGHTS=str(folder)))
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
    backbone = build_backbone(_cfg(NAME=name))
    assert backbone.commit == "abc123"
    own, _ = _shards(folder, part)
    small = {"config.json", "preprocessor_config.json", "model.safetensors.index.json"}
    assert set(fetched) == own | small


def test_blocks_are_checked_before_the_first_image(build):
    cfg = _cfg()
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = [1]
    assert EdgeDetector.from_config(cfg, build("qwen2.5-vl-7b")).attention.blocks == (1,)
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = [1, 2]
    with pytest.raises(ValueError, match=r"do not exist: \[2\]. .* has 2 self-attention blocks"):
        EdgeDetector.from_config(cfg, build("qwen2.5-vl-7b"))
