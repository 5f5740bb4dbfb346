"""Kernels of the group norm against float64, and the norms of a VAE's encoder that call them."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention.kernels import group_norm as module
from trace_d2.backbones import group_norm as wide
from trace_d2.backbones.group_norm import WideGroupNorm, widen_group_norms

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Parts that end within a group and within a channel, many parts, a single element.
CASES = [
    ((2, 6, 5, 7), 3, FP32),
    ((1, 4, 16, 16), 2, FP32),
    ((1, 4, 13, 21), 1, FP32),
    ((1, 2, 1, 1), 1, FP32),
    ((3, 4, 9), 4, BF16),
    ((2, 6, 5, 7), 3, BF16),
    ((2, 6, 5, 7), 3, FP16),
]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of the small tensors here take several parts, and these several chunks."""
    monkeypatch.setattr(module, "_BLOCK", 64)
    monkeypatch.setattr(module, "_CHUNK", 4)


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-6).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    norm.weight.normal_(generator=generator)
    norm.bias.normal_(generator=generator)
    return norm


def kernels_of(norm: nn.GroupNorm, x: Tensor, silu: bool) -> Tensor:
    """What kernels make, on the CPU in Triton's interpreter as well."""
    made: Tensor = wide._group_norm(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    return made


def exact(norm: nn.GroupNorm, x: Tensor, silu: bool) -> Tensor:
    weight, bias = norm.weight.double(), norm.bias.double()
    normed = functional.group_norm(x.double(), norm.num_groups, weight, bias, norm.eps)
    return functional.silu(normed) if silu else normed


@pytest.mark.parametrize(("shape", "groups", "dtype"), CASES, ids=str)
def test_against_float64(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(shape, generator=generator) + 1).to(device, dtype)
    norm = norm_of(shape[1], groups).to(device, dtype)
    for silu in (False, True):
        made = kernels_of(norm, x, silu)
        assert (made.dtype, made.shape) == (x.dtype, x.shape)
        expected = exact(norm, x, silu)
        # Rounded once, to the type of the result; Triton's interpreter cuts bfloat16 off.
        bound = {FP32: 3e-6, BF16: 2**-8 if device.type == "cuda" else 2**-7, FP16: 2**-11}[dtype]
        torch.testing.assert_close(made.double(), expected, rtol=bound, atol=3e-6)


def test_a_mean_far_from_zero(device: torch.device) -> None:
    x = torch.randn(1, 4, 12, 20, generator=torch.Generator().manual_seed(0)).to(device) + 1000
    norm = norm_of(4, 2).to(device)
    made = kernels_of(norm, x, False)
    # What float32 tells apart at 1000.
    torch.testing.assert_close(made.double(), exact(norm, x, False), rtol=0, atol=5e-4)


def test_what_is_no_number_stays_in_its_group(device: torch.device) -> None:
    x = torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0)).to(device)
    x[0, 3, 8, 8] = float("nan")
    made = kernels_of(norm_of(4, 2).to(device), x, True)
    assert made[0, 2:].isnan().all()
    assert not made[0, :2].isnan().any()


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
    )
    return vae.eval().requires_grad_(False).encoder


def test_an_encoder_by_kernels(
    encoder: nn.Module, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    before, keys = encoder(x), set(encoder.state_dict())
    names = {name for name, part in encoder.named_modules() if isinstance(part, nn.GroupNorm)}
    widen_group_norms(encoder)
    widen_group_norms(encoder)  # once is enough
    norms = {n: part for n, part in encoder.named_modules() if isinstance(part, WideGroupNorm)}
    assert set(norms) == names
    assert not [n for n, part in norms.items() if part.silu == ("group_norm" in n)]
    assert set(encoder.state_dict()) == keys
    assert torch.equal(encoder(x), before)  # on the CPU, to the last bit
    monkeypatch.setattr(wide, "takes_triton", lambda kernels, like: kernels == "auto")
    made = encoder.to(device)(x.to(device))
    torch.testing.assert_close(made.cpu(), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_which_way_is_taken(
    kernels: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def made(x: Tensor, *others: object) -> Tensor:
        taken.append(x.shape)
        return x

    monkeypatch.setattr(wide, "_group_norm", made)
    monkeypatch.setattr(wide, "takes_triton", lambda kernels, like: kernels == "auto")
    norm = WideGroupNorm(norm_of(4, 2), silu=True, kernels=kernels).to(device)
    x = torch.randn(1, 4, 3, 5, device=device)
    norm(x)
    assert taken == ([x.shape] if kernels == "auto" else [])
    # What has no kernel is made by PyTorch: gradients, other strides, nothing at all.
    assert norm(x.clone().requires_grad_()).requires_grad
    norm(x.transpose(2, 3))
    norm(x[:0])
    assert len(taken) <= 1


def test_meta_tensors_have_shapes() -> None:
    x = torch.empty(1, 4, 3, 5, device="meta", dtype=BF16)
    norm = WideGroupNorm(norm_of(4, 2), silu=True, kernels="auto").to("meta", BF16)
    assert norm(x).shape == x.shape
    made = kernels_of(norm, x, True)
    assert (made.shape, made.dtype) == (x.shape, BF16)
