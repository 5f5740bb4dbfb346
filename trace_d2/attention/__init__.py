"""What a denoiser's self-attention says: the reader, and divergences between maps."""

from .divergences import DIVERGENCES, divergence, mean_divergence
from .layout import AttentionLayout
from .native import forbid_cudnn_attention, native_attention
from .reader import SelfAttentionReader

__all__ = [
    "DIVERGENCES",
    "AttentionLayout",
    "SelfAttentionReader",
    "divergence",
    "forbid_cudnn_attention",
    "mean_divergence",
    "native_attention",
]
