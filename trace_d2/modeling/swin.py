"""Swin Transformers of ``transformers`` as a Detectron2 backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone

from trace_d2.settings import NodeSettings, within

if TYPE_CHECKING:
    from transformers import SwinBackbone, SwinConfig

KEY = "MODEL.TRACE.SWIN"
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_FEATURES = ("res2", "res3", "res4", "res5")
_PATCH_SIZE = 4


@dataclass(frozen=True)
class SwinSettings(NodeSettings, node=KEY):
    """The network, and a folder or hub id of ``transformers`` weights of this very network."""

    embed_dim: int = within(1, default=192)
    depths: tuple[int, ...] = within(1, default=(2, 2, 18, 2))
    num_heads: tuple[int, ...] = within(1, default=(6, 12, 24, 48))
    window_size: int = within(1, default=12)
    drop_path: float = within(0.0, 1.0, default=0.3)
    weights: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, values in (("DEPTHS", self.depths), ("NUM_HEADS", self.num_heads)):
            if len(values) != len(_STAGES):
                raise ValueError(f"{KEY}.{key} is {list(values)}: it must be four positive numbers")
        for level, heads in enumerate(self.num_heads):
            width = self.embed_dim * 2**level
            if width % heads:
                raise ValueError(
                    f"{KEY}.NUM_HEADS is {list(self.num_heads)}: stage {level + 1} is {width} wide "
                    f"({KEY}.EMBED_DIM), no multiple of {heads}"
                )


class SwinTransformer(Backbone):
    """Four stages, each of half the resolution and twice the width of the one before.

    Gives res2, res3, res4, res5 with strides 4, 8, 16, 32 for images of any size: windows and
    patches are padded inside.
    """

    def __init__(self, settings: SwinSettings, in_channels: int = 3) -> None:
        """Build the network and load its weights."""
        super().__init__()
        from transformers import SwinBackbone, SwinConfig  # seconds, for who builds this alone

        config = SwinConfig(
            embed_dim=settings.embed_dim,
            depths=list(settings.depths),
            num_heads=list(settings.num_heads),
            window_size=settings.window_size,
            drop_path_rate=settings.drop_path,
            num_channels=in_channels,
            patch_size=_PATCH_SIZE,
            out_features=_STAGES,
        )
        self.net = _load(settings, config) if settings.weights else SwinBackbone(config)
        for name, parameter in self.net.named_parameters():
            # The norm after the last stage belongs to a classifier: no feature passes through it,
            # and DistributedDataParallel wants a gradient for what can be trained.
            if name.startswith("swin.layernorm"):
                parameter.requires_grad_(False)
        # What ``Backbone.output_shape`` reads.
        self._out_features = list(_FEATURES)
        scales = {name: 2**level for level, name in enumerate(_FEATURES)}
        self._out_feature_channels = {n: settings.embed_dim * s for n, s in scales.items()}
        self._out_feature_strides = {n: _PATCH_SIZE * s for n, s in scales.items()}

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
    return SwinTransformer(SwinSettings.from_config(cfg), input_shape.channels)


def _load(settings: SwinSettings, config: SwinConfig) -> SwinBackbone:
    """The network of ``config`` with the weights of a folder or hub id, float32."""
    from transformers import SwinBackbone, SwinConfig

    weights, revision = settings.weights, settings.revision or "main"
    try:
        # A folder that lacks the file gives a default config, not an error.
        if "embed_dim" not in SwinConfig.get_config_dict(weights, revision=revision)[0]:
            raise OSError("its config.json is not that of a Swin Transformer")
        stored = SwinConfig.from_pretrained(weights, revision=revision)
    except Exception as error:  # whatever the file holds
        raise OSError(f"{KEY}.WEIGHTS {weights!r} cannot be loaded: {error}") from error
    for key in ("embed_dim", "depths", "num_heads", "window_size"):
        if getattr(stored, key) != getattr(config, key):
            raise ValueError(
                f"{KEY}.{key.upper()} is {getattr(config, key)}, but the weights in "
                f"{KEY}.WEIGHTS ({weights}) have {getattr(stored, key)}"
            )
    try:
        net, report = SwinBackbone.from_pretrained(
            weights, config=config, revision=revision, output_loading_info=True
        )
    except Exception as error:  # damaged files end in any kind of error
        raise OSError(
            f"{KEY}.WEIGHTS {weights!r} cannot be loaded: {error}; copy or download it again"
        ) from error
    # Backbones add a norm to each feature map, which classifiers do not have.
    missing = [key for key in report["missing_keys"] if "hidden_states_norms" not in key]
    # The layers of the network itself; a classifier's head is none.
    further = [key for key in report["unexpected_keys"] if ".layers." in key]
    for keys, verb in ((missing, "lacks"), (further, "holds what the network has not:")):
        if keys:
            raise ValueError(
                f"{KEY}.WEIGHTS ({weights}) {verb} {', '.join(sorted(keys)[:3])}, ...: it is of"
                " another network; correct it, or the other keys of " + KEY
            )
    return net.float()
