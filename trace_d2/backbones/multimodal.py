"""Multimodal models: the vision tower of LLaVA and of Qwen2.5-VL, and what LLaVA's language model
attends to among the image tokens (the paper's Table 5). Edges are ABDiv of one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from fvcore.common.config import CfgNode
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from typing_extensions import Self

from trace_d2.attention import AttentionLayout

from . import loading
from .backbone import AttentionBackbone
from .model_files import CONFIG, ModelSource
from .multimodal_files import (
    CONVERSATION,
    VISION_TOWERS,
    check_tokenizer,
    part_files,
    without_prefix,
)
from .network_config import one_window
from .registry import BACKBONE_REGISTRY, MODEL_TYPES, REGISTERED_MODELS
from .settings import BackboneSettings
from .vision_model_files import (
    CLIP,
    PREPROCESSOR,
    PixelStatistics,
    check_precision,
    check_whole,
    pixel_statistics,
    square_side,
)
from .vision_transformers import PatchTokens, VisionTransformer, at_hand

# Of Qwen2.5-VL, which was trained on images of any size: 64 x 64 tokens, as diffusion models have.
_QWEN_SIDE = 896


@BACKBONE_REGISTRY.register()
class LlavaBackbone(VisionTransformer):
    """LLaVA-1.5's language model: what its image tokens attend to among each other.

    Text stands on both sides of them, and each token sees only those before it. Rows of different
    supports cannot be compared, so that causality is dropped where they are read: softmax over all
    image keys. What is asked after the image changes nothing in them.
    """

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["LlavaBackbone"]

    text_before: Tensor
    text_after: Tensor

    def __init__(
        self,
        settings: BackboneSettings,
        model: Any,
        tokens: PatchTokens,
        *,
        text: tuple[Sequence[int], Sequence[int]],
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            model: a ``LlavaModel`` of transformers.
            text: ids of the tokens before those of the image, and after them.
            settings, tokens, device: see ``VisionTransformer``; the tokens are those of the tower.
        """
        super().__init__(settings, model, tokens, device=device)
        for name, ids in zip(("before", "after"), text, strict=True):
            tensor = torch.tensor([list(ids)], dtype=torch.int64, device=self.device)
            self.register_buffer(f"text_{name}", tensor, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        settings, source, device, dtype = at_hand(cls, cfg)
        folder = source.whole()
        check_whole(folder, source.variant)
        config = _config(folder)
        tokens = _clip_tokens(config, settings, source, config.text_config.num_hidden_layers)
        if config.vision_feature_select_strategy != "default":
            raise ValueError(
                f"{folder / CONFIG}: vision_feature_select_strategy must be default, as in"
                f" LLaVA-1.5, not {config.vision_feature_select_strategy}"
            )
        text = _text_tokens(folder, config.image_token_id)
        model = loading.load_folder(
            folder,
            LlavaForConditionalGeneration,
            dtype,
            source.variant,
            must=True,
            attn_implementation="sdpa",
        ).model
        backbone = cls(settings, model, tokens, text=text, device=device)
        backbone.commit = source.revision
        return backbone

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        before, after = self.text_before.shape[1], self.text_after.shape[1]
        return AttentionLayout(
            (self.tokens.grid(size),),
            text_tokens=before + after,
            start=before,
            calls=self.tokens.blocks,
            ignore_masks=True,
        )

    def run(self, prepared: Tensor, timesteps: Sequence[float]) -> Tensor:
        embed = self.model.get_input_embeddings()
        before, after = (
            embed(ids).expand(len(prepared), -1, -1) for ids in (self.text_before, self.text_after)
        )
        sequence = torch.cat((before, self._image_features(prepared), after), dim=1)
        output: Tensor = self.model.language_model(
            inputs_embeds=sequence, use_cache=False
        ).last_hidden_state
        return output

    def _image_features(self, pixels: Tensor) -> Tensor:
        """What the language model is given of an image: (B, N, width)."""
        model, config = self.model, self.model.config
        states = model.vision_tower(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states
        layers = config.vision_feature_layer
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        # The class token is no place in the image.
        features: Tensor = model.multi_modal_projector(torch.cat(chosen, dim=-1)[:, 1:])
        return features


@BACKBONE_REGISTRY.register()
class LlavaTowerBackbone(VisionTransformer):
    """The vision tower of LLaVA-1.5, a CLIP ViT, without its language model."""

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["LlavaTowerBackbone"]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        settings, source, device, dtype = at_hand(cls, cfg)
        config = _config(source.folder)
        blocks = config.vision_config.num_hidden_layers
        tokens = _clip_tokens(config, settings, source, blocks)
        tower = _load_tower(source, cls, CLIPVisionModel, config.vision_config, dtype)
        backbone = cls(settings, tower, tokens, device=device)
        backbone.commit = source.revision
        return backbone

    def run(self, prepared: Tensor, timesteps: Sequence[float]) -> Tensor:
        output: Tensor = self.model(
            pixel_values=prepared, interpolate_pos_encoding=True
        ).last_hidden_state
        return output


class QwenPatches(NamedTuple):
    """An image as Qwen's tower takes it: patches (N, c t p p), and (1, 3) their (1, h, w)."""

    patches: Tensor
    grid: Tensor


@BACKBONE_REGISTRY.register()
class QwenVisionBackbone(VisionTransformer):
    """The vision tower of Qwen2.5-VL, of which the blocks with full attention are read.

    Other blocks attend within windows, one call each, and all tokens are in the order of windows,
    which the layout undoes. Two images of a pass would be two calls, so that each has its own.
    """

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["QwenVisionBackbone"]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        settings, source, device, dtype = at_hand(cls, cfg)
        config = _config(source.folder).vision_config
        tokens = PatchTokens(
            patch=square_side(config.to_dict(), "patch_size", source.folder / CONFIG),
            prefix=0,
            blocks=len({block for block in config.fullatt_block_indexes if block < config.depth}),
            statistics=_statistics(settings, source),
            resolution=_QWEN_SIDE,
        )
        tower = _load_tower(source, cls, Qwen2_5_VisionTransformerPretrainedModel, config, dtype)
        backbone = cls(settings, tower, tokens, device=device)
        backbone.commit = source.revision
        backbone.layout(backbone.size_of((1, 1)))  # of too small a RESOLUTION there is none
        return backbone

    @property
    def size_multiple(self) -> int:
        return self.tokens.patch * int(self.model.config.spatial_merge_size)

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        config, grid = self.model.config, self.tokens.grid(size)
        window = config.window_size // self.size_multiple * config.spatial_merge_size
        if max(grid) <= window:
            raise one_window(size, self.name, window * self.tokens.patch)
        order = window_order(grid, config.spatial_merge_size, window)
        return AttentionLayout((grid,), order=order, calls=self.tokens.blocks)

    def draw_noise(self, size: tuple[int, int], seed: int, key: str) -> tuple[int, str]:
        """No tensor, which says that no two images share a pass."""
        return seed, key

    def prepare(self, pixels: Tensor, noise: Tensor | tuple[int, str] | None = None) -> QwenPatches:
        """The patches of one image (1, 3, h, w), in ``dtype``."""
        if len(pixels) != 1:
            raise ValueError(f"{self.name} is run on one image a pass, not on {len(pixels)}")
        config = self.model.config
        merge, patch = config.spatial_merge_size, self.tokens.patch
        normalised: Tensor = super().prepare(pixels)[0]
        height, width = self.tokens.grid((pixels.shape[2], pixels.shape[3]))
        blocks = normalised.view(
            3, height // merge, merge, patch, width // merge, merge, patch
        ).permute(1, 4, 2, 5, 0, 3, 6)
        # An image is a film that stands still.
        frames = blocks.unsqueeze(5).expand(*blocks.shape[:5], config.temporal_patch_size, -1, -1)
        patches = frames.reshape(height * width, -1)
        grid = torch.tensor([[1, height, width]], device=pixels.device)
        return QwenPatches(patches, grid)

    def run(self, prepared: QwenPatches, timesteps: Sequence[float]) -> Tensor:
        output: Tensor = self.model(*prepared).last_hidden_state
        return output


@lru_cache(maxsize=16)
def window_order(grid: tuple[int, int], merge: int, window: int) -> tuple[int, ...]:
    """Where Qwen2.5-VL's tower has each token of a row-major grid.

    Args:
        grid: (h, w) tokens, multiples of ``merge``.
        merge: blocks of so many tokens squared stay together.
        window: side of a window in tokens; those at the right and lower edges may be smaller.

    Returns:
        N = h w places, each of 0 .. N - 1 once.
    """

    def rank(token: int) -> tuple[int, ...]:
        row, column = divmod(token, grid[1])
        sides = (window, merge, 1)
        return tuple(part for side in sides for part in (row // side, column // side))

    by_place = sorted(range(grid[0] * grid[1]), key=rank)
    places = {token: place for place, token in enumerate(by_place)}
    return tuple(places[token] for token in range(len(places)))


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the file holds
        raise ValueError(
            f"cannot read {folder / CONFIG}: {error}; copy or download the model again"
        ) from error


def _statistics(settings: BackboneSettings, source: ModelSource) -> PixelStatistics:
    if source.hub_id:
        source.file(PREPROCESSOR)
    return pixel_statistics(source.folder, CLIP if settings.name in REGISTERED_MODELS else None)


def _clip_tokens(
    config: Any, settings: BackboneSettings, source: ModelSource, blocks: int
) -> PatchTokens:
    """The tokens of LLaVA's tower; ``blocks`` are those that are read."""
    tower, path = config.vision_config, source.folder / CONFIG
    if tower.model_type != CLIPVisionModel.config_class.model_type:
        raise ValueError(
            f"{path}: the vision tower is a {tower.model_type}, and of LLaVA models those with a"
            f" {CLIPVisionModel.config_class.model_type} (LLaVA-1.5) are read"
        )
    sizes = tower.to_dict()
    return PatchTokens(
        patch=square_side(sizes, "patch_size", path),
        prefix=1,
        blocks=blocks,
        statistics=_statistics(settings, source),
        resolution=square_side(sizes, "image_size", path),
    )


def _text_tokens(folder: Path, image: int) -> tuple[list[int], list[int]]:
    """Ids of the tokens before those of the image (id ``image``), and after them."""
    check_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = tokenizer(CONVERSATION).input_ids
    except Exception as error:  # whatever the files hold
        raise ValueError(
            f"cannot read the tokenizer in {folder}: {error}; copy or download the model again"
        ) from error
    if ids.count(image) != 1:
        raise ValueError(
            f"{folder}: its tokenizer makes {ids.count(image)} image tokens (id {image}) of"
            f" {CONVERSATION!r} instead of one: copy or download the model again"
        )
    place = ids.index(image)
    return ids[:place], ids[place + 1 :]


def _load_tower(
    source: ModelSource,
    family: type[AttentionBackbone],
    model_class: type[Any],
    config: Any,
    dtype: torch.dtype,
) -> Any:
    """The vision tower alone, out of the shards that hold it; errors as of ``load_folder``."""
    check_precision(source.folder)
    prefixes = VISION_TOWERS[family.__name__]
    weights = {}
    for path, names in part_files(source, prefixes).items():
        with safe_open(path, "pt") as file:
            for inside, name in without_prefix(names, prefixes).items():
                weights[inside] = file.get_tensor(name)
    return loading.load_part(
        weights, source.folder, model_class, dtype, config=config, attn_implementation="sdpa"
    )
