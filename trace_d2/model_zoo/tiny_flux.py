"""trace-tiny's architecture: the classes of FLUX.1 at 1/7000 of its size, in pixel space."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import save_file

from trace_d2.io.atomic import write_json

from . import TinyFluxSize

LATENT_CHANNELS = 12
#: Pixels a latent cell spans in each direction.
VAE_FACTOR = 2
#: Pixels in -1..1 are diffused as they are. A larger factor would move the emergence point towards
#: pure noise.
SCALING_FACTOR = 1.0
#: Side in pixels of the square that images are resized to unless asked otherwise.
NATIVE_RESOLUTION = 128
_CHANNELS = 32
#: Size of the constant channels that fix the statistics of the group norm.
_ANCHOR = 1024.0
#: Width of the (empty) prompt. FLUX needs one; zeros of this width say nothing.
PROMPT_WIDTH = 8
#: Pixels a token spans in each direction: FLUX packs 2x2 latent cells.
PATCH = 2 * VAE_FACTOR


def build_denoiser(size: TinyFluxSize, seed: int = 0) -> FluxTransformer2DModel:
    """A FLUX transformer over 4x4-pixel tokens: rotary positions, RMS-normed q and k.

    Rotary positions are relative, so it reads larger images than it was trained on; learned or
    cropped sin-cos tables would tie it to the training grid.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        axis = size.head_width // 8 * 3
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENT_CHANNELS,
            num_layers=size.layers,
            num_single_layers=size.single_layers,
            attention_head_dim=size.head_width,
            num_attention_heads=size.heads,
            joint_attention_dim=PROMPT_WIDTH,
            pooled_projection_dim=PROMPT_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(size.head_width - 2 * axis, axis, axis),
        )


def build_pixel_vae(seed: int = 0) -> AutoencoderKL:
    """A VAE with ``encode(x).mode() == pixel_unshuffle(x, 2)`` and an untrained decoder.

    Code that serves FLUX.1 expects a VAE, and a learned latent of a small one loses what a small
    denoiser needs. So the encoder's weights are set by hand: a 2x2 block of pixels becomes 12
    channels. Only the decoder is learned, because nearest upsampling and convolutions cannot undo
    the reshape exactly.

    The identity holds to about 1e-5 in float32, for x of shape (B, 3, H, W) with even H and W.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(_CHANNELS, _CHANNELS),
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=1,
            scaling_factor=SCALING_FACTOR,
            shift_factor=0.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
            force_upcast=False,
            sample_size=NATIVE_RESOLUTION,
        )
    with torch.no_grad():
        _set_identity_encoder(vae)
    return vae.eval()


def _set_identity_encoder(vae: AutoencoderKL) -> None:
    """Write the encoder's weights.

    Each value is carried as the pair (x, -x): the pair leaves the mean of the group norm at 0, and
    silu(x) - silu(-x) = x passes the activation. Constant channels of size ``_ANCHOR`` fix its
    variance, so that the norm is a known factor, which its own weight undoes.
    """
    encoder = vae.encoder
    for parameter in encoder.parameters():
        parameter.zero_()  # every residual branch is off from here on

    for c in range(3):
        encoder.conv_in.weight[c, c, 1, 1] = 1.0

    # The downsampler sees a 3x3 window that starts at the block's own corner.
    downsampler = encoder.down_blocks[0].downsamplers[0].conv
    pairs = 2 * LATENT_CHANNELS
    for c in range(3):
        for k in range(VAE_FACTOR**2):
            row, column = divmod(k, VAE_FACTOR)
            value = c * VAE_FACTOR**2 + k
            downsampler.weight[value, c, row, column] = 1.0
            downsampler.weight[LATENT_CHANNELS + value, c, row, column] = -1.0
    anchors = _CHANNELS - pairs
    downsampler.bias[pairs : pairs + anchors // 2] = _ANCHOR
    downsampler.bias[pairs + anchors // 2 :] = -_ANCHOR

    encoder.conv_norm_out.weight[:pairs] = _ANCHOR * (anchors / _CHANNELS) ** 0.5
    for value in range(LATENT_CHANNELS):
        encoder.conv_out.weight[value, value, 1, 1] = 1.0
        encoder.conv_out.weight[value, LATENT_CHANNELS + value, 1, 1] = -1.0
    encoder.conv_out.bias[LATENT_CHANNELS:] = -30.0  # log variance: none


def save_flux_folder(denoiser: FluxTransformer2DModel, vae: AutoencoderKL, folder: Path) -> None:
    """Write a diffusers folder of class ``FluxPipeline`` without text encoders.

    A ``null_prompt.safetensors`` of one zero token stands in for the encoded empty prompt.
    """
    denoiser.to(torch.float32).save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    prompt = {
        "prompt_embeds": torch.zeros(1, 1, PROMPT_WIDTH),
        "pooled_prompt_embeds": torch.zeros(1, PROMPT_WIDTH),
    }
    save_file(prompt, folder / "null_prompt.safetensors")
    index = {
        "_class_name": "FluxPipeline",
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": [None, None],
        "text_encoder_2": [None, None],
        "tokenizer": [None, None],
        "tokenizer_2": [None, None],
    }
    write_json(folder / "model_index.json", index)
