"""Group norms of a frozen VAE's encoder by Triton's kernels, which take half of its time away."""

from __future__ import annotations

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention.kernels.choice import takes_triton
from trace_d2.attention.registration import operator

_MOST = 2**28  # elements of a group, and programs of a launch: far below 2^31


class WideGroupNorm(nn.GroupNorm):
    """As ``nn.GroupNorm``, with SiLU after it where ``silu`` is, by kernels where they can.

    On the CPU, where gradients are asked for, and with ``kernels`` "plain" it is PyTorch's own.
    """

    def __init__(self, norm: nn.GroupNorm, *, silu: bool, kernels: str) -> None:
        """
        Args:
            norm: its parameters are taken, not copied.
            kernels: "auto" or "plain", see ``MODEL.TRACE.ATTENTION.KERNELS``.
        """
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.silu, self.kernels = silu, kernels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) of any floating type."""
        if self._takes_kernels(x):
            made: Tensor = _group_norm(
                x, self.weight, self.bias, self.num_groups, self.eps, self.silu
            )
            return made
        normed = super().forward(x)
        return functional.silu(normed) if self.silu else normed

    def _takes_kernels(self, x: Tensor) -> bool:
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if learns or not x.is_contiguous() or not 0 < x.numel() < _MOST * self.num_groups:
            return False
        return takes_triton(self.kernels, x)


def widen_group_norms(encoder: nn.Module, kernels: str = "auto") -> None:
    """Let every group norm of a VAE's encoder, with the SiLU after it, be a ``WideGroupNorm``."""
    for module in list(encoder.modules()):
        followed = _norms_before_silu(module)
        for name, child in list(module.named_children()):
            if type(child) is nn.GroupNorm and child.affine:
                wide = WideGroupNorm(child, silu=name in followed, kernels=kernels)
                setattr(module, name, wide)


def _norms_before_silu(module: nn.Module) -> tuple[str, ...]:
    """The module's group norms that SiLU follows, which it no longer does itself."""
    plain = isinstance(module, ResnetBlock2D) and module.time_emb_proj is None
    if plain and isinstance(module.nonlinearity, nn.SiLU):
        module.nonlinearity = nn.Identity()
        return "norm1", "norm2"
    if isinstance(getattr(module, "conv_act", None), nn.SiLU):
        module.conv_act = nn.Identity()
        return ("conv_norm_out",)
    return ()


@operator(
    "group_norm(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu) -> Tensor",
    fake=lambda x, *others: torch.empty_like(x),
)
def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> Tensor:
    """By kernels, of a contiguous ``x``; no gradient."""
    from trace_d2.attention.kernels.group_norm import group_norm_launches, moments_shape

    moments = x.new_empty(moments_shape(x, groups), dtype=torch.float32)
    out = torch.empty_like(x)
    for launch in group_norm_launches(x, weight, bias, eps, silu, moments, out):
        launch.run()
    return out
