"""Backbones by name or by folder: what is known of them before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvcore.common.registry import Registry

from trace_d2.io.hints import did_you_mean, nearest_path

from .model_files import CONFIG, INDEX, TIMM, ModelSource, index_in, open_model
from .settings import BackboneSettings

if TYPE_CHECKING:
    from .backbone import AttentionBackbone

BACKBONE_REGISTRY = Registry("ATTENTION_BACKBONE")
BACKBONE_REGISTRY.__doc__ = """
Families: subclasses of AttentionBackbone. A family reads every diffusers folder whose
``model_index.json`` names one of its ``pipeline_names``, and every folder whose ``config.json``
names one of its ``model_types``; one that reads no folders has names in ``REGISTERED_MODELS``
alone.
"""


@dataclass(frozen=True)
class FamilyFiles:
    """What the folders of a family of diffusion models hold.

    Attributes:
        pipelines: diffusers' pipeline classes that they belong to.
        text_encoders: how many there are, each with its tokenizer.
    """

    pipelines: tuple[str, ...]
    text_encoders: int

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Names of text encoders and tokenizers in ``model_index.json``."""
        ends = ["", *(f"_{number}" for number in range(2, self.text_encoders + 1))]
        return tuple(f"{part}{end}" for end in ends for part in ("text_encoder", "tokenizer"))


FAMILY_FILES: dict[str, FamilyFiles] = {
    "StableDiffusionBackbone": FamilyFiles(
        ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"), 1
    ),
    "StableDiffusionXLBackbone": FamilyFiles(("StableDiffusionXLPipeline",), 2),
    "PixArtBackbone": FamilyFiles(("PixArtAlphaPipeline", "PixArtSigmaPipeline"), 1),
    "StableDiffusion3Backbone": FamilyFiles(
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"), 3
    ),
    "FluxBackbone": FamilyFiles(("FluxPipeline", "FluxImg2ImgPipeline"), 2),
}
"""By the names of our own families of diffusion models."""

MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "TransformersBackbone": ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit"),
    "TimmBackbone": (TIMM, "timm_wrapper"),
    "LlavaBackbone": ("llava",),
    "LlavaTowerBackbone": ("llava",),  # by a registered name; a folder alone is the one above
    "QwenVisionBackbone": ("qwen2_5_vl",),
}
"""The ``model_type`` of what our own families without diffusion read, by their names."""

_MODEL_ZOO = Path(__file__).resolve().parent.parent / "model_zoo"


@dataclass(frozen=True)
class RegisteredModel:
    """What a registered name stands for.

    Attributes:
        family: a class in ``BACKBONE_REGISTRY``.
        weights: a hub id, or the path of an embedded folder.
        native_resolution: side in pixels of the square it was trained on (DINO: of its authors'
            maps of attention, its position embeddings are interpolated); None: its configuration
            says.
        gated: the hub gives it to those alone who accepted its licence.
        instead: the registered name of the same weights in an open repository, if there is one.
        model_types: of those of the family, the ones that it is; empty: any.
    """

    family: str
    weights: str
    native_resolution: int | None
    gated: bool = False
    instead: str = ""
    model_types: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The model types of its folders; of diffusion models and families of others none."""
        return self.model_types or MODEL_TYPES.get(self.family, ())


def _vit(model_type: str, weights: str, resolution: int, **options: Any) -> RegisteredModel:
    kinds = (model_type,)
    return RegisteredModel(
        "TransformersBackbone", weights, resolution, model_types=kinds, **options
    )


REGISTERED_MODELS: dict[str, RegisteredModel] = {
    "sd15": RegisteredModel(
        "StableDiffusionBackbone", "stable-diffusion-v1-5/stable-diffusion-v1-5", 512
    ),
    "sdxl": RegisteredModel(
        "StableDiffusionXLBackbone", "stabilityai/stable-diffusion-xl-base-1.0", 1024
    ),
    "pixart-alpha": RegisteredModel("PixArtBackbone", "PixArt-alpha/PixArt-XL-2-1024-MS", 1024),
    "sd35-medium": RegisteredModel(
        "StableDiffusion3Backbone", "stabilityai/stable-diffusion-3.5-medium", 1024, gated=True
    ),
    "sd35-large": RegisteredModel(
        "StableDiffusion3Backbone", "stabilityai/stable-diffusion-3.5-large", 1024, gated=True
    ),
    "flux1-dev": RegisteredModel("FluxBackbone", "black-forest-labs/FLUX.1-dev", 1024, gated=True),
    "trace-tiny": RegisteredModel("FluxBackbone", str(_MODEL_ZOO / "trace_tiny"), 128),
    "dino-vits8": _vit("vit", "facebook/dino-vits8", 480),
    "dino-vits16": _vit("vit", "facebook/dino-vits16", 480),
    "dino-vitb8": _vit("vit", "facebook/dino-vitb8", 480),
    "dino-vitb16": _vit("vit", "facebook/dino-vitb16", 480),
    "dinov2-giant": _vit("dinov2", "facebook/dinov2-giant", 518),
    "dinov2-giant-registers": _vit(
        "dinov2_with_registers", "facebook/dinov2-with-registers-giant", 518
    ),
    "dinov3-7b": _vit(
        "dinov3_vit",
        "facebook/dinov3-vit7b16-pretrain-lvd1689m",
        512,
        gated=True,
        instead="dinov3-7b-timm",
    ),
    "dinov3-7b-timm": RegisteredModel("TimmBackbone", "timm/vit_7b_patch16_dinov3.lvd1689m", 512),
    "eva02-e": RegisteredModel(
        "TimmBackbone", "timm/eva02_enormous_patch14_clip_224.laion2b_plus", 224
    ),
    "llava-1.5-13b": RegisteredModel("LlavaBackbone", "llava-hf/llava-1.5-13b-hf", None),
    "llava-1.5-13b-tower": RegisteredModel("LlavaTowerBackbone", "llava-hf/llava-1.5-13b-hf", None),
    "qwen2.5-vl-7b": RegisteredModel("QwenVisionBackbone", "Qwen/Qwen2.5-VL-7B-Instruct", None),
    "qwen2.5-vl-72b": RegisteredModel("QwenVisionBackbone", "Qwen/Qwen2.5-VL-72B-Instruct", None),
}


def canonical_name(name: str) -> str:
    """The registered name of a model that is called by it, by its hub id or by a folder named so.

    Of another folder the name without its path: the same model may lie elsewhere on another
    machine.
    """
    short = Path(name).name
    same = (key for key, model in REGISTERED_MODELS.items() if Path(model.weights).name == short)
    return short if short in REGISTERED_MODELS else next(same, short)


def family_of(source: ModelSource) -> type[AttentionBackbone]:
    """The family that reads folders of the pipeline class, or the model type, of ``source``."""
    known = []
    for _, family in BACKBONE_REGISTRY:
        kinds = family.model_types if source.model_type else family.pipeline_names
        if source.kind in kinds:
            return family
        known += kinds
    raise unknown_kind(source, known)


def unknown_kind(source: ModelSource, known: Iterable[str]) -> ValueError:
    """What to raise for a folder that no family reads; ``known`` are the kinds that one does."""
    what = "model types" if source.model_type else "pipeline classes"
    return ValueError(
        f"{source} holds a {source.kind}, which no backbone family reads"
        f"{did_you_mean(source.kind, known)}; known {what}: {', '.join(sorted(set(known)))}"
    )


def other_kind(source: ModelSource, name: str, kinds: Iterable[str]) -> ValueError:
    """What to raise where ``BACKBONE.NAME`` is ``name``, which stands for another kind."""
    return ValueError(
        f"{name} needs a folder of {', '.join(kinds)}; {source} holds a {source.kind}:"
        " correct MODEL.TRACE.BACKBONE.NAME or WEIGHTS"
    )


def source_of(settings: BackboneSettings) -> ModelSource:
    """The model that ``BACKBONE.NAME``, ``WEIGHTS`` and ``REVISION`` mean."""
    weights, index = weights_of(settings), index_of(settings.name)
    try:
        bare = bool(settings.denoiser)
        return open_model(weights, settings.revision, settings.variant, bare, index)
    except FileNotFoundError as error:
        registered = REGISTERED_MODELS.get(settings.name)
        if registered is None or not registered.instead or settings.weights:
            raise
        raise FileNotFoundError(f"{error}; {other_name(registered)}") from error


def other_name(registered: RegisteredModel) -> str:
    """What to do where a model that has an open copy cannot be had."""
    return (
        f"or set MODEL.TRACE.BACKBONE.NAME to {registered.instead}, the same weights in a"
        " repository without a gate"
    )


def without_diffusion(name: str) -> bool:
    """Whether ``BACKBONE.NAME`` means a network without noise, latent or scheduler."""
    return (index_of(name) or index_in(Path(name).expanduser())) == CONFIG


def index_of(name: str) -> str:
    """The file that tells what the model ``name`` is; empty where only its folder knows."""
    registered = REGISTERED_MODELS.get(name)
    if registered is None:
        return ""
    return CONFIG if registered.family in MODEL_TYPES else INDEX


def weights_of(settings: BackboneSettings) -> str:
    """The folder or hub id that ``BACKBONE.NAME`` and ``BACKBONE.WEIGHTS`` mean."""
    name, weights = settings.name, settings.weights
    if name in REGISTERED_MODELS:
        return weights or REGISTERED_MODELS[name].weights
    hint = did_you_mean(name, REGISTERED_MODELS)
    if weights:
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.WEIGHTS goes with a registered name, and {name!r} is none of"
            f" {', '.join(REGISTERED_MODELS)}{hint}; set BACKBONE.NAME to the folder and WEIGHTS"
            " to ''"
        )
    if not Path(name).exists():
        raise FileNotFoundError(
            f"MODEL.TRACE.BACKBONE.NAME {name!r} is neither a registered name"
            f" ({', '.join(REGISTERED_MODELS)}) nor a folder{hint or nearest_path(name)}; pass the"
            f" folder that holds {INDEX}, or the {CONFIG} of a model without diffusion"
        )
    return name
