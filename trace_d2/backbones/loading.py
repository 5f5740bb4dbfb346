"""Device, dtype, and the components of a model: denoiser, VAE, scheduler and null prompt."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError

from .model_files import ModelSource, weights_in
from .null_prompt import (
    FILE_NAME,
    NullPrompt,
    TextEncoding,
    cache_folder,
    encode_empty_string,
    read_cached,
    write_cached,
)

logger = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """The device that ``MODEL.TRACE.DEVICE`` means; "auto" takes CUDA where there is one.

    Raises:
        ValueError: no torch device of that name, or it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'MODEL.TRACE.DEVICE {name!r} cannot be used: {error}; set it to "auto" or "cpu"'
        ) from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that ``BACKBONE.DTYPE`` means; "auto" is float32 on the CPU, else bfloat16."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_model(
    source: ModelSource, model_class: type[Any], component: str, dtype: torch.dtype
) -> Any:
    """One diffusers model of a folder, on the CPU, with every weight accounted for.

    Raises:
        ValueError: ``model_index.json`` names another class, or the weights are damaged or do not
            fit the configuration.
        FileNotFoundError: files are missing.
    """
    folder = source.component(component)
    if source.class_name(component) != model_class.__name__:
        raise ValueError(
            f"{source}: {component} is a {source.class_name(component)}; this family needs a"
            f" {model_class.__name__}"
        )
    weights = weights_in(folder)
    try:
        model, report = model_class.from_pretrained(
            folder,
            dtype=dtype,
            variant=weights.variant,
            use_safetensors=weights.safetensors,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"cannot load {folder}: {error}; its files may be truncated or belong to another"
            " model: copy or download the model again"
        ) from error
    if report["missing_keys"]:
        raise ValueError(
            f"the weights in {folder} lack {len(report['missing_keys'])} of the model's tensors,"
            f" {report['missing_keys'][0]} for one; they belong to another model or are incomplete"
        )
    return model


def load_vae(source: ModelSource, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE, in float32 where it asks for that (SDXL's overflows in float16)."""
    config = AutoencoderKL.load_config(source.component("vae"), local_files_only=True)
    upcast = config.get("force_upcast", True)
    return load_model(source, AutoencoderKL, "vae", torch.float32 if upcast else dtype)


def load_scheduler(source: ModelSource) -> Any:
    """The scheduler, of the class that ``model_index.json`` names.

    Raises:
        ValueError: diffusers has no such class, or its configuration cannot be read.
    """
    folder = source.component("scheduler")
    name = source.class_name("scheduler")
    scheduler_class = getattr(diffusers, str(name), None)
    if scheduler_class is None:
        raise ValueError(f"{source}: diffusers {diffusers.__version__} has no scheduler {name}")
    try:
        return scheduler_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the scheduler in {folder}: {error}") from error


def load_null_prompt(
    source: ModelSource,
    encoding: TextEncoding,
    *,
    shapes: Callable[[], dict[str, tuple[int, ...]]],
    zeros: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> NullPrompt:
    """The null prompt of a model: its own file, the cache, the text encoders, or zeros.

    Args:
        source: the model.
        encoding: of its family.
        shapes: of the tensors, by the denoiser's configuration.
        zeros: in place of a ``null_prompt.safetensors`` in the folder, else of the cache, else of
            what the text encoders say, which are let go again.
        dtype: of the text encoders.
        device: where they run.

    Raises:
        ValueError: a damaged file, or damaged text encoders.
        FileNotFoundError: a model without text encoders; names both remedies.
    """
    own = source.folder / FILE_NAME
    own_prompt = NullPrompt.load(own) if own.is_file() else None
    if zeros and own_prompt:
        return NullPrompt.zeros({k: tuple(t.shape) for k, t in own_prompt.tensors.items()})
    if zeros:
        return NullPrompt.zeros(shapes())
    if own_prompt:
        return own_prompt
    dtype_name = str(dtype).removeprefix("torch.")
    identity = source.identity(encoding.components)[:24]
    path = cache_folder() / "null_prompts" / f"{identity}-{dtype_name}.safetensors"
    cached = read_cached(path)
    if cached:
        return cached
    null_prompt = _encode(source, encoding, dtype, device)
    write_cached(path, null_prompt)
    return null_prompt


def _encode(
    source: ModelSource, encoding: TextEncoding, dtype: torch.dtype, device: torch.device
) -> NullPrompt:
    try:
        folders = {name: source.component(name) for name in encoding.components}
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the null prompt needs the text encoders, and {error}. Or set"
            f' MODEL.TRACE.BACKBONE.NULL_PROMPT to "zeros", or put a {FILE_NAME} into the folder'
        ) from error
    pipeline_class = getattr(diffusers, source.pipeline_name)
    # Everything else the pipeline could hold is left out: denoiser, VAE, safety checker, ...
    parameters = set(inspect.signature(pipeline_class.__init__).parameters) & set(source.index)
    left_out = {name for name in parameters if isinstance(source.index[name], list)} - set(folders)
    options: dict[str, Any] = dict.fromkeys(left_out)
    if "requires_safety_checker" in parameters:
        options["requires_safety_checker"] = False
    logger.info("encoding the empty string with the text encoders of %s, once", source)
    try:
        pipeline = pipeline_class.from_pretrained(
            source.folder,
            **options,
            dtype=dtype,
            variant=weights_in(folders["text_encoder"]).variant,
            local_files_only=True,
        )
        return encode_empty_string(pipeline, encoding.outputs, device)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"the text encoders of {source} could not encode the null prompt: {error}; copy or"
            ' download them again, or set MODEL.TRACE.BACKBONE.NULL_PROMPT to "zeros"'
        ) from error
