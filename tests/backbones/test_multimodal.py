"""LLaVA and Qwen2.5-VL, loaded from a folder as a user's, against their real classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
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

from tests.backbones.multimodal_models import NAMES, picture, read
from trace_d2.attention import KeyReader, SelfAttentionReader
from trace_d2.backbones.backbone import compile_network
from trace_d2.backbones.multimodal import (
    QwenPatches,
    QwenVisionBackbone,
    window_order,
)
from trace_d2.backbones.settings import BackboneSettings
from trace_d2.backbones.vision_model_files import CLIP
from trace_d2.backbones.vision_transformers import PatchTokens
from trace_d2.edges.detector import EdgeDetector

SIZES = [(56, 56), (42, 98), (168, 140), (196, 224)]
QWEN_SIZES = [(168, 140), (252, 336), (112, 140), (140, 84)]


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
