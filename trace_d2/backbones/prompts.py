"""Encoded prompts: a file of the cache each, read when an image asks for it.

All texts of a job are encoded before the denoiser is loaded, so that text encoders and denoiser
never meet. A file is megabytes (2.6 MiB in bfloat16 for SD3.5): few of them are held.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from .model_files import NULL_PROMPT, ModelSource, prompt_cache
from .null_prompt import NullPrompt, TextEncoding, cache_name, encode_texts
from .prompt_texts import PromptTexts, refuse_prompts

logger = logging.getLogger(__name__)

_HELD = 64  # prompts


class Prompts:
    """The encoded texts of images.

    Args:
        texts: what each image is told.
        files: the file of each text but the empty one.
        shapes: of the null prompt's tensors, which prompts share passes with.
    """

    def __init__(
        self, texts: PromptTexts, files: Mapping[str, Path], shapes: dict[str, tuple[int, ...]]
    ) -> None:
        self.texts, self.files, self.shapes = texts, files, shapes
        self._load = lru_cache(_HELD)(self._read)

    def of(self, text: str) -> NullPrompt:
        """The encoded ``text`` on the CPU, batch size 1."""
        return self._load(text)

    def _read(self, text: str) -> NullPrompt:
        path = self.files[text]
        try:
            prompt = NullPrompt.load(path)
            check_prompt(prompt, self.shapes, str(path))
        except (OSError, ValueError) as error:
            raise ValueError(f"the prompt {text!r}: {error}: remove {path}, run again") from error
        return prompt


def check_prompt(prompt: NullPrompt, shapes: dict[str, tuple[int, ...]], where: str) -> None:
    """Raise ValueError unless a prompt has the very ``shapes`` of the null prompt."""
    prompt.check(shapes, where)
    for key, shape in shapes.items():
        if (own := tuple(prompt.tensors[key].shape)) != shape:
            raise ValueError(
                f"{where}: {key} has shape {own}, that of the null prompt {shape}: they go into one"
                f" pass, so remove the model's {NULL_PROMPT}, or encode it as its pipeline does"
            )


def load_prompts(
    texts: PromptTexts,
    source: ModelSource,
    encoding: TextEncoding,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> Prompts:
    """Prompts of a model: those of the cache, and the others by the text encoders, run once.

    Raises:
        ValueError, FileNotFoundError: the model has no text encoders, or they cannot be used.
        OSError: the cache cannot be written, in which prompts have to be.
    """
    if not any(source.class_name(name) for name in encoding.components):
        refuse_prompts(source)
    distinct = sorted({text for text in texts.texts.values() if text})
    untold = sum(not text for text in texts.texts.values())
    if untold:
        logger.warning(
            "%s: %d of %d images have nothing to be told of: they get the null prompt",
            *(texts.path, untold, len(texts.texts)),
        )
    folder = prompt_cache() / cache_name(source, encoding, dtype, device)
    files = {text: folder / f"{_digest(text)}.safetensors" for text in distinct}
    kept = {path.name for path in folder.glob("*")}
    missing = [text for text, path in files.items() if path.name not in kept]
    if missing:
        logger.info(
            "encoding %d prompts (%d are in %s already)", len(missing), len(files) - len(missing),
            folder,
        )  # fmt: skip
    size = 0
    encoded = encode_texts(source, encoding, missing, dtype, device)
    for text, prompt in zip(missing, encoded, strict=True):
        check_prompt(prompt, shapes, f"the text encoders of {source}")
        _keep(prompt, files[text])
        size += files[text].stat().st_size
    if missing:
        logger.info("%d prompts take %.1f MiB in %s", len(missing), size / 2**20, folder)
    return Prompts(texts, files, shapes)


def _keep(prompt: NullPrompt, path: Path) -> None:
    try:
        prompt.save(path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot keep prompts in {path.parent} ({error.strerror}): set TRACE_D2_CACHE to a "
            "folder that can be written to and has room",
        ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
