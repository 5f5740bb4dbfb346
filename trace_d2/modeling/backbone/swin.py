"""Swin Transformers of ``transformers`` as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from transformers import SwinBackbone, SwinConfig

KEY = "MODEL.TRACE.SWIN"
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_FEATURES = ("res2", "res3", "res4", "res5")
_PATCH_SIZE = 4


class SwinTransformer(Backbone):
    """Four stages, each of half the resolution and twice the width of the one before.

    Gives res2, res3, res4, res5 with strides 4, 8, 16, 32 for images of any size: windows and
    patches are padded inside.
    """

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        drop_path: float = 0.0,
        in_channels: int = 3,
        weights: str = "",
    ) -> None:
        """Build the network and load ``weights``.

        Args:
            embed_dim: width of the first stage.
            depths: blocks of each of the four stages.
            num_heads: attention heads of each stage.
            window_size: side of the attention windows in tokens.
            drop_path: 0..1, greatest probability of skipping a block in training.
            in_channels: channels of the images.
            weights: a folder or hub id of ``transformers`` weights of this very network; empty:
                random weights, and nothing is read.

        Raises:
            ValueError: a value that the network cannot have, or weights of another network; it
                names the key.
            OSError: the weights cannot be read.
        """
        super().__init__()
        _check_stages(embed_dim, depths, num_heads)
        config = SwinConfig(
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=window_size,
            drop_path_rate=drop_path,
            num_channels=in_channels,
            patch_size=_PATCH_SIZE,
            out_features=_STAGES,
        )
        self.net = _load(weights, config) if weights else SwinBackbone(config)
        for name, parameter in self.net.named_parameters():
            # The norm after the last stage belongs to a classifier: no feature passes through it,
            # and DistributedDataParallel wants a gradient for what can be trained.
            if name.startswith("swin.layernorm"):
                parameter.requires_grad_(False)
        # What ``Backbone.output_shape`` reads.
        self._out_features = list(_FEATURES)
        self._out_feature_channels = {
            name: embed_dim * 2**level for level, name in enumerate(_FEATURES)
        }
        self._out_feature_strides = {
            name: _PATCH_SIZE * 2**level for level, name in enumerate(_FEATURES)
        }

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.TRACE.SWIN``."""
        node = cfg.MODEL.TRACE.SWIN
        return {
            "embed_dim": node.EMBED_DIM,
            "depths": node.DEPTHS,
            "num_heads": node.NUM_HEADS,
            "window_size": node.WINDOW_SIZE,
            "drop_path": node.DROP_PATH,
            "in_channels": input_shape.channels,
            "weights": node.WEIGHTS,
        }

    @property
    def size_divisibility(self) -> int:
        """Batches padded to a multiple of this have the strides that :meth:`output_shape` says."""
        return _PATCH_SIZE * 8

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features (B, C, ceil(H / stride), ceil(W / stride)) of images (B, 3, H, W)."""
        return dict(zip(_FEATURES, self.net(images).feature_maps, strict=True))


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """The Swin Transformer of ``MODEL.TRACE.SWIN``, see :class:`SwinTransformer`."""
    return SwinTransformer(cfg, input_shape)


def _check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise a ``ValueError`` for widths and heads that do not fit."""
    for key, values in (("DEPTHS", depths), ("NUM_HEADS", num_heads)):
        if len(values) != len(_STAGES) or min(values) < 1:
            raise ValueError(f"{KEY}.{key} is {list(values)}: it must be four positive numbers")
    for level, heads in enumerate(num_heads):
        if embed_dim * 2**level % heads:
            raise ValueError(
                f"{KEY}.NUM_HEADS is {list(num_heads)}: stage {level + 1} is "
                f"{embed_dim * 2**level} wide ({KEY}.EMBED_DIM), no multiple of {heads}"
            )


def _load(weights: str, config: SwinConfig) -> SwinBackbone:
    """The network of ``config`` with the weights of a folder or hub id, float32.

    Raises:
        ValueError: the weights belong to another network.
        OSError: they cannot be read.
    """
    try:
        # A folder that lacks the file gives a default config, not an error.
        if "embed_dim" not in SwinConfig.get_config_dict(weights)[0]:
            raise OSError("its config.json is not that of a Swin Transformer")
        stored = SwinConfig.from_pretrained(weights)
        for key in ("embed_dim", "depths", "num_heads", "window_size"):
            if getattr(stored, key) != getattr(config, key):
                raise ValueError(
                    f"{KEY}.{key.upper()} is {getattr(config, key)}, but the weights in "
                    f"{KEY}.WEIGHTS ({weights}) have {getattr(stored, key)}"
                )
        net, report = SwinBackbone.from_pretrained(weights, config=config, output_loading_info=True)
    except OSError as error:
        raise OSError(f"{KEY}.WEIGHTS {weights!r} cannot be loaded: {error}") from error
    # Backbones add a norm to each feature map, which classifiers do not have.
    missing = [key for key in report["missing_keys"] if "hidden_states_norms" not in key]
    if missing:
        raise ValueError(f"{KEY}.WEIGHTS ({weights}) lacks {', '.join(sorted(missing)[:3])}, ...")
    return net.float()
