"""Vision transformers of timm: EVA02, DINOv3 without its gate, and others of their classes."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from typing_extensions import Self

from .model_files import CONFIG, weights_in
from .registry import BACKBONE_REGISTRY, MODEL_TYPES, REGISTERED_MODELS
from .reports import check_report, difference
from .single_file import read_tensors
from .vision_model_files import check_timm, check_whole
from .vision_transformers import PatchTokens, VisionTransformer, at_hand


@BACKBONE_REGISTRY.register()
class TimmBackbone(VisionTransformer):
    """A ``VisionTransformer`` or ``Eva`` of timm, in a folder or hub repository as timm saves them.

    It takes any size: its position embeddings are interpolated as timm does.
    """

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["TimmBackbone"]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        settings, source, device, dtype = at_hand(cls, cfg)
        folder = source.whole()
        statistics = check_timm(folder)
        check_whole(folder, source.variant)
        registered = REGISTERED_MODELS.get(settings.name)
        model = _load(folder, source.variant, dtype)
        tokens = PatchTokens(
            patch=_patch(model, folder),
            prefix=model.num_prefix_tokens,
            blocks=len(model.blocks),
            statistics=statistics,
            resolution=(registered and registered.native_resolution)
            or max(model.pretrained_cfg["input_size"][1:]),
        )
        backbone = cls(settings, model, tokens, device=device)
        backbone.commit = source.revision
        return backbone

    def run(self, prepared: Tensor, timesteps: Sequence[float]) -> Tensor:
        output: Tensor = self.model.forward_features(prepared)
        return output


def _load(folder: Path, variant: str, dtype: torch.dtype) -> Any:
    model = _without_weights(folder)
    given: dict[str, Tensor] = {}
    for name in weights_in(folder, variant, must=True).names:
        given |= {key: get() for key, get in read_tensors(folder / name).items()}
    # timm's own way to read what former versions, and the models' makers, wrote.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        tensors = convert(given, model) if convert else given
    except Exception as error:  # a name that is not there ends in any kind of error
        raise ValueError(
            f"the weights in {folder} are not those of its {CONFIG} ({error!r}): copy or download"
            " the model again"
        ) from error
    check_report(difference(model.state_dict(), tensors), folder)
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    model.load_state_dict(cast, strict=False, assign=True)  # buffers are not all in the weights
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # that is what is read, whatever TIMM_FUSED_ATTN says
    # Angles of rotary positions stay as exact as they are; what they turn has its own type again.
    rope, model.rope = getattr(model, "rope", None), None
    model = model.to(dtype)
    model.rope = rope
    return model


def _without_weights(folder: Path) -> Any:
    """The model, its weights on PyTorch's meta device."""
    import timm

    try:
        with init_empty_weights():
            name = f"local-dir:{folder.resolve()}"
            model = timm.create_model(name, pretrained=False, dynamic_img_size=True)
    except Exception as error:  # an architecture that is not known, or that takes one size alone
        version = importlib.metadata.version("timm")
        raise ValueError(
            f"timm {version} cannot build what {folder / CONFIG} names ({error!r}): take a model of"
            " its classes VisionTransformer or Eva, or install a newer timm"
        ) from error
    kinds = (timm.models.vision_transformer.VisionTransformer, timm.models.eva.Eva)
    if not isinstance(model, kinds):
        raise ValueError(
            f"{folder} holds a {type(model).__name__} of timm: only its classes VisionTransformer"
            " and Eva are read"
        )
    return model


def _patch(model: nn.Module, folder: Path) -> int:
    height, width = model.patch_embed.patch_size  # type: ignore[union-attr,misc]
    if height != width:
        raise ValueError(f"{folder} has patches of {height} x {width} pixels, and not squares")
    return int(height)
