"""Device, dtype, and the components of a model: denoiser, VAE and scheduler."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from fvcore.common.config import CfgNode
from safetensors import SafetensorError

from .model_files import ModelSource, weights_in


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
    """One diffusers model of a folder, on the CPU, with every weight accounted for."""
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
    """The scheduler, of the class that ``model_index.json`` names."""
    folder = source.component("scheduler")
    name = source.class_name("scheduler")
    scheduler_class = getattr(diffusers, str(name), None)
    if scheduler_class is None:
        raise ValueError(f"{source}: diffusers {diffusers.__version__} has no scheduler {name}")
    try:
        return scheduler_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the scheduler in {folder}: {error}") from error
