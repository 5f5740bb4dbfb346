"""The detector on a real, tiny FLUX transformer behind the backbone's interface."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout
from trace_d2.edges import (
    EdgeDetector,
    attention_boundary_divergence,
    instance_emergence_point,
    normalise_edges,
)
from trace_d2.edges.detector import timesteps_per_pass, upsample_edges

GRID, TEXT = (6, 8), 3


class StandIn(nn.Module):
    """Pixels in patches of 2 x 2 as the latent, no VAE, rotary positions."""

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

    def prepare(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        return functional.interpolate(pixels, (2 * GRID[0], 2 * GRID[1]), mode="bilinear")

    def encode(self, pixels: Tensor) -> Tensor:
        return functional.pixel_unshuffle(pixels, 2)

    def noise(self, latent: Tensor, seed: int, key: str) -> Tensor:
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        return torch.randn(latent.shape, generator=generator)

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        sigma = (timesteps / 1000).view(-1, 1, 1, 1)
        return (1 - sigma) * latent + sigma * noise

    def attention_layout(self, latent: Tensor) -> AttentionLayout:
        return AttentionLayout((GRID,), text_tokens=TEXT, text_first=True)

    def forward(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch = noised.shape[0]
        ids = torch.cartesian_prod(torch.zeros(1), *(torch.arange(float(n)) for n in GRID))
        return self.denoiser(
            hidden_states=noised.flatten(2).transpose(1, 2),
            encoder_hidden_states=torch.zeros(batch, TEXT, 10),
            pooled_projections=torch.zeros(batch, 7),
            timestep=timesteps / 1000,
            img_ids=ids,
            txt_ids=torch.zeros(TEXT, 3),
        ).sample


@pytest.fixture(scope="module")
def backbone() -> StandIn:
    return StandIn()


@pytest.fixture
def image() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (30, 50, 3), dtype=np.uint8)


def test_output_is_that_of_its_parts(backbone: StandIn, image: np.ndarray) -> None:
    detector = EdgeDetector(backbone, seed=3, stride=250, batch=1)
    output = detector(image, "photo")
    assert output.edges.shape == (30, 50)
    assert output.edges.dtype == np.float32
    assert output.edges.min() >= 0
    assert output.edges.max() <= 1
    assert output.abdiv.shape == GRID
    assert list(output.curve) == [250, 500, 750]
    assert output.timestep == max(output.curve, key=output.curve.__getitem__)

    with torch.no_grad():
        latent = backbone.encode(backbone.prepare(image))
        noise, layout = backbone.noise(latent, 3, "photo"), backbone.attention_layout(latent)
        found = instance_emergence_point(
            lambda t: detector.read_attention(latent, noise, t, layout), range(0, 1000, 250)
        )
        abdiv = attention_boundary_divergence(found.attention, GRID)
    assert found.timestep == output.timestep
    np.testing.assert_allclose(output.abdiv, abdiv, rtol=1e-6)
    expected = upsample_edges(normalise_edges(abdiv), (30, 50))
    np.testing.assert_allclose(output.edges, expected, atol=1e-6)


def test_batch_and_order_do_not_matter(backbone: StandIn, image: np.ndarray) -> None:
    other = image[::-1].copy()
    single = EdgeDetector(backbone, batch=1)
    first, second = single(image, "a"), single(other, "b")
    for batch in (0, 3, 10):
        detector = EdgeDetector(backbone, batch=batch)
        again_second, again_first = detector(other, "b"), detector(image, "a")
        for one, two in ((first, again_first), (second, again_second)):
            assert one.timestep == two.timestep
            np.testing.assert_allclose(one.edges, two.edges, atol=1e-4)
    assert np.abs(single(image, "b").edges - first.edges).max() > 1e-3


def test_fixed_timestep(backbone: StandIn, image: np.ndarray) -> None:
    output = EdgeDetector(backbone, fixed_timestep=333, neighbourhood=8, blocks=(1,))(image, "a")
    assert output.timestep == 333
    assert output.curve == {}
    with pytest.raises(RuntimeError, match=r"blocks \[2\] do not exist"):
        EdgeDetector(backbone, fixed_timestep=0, blocks=(2,))(image, "a")


def test_one_pixel(backbone: StandIn) -> None:
    output = EdgeDetector(backbone, stride=500)(np.zeros((1, 1, 3), np.uint8), "dot")
    assert output.edges.shape == (1, 1)
    assert np.isfinite(output.edges).all()


def test_from_config(backbone: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from trace_d2.config import get_trace_cfg

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
    assert detector.timesteps == (0, 300, 600, 900)
    assert (detector.metric, detector.batch, detector.neighbourhood) == ("jsd", 2, 8)
    assert (detector.blocks, detector.scratch_mb) == ((0,), 2)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"stride": 0}, "STRIDE"),
        ({"stride": 1000}, "STRIDE"),
        ({"metric": "chi2"}, "METRIC"),
        ({"fixed_timestep": 1000}, "FIXED_TIMESTEP"),
        ({"batch": -1}, "BATCH"),
        ({"neighbourhood": 5}, "NEIGHBOURHOOD"),
    ],
)
def test_bad_options_are_refused(backbone: StandIn, options: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        EdgeDetector(backbone, **options)


def test_timesteps_per_pass() -> None:
    assert timesteps_per_pass(4096, 256) == 4
    assert timesteps_per_pass(4096, 1) == 1
    assert timesteps_per_pass(1024, 256) == 64


def test_upsampling_is_bilinear_between_cell_centres() -> None:
    edges = torch.tensor([[0.0, 1.0]])
    assert upsample_edges(edges, (1, 4)).tolist() == [[0.0, 0.25, 0.75, 1.0]]
    assert float(upsample_edges(edges, (1, 1))) == pytest.approx(0.5)
