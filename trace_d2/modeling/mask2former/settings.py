"""Settings of the network and the loss of Mask2Former."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trace_d2.settings import NodeSettings, within

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig

KEY = "MODEL.TRACE.MASK2FORMER"
# Every projection of the pixel decoder is followed by GroupNorm with this many groups.
_GROUPS = 32


@dataclass(frozen=True)
class Mask2FormerSettings(NodeSettings, node=KEY):
    """Network and loss; ``config`` says what the keys mean."""

    in_features: tuple[str, ...] = ("res2", "res3", "res4", "res5")
    size_divisibility: int = within(0, default=32)
    hidden_dim: int = within(1, default=256)
    nheads: int = within(1, default=8)
    num_queries: int = within(1, default=100)
    enc_layers: int = within(1, default=6)
    enc_dim_feedforward: int = within(1, default=1024)
    dec_layers: int = within(2, default=10)
    dim_feedforward: int = within(1, default=2048)
    deep_supervision: bool = True
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    train_num_points: int = within(1, default=12544)
    oversample_ratio: float = within(1.0, default=3.0)
    importance_sample_ratio: float = within(0.0, 1.0, default=0.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim % _GROUPS or self.hidden_dim % self.nheads:
            raise ValueError(
                f"{KEY}.HIDDEN_DIM is {self.hidden_dim}: it must be a multiple of {_GROUPS} (group "
                f"norm) and of {KEY}.NHEADS, which is {self.nheads}"
            )

    def transformers_config(self, num_classes: int, strides: Sequence[int]) -> Mask2FormerConfig:
        """Config of ``transformers``' modules; ``strides`` of the feature maps, finest first."""
        from transformers import Mask2FormerConfig

        same = ("num_queries", "class_weight", "mask_weight", "dice_weight", "no_object_weight",
                "train_num_points", "oversample_ratio", "importance_sample_ratio")  # fmt: skip
        return Mask2FormerConfig(
            num_labels=num_classes,
            feature_size=self.hidden_dim,
            mask_feature_size=self.hidden_dim,
            hidden_dim=self.hidden_dim,
            encoder_layers=self.enc_layers,
            decoder_layers=self.dec_layers,
            num_attention_heads=self.nheads,
            encoder_feedforward_dim=self.enc_dim_feedforward,
            dim_feedforward=self.dim_feedforward,
            feature_strides=list(strides),
            common_stride=strides[0],
            dropout=0.0,
            **{name: getattr(self, name) for name in same},
        )
