"""Single files of denoisers: which they are, told by names alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trace_d2.io.hints import nearest_path
from trace_d2.io.json_files import shown
from trace_d2.io.weight_files import tensor_shapes

ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
PREFIX = "model.diffusion_model."
"""What the denoiser's tensors begin with where a file holds other models as well."""

# What other files of a model hold, by how all of their tensors begin.
_OTHERS = (
    ("a text encoder", ("text_model.", "encoder.block.", "encoder.final", "shared.", "transformer.",
                        "text_projection", "logit_scale", "cond_stage_model.", "decoder.block.")),
    ("a VAE", ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "first_stage_model.",
               "bn.", "vae.", "loss.")),
    ("a ControlNet", ("control_model.", "controlnet_", "controlnet.")),
)  # fmt: skip
_ADAPTER = (".lora_", "lora_unet_", "lora_te", ".alpha", "lora_transformer")


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a component's folder, if it holds one and no other weights are chosen."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"{folder} holds {len(files)} GGUF files ({', '.join(shown(f.name) for f in files)}):"
            " name the one in MODEL.TRACE.BACKBONE.DENOISER"
        )
    return files[0] if files else None


def check_file(path: Path, key: str) -> None:
    """Raise unless ``path``, which the config's ``key`` names, may be a denoiser's file."""
    if not path.is_file():
        raise FileNotFoundError(f"{key}: there is no file {path}{nearest_path(path)}")
    if path.suffix not in ENDINGS:
        raise ValueError(f"{key}: {path} is none of {', '.join(ENDINGS)}")
    names = tensor_shapes(path)
    if names is not None:
        check_is_denoiser(names, path)


def check_is_denoiser(names: Iterable[str], path: Path) -> None:
    """Raise a ValueError if tensors of these ``names`` are another part of a model."""
    names = list(names)
    if not names or any(name.startswith(PREFIX) for name in names):
        return
    what = next(
        (what for what, starts in _OTHERS if all(name.startswith(starts) for name in names)), ""
    )
    if all(any(part in name for part in _ADAPTER) for name in names):
        what = "a LoRA"
    if what:
        raise ValueError(
            f"{shown(str(path))} holds {what}, no denoiser: MODEL.TRACE.BACKBONE.DENOISER names the"
            " file of the U-Net or transformer, the largest of a model's files"
        )
