"""A denoiser in one file, as civitai and ComfyUI have them: safetensors, GGUF, or a pickle.

Its tensors may have diffusers' names or those of the model's makers, alone or beside a VAE and text
encoders; only the denoiser is taken. diffusers knows the makers' names. It passes over tensors that
it does not know and leaves those that lack undefined, so both are looked for here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_model
from safetensors import safe_open
from torch import Tensor

from trace_d2.io.json_files import shown

from . import quantization
from .denoiser_files import PREFIX, check_is_denoiser
from .packages import need_package
from .reports import check_report, difference

logger = logging.getLogger(__name__)

_USUAL_ENDINGS = (".weight", ".bias", ".scale", "pos_embed")
_UNSAFE_REMEDY = (
    "it was not read: pass a .safetensors file of the same model, or convert it where it can be"
    " trusted"
)


def load_single_file(
    path: Path,
    model_class: type[Any],
    configuration: Path,
    dtype: torch.dtype,
    *,
    quantize: str = "",
    device: torch.device | str = "cpu",
) -> Any:
    """The denoiser in ``path``.

    Args:
        path: one of ``denoiser_files.ENDINGS``.
        model_class: of diffusers.
        configuration: the folder of the ``config.json`` of the same model.
        dtype: of what is not quantised, and of what is computed.
        quantize: of ``packages.METHODS``; empty for as it is.
        device: where weights are quantised.

    Raises:
        ValueError: the file is damaged or of another model, lacks a tensor or has one that is not
            known, or cannot be read safely.
    """
    if single_file_model._get_single_file_loadable_mapping_class(model_class) is None:
        raise ValueError(
            f"{path}: single files of a {model_class.__name__} are not read: pass a diffusers"
            " folder and leave MODEL.TRACE.BACKBONE.DENOISER empty"
        )
    gguf = path.suffix == ".gguf"
    if gguf and quantize:
        raise ValueError(
            f"{path} is quantised already: leave MODEL.TRACE.BACKBONE.QUANTIZE empty, or pass the"
            " model in full precision"
        )
    if gguf:
        need_package("gguf", f"{path} is a GGUF file, which")
    config = model_class.load_config(str(configuration), local_files_only=True)
    with init_empty_weights():
        model = model_class.from_config(config)
    expected = model.state_dict()
    found = read_tensors(path)
    check_is_denoiser(found, path)
    tensors = _named_as(expected, _denoiser_of(found, path), model_class, config, path)
    check_report(difference(expected, tensors), path)
    try:
        if quantize:
            settings = quantization.build_config(quantize, model_class, config, dtype)
            quantization.fill(model, tensors, settings, dtype, torch.device(device))
        else:
            settings = diffusers.GGUFQuantizationConfig(compute_dtype=dtype) if gguf else None
            model = model_class.from_single_file(
                tensors,
                config=str(configuration),
                dtype=dtype,
                quantization_config=settings,
                local_files_only=True,
            )
    except Exception as error:  # whatever diffusers makes of it
        raise ValueError(f"cannot load {path}: {error}; copy or download it again") from error
    quantization.settle(model)
    return model.eval()


def read_tensors(path: Path) -> Mapping[str, Callable[[], Tensor]]:
    """The tensors of a file by name, to be called for; a ValueError if it cannot be read safely."""
    try:
        if path.suffix == ".safetensors":
            file = safe_open(path, "pt")
            return {name: _lazily(file, name) for name in file.keys()}  # noqa: SIM118
        if path.suffix == ".gguf":
            from diffusers.models.model_loading_utils import load_gguf_checkpoint

            tensors = load_gguf_checkpoint(str(path))
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in any kind of error
        pickled = path.suffix not in (".safetensors", ".gguf")
        remedy = _UNSAFE_REMEDY if pickled else "copy or download it again"
        raise ValueError(f"cannot read {path}: {_first_line(error)}; {remedy}") from error
    while isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} holds no tensors by name: it is no model's weights")
    return {
        str(name): _given(tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)
    }


def _lazily(file: Any, name: str) -> Callable[[], Tensor]:
    return lambda: file.get_tensor(name)


def _given(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _denoiser_of(tensors: Mapping[str, Callable[[], Tensor]], path: Path) -> dict[str, Tensor]:
    """The tensors of the denoiser alone, without the prefix that they may have."""
    own = [name for name in tensors if name.startswith(PREFIX)]
    if not own:
        return {name: get() for name, get in tensors.items()}
    if len(own) < len(tensors):
        logger.info(
            "%s: only the denoiser is taken; its other %d tensors (VAE, text encoders) are not",
            path,
            len(tensors) - len(own),
        )
    return {name.removeprefix(PREFIX): tensors[name]() for name in own}


def _named_as(
    expected: Mapping[str, Any],
    given: dict[str, Tensor],
    model_class: type[Any],
    config: Any,
    path: Path,
) -> dict[str, Tensor]:
    """``given`` by diffusers' names; a ValueError if any of it is not taken."""
    if len(expected.keys() & given.keys()) > len(expected) // 2:
        return given
    kind = single_file_model._get_single_file_loadable_mapping_class(model_class)
    convert = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]
    names, size = list(given), _elements(given.values())
    # diffusers finds the U-Net by the prefix.
    prefixed = {PREFIX + name: tensor for name, tensor in given.items()}
    try:
        converted = convert(config=config, checkpoint=prefixed)
    except Exception as error:  # a name that is not there ends in any kind of error
        raise ValueError(
            f"{path} holds no {model_class.__name__} that is known here ({error!r}): pass one of"
            " the model that MODEL.TRACE.BACKBONE names"
        ) from error
    if _elements(converted.values()) != size:
        odd = [shown(name) for name in names if not name.endswith(_USUAL_ENDINGS)]
        which = f" ({', '.join(odd[:3])})" if odd else ""
        raise ValueError(
            f"{path} holds tensors that are not known here{which}, as of scaled or quantised"
            " weights or of another model: pass the model in full precision, as GGUF, or as a"
            " diffusers folder"
        )
    return converted


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
