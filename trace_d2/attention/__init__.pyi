from .divergences import DIVERGENCES, divergence, mean_divergence, mean_divergence_tensor
from .key_reader import KeyReader
from .layout import AttentionLayout
from .native import forbid_cudnn_attention, full_precision, native_attention
from .reader import SelfAttentionReader
from .settings import AttentionSettings

__all__ = [
    "DIVERGENCES",
    "AttentionLayout",
    "AttentionSettings",
    "KeyReader",
    "SelfAttentionReader",
    "divergence",
    "forbid_cudnn_attention",
    "full_precision",
    "mean_divergence",
    "mean_divergence_tensor",
    "native_attention",
]
