"""What can be known to be wrong with a backbone before PyTorch is imported or the hub is asked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from huggingface_hub import constants, get_token

from trace_d2.complaints import Complaints
from trace_d2.devices import backbone_device, check_device
from trace_d2.io.json_files import read_json
from trace_d2.io.weight_files import tensor_shapes

from .denoiser_files import check_file, gguf_in
from .model_files import (
    DENOISERS,
    NULL_PROMPT,
    ModelSource,
    cached_model,
    is_complete,
    is_path,
    null_prompt_cache,
    open_model,
    weight_files,
    weights_in,
)
from .multimodal_files import VISION_TOWERS, check_tokenizer, part_files
from .network_config import check_network
from .packages import METHODS, need_package, stored_method
from .prompt_texts import read_prompts, refuse_prompts
from .registry import (
    BACKBONE_REGISTRY,
    FAMILY_FILES,
    MODEL_TYPES,
    REGISTERED_MODELS,
    RegisteredModel,
    index_of,
    other_kind,
    other_name,
    unknown_kind,
    weights_of,
)
from .settings import BackboneSettings
from .versions import check_versions
from .vision_model_files import (
    CLIP,
    IMAGENET,
    check_precision,
    check_timm,
    check_whole,
    need_timm,
    pixel_statistics,
)


def check_backbone(cfg: CfgNode) -> None:
    """Raise what ``build_backbone`` would, as far as it can be known; all of it at once.

    Nothing is loaded or downloaded. What a hub model lacks is known where ``HF_HUB_OFFLINE`` is
    set, and of a folder which files it lacks and which are not whole.

    Raises:
        ConfigError, ValueError, OSError, ImportError: as ``build_backbone``.
    """
    wrong = Complaints()
    wrong.of(check_versions)
    name, key = backbone_device(cfg)
    if name != "auto":
        wrong.of(check_device, name, key)
    settings = wrong.of(BackboneSettings.from_config, cfg)
    if settings is not None:
        registered = REGISTERED_MODELS.get(settings.name)
        if registered and registered.family in MODEL_TYPES:
            wrong.of(_check_network, settings, registered.family)
        else:
            wrong.of(_check_options, settings)
        if settings.denoiser:
            wrong.of(_check_denoiser, settings)
        if settings.prompts:
            wrong.of(read_prompts, settings.prompts)
        source = wrong.of(_source_at_hand, settings)
        if source is not None:
            blocks = cfg.MODEL.TRACE.ATTENTION.BLOCKS
            wrong.of(_check_source, source, settings, blocks)
    wrong.end()


def _check_network(settings: BackboneSettings, family: str) -> None:
    """Raise for what a network without diffusion cannot do, and for packages that it needs."""
    wrong = Complaints()
    wrong.of(settings.check_without_diffusion)
    if family == "TimmBackbone":
        wrong.of(need_timm, f"MODEL.TRACE.BACKBONE.NAME {settings.name}")
    wrong.end()


def _check_options(settings: BackboneSettings) -> None:
    if settings.quantize:
        method = METHODS[settings.quantize]
        need_package(method, f"MODEL.TRACE.BACKBONE.QUANTIZE {settings.quantize}")
    if settings.quantize == "nf4" and settings.offloading == "group":
        raise ValueError(
            "MODEL.TRACE.BACKBONE.OFFLOAD group cannot move weights that are quantised as nf4: set "
            'it to "model" or "none", or take GGUF or QUANTIZE int8'
        )


def _check_denoiser(settings: BackboneSettings) -> None:
    path = Path(settings.denoiser).expanduser()
    check_file(path, "MODEL.TRACE.BACKBONE.DENOISER")
    if path.suffix == ".gguf":
        need_package("gguf", f"{path} is a GGUF file, which")
        if settings.quantize:
            raise ValueError(
                f"{path} is quantised already: leave MODEL.TRACE.BACKBONE.QUANTIZE empty, or pass "
                "the model in full precision"
            )


def _source_at_hand(settings: BackboneSettings) -> ModelSource | None:
    """The model, if its files are here; None where the hub has to be asked."""
    weights, bare = weights_of(settings), bool(settings.denoiser)
    options = (settings.revision, settings.variant, bare, index_of(settings.name))
    if is_path(weights):
        return open_model(weights, *options)
    if constants.HF_HUB_OFFLINE:
        return cached_model(weights, *options)
    _check_gate(settings, options)
    return None


def _check_gate(settings: BackboneSettings, options: tuple[str, str, bool, str]) -> None:
    """Raise for a gated model that is not here yet, where nobody is logged in to the hub."""
    registered = REGISTERED_MODELS[settings.name]
    elsewhere = settings.weights or os.environ.get("HF_ENDPOINT")
    if not registered.gated or elsewhere or get_token():
        return
    with contextlib.suppress(FileNotFoundError):
        cached_model(registered.weights, *options)
        return
    instead = f", {other_name(registered)}" if registered.instead else ""
    raise FileNotFoundError(
        f"{registered.weights} is gated, and nobody is logged in to the hub: accept its licence at"
        f" https://huggingface.co/{registered.weights} and run `hf auth login`, or download it"
        f" elsewhere and pass its folder as MODEL.TRACE.BACKBONE.WEIGHTS{instead}"
    )


def _check_source(source: ModelSource, settings: BackboneSettings, blocks: Any) -> None:
    """Raise unless the folder of ``source`` is of the family, with all files that are needed."""
    registered = REGISTERED_MODELS.get(settings.name)
    family = _family_of(source, registered)
    if family is None:
        return
    if family in MODEL_TYPES:
        wrong = Complaints()
        if registered is None:
            wrong.of(settings.check_without_diffusion)
        wrong.of(check_network, source, family, settings, _listed(blocks))
        wrong.of(_check_without_components, source, family, registered is not None)
        wrong.end()
        return
    parts = {name: True for name in DENOISERS if source.class_name(name)}
    wrong = Complaints()
    if not parts:
        wrong.say(
            f"{source} has no denoiser: model_index.json must name a unet or a transformer; copy "
            "or download the model again"
        )
    parts |= {"vae": True, "scheduler": False}
    own = FAMILY_FILES[family].text_parts
    if settings.prompts and not any(map(source.class_name, own)):
        wrong.of(refuse_prompts, source)
    elif _needs_text(source, settings):
        parts |= {name: name.startswith("text_encoder") for name in own}
    for name, weighted in parts.items():
        wrong.of(_check_part, source, name, weighted, settings)
    wrong.end()


def _listed(blocks: Any) -> list[Any]:
    """``blocks`` as far as they can be looked through; what they must be is said elsewhere."""
    return list(blocks) if isinstance(blocks, (list, tuple)) else []


def _family_of(source: ModelSource, wanted: RegisteredModel | None) -> str | None:
    """The family of our own that ``source`` is of; None where it is of somebody else's.

    Raises:
        ValueError: it is not what is ``wanted``, or of no family that is known.
    """
    if source.model_type:
        own = MODEL_TYPES
        others = [kind for _, family in BACKBONE_REGISTRY for kind in family.model_types]
    else:
        own = {name: files.pipelines for name, files in FAMILY_FILES.items()}
        others = [kind for _, family in BACKBONE_REGISTRY for kind in family.pipeline_names]
    if wanted is not None:
        kinds = wanted.kinds or own.get(wanted.family, ())
        if kinds and source.kind not in kinds:
            raise other_kind(source, "MODEL.TRACE.BACKBONE.NAME", kinds)
        return wanted.family if kinds else None
    found = next((name for name, kinds in own.items() if source.kind in kinds), None)
    if found is None and source.kind not in others:
        raise unknown_kind(source, [*others, *(kind for kinds in own.values() for kind in kinds)])
    return found


def _check_without_components(source: ModelSource, family: str, registered: bool) -> None:
    """Raise unless the folder holds what a ``family`` without diffusion reads of it."""
    wrong = Complaints()
    if family in VISION_TOWERS:
        wrong.of(check_precision, source.folder)
        wrong.of(part_files, source, VISION_TOWERS[family])
    else:
        wrong.of(_check_whole, source)
    if family == "LlavaBackbone":
        wrong.of(check_tokenizer, source.folder)
    if family == "TimmBackbone":
        wrong.of(check_timm, source.folder)
    else:
        known = IMAGENET if family == "TransformersBackbone" else CLIP
        wrong.of(pixel_statistics, source.folder, known if registered else None)
    wrong.end()


def _check_whole(source: ModelSource) -> None:
    """Raise unless a model without components is there, in full precision and with all weights."""
    if source.hub_id and not is_complete(source.folder, source.variant, True):
        raise FileNotFoundError(_not_cached(source, str(source)))
    check_whole(source.folder, source.variant)


def _needs_text(source: ModelSource, settings: BackboneSettings) -> bool:
    """Whether the text encoders of a folder will be read, as far as can be told."""
    if source.hub_id or (settings.null_prompt != "encoded" and not settings.prompts):
        return False
    if settings.prompts:
        return True
    return not ((source.folder / NULL_PROMPT).is_file() or any(null_prompt_cache().glob("*")))


def _check_part(source: ModelSource, name: str, weighted: bool, settings: BackboneSettings) -> None:
    """Raise unless the part ``name`` is there, with whole weights if it has any."""
    if source.class_name(name) is None and name not in source.index:
        raise FileNotFoundError(
            f"{source} has no {name}: model_index.json must name its class; copy or download the "
            "model again"
        )
    folder = source.folder / name
    denoiser = name in DENOISERS
    bare = source.bare and denoiser
    if source.hub_id and not is_complete(folder, source.variant if denoiser else "", not bare):
        raise FileNotFoundError(_not_cached(source, f"{source} ({name})"))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{source} has no {name}: the folder {folder} must hold its files; copy or download "
            "the model again"
        )
    if not weighted:
        return
    read_json(folder / "config.json", "configuration", "copy or download the model again")
    if bare or (denoiser and not weight_files(folder) and gguf_in(folder)):
        return
    if stored_method(folder) and denoiser and settings.quantize:
        raise ValueError(
            f"{folder} is quantised already: leave MODEL.TRACE.BACKBONE.QUANTIZE empty"
        )
    for file in weights_in(folder, source.variant, must=denoiser).names:
        tensor_shapes(folder / file)


def _not_cached(source: ModelSource, what: str) -> str:
    return (
        f"{what} is not in the local cache, and HF_HUB_OFFLINE is set: run `hf download {source}`"
        " with network access and HF_HUB_OFFLINE unset"
    )
