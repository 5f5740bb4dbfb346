"""The teacher on small real networks behind the contract: a FLUX transformer, and a plain ViT."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, AttentionSettings
from trace_d2.backbones import BACKBONE_REGISTRY, REGISTERED_MODELS, RegisteredModel
from trace_d2.backbones.backbone import AttentionBackbone
from trace_d2.backbones.passes import timesteps_per_pass
from trace_d2.config import get_trace_cfg
from trace_d2.edges import (
    EdgeDetector,
    attention_boundary_divergence,
    build_edge_source,
    instance_emergence_point,
    normalise_edges,
)
from trace_d2.edges.abdiv import upsample_edges
from trace_d2.edges.detector import AbdivSettings, EmergenceSettings

GRID, TEXT = (6, 8), 3


class StandIn(AttentionBackbone):
    """Pixels in patches of 2 x 2 as the latent, no VAE, rotary positions."""

    name, aspect, resolution, size_multiple = "stand-in", "square", 16, 2
    timesteps = range(1000)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.denoiser = FluxTransformer2DModel(
            patch_size=1,
            in_channels=12,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=10,
            pooled_projection_dim=7,
            axes_dims_rope=(2, 2, 4),
        ).eval()

    @classmethod
    def from_config(cls, cfg: Any) -> StandIn:
        return cls()

    def size_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return 2 * GRID[0], 2 * GRID[1]

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        if size != self.size_of(size):
            raise ValueError(f"images are of one size, not of {size}")
        return AttentionLayout((GRID,), text_tokens=TEXT, text_first=True)

    def prepare(self, pixels: Tensor, noise: tuple[int, str]) -> tuple[Tensor, Tensor]:
        latent = functional.pixel_unshuffle(pixels, 2)
        digest = hashlib.sha256(repr(noise).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        return latent, torch.randn(latent.shape, generator=generator)

    def run(self, prepared: tuple[Tensor, Tensor], timesteps: list[int]) -> Tensor:
        latent, noise = prepared
        batch, steps = len(timesteps), torch.tensor(list(timesteps))
        sigma = (steps / 1000).view(-1, 1, 1, 1)
        ids = torch.cartesian_prod(torch.zeros(1), *(torch.arange(float(n)) for n in GRID))
        return self.denoiser(
            hidden_states=((1 - sigma) * latent + sigma * noise).flatten(2).transpose(1, 2),
            encoder_hidden_states=torch.zeros(batch, TEXT, 10),
            pooled_projections=torch.zeros(batch, 7),
            timestep=steps / 1000,
            img_ids=ids,
            txt_ids=torch.zeros(TEXT, 3),
        ).sample


class Vit(AttentionBackbone):
    """Two blocks of a vision transformer with a class token: no noise, no prompt, no scheduler."""

    name, aspect, resolution, size_multiple = "vit", "keep", 64, 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.first = nn.Parameter(torch.randn(1, 1, 16))
        self.projections = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))

    @classmethod
    def from_config(cls, cfg: Any) -> Vit:
        return cls()

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        return AttentionLayout(((size[0] // 8, size[1] // 8),), text_tokens=1, text_first=True)

    def run(self, prepared: Tensor, timesteps: list[int]) -> Tensor:
        assert not timesteps
        x = torch.cat((self.first, self.patches(prepared).flatten(2).transpose(1, 2)), dim=1)
        for projection in self.projections:
            heads = projection(functional.layer_norm(x, (16,))).unflatten(2, (3, 2, 8))
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v)
            x = x + attended.transpose(1, 2).flatten(2)
        return x


@pytest.fixture(scope="module")
def backbone() -> StandIn:
    return StandIn()


@pytest.fixture
def image() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (30, 50, 3), dtype=np.uint8)


def test_output_is_that_of_its_parts(backbone: StandIn, image: np.ndarray) -> None:
    detector = EdgeDetector(backbone, EmergenceSettings(stride=250, batch=1), seed=3)
    output = detector(image, "photo")
    assert output.edges.shape == (30, 50)
    assert output.edges.dtype == np.float32
    assert output.edges.min() >= 0
    assert output.edges.max() <= 1
    assert output.abdiv.shape == GRID
    assert list(output.curve) == [250, 500, 750]
    assert output.timestep == max(output.curve, key=output.curve.__getitem__)

    found = instance_emergence_point(detector.view(image, "photo"), range(0, 1000, 250))
    abdiv = attention_boundary_divergence(found.attention, GRID)
    assert found.timestep == output.timestep
    np.testing.assert_allclose(output.abdiv, abdiv, rtol=1e-6)
    expected = upsample_edges(normalise_edges(abdiv), (30, 50))
    np.testing.assert_allclose(output.edges, expected, atol=1e-6)


def test_batch_and_order_do_not_matter(backbone: StandIn, image: np.ndarray) -> None:
    other = image[::-1].copy()
    single = EdgeDetector(backbone, EmergenceSettings(batch=1))
    first, second = single(image, "a"), single(other, "b")
    for batch in (0, 3, 10):
        detector = EdgeDetector(backbone, EmergenceSettings(batch=batch))
        again_second, again_first = detector(other, "b"), detector(image, "a")
        for one, two in ((first, again_first), (second, again_second)):
            assert one.timestep == two.timestep
            np.testing.assert_allclose(one.edges, two.edges, atol=1e-4)
    assert np.abs(single(image, "b").edges - first.edges).max() > 1e-3


def test_fixed_timestep(backbone: StandIn, image: np.ndarray) -> None:
    settings = EmergenceSettings(fixed_timestep=333), AbdivSettings(neighbourhood=8)
    output = EdgeDetector(backbone, *settings, AttentionSettings(blocks=(1,)))(image, "a")
    assert output.timestep == 333
    assert output.curve == {}
    with pytest.raises(RuntimeError, match=r"blocks \[2\] do not exist"):
        EdgeDetector(backbone, *settings, AttentionSettings(blocks=(2,)))(image, "a")


@pytest.mark.parametrize("timestep", [-1, 333])
def test_attention_that_is_no_number_is_an_error(image: np.ndarray, timestep: int) -> None:
    broken = StandIn()
    for parameter in broken.denoiser.parameters():
        parameter.data.fill_(float("nan"))
    settings = EmergenceSettings(stride=500, fixed_timestep=timestep)
    with pytest.raises(FloatingPointError, match="not finite"):
        EdgeDetector(broken, settings)(image, "a")


def test_nothing_runs_after_the_last_block_that_is_read(
    backbone: StandIn, image: np.ndarray
) -> None:
    ran: list[str] = []
    stages = {
        "first": backbone.denoiser.transformer_blocks[0],
        "second": backbone.denoiser.single_transformer_blocks[0],
    }
    hooks = [
        stage.attn.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, stage in stages.items()
    ]
    for blocks, expected in (((0,), ["first"]), ((), ["first", "second"])):
        ran.clear()
        settings = EmergenceSettings(fixed_timestep=0), AbdivSettings(), AttentionSettings(blocks)
        EdgeDetector(backbone, *settings)(image, "a")
        assert ran == expected
    for hook in hooks:
        hook.remove()


def test_one_pixel(backbone: StandIn) -> None:
    output = EdgeDetector(backbone, EmergenceSettings(stride=500))(
        np.zeros((1, 1, 3), np.uint8), "dot"
    )
    assert output.edges.shape == (1, 1)
    assert np.isfinite(output.edges).all()


def test_from_config(backbone: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trace_d2.edges.detector.build_backbone", lambda cfg: backbone)
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.SEED = 5
    cfg.MODEL.TRACE.EMERGENCE.STRIDE = 300
    cfg.MODEL.TRACE.EMERGENCE.METRIC = "jsd"
    cfg.MODEL.TRACE.EMERGENCE.BATCH = 2
    cfg.MODEL.TRACE.ABDIV.NEIGHBOURHOOD = 8
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = [0]
    cfg.MODEL.TRACE.ATTENTION.SCRATCH_MB = 2
    detector = EdgeDetector.from_config(cfg)
    assert detector.backbone is backbone
    assert detector.seed == 5
    assert detector.trajectory((16, 16)) == (0, 300, 600, 900)
    assert detector.emergence == EmergenceSettings(300, "jsd", batch=2)
    assert detector.abdiv == AbdivSettings(8)
    assert detector.attention == AttentionSettings((0,), 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("EMERGENCE.STRIDE", 0),
        ("EMERGENCE.STRIDE", 1000),
        ("EMERGENCE.METRIC", "chi2"),
        ("EMERGENCE.FIXED_TIMESTEP", 1000),
        ("EMERGENCE.BATCH", -1),
        ("ABDIV.NEIGHBOURHOOD", 5),
        ("ABDIV.THRESHOLD", "median"),
    ],
)
def test_bad_keys_are_refused(backbone: StandIn, key: str, value: object) -> None:
    cfg = get_trace_cfg()
    cfg.merge_from_list([f"MODEL.TRACE.{key}", value])
    with pytest.raises(ValueError, match=f"MODEL.TRACE.{key} must be"):
        EdgeDetector.from_config(cfg, backbone)


def test_without_timesteps_boundary_divergence_is_all(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that knows no noise: one class and one name make it a backbone like any other."""
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "Vit", Vit)
    monkeypatch.setitem(REGISTERED_MODELS, "vit", RegisteredModel("Vit", "", None))
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME = "vit"
    cfg.MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP = 500  # there is none to read
    source = build_edge_source(cfg)
    output = source(image, "photo")
    assert isinstance(source.backbone, Vit)
    assert (output.timestep, output.curve) == (None, {})
    assert output.edges.shape == (30, 50)
    pixels = source.backbone.to_pixels(image)
    grid = pixels.shape[2] // 8, pixels.shape[3] // 8
    assert grid == output.abdiv.shape == (6, 10)
    attention = source.view(image, "photo")(())[0]
    assert attention.shape == (60, 60)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(60))
    expected = attention_boundary_divergence(attention, grid)
    np.testing.assert_array_equal(output.abdiv, expected)
    assert 0 < output.edges.max() <= 1
    np.testing.assert_array_equal(source(image, "other").edges, output.edges)  # nothing is drawn
    with pytest.raises(ValueError, match="vit reconstructs no image"):
        source.backbone.reconstruct(pixels, pixels)


def test_timesteps_per_pass() -> None:
    assert timesteps_per_pass(4096, 256) == 4
    assert timesteps_per_pass(4096, 1) == 1
    assert timesteps_per_pass(1024, 256) == 64


def test_upsampling_is_bilinear_between_cell_centres() -> None:
    edges = torch.tensor([[0.0, 1.0]])
    assert upsample_edges(edges, (1, 4)).tolist() == [[0.0, 0.25, 0.75, 1.0]]
    assert float(upsample_edges(edges, (1, 1))) == pytest.approx(0.5)
