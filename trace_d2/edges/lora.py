"""Low-rank adapters (LoRA) on a denoiser, by peft."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence, Set
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from .settings import LoraSettings

ADAPTER = "trace"

# Where diffusers' denoisers keep their layers. Those of the prompt's own stream (add_*, *_context)
# stay as they are: the prompt is always the same. attn2 is cross-attention in some denoisers and
# SD3.5's second self-attention, so it is taken.
_KINDS: dict[str, re.Pattern[str]] = {
    "attention": re.compile(r"(^|\.)attn\d?\.(to_q|to_k|to_v|to_out\.0)$"),
    "feed_forward": re.compile(
        r"(^|\.)(ff\.net\.0\.proj|ff\.net\.2)$|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)$"
    ),
}


def lora_layers(denoiser: nn.Module, kinds: Sequence[str]) -> list[str]:
    """Names of the linear layers of the given kinds, in the order of the modules."""
    linear = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    for kind in kinds:
        if not any(_KINDS[kind].search(name) for name in linear):
            raise ValueError(f"{type(denoiser).__name__} has no layers of the kind {kind!r}")
    return [name for name in linear if any(_KINDS[kind].search(name) for kind in kinds)]


def partly_adapted(denoiser: nn.Module, adapted: Set[str]) -> list[str]:
    """Layers that have no adapter although others of their kind have one; ``adapted`` are those."""
    linear = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    lacking = []
    for pattern in _KINDS.values():
        layers = [name for name in linear if pattern.search(name)]
        if not adapted.isdisjoint(layers):
            lacking += [name for name in layers if name not in adapted]
    return lacking


def add_lora(denoiser: Any, settings: LoraSettings) -> None:
    """Add trainable adapters that change nothing yet: W + alpha / rank * B A, with B = 0.

    They are float32 whatever the type of ``denoiser``, for the optimizer's sake.
    """
    from peft import LoraConfig  # takes seconds, which a teacher need not wait

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or settings.rank,
        target_modules=lora_layers(denoiser, settings.layers),
        init_lora_weights=True,
    )
    make_adaptable(denoiser)
    denoiser.add_adapter(config, ADAPTER)
    float32_adapters(denoiser)


def make_adaptable(denoiser: Any) -> None:
    """Give ``denoiser`` diffusers' methods for adapters where its class lacks them (PixArt's)."""
    from diffusers.loaders.peft import PeftAdapterMixin

    if not isinstance(denoiser, PeftAdapterMixin):
        kind = type(denoiser)
        denoiser.__class__ = type(kind.__name__, (kind, PeftAdapterMixin), {})


def float32_adapters(denoiser: nn.Module) -> None:
    """Turn the adapters' weights alone to float32."""
    for name, parameter in denoiser.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.float32)


def adapter_file(denoiser: Any) -> bytes:
    """The adapters as a safetensors file that diffusers' ``load_lora_adapter`` reads.

    diffusers' own ``save_lora_adapter`` fails where weights are quantised.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from peft.utils import get_peft_model_state_dict

    settings = denoiser.peft_config[ADAPTER].to_dict()
    listed = {key: sorted(v) if isinstance(v, set) else v for key, v in settings.items()}
    described = json.dumps(listed, indent=2, sort_keys=True)
    tensors = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return save(plain, {"format": "pt", LORA_ADAPTER_METADATA_KEY: described})


def merge_lora_adapters(denoiser: Any) -> None:
    """Add the adapters to the weights and remove them: nothing of them is left to compute."""
    denoiser.fuse_lora(adapter_names=[ADAPTER])
    denoiser.unload_lora()
