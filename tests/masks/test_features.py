"""Features of tokens: what they are, and that a batch gives what each image gives alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, AttentionSettings
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.backbones.passes import not_finite
from trace_d2.config import get_trace_cfg
from trace_d2.edges import EdgeDetector
from trace_d2.edges.detector import EmergenceSettings
from trace_d2.masks import FeatureReader, FeatureSettings
from trace_d2.masks.features import attention_features, key_features


class Vit(AttentionBackbone):
    """Two blocks with a class token, no noise and no positions: a flat image has equal tokens."""

    name, aspect, resolution, size_multiple = "vit", "square", 32, 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.first = nn.Parameter(torch.randn(1, 1, 16))
        self.projections = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.keys: list[Tensor] = []

    @classmethod
    def from_config(cls, cfg: Any) -> Vit:
        return cls()

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        return AttentionLayout(((size[0] // 8, size[1] // 8),), text_tokens=1, text_first=True)

    def run(self, prepared: Tensor, timesteps: Any) -> Tensor:
        assert not timesteps
        patches = self.patches(prepared).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(len(patches), -1, -1), patches), dim=1)
        for projection in self.projections:
            heads = projection(functional.layer_norm(x, (16,))).unflatten(2, (3, 2, 8))
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            self.keys.append(heads[:, :, 1].flatten(2))
            x = x + functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x


def picture(seed: int, height: int = 20, width: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def tiny() -> AttentionBackbone:
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE, cfg.MODEL.TRACE.BACKBONE.NAME = "cpu", "trace-tiny"
    cfg.MODEL.TRACE.BACKBONE.RESOLUTION = 64
    return build_backbone(cfg)


def test_auto_is_what_the_method_does_best_with() -> None:
    kinds = {m: FeatureSettings(method=m).kind for m in ("ncut", "maskcut", "promerge", "tokencut")}
    assert kinds == {"ncut": "attention", "maskcut": "keys", "promerge": "keys", "tokencut": "keys"}
    assert FeatureSettings(method="ncut", features="keys").kind == "keys"


def test_attention_features_by_hand() -> None:
    attention = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.64, 0.0, 0.36]])
    roots = np.sqrt(attention.numpy().astype(np.float64))
    centred = roots - roots.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    features = attention_features(attention)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    # The inner product before centring is Bhattacharyya's coefficient.
    assert roots[0] @ roots[1] == pytest.approx(np.sqrt(0.75))
    # Rows that are alike say nothing; what rounding leaves of them is not blown up.
    alike = attention_features((torch.rand(5) + 1e-8 * torch.rand(5, 5)).softmax(-1))
    assert not alike.any()


def test_keys_have_length_1_and_a_token_without_any_has_0() -> None:
    features = key_features(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16))
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, [[0.6, 0.8], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("block", [-1, 0, 1])
def test_keys_of_a_vit(block: int) -> None:
    vit = Vit()
    reader = FeatureReader(vit, FeatureSettings(features="keys", key_block=block))
    grid, features = reader(picture(0), "a")
    assert grid == (4, 4)
    assert len(vit.keys) == (1 if block == 0 else 2)  # one pass, which ends early
    expected = functional.normalize(vit.keys[block][0, 1:], dim=-1)
    assert torch.equal(features, expected)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(16))


@pytest.mark.parametrize("kind", ["keys", "attention"])
def test_a_batch_gives_what_each_image_gives_alone(kind: str, tiny: AttentionBackbone) -> None:
    settings, attention = FeatureSettings(features=kind), AttentionSettings(blocks=(0, 1, 2, 3))
    reader = FeatureReader(tiny, settings, attention, seed=2, batch=2)
    images = [picture(0), picture(1, 7, 50), picture(2)]
    found = reader.detect([reader.ready(image, str(n)) for n, image in enumerate(images)])
    for n, (image, together) in enumerate(zip(images, found, strict=True)):
        alone = reader(image, str(n))
        assert together.grid == alone.grid
        assert together.features.shape[0] == alone.grid[0] * alone.grid[1]
        torch.testing.assert_close(together.features, alone.features, rtol=0, atol=1e-4)


def test_attention_features_are_of_the_map_that_the_teacher_reads(tiny: AttentionBackbone) -> None:
    attention = AttentionSettings(blocks=(1, 2))
    teacher = EdgeDetector(tiny, EmergenceSettings(fixed_timestep=300), attention=attention, seed=1)
    settings = FeatureSettings(features="attention", timestep=300)
    reader = FeatureReader(tiny, settings, attention, seed=1)
    grid, features = reader(picture(3), "x")
    view = teacher.view(picture(3), "x")
    assert grid == view.layout.largest
    assert torch.equal(features, attention_features(view([300])[0]))


def test_a_flat_image_of_a_network_without_positions_has_equal_tokens() -> None:
    flat = np.full((16, 16, 3), 90, np.uint8)
    keys = FeatureReader(Vit(), FeatureSettings(features="keys"))(flat, "a").features
    torch.testing.assert_close(keys @ keys.T, torch.ones(16, 16))
    assert not FeatureReader(Vit(), FeatureSettings(features="attention"))(flat, "a").features.any()


@pytest.mark.parametrize("kind", ["keys", "attention"])
def test_features_that_are_no_numbers_fail_alone(kind: str) -> None:
    vit = Vit()
    run = vit.run

    def broken(prepared: Tensor, timesteps: Any) -> Tensor:
        dark = prepared.flatten(1).amax(1) == -1
        return run(prepared.masked_fill(dark.view(-1, 1, 1, 1), torch.nan), timesteps)

    vit.run = broken
    reader = FeatureReader(vit, FeatureSettings(features=kind), batch=2)
    reader.backbone.draw_noise = lambda *_: torch.zeros(1)  # so that they share a pass
    images = [picture(0), np.zeros((9, 9, 3), np.uint8)]
    good, bad = reader.detect([reader.ready(image, "k") for image in images])
    assert good.features.isfinite().all()
    assert isinstance(bad, FloatingPointError)
    # Of float32: another dtype would not help.
    assert "weights may be damaged" in str(bad)


def test_from_config_names_blocks_that_do_not_exist(tiny: AttentionBackbone) -> None:
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DISCOVERY.FEATURES = "keys"
    cfg.MODEL.TRACE.DISCOVERY.KEY_BLOCK = 99
    with pytest.raises(ValueError, match=r"DISCOVERY\.KEY_BLOCK names blocks that do not exist"):
        FeatureReader.from_config(cfg, tiny)
    cfg.MODEL.TRACE.DISCOVERY.FEATURES = "attention"
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = [98]
    with pytest.raises(ValueError, match=r"ATTENTION\.BLOCKS names blocks that do not exist"):
        FeatureReader.from_config(cfg, tiny)
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = []
    cfg.MODEL.TRACE.EDGES.BATCH = 3
    reader = FeatureReader.from_config(cfg, tiny)
    assert (reader.batch, reader.settings.kind) == (3, "attention")


def test_the_remedy_for_numbers_that_are_not_finite_fits_their_type() -> None:
    assert "MODEL.TRACE.BACKBONE.DTYPE" in str(not_finite("features are", torch.float16))
    for dtype in (torch.bfloat16, torch.float32):
        assert "weights may be damaged" in str(not_finite("features are", dtype))
