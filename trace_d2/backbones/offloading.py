"""Models that rest in main memory and are on the device only while they run.

"model" moves VAE and denoiser as a whole, once an image. "group" keeps the VAE on the device and
moves the denoiser block by block, in every pass, on CUDA while the block before it runs: what it
takes there are two blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading, group_offloading
from torch import nn

from . import quantization

_REST = torch.device("cpu")


def concrete(device: torch.device) -> torch.device:
    """``device`` with its number, which "cuda" leaves open."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def offload_models(vae: nn.Module, denoiser: nn.Module, device: torch.device) -> None:
    """Let both rest in main memory; the one that runs is moved to ``device``, the other back."""
    _, vae_hook = cpu_offload_with_hook(vae, device)
    _, denoiser_hook = cpu_offload_with_hook(denoiser, device, vae_hook)
    # accelerate chains one way; images come one after another, so close the circle.
    vae_hook.hook.prev_module_hook = denoiser_hook


def offload_groups(denoiser: nn.Module, device: torch.device) -> None:
    """Let ``denoiser`` rest in main memory; its blocks are moved to ``device`` one by one.

    Raises:
        ValueError: its weights are of bitsandbytes, whose scales diffusers would leave behind.
    """
    name = quantization.name_of(denoiser)
    if quantization.by_bitsandbytes(denoiser):
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.OFFLOAD group cannot move weights that are quantised as {name}:"
            ' set it to "model" or "none", or take GGUF or QUANTIZE int8'
        )
    streams = device.type == "cuda"
    apply_group_offloading(
        denoiser,
        onload_device=device,
        offload_device=_REST,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=streams,
        record_stream=streams,
    )


def renew_groups(denoiser: Any) -> None:
    """After weights were added or changed: what is moved are the new ones. Else nothing."""
    group_offloading._maybe_remove_and_reapply_group_offloading(denoiser)


def end_pass(denoiser: nn.Module) -> None:
    """After a pass that an exception left: blocks that it left on the device go to rest."""
    for module in denoiser.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is None:
            continue
        order = registry.get_hook(group_offloading._LAZY_PREFETCH_GROUP_OFFLOADING)
        if order is not None:
            order.execution_order.clear()  # the order of a whole pass is what is looked for
        hook = registry.get_hook(group_offloading._GROUP_OFFLOADING)
        if hook is not None and hook.group.offload_leader is module:
            hook.group.offload_()
