"""The decoder that reads attention around each token: brute force, and equivariance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trace_d2.edges.decoders import build_decoder
from trace_d2.edges.decoders.relative import relative_features, window_attention


def random_attention(grid: tuple[int, int], seed: int = 0) -> Tensor:
    tokens = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(2, tokens, tokens, generator=generator)).softmax(-1)


@pytest.mark.parametrize(("grid", "window"), [((4, 5), 3), ((3, 2), 5), ((1, 6), 3), ((2, 2), 1)])
def test_window_attention_equals_loops(grid, window) -> None:
    attention = random_attention(grid)
    near = window_attention(attention, grid, window)
    height, width = grid
    assert near.shape == (2, window**2, height, width)
    expected = torch.zeros_like(near)
    for i in range(height):
        for j in range(width):
            for place in range(window**2):
                y = i + place // window - window // 2
                x = j + place % window - window // 2
                if 0 <= y < height and 0 <= x < width:
                    expected[:, place, i, j] = attention[:, i * width + j, y * width + x]
    assert torch.equal(near, expected)


def test_features_by_hand() -> None:
    # Two tokens; a window of 3 sees both and seven places outside.
    attention = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    features = relative_features(attention, (1, 2), 3).exp() - 1e-3
    assert features.shape == (1, 11, 1, 2)
    shares = torch.zeros(9, 2)
    shares[4], shares[5, 0], shares[3, 1] = torch.tensor([0.75, 0.5]), 0.25, 0.5
    torch.testing.assert_close(features[0, :9, 0], shares * 9, rtol=0, atol=1e-5)
    torch.testing.assert_close(features[0, 9, 0], torch.ones(2), rtol=0, atol=1e-5)
    # ABDiv at both ends is KL(second | first), so over its mean it is 1.
    torch.testing.assert_close(features[0, 10, 0], torch.ones(2), rtol=0, atol=1e-5)


def test_uniform_attention_has_finite_features_and_gradients() -> None:
    for attention in (torch.full((1, 6, 6), 1 / 6), torch.eye(6)[None], torch.ones(1, 1, 1)):
        grid = (2, 3) if attention.shape[1] == 6 else (1, 1)
        attention = attention.clone().requires_grad_()
        features = relative_features(attention, grid, 3)
        features.sum().backward()
        assert features.isfinite().all()
        assert attention.grad.isfinite().all()
        assert features.min() >= math.log(1e-3) - 1e-3


@pytest.mark.parametrize("image", [True, False])
def test_edges_move_with_the_image(image) -> None:
    # Attention that knows tokens by their values alone, on values that are moved by a token.
    grid, tall = (16, 14), (16, 16)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(*tall, 3, generator=generator)
    pixels = torch.randn(1, 3, tall[0] * 4, tall[1] * 4, generator=generator)
    torch.manual_seed(0)
    decoder = build_decoder(
        "relative", 1, {"window": 3, "channels": 8, "layers": 1, "upsample": 2, "image": image}
    )

    def edges(start: int) -> Tensor:
        part = values[:, start : start + grid[1]].reshape(-1, 3)
        attention = (part @ part.T).softmax(-1)[None]
        cut = pixels[..., start * 4 : (start + grid[1]) * 4]
        with torch.no_grad():
            return decoder(attention, grid, cut)[0]

    # The window, ABDiv and convolutions reach 1 + 2 + 1 tokens; the mean of ABDiv and the sums of
    # rows change a little with the two columns that come and go.
    first, second = edges(0), edges(1)
    inside = slice(24, -24)
    moved, still = first[24:-24, 28:-20], second[inside, 24:-24]
    assert moved.shape == still.shape
    spread = float(still.std())
    assert float((moved - still).abs().max()) < 0.05 * spread
    assert float((first[24:-24, 24:-24] - still).abs().max()) > spread


def test_exact_equivariance_on_a_torus_part() -> None:
    # With one mean for both, the interior is equal to rounding.
    grid, height = (9, 12), 9
    generator = torch.Generator().manual_seed(1)
    field = torch.rand(height, 24, 24 * height, generator=generator)
    wide = field / field.sum(-1, keepdim=True)
    torch.manual_seed(0)
    near = []
    for start in (0, 5):
        keys = (torch.arange(height)[:, None] * 24 + torch.arange(start, start + 12)).flatten()
        part = wide[:, start : start + 12][:, :, keys].reshape(1, height * 12, -1)
        near.append(window_attention(part, grid, 5))
    assert torch.equal(near[0][..., 2:-2, 7:-2], near[1][..., 2:-2, 2:-7])


def test_one_decoder_reads_grids_of_any_size() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("relative", 64, {"channels": 8, "layers": 1})
    for grid, size in (((4, 4), (64, 64)), ((7, 3), (50, 20)), ((2, 9), (8, 8))):
        logits = decoder(random_attention(grid), grid, torch.zeros(2, 3, *size))
        assert logits.shape == (2, *size)
        assert logits.isfinite().all()


def test_the_image_matters_only_where_it_is_shown() -> None:
    attention, pixels = random_attention((4, 4)), torch.rand(2, 3, 16, 16)
    for image in (True, False):
        torch.manual_seed(0)
        decoder = build_decoder("relative", 16, {"channels": 8, "layers": 0, "image": image})
        first, second = (decoder(attention, (4, 4), p) for p in (pixels, -pixels))
        assert torch.equal(first, second) is not image
