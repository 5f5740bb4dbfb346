"""Tiny random models of the published classes, saved to disk as a user's would be."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

_DIFFUSION = "diffusion", "save_tiny_pipeline"
_VITS, _TIMM = ("vits", "save_tiny_vit"), ("vits", "save_tiny_timm")
_SAVERS = {
    **dict.fromkeys(("sd15", "sdxl", "pixart", "sd3", "flux"), _DIFFUSION),
    **dict.fromkeys(("vit", "dinov2", "dinov2_with_registers", "dinov3_vit"), _VITS),
    **dict.fromkeys(("eva02-e", "dinov3-7b"), _TIMM),
    **dict.fromkeys(("llava", "qwen2_5_vl"), ("multimodal", "save_tiny_multimodal")),
    **dict.fromkeys(("sam", "sam_hq", "sam2_video"), ("sam", "save_tiny_sam")),
}


def save_tiny_model(name: str, folder: Path) -> Path:
    """Write the tiny model ``name`` of ``_SAVERS`` to ``folder``, unless it is there; returns it.

    Each library is imported when it is first asked for.
    """
    if not folder.is_dir():
        module, save = _SAVERS[name]
        folder.mkdir(parents=True)
        getattr(import_module(f"miniature.models.{module}"), save)(name, folder)
    return folder
