"""The null prompt: the encoded empty string, computed once and kept as a small file.

The file is safetensors with diffusers' own names: ``prompt_embeds`` (1, tokens, channels) and,
where the family has them, ``pooled_prompt_embeds`` (1, channels) and ``prompt_attention_mask``
(1, tokens).
"""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trace_d2.io.atomic import write_bytes

logger = logging.getLogger(__name__)

# A file of this name inside a model folder is taken before anything else.
FILE_NAME = "null_prompt.safetensors"


@dataclass(frozen=True)
class NullPrompt:
    """Tensors of the null prompt by diffusers' names, batch size 1, on the CPU."""

    tensors: dict[str, Tensor]

    @classmethod
    def zeros(cls, shapes: dict[str, tuple[int, ...]]) -> NullPrompt:
        """Zeros of the given shapes; of a mask, one token is kept, as attention needs a key."""
        tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
        if "prompt_attention_mask" in tensors:
            mask = torch.zeros(shapes["prompt_attention_mask"], dtype=torch.int64)
            mask[:, 0] = 1
            tensors["prompt_attention_mask"] = mask
        return cls(tensors)

    @classmethod
    def load(cls, path: Path) -> NullPrompt:
        """Read a file.

        Raises:
            ValueError: it is no safetensors file, or is truncated.
        """
        try:
            return cls(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error

    def save(self, path: Path) -> None:
        """Write the file whole or not at all; its folder is made if it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({key: tensor.contiguous() for key, tensor in self.tensors.items()}))

    def check(self, shapes: dict[str, tuple[int, ...]], where: str) -> None:
        """Raise ValueError unless the tensors are those of ``shapes``, up to the token count."""
        if set(self.tensors) != set(shapes):
            raise ValueError(
                f"{where}: the null prompt holds {sorted(self.tensors)}, the denoiser takes"
                f" {sorted(shapes)}"
            )
        tokens = self.tensors["prompt_embeds"].shape[1]
        for key, shape in shapes.items():
            expected = (1, *shape[1:])
            if key != "pooled_prompt_embeds":
                expected = (1, tokens, *shape[2:])
            if tuple(self.tensors[key].shape) != expected:
                raise ValueError(
                    f"{where}: {key} of the null prompt has shape"
                    f" {tuple(self.tensors[key].shape)}, the denoiser takes {expected}"
                )


@dataclass(frozen=True)
class TextEncoding:
    """How a family's pipeline makes the null prompt.

    Attributes:
        encoders: how many text encoders it has, each with its tokenizer.
        outputs: where its ``encode_prompt`` returns each tensor.
    """

    encoders: int
    outputs: dict[str, int]

    @property
    def components(self) -> tuple[str, ...]:
        """Names in ``model_index.json``."""
        ends = ["", *(f"_{number}" for number in range(2, self.encoders + 1))]
        return tuple(f"{part}{end}" for end in ends for part in ("text_encoder", "tokenizer"))


def cache_folder() -> Path:
    """``$TRACE_D2_CACHE``, else ``~/.cache/trace_d2``."""
    chosen = os.environ.get("TRACE_D2_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "trace_d2"


def read_cached(path: Path) -> NullPrompt | None:
    """The cached null prompt, or None where there is none or it is damaged (which is logged)."""
    if not path.is_file():
        return None
    try:
        return NullPrompt.load(path)
    except ValueError as error:
        logger.warning("computing the null prompt again: %s", error)
        return None


def write_cached(path: Path, null_prompt: NullPrompt) -> None:
    """Keep the null prompt; a cache that cannot be written costs only the next run's time."""
    try:
        null_prompt.save(path)
    except OSError as error:
        logger.warning(
            "cannot keep the null prompt (%s); set TRACE_D2_CACHE to a writable folder, or every"
            " run loads the text encoders again",
            error,
        )


@torch.no_grad()
def encode_empty_string(pipeline: Any, outputs: dict[str, int], device: torch.device) -> NullPrompt:
    """The empty string through the ``encode_prompt`` of a diffusers pipeline, run on ``device``.

    Of ``outputs`` see ``TextEncoding``; the tensors are on the CPU, in the text encoders' dtype.
    """
    pipeline.to(device)
    arguments: dict[str, Any] = {
        "prompt": "",
        "prompt_2": None,
        "prompt_3": None,
        "device": device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    taken = inspect.signature(pipeline.encode_prompt).parameters
    encoded = pipeline.encode_prompt(**{k: v for k, v in arguments.items() if k in taken})
    return NullPrompt({key: encoded[place].cpu().clone() for key, place in outputs.items()})
