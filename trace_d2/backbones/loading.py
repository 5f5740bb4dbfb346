"""Device, dtype, and the parts of a model: denoiser, VAE, text encoders and scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from torch import Tensor

from trace_d2.io.json_files import read_json

from . import quantization
from .denoiser_files import check_file, gguf_in
from .model_files import ModelSource, weight_files, weights_in
from .packages import METHODS, stored_method
from .reports import check_report
from .settings import BackboneSettings
from .single_file import load_single_file

# What a class is called today that was called Transformer2DModel, by its norm_type. The hub's
# PixArt-alpha is published under that name.
_TRANSFORMERS = {"ada_norm_single": "PixArtTransformer2DModel"}


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that ``BACKBONE.DTYPE`` means; "auto" is float32 on the CPU, else bfloat16."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_denoiser(
    source: ModelSource,
    model_class: type[Any],
    component: str,
    dtype: torch.dtype,
    settings: BackboneSettings,
    device: torch.device,
) -> Any:
    """The denoiser, quantised on ``device`` if ``settings`` say so, else on the CPU.

    It comes out of the file that ``settings.denoiser`` names, or that is all there is in the
    component's folder (GGUF), or else out of the folder. See ``load_model`` for errors.
    """
    single = Path(settings.denoiser).expanduser() if settings.denoiser else None
    if single:
        check_file(single, "MODEL.TRACE.BACKBONE.DENOISER")
    folder = source.component(component)
    if not single and not weight_files(folder):
        single = gguf_in(folder)
    if single:
        _check_class(source, model_class, component)
        return load_single_file(
            single, model_class, folder, dtype, quantize=settings.quantize, device=device
        )
    return load_model(
        source, model_class, component, dtype, quantize=settings.quantize, device=device, must=True
    )


def load_model(
    source: ModelSource,
    model_class: type[Any],
    component: str,
    dtype: torch.dtype,
    *,
    quantize: str = "",
    device: torch.device | str = "cpu",
    must: bool = False,
) -> Any:
    """One model of a folder, of diffusers or transformers, on the CPU unless it is quantised.

    Args:
        quantize: of ``quantization.SCHEMES``; empty for as it is.
        device: where quantised weights are.
        must: it is there in the variant of ``source``, if that has one.

    Raises:
        ValueError: it is of another class, damaged or quantised by a package that is not there, or
            its weights lack a tensor of the model, have one in another shape, or hold further ones.
        FileNotFoundError: there are no weights.
    """
    folder, device = source.component(component), torch.device(device)
    _check_class(source, model_class, component)
    method = stored_method(folder)
    options: dict[str, Any] = {}
    if quantize:
        if method:
            raise ValueError(
                f"{folder} is quantised already, by {method}: leave MODEL.TRACE.BACKBONE.QUANTIZE"
                " empty"
            )
        config = load_config(source, component)
        options["quantization_config"] = quantization.build_config(
            quantize, model_class, config, dtype
        )
        method = METHODS[quantize]
    options |= quantization.device_options(method, device)
    with quantization.on_any_device(device):
        model = load_folder(folder, model_class, dtype, source.variant, must, **options)
    quantization.settle(model)
    return model


def load_folder(
    folder: Path,
    model_class: type[Any],
    dtype: torch.dtype,
    variant: str = "",
    must: bool = False,
    **options: Any,
) -> Any:
    """The model of diffusers or transformers whose configuration and weights are in ``folder``.

    Args:
        variant, must: see ``weights_in``.
        options: of ``from_pretrained``.

    Raises:
        ValueError, FileNotFoundError: see ``load_model``.
    """
    weights = weights_in(folder, variant, must)
    options |= {"variant": weights.variant, "use_safetensors": weights.safetensors}
    return _load_from(folder, model_class, folder, dtype=dtype, local_files_only=True, **options)


def load_part(
    weights: Mapping[str, Tensor],
    folder: Path,
    model_class: type[Any],
    dtype: torch.dtype,
    **options: Any,
) -> Any:
    """A part of the model of transformers in ``folder``.

    Args:
        weights: of the part, by their names inside it.
        options: of ``from_pretrained``, the part's ``config`` among them.

    Raises:
        ValueError: see ``load_model``.
    """
    return _load_from(folder, model_class, None, state_dict=weights, dtype=dtype, **options)


def _load_from(folder: Path, model_class: type[Any], *arguments: Any, **options: Any) -> Any:
    """What ``from_pretrained`` makes of what ``folder`` holds."""
    if issubclass(model_class, transformers.PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # ``check_report`` names them
    try:
        with _without_bars():
            model, report = model_class.from_pretrained(
                *arguments, output_loading_info=True, **options
            )
    except Exception as error:  # damaged files end in any kind of error
        said = repr(error) if isinstance(error, KeyError) else error
        raise ValueError(
            f"cannot load {folder}: {said}; its config.json may be wrong, or its files may be"
            " truncated or belong to another model: copy or download the model again"
        ) from error
    # Of some quantised weights diffusers does not tell which are missing.
    undefined = [name for name, weight in model.named_parameters() if weight.is_meta]
    check_report({**report, "missing_keys": {*report["missing_keys"], *undefined}}, folder)
    return model


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """transformers shows no bars, which would stand among the lines of a job."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_class(source: ModelSource, model_class: type[Any], component: str) -> None:
    """Raise a ValueError unless ``component`` is a ``model_class``."""
    name = source.class_name(component)
    if name == "Transformer2DModel":  # as diffusers maps a former name
        name = _TRANSFORMERS.get(str(load_config(source, component).get("norm_type")), name)
    if name != model_class.__name__:
        raise ValueError(
            f"{source}: {component} is a {name}; this family needs a {model_class.__name__}"
        )


def load_text_encoder(source: ModelSource, component: str, dtype: torch.dtype) -> Any:
    """A text encoder, of the class of transformers that ``model_index.json`` names."""
    name = source.class_name(component)
    model_class = getattr(transformers, str(name), None)
    if model_class is None:
        raise ValueError(
            f"{source}: transformers {transformers.__version__} has no {name}, its {component}:"
            " install a newer one"
        )
    return load_model(source, model_class, component, dtype)


def load_vae(source: ModelSource, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE, in float32 where it would overflow: SDXL's does in float16, none in bfloat16."""
    return load_model(source, AutoencoderKL, "vae", vae_dtype(load_config(source, "vae"), dtype))


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """What a VAE of that configuration runs in beside a denoiser in ``dtype``."""
    upcast = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if upcast else dtype


def load_config(source: ModelSource, component: str) -> dict[str, Any]:
    """The configuration of a model of a folder, without its weights."""
    return read_config(source.component(component))


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` in ``folder`` says."""
    path = folder / "config.json"
    config = read_json(path, "configuration", "copy or download the model again")
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no configuration: copy or download the model again")
    return config


def load_scheduler(source: ModelSource) -> Any:
    """The scheduler, of the class that ``model_index.json`` names."""
    folder = source.component("scheduler")
    name = source.class_name("scheduler")
    scheduler_class = getattr(diffusers, str(name), None)
    if scheduler_class is None:
        raise ValueError(f"{source}: diffusers {diffusers.__version__} has no scheduler {name}")
    try:
        return scheduler_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the file holds
        raise ValueError(
            f"cannot read the scheduler in {folder}: {error}; copy or download the model again"
        ) from error
