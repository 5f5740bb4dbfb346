"""Weights in few bits: the packages they need, and a denoiser that is quantised as it is loaded.

"nf4" (bitsandbytes) and "int8" (torchao, weights alone) quantise the linear layers of the blocks.
What lies outside of them, the embedders and the last layers, stays as it is: it is a percent of the
weights. All is computed in the denoiser's own dtype.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.quantizers import DiffusersAutoQuantizer
from torch import nn

from .packages import METHODS, NONE, need_package


def build_config(scheme: str, model_class: type[Any], config: Any, dtype: torch.dtype) -> Any:
    """diffusers' own settings for ``scheme``, one of ``METHODS``; None for none.

    Args:
        scheme: of ``MODEL.TRACE.BACKBONE.QUANTIZE``.
        model_class, config: of the denoiser.
        dtype: that it computes in.
    """
    if scheme == NONE:
        return None
    need_package(METHODS[scheme], f"MODEL.TRACE.BACKBONE.QUANTIZE {scheme}")
    kept = modules_kept(model_class, config)
    if scheme == "nf4":
        return diffusers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        )
    from torchao.quantization import Int8WeightOnlyConfig

    return diffusers.TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)


def modules_kept(model_class: type[Any], config: Any) -> list[str]:
    """Names of the parts of a denoiser that stay in full precision: those without attention.

    The names go by single parts of a path, so one that blocks have as well (FLUX's proj_out)
    cannot be kept.
    """
    with init_empty_weights():
        model = model_class.from_config(config)
    kept = []
    for name, part in model.named_children():
        paths = [path for path, _ in part.named_modules()]
        linear = any(isinstance(module, nn.Linear) for module in part.modules())
        if linear and not any(re.search(r"(^|\.)attn", path) for path in paths):
            kept.append(name)
    inner = {part for path, _ in model.named_modules() for part in path.split(".")[1:]}
    return [name for name in kept if name not in inner]


def device_options(method: str, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told of the device on which weights are quantised.

    bitsandbytes asks for one. torchao takes a CPU for the rest of weights on a GPU, and leaves them
    as they are.
    """
    if method.startswith("bitsandbytes") or (method == "torchao" and device.type != "cpu"):
        return {"device_map": {"": device}}
    return {}


@contextlib.contextmanager
def on_any_device(device: torch.device) -> Iterator[None]:
    """Lets diffusers use bitsandbytes on a CPU: bitsandbytes itself has long been able to."""
    if device.type != "cpu":
        yield
        return
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    quantizers = bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer
    checks = [quantizer.validate_environment for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.validate_environment = lambda *_, **__: None
        yield
    finally:
        for quantizer, check in zip(quantizers, checks, strict=True):
            quantizer.validate_environment = check


def fill(
    model: Any, tensors: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype, device: Any
) -> None:
    """Fill ``model``, which is on the meta device, with ``tensors``, quantised on ``device``.

    As diffusers' ``from_pretrained`` does with a folder's; its ``from_single_file`` takes tensors
    for quantised ones that are not.
    """
    quantizer = DiffusersAutoQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model, device_map=None, state_dict=tensors, keep_in_fp32_modules=[])
    load_model_dict_into_meta(
        model,
        tensors,
        dtype=dtype,
        hf_quantizer=quantizer,
        device_map={"": device},
        keep_in_fp32_modules=[],
        unexpected_keys=[],
    )
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer


def settle(model: nn.Module) -> None:
    """Keep bitsandbytes from packing weights anew for a CPU: they could be trained on no more."""
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def by_bitsandbytes(model: Any) -> bool:
    """Whether it is bitsandbytes that quantised weights of ``model``."""
    quantizer = getattr(model, "hf_quantizer", None)
    return quantizer is not None and quantizer.quantization_config.quant_method == "bitsandbytes"


def name_of(model: Any) -> str:
    """How the weights of ``model`` are quantised, for people and descriptions; empty: not at all.

    "nf4" and "int8" as above, else "gguf", "bitsandbytes int8", or what its maker calls it.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return NONE
    config = quantizer.quantization_config
    method = getattr(config.quant_method, "value", str(config.quant_method))
    if method == "bitsandbytes":
        return config.bnb_4bit_quant_type if config.load_in_4bit else "bitsandbytes int8"
    if type(getattr(config, "quant_type", None)).__name__ == "Int8WeightOnlyConfig":
        return "int8"
    return method
