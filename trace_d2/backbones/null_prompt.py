"""The null prompt: the encoded empty string, computed once and kept as a small file.

Other prompts are encoded and kept in the same way (``prompts``).

The file is safetensors with diffusers' own names: ``prompt_embeds`` (1, tokens, channels) and,
where the family has them, ``pooled_prompt_embeds`` (1, channels) and ``prompt_attention_mask``
(1, tokens).
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trace_d2.io.atomic import write_bytes

from .loading import load_text_encoder
from .model_files import NULL_PROMPT, ModelSource, null_prompt_cache

logger = logging.getLogger(__name__)

# A file of this name inside a model folder is taken before anything else.
# Part of the names in the cache: files of the first format may come from incomplete weights.
_CACHE_FORMAT = 2


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
        """Read a file; a ValueError if it is no whole safetensors file, an OSError as ever."""
        try:
            return cls(load(path.read_bytes()))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error

    def save(self, path: Path) -> None:
        """Write the file whole or not at all; its folder is made if it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({key: tensor.contiguous() for key, tensor in self.tensors.items()}))

    def check(self, shapes: dict[str, tuple[int, ...]], where: str) -> None:
        """Raise ValueError unless the tensors are those of ``shapes``, up to the token count.

        And unless their values are numbers: text encoders overflow in float16.
        """
        if set(self.tensors) != set(shapes):
            raise ValueError(
                f"{where}: the null prompt holds {sorted(self.tensors)}, the denoiser takes"
                f" {sorted(shapes)}"
            )
        tokens = self.tensors["prompt_embeds"].shape[1:2].numel()
        for key, shape in shapes.items():
            expected = shape if key == "pooled_prompt_embeds" else (1, tokens, *shape[2:])
            if tuple(self.tensors[key].shape) != expected:
                raise ValueError(
                    f"{where}: {key} of the null prompt has shape"
                    f" {tuple(self.tensors[key].shape)}, the denoiser takes {expected}"
                )
            if not self.tensors[key].isfinite().all():
                raise ValueError(
                    f"{where}: {key} of the null prompt holds values that are no numbers: set"
                    " MODEL.TRACE.BACKBONE.DTYPE to bfloat16 or float32, or copy or download the"
                    " text encoders again"
                )


@dataclass(frozen=True)
class TextEncoding:
    """How a family's pipeline makes the null prompt.

    Attributes:
        components: its text encoders and tokenizers, by their names in ``model_index.json``.
        outputs: where its ``encode_prompt`` returns each tensor.
    """

    components: tuple[str, ...]
    outputs: dict[str, int]


def load_null_prompt(
    source: ModelSource,
    encoding: TextEncoding,
    *,
    shapes: Callable[[], dict[str, tuple[int, ...]]],
    zeros: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> NullPrompt:
    """The null prompt of a model: its own file, else the cache, else the text encoders.

    ``zeros`` stand in for it, of the shapes of the model's own file or else of ``shapes``. Text
    encoders run in ``dtype`` on ``device``, and are let go again.
    """
    own_file = source.folder / NULL_PROMPT
    own = NullPrompt.load(own_file) if own_file.is_file() else None
    if zeros:
        own_shapes = own and {key: tuple(tensor.shape) for key, tensor in own.tensors.items()}
        return NullPrompt.zeros(own_shapes or shapes())
    if own:
        return own
    name = f"{cache_name(source, encoding, dtype, device)}.safetensors"
    path = null_prompt_cache() / name
    try:
        if path.is_file():
            kept = NullPrompt.load(path)
            kept.check(shapes(), str(path))
            return kept
    except (OSError, ValueError) as error:
        logger.warning("computing the null prompt again: %s", error)
    null_prompt = _encode(source, encoding, dtype, device)
    null_prompt.check(shapes(), f"the text encoders of {source}")
    try:
        null_prompt.save(path)
    except OSError as error:
        logger.warning(
            "cannot keep the null prompt (%s); set TRACE_D2_CACHE to a writable folder, or every"
            " run loads the text encoders again",
            error,
        )
    return null_prompt


def cache_name(
    source: ModelSource, encoding: TextEncoding, dtype: torch.dtype, device: torch.device
) -> str:
    """Of all that decides the content of what is kept of a text, but the text."""
    kind = f"{str(dtype).removeprefix('torch.')}-{device.type}"
    return f"{source.identity(encoding.components)[:24]}-{kind}-{_CACHE_FORMAT}"


def _encode(
    source: ModelSource, encoding: TextEncoding, dtype: torch.dtype, device: torch.device
) -> NullPrompt:
    logger.info("encoding the empty string with the text encoders of %s, once", source)
    return next(encode_texts(source, encoding, [""], dtype, device))


def encode_texts(
    source: ModelSource,
    encoding: TextEncoding,
    texts: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[NullPrompt]:
    """Each of ``texts`` through the text encoders, which are loaded once and let go at the end.

    They run in ``dtype`` on ``device``, or on the CPU where that has no room.
    """
    if not texts:
        return
    what = "prompts need" if any(texts) else "the null prompt needs"
    remedy = (
        "leave MODEL.TRACE.BACKBONE.PROMPTS empty"
        if any(texts)
        else f'set MODEL.TRACE.BACKBONE.NULL_PROMPT to "zeros", or put a {NULL_PROMPT} into the'
        " folder"
    )
    try:
        for name in encoding.components:
            source.component(name)
        encoders = {
            name: load_text_encoder(source, name, dtype)
            for name in encoding.components
            if name.startswith("text_encoder")
        }
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} the text encoders, and {error}. Or {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{what} the text encoders of {source}: {error}. Or {remedy}") from error
    pipeline, cut = None, 0
    for text in texts:
        try:
            pipeline = pipeline or _text_pipeline(source, encoding, encoders)
            try:
                with _cutting(pipeline) as too_long:
                    encoded = encode_text(pipeline, text, encoding.outputs, device)
            except torch.OutOfMemoryError:
                logger.warning("%s has no room for the text encoders: they run on the CPU", device)
                encoded = None
            # Out of the handler, whose traceback holds on to memory of the device.
            if encoded is None:
                device = torch.device("cpu")
                with _cutting(pipeline) as too_long:
                    encoded = encode_text(pipeline, text, encoding.outputs, device)
        except Exception as error:  # tokenizers and their files end in any kind of error
            told = f"the prompt {text!r}" if text else "the null prompt"
            raise ValueError(
                f"the text encoders of {source} could not encode {told}: {error}; copy or"
                f" download them again, or {remedy}"
            ) from error
        cut += bool(too_long)
        yield encoded
    if cut:
        logger.warning(
            "%d of %d prompts are longer than a tokenizer of %s takes (CLIP's: 77 tokens): the "
            "text encoder behind it is not told their ends",
            *(cut, len(texts), source),
        )


@contextlib.contextmanager
def _cutting(pipeline: Any) -> Iterator[list[str]]:
    """Gathers what the pipeline logs of texts that it cuts, rather than have each whole shown."""
    told: list[str] = []

    def passes(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        cuts = "was truncated because" in text or "sequence length is longer than" in text
        told.extend([text] if cuts else [])
        return not cuts

    with contextlib.ExitStack() as stack:
        for name in (type(pipeline).__module__, "transformers.tokenization_utils_base"):
            own = logging.getLogger(name)
            own.addFilter(passes)
            stack.callback(own.removeFilter, passes)
        yield told


def _text_pipeline(source: ModelSource, encoding: TextEncoding, encoders: dict[str, Any]) -> Any:
    """The pipeline of ``source`` with nothing but its text encoders and tokenizers."""
    pipeline_class = getattr(diffusers, source.pipeline_name)
    # Everything else the pipeline could hold is left out: denoiser, VAE, safety checker, ...
    parameters = set(inspect.signature(pipeline_class.__init__).parameters) & set(source.index)
    listed = {name for name in parameters if isinstance(source.index[name], list)}
    options: dict[str, Any] = dict.fromkeys(listed - set(encoding.components))
    if "requires_safety_checker" in parameters:
        options["requires_safety_checker"] = False
    return pipeline_class.from_pretrained(
        source.folder, **encoders, **options, local_files_only=True
    )


@torch.no_grad()
def encode_text(
    pipeline: Any, text: str, outputs: dict[str, int], device: torch.device
) -> NullPrompt:
    """A text through the ``encode_prompt`` of a diffusers pipeline, run on ``device``.

    Of ``outputs`` see ``TextEncoding``; the tensors are on the CPU, in the text encoders' dtype.
    """
    pipeline.to(device)
    arguments: dict[str, Any] = {
        "prompt": text,
        "prompt_2": None,
        "prompt_3": None,
        "device": device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    taken = inspect.signature(pipeline.encode_prompt).parameters
    encoded = pipeline.encode_prompt(**{k: v for k, v in arguments.items() if k in taken})
    return NullPrompt({key: encoded[place].cpu().clone() for key, place in outputs.items()})
