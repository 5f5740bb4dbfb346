"""Vision transformers: patches of an image are tokens, and no noise, prompt or scheduler is known.

Their edges are ABDiv of one pass (the paper's Table 5): ``timesteps`` is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, ViTModel
from typing_extensions import Self

from trace_d2.attention import AttentionLayout
from trace_d2.devices import pick_device

from . import loading
from .backbone import AttentionBackbone
from .model_files import CONFIG, ModelSource
from .network_config import check_network, check_resolution
from .registry import BACKBONE_REGISTRY, MODEL_TYPES, REGISTERED_MODELS, other_kind, source_of
from .settings import BackboneSettings
from .vision_model_files import (
    IMAGENET,
    PixelStatistics,
    check_whole,
    pixel_statistics,
    square_side,
)


@dataclass(frozen=True)
class PatchTokens:
    """The tokens of a vision transformer: some of its own, then patches row by row.

    Attributes:
        patch: side of a patch in pixels.
        prefix: how many come before them: class token and registers.
        blocks: how many self-attention calls a pass has.
        statistics: of the pixels that it was trained with.
        resolution: side in pixels of the square that it is read at by itself.
    """

    patch: int
    prefix: int
    blocks: int
    statistics: PixelStatistics
    resolution: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) patches of images of ``size`` in pixels."""
        return size[0] // self.patch, size[1] // self.patch


class VisionTransformer(AttentionBackbone):
    """A frozen vision transformer, which is run once over an image.

    Subclasses load one, and say how it is called where that takes more than pixels.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        settings: BackboneSettings,
        model: Any,
        tokens: PatchTokens,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            settings: name, resolution and aspect.
            model: calls PyTorch's ``scaled_dot_product_attention`` over ``tokens``.
            tokens: their order.
            device: where it runs.
        """
        super().__init__()
        self.name, self.aspect, self.tokens = settings.name, settings.aspect, tokens
        self.resolution = settings.resolution or tokens.resolution
        self.model = model.eval().requires_grad_(False)
        for key, values in tokens.statistics._asdict().items():
            # Buffers follow .to(device); they are no weights, so no state dict holds them.
            tensor = torch.tensor(values).view(1, 3, 1, 1)
            self.register_buffer(f"pixel_{key}", tensor, persistent=False)
        check_resolution(self.resolution, tokens.patch, self.name)
        self.to(device)

    @property
    def network(self) -> Any:
        return self.model

    @property
    def size_multiple(self) -> int:
        return self.tokens.patch

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        tokens, grid = self.tokens, self.tokens.grid(size)
        return AttentionLayout((grid,), tokens.prefix, start=tokens.prefix, calls=tokens.blocks)

    def draw_noise(self, size: tuple[int, int], seed: int, key: str) -> Tensor | tuple[int, str]:
        """None is added; a tensor says that images may share a pass."""
        return torch.zeros(1)

    def prepare(self, pixels: Tensor, noise: Tensor | tuple[int, str] | None = None) -> Any:
        """Pixels (B, 3, h, w) as the model was trained to see them, in ``dtype``."""
        return (((pixels + 1) / 2 - self.pixel_mean) / self.pixel_std).to(self.dtype)

    def run(self, prepared: Any, timesteps: Sequence[float]) -> Tensor:
        output: Tensor = self.model(prepared)
        return output


class AtHand(NamedTuple):
    """What a family begins with: checked, and nothing of it loaded."""

    settings: BackboneSettings
    source: ModelSource
    device: torch.device
    dtype: torch.dtype


def at_hand(family: type[AttentionBackbone], cfg: CfgNode) -> AtHand:
    """What ``cfg`` means; a ValueError for keys and folders that are not of ``family``."""
    settings = BackboneSettings.from_config(cfg)
    settings.check_without_diffusion()
    device = pick_device(cfg)
    dtype = loading.pick_dtype(settings.dtype, device)
    source = source_of(settings)
    registered = REGISTERED_MODELS.get(settings.name)
    kinds = registered.kinds if registered else family.model_types
    if source.model_type not in kinds:
        raise other_kind(source, settings.name, kinds)
    check_network(source, family.__name__, settings)
    return AtHand(settings, source, device, dtype)


@dataclass(frozen=True)
class _Kind:
    """A class of transformers, what it is loaded with, and what it is told beside the pixels."""

    model_class: type[Any]
    load: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


# ViT is DINO's as well: its checkpoints have no pooler, and its position embeddings have to be told
# that images are of another size.
_KINDS = {
    "vit": _Kind(ViTModel, {"add_pooling_layer": False}, {"interpolate_pos_encoding": True}),
    "dinov2": _Kind(Dinov2Model),
    "dinov2_with_registers": _Kind(Dinov2WithRegistersModel),
    "dinov3_vit": _Kind(DINOv3ViTModel),
}


@BACKBONE_REGISTRY.register()
class TransformersBackbone(VisionTransformer):
    """DINO, DINOv2 (with registers or without) and DINOv3 of transformers; ViT in general."""

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["TransformersBackbone"]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        settings, source, device, dtype = at_hand(cls, cfg)
        registered, kind = REGISTERED_MODELS.get(settings.name), _KINDS[str(source.model_type)]
        folder = source.whole()
        check_whole(folder, source.variant)
        statistics = pixel_statistics(folder, IMAGENET if registered else None)
        config = loading.read_config(folder)
        patch = square_side(config, "patch_size", folder / CONFIG)
        model = loading.load_folder(
            folder,
            kind.model_class,
            dtype,
            source.variant,
            must=True,
            attn_implementation="sdpa",  # what is read; flash and eager attention show nothing
            **kind.load,
        )
        tokens = PatchTokens(
            patch=patch,
            prefix=1 + getattr(model.config, "num_register_tokens", 0),
            blocks=model.config.num_hidden_layers,
            statistics=statistics,
            resolution=(registered and registered.native_resolution)
            or square_side(config, "image_size", folder / CONFIG),
        )
        backbone = cls(settings, model, tokens, device=device)
        backbone.commit = source.revision
        return backbone

    def run(self, prepared: Tensor, timesteps: Sequence[float]) -> Tensor:
        options = _KINDS[self.model.config.model_type].run
        output: Tensor = self.model(pixel_values=prepared, **options).last_hidden_state
        return output
