"""Weights of tiny denoisers under the names of their makers, as single files have them.

``in_original_names(denoiser)`` gives the tensors of a diffusers model of Stable Diffusion 1 or XL,
SD3 or FLUX so. It is the reverse of what diffusers does when it reads such a file, written from the
published checkpoints' layout.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

PREFIX = "model.diffusion_model."


def in_original_names(denoiser: Any) -> dict[str, Tensor]:
    """The tensors without ``PREFIX``, contiguous."""
    makers = {
        "UNet2DConditionModel": _unet,
        "SD3Transformer2DModel": _sd3,
        "FluxTransformer2DModel": _flux,
    }
    tensors = makers[type(denoiser).__name__](denoiser.state_dict(), denoiser.config)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _unet(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    layers = config.layers_per_block + 1
    outer = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }

    def resnet(rest: str) -> str:
        part, end = rest.split(".")
        return f"{inner[part]}.{end}"

    named = {}
    for key, tensor in state.items():
        module, end = key.rsplit(".", 1)
        match = re.match(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)", key)
        if module in outer:
            named[f"{outer[module]}.{end}"] = tensor
            continue
        side, block, kind, place, rest = match.groups()
        if side == "mid":
            number = 1 if kind == "attentions" else 2 * int(place)
            where = f"middle_block.{number}"
        elif kind in ("downsamplers", "upsamplers"):
            number = int(block) * layers + layers - 1
            down = f"input_blocks.{number + 1}.0.op"
            attended = any(f"up_blocks.{block}.attentions" in other for other in state)
            up = f"output_blocks.{number}.{2 if attended else 1}.conv"
            named[f"{down if side == 'down' else up}.{end}"] = tensor
            continue
        else:
            number = int(block) * layers + int(place)
            blocks = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
            where = f"{blocks}.{1 if kind == 'attentions' else 0}"
        named[f"{where}.{rest if kind == 'attentions' else resnet(rest)}"] = tensor
    return named


def _sd3(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    last = config.num_layers - 1
    names = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
    }
    swapped = {"norm_out.linear": "final_layer.adaLN_modulation.1"}
    joined = {}
    for i in range(config.num_layers):
        block, x, text = (
            f"transformer_blocks.{i}.",
            f"joint_blocks.{i}.x_block.",
            f"joint_blocks.{i}.context_block.",
        )
        for ours, theirs in (("attn", x + "attn"), ("attn2", x + "attn2")):
            joined[theirs + ".qkv"] = [block + ours + end for end in (".to_q", ".to_k", ".to_v")]
            names[f"{block}{ours}.norm_q"] = f"{theirs}.ln_q"
            names[f"{block}{ours}.norm_k"] = f"{theirs}.ln_k"
            names[f"{block}{ours}.to_out.0"] = f"{theirs}.proj"
        joined[text + "attn.qkv"] = [f"{block}attn.add_{part}_proj" for part in "qkv"]
        names[block + "attn.norm_added_q"] = text + "attn.ln_q"
        names[block + "attn.norm_added_k"] = text + "attn.ln_k"
        names[block + "attn.to_add_out"] = text + "attn.proj"
        names[block + "norm1.linear"] = x + "adaLN_modulation.1"
        # The last block's text is normed as the output is.
        (swapped if i == last else names)[block + "norm1_context.linear"] = (
            text + "adaLN_modulation.1"
        )
        for ours, theirs in (("ff", x), ("ff_context", text)):
            names[f"{block}{ours}.net.0.proj"] = theirs + "mlp.fc1"
            names[f"{block}{ours}.net.2"] = theirs + "mlp.fc2"
    return _renamed(state, names, swapped, joined)


def _flux(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    names = {"context_embedder": "txt_in", "x_embedder": "img_in", "proj_out": "final_layer.linear"}
    swapped = {"norm_out.linear": "final_layer.adaLN_modulation.1"}
    joined = {}
    for ours, theirs in (
        ("timestep_embedder", "time_in"),
        ("text_embedder", "vector_in"),
        ("guidance_embedder", "guidance_in"),
    ):
        names[f"time_text_embed.{ours}.linear_1"] = f"{theirs}.in_layer"
        names[f"time_text_embed.{ours}.linear_2"] = f"{theirs}.out_layer"
    for i in range(config.num_layers):
        block, there = f"transformer_blocks.{i}.", f"double_blocks.{i}."
        joined[there + "img_attn.qkv"] = [f"{block}attn.to_{part}" for part in "qkv"]
        joined[there + "txt_attn.qkv"] = [f"{block}attn.add_{part}_proj" for part in "qkv"]
        for ours, theirs, added in (("ff", "img", ""), ("ff_context", "txt", "added_")):
            names[f"{block}{ours}.net.0.proj"] = f"{there}{theirs}_mlp.0"
            names[f"{block}{ours}.net.2"] = f"{there}{theirs}_mlp.2"
            for part, long in (("q", "query"), ("k", "key")):
                scale = f"{there}{theirs}_attn.norm.{long}_norm.scale"
                names[f"{block}attn.norm_{added}{part}.weight"] = scale
        names[block + "norm1.linear"] = there + "img_mod.lin"
        names[block + "norm1_context.linear"] = there + "txt_mod.lin"
        names[block + "attn.to_out.0"] = there + "img_attn.proj"
        names[block + "attn.to_add_out"] = there + "txt_attn.proj"
    for i in range(config.num_single_layers):
        block, there = f"single_transformer_blocks.{i}.", f"single_blocks.{i}."
        joined[there + "linear1"] = [
            *(f"{block}attn.to_{part}" for part in "qkv"),
            block + "proj_mlp",
        ]
        names[block + "norm.linear"] = there + "modulation.lin"
        names[block + "proj_out"] = there + "linear2"
        for part, long in (("q", "query"), ("k", "key")):
            names[f"{block}attn.norm_{part}.weight"] = f"{there}norm.{long}_norm.scale"
    return _renamed(state, names, swapped, joined)


def _renamed(
    state: dict[str, Tensor],
    names: dict[str, str],
    swapped: dict[str, str],
    joined: dict[str, list[str]],
) -> dict[str, Tensor]:
    """``names`` by new name; ``swapped`` with their halves exchanged; ``joined`` one by one."""
    made, left = {}, dict(state)
    for theirs, parts in joined.items():
        for end in (".weight", ".bias"):
            if parts[0] + end in left:
                made[theirs + end] = torch.cat([left.pop(part + end) for part in parts])
    for key, tensor in left.items():
        module, _, end = key.rpartition(".")
        if key in names:
            made[names[key]] = tensor
        elif module in names:
            made[f"{names[module]}.{end}"] = tensor
        else:
            first, second = tensor.chunk(2)
            made[f"{swapped[module]}.{end}"] = torch.cat([second, first])
    return made
