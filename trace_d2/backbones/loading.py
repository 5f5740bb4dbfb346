"""Device, dtype, and the parts of a model: denoiser, VAE, text encoders and scheduler."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from fvcore.common.config import CfgNode

from trace_d2.io.json_files import quoted, read_json, shown

from .model_files import ModelSource, weights_in

# What weights may hold beside a model's: buffers of former versions (PixArt-alpha has its learned
# null prompt), and the other halves of models of which a text encoder is one.
_HARMLESS = re.compile(
    r"(position_ids|inv_freq|pos_embed\.pos_embed|num_batches_tracked|y_embedding)$"
    r"|^(vision_model|visual_projection|text_projection|logit_scale|decoder|lm_head)(\.|$)"
)
# What a class is called today that was called Transformer2DModel, by its norm_type. The hub's
# PixArt-alpha is published under that name.
_TRANSFORMERS = {"ada_norm_single": "PixArtTransformer2DModel"}
_SHOWN_KEYS = 3  # names of tensors in a message
# The packages that diffusers and transformers read quantised weights by, by quant_method.
_QUANTIZATION_PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "gguf": "gguf",
    "torchao": "torchao",
    "quanto": "optimum-quanto",
    "modelopt": "nvidia-modelopt",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "hqq": "hqq",
}


def pick_device(cfg: CfgNode) -> torch.device:
    """Where the backbone runs.

    ``MODEL.TRACE.DEVICE`` says so; at "auto", ``MODEL.DEVICE`` where the config has one and it is
    not "auto", too; else it is CUDA where there is one.
    """
    key, name = "MODEL.TRACE.DEVICE", cfg.MODEL.TRACE.DEVICE
    if name == "auto":
        key, name = "MODEL.DEVICE", cfg.MODEL.get("DEVICE", "auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'{key} {name!r} cannot be used: {error}; set {key} to "cpu", or to a device that'
            " this machine has"
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
    """One model of a folder, of diffusers or transformers, on the CPU.

    Raises:
        ValueError: it is of another class, damaged or quantised by a package that is not there, or
            its weights lack a tensor of the model, have one in another shape, or hold further ones.
        FileNotFoundError: there are no weights.
    """
    folder = source.component(component)
    name = _class_name(source, component)
    if name != model_class.__name__:
        raise ValueError(
            f"{source}: {component} is a {name}; this family needs a {model_class.__name__}"
        )
    check_quantization(folder)
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
    except Exception as error:  # damaged files end in any kind of error
        raise ValueError(
            f"cannot load {folder}: {error}; its files may be truncated or belong to another"
            " model: copy or download the model again"
        ) from error
    _check_report(report, folder)
    return model


def _class_name(source: ModelSource, component: str) -> str | None:
    """The class of a component; a former name is mapped as diffusers maps it."""
    name = source.class_name(component)
    if name != "Transformer2DModel":
        return name
    return _TRANSFORMERS.get(str(load_config(source, component).get("norm_type")), name)


def load_text_encoder(source: ModelSource, component: str, dtype: torch.dtype) -> Any:
    """A text encoder, of the class of transformers that ``model_index.json`` names."""
    name = source.class_name(component)
    model_class = getattr(transformers, str(name), None)
    if model_class is None:
        raise ValueError(
            f"{source}: transformers {transformers.__version__} has no {name}, its {component}:"
            " install a newer one"
        )
    return load_model(source, model_class, component, dtype)


def check_quantization(folder: Path) -> None:
    """Raise a ValueError if the weights in ``folder`` need a package that is not installed."""
    path = folder / "config.json"
    config = read_json(path, "configuration", "copy or download the model again")
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        return
    method = settings.get("quant_method")
    if method is None and any("load_in_" in key for key in settings):
        method = "bitsandbytes"  # as its first versions wrote it
    package = _QUANTIZATION_PACKAGES.get(str(method).lower())
    if package is None:
        raise ValueError(
            f"{path}: quantization_config has the quant_method {quoted(method)}, which is not known"
            " here: pass the model in full precision"
        )
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"{folder} is quantised by {method}, which needs the package {package}: run `pip"
            f" install {package}`, or pass the model in full precision"
        ) from error


def _check_report(report: Mapping[str, Any], folder: Path) -> None:
    """Raise a ValueError if weights and model differ; tied weights need to be there once."""
    unexpected = [key for key in report["unexpected_keys"] if not _HARMLESS.search(key)]
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    for keys, what in (
        (report["missing_keys"], "lack {} of the model's tensors"),
        (mismatched, "have {} tensors of another shape than the model's"),
        (unexpected, "hold {} tensors that the model does not have"),
    ):
        if keys:
            names = ", ".join(map(shown, sorted(keys)[:_SHOWN_KEYS]))
            more = ", ..." if len(keys) > _SHOWN_KEYS else ""
            raise ValueError(
                f"the weights in {folder} {what.format(len(keys))} ({names}{more}): they belong to"
                " another model, its config.json does, or they are incomplete; copy or download the"
                " model again"
            )


def load_vae(source: ModelSource, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE, in float32 where it would overflow: SDXL's does in float16, none in bfloat16."""
    config = load_config(source, "vae")
    upcast = dtype == torch.float16 and config.get("force_upcast", True)
    return load_model(source, AutoencoderKL, "vae", torch.float32 if upcast else dtype)


def load_config(source: ModelSource, component: str) -> dict[str, Any]:
    """The configuration of a model of a folder, without its weights."""
    path = source.component(component) / "config.json"
    config = read_json(path, "configuration", "copy or download the model again")
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no configuration: copy or download the model again")
    return config


def load_scheduler(source: ModelSource) -> Any:
    """The scheduler, of the class that ``model_index.json`` names."""
    folder = source.component("scheduler")
    name = source.class_name("scheduler")
    scheduler_class = getattr(diffusers, str(name), None)
    if scheduler_class is None:
        raise ValueError(f"{source}: diffusers {diffusers.__version__} has no scheduler {name}")
    try:
        return scheduler_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the file holds
        raise ValueError(
            f"cannot read the scheduler in {folder}: {error}; copy or download the model again"
        ) from error
