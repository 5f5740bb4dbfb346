"""The packages that some models need: those in few bits, and those of timm."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from trace_d2.io.json_files import quoted, read_json

NONE = ""

# The packages that diffusers and transformers read quantised weights by, by quant_method.
_PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "gguf": "gguf",
    "torchao": "torchao",
    "quanto": "optimum-quanto",
    "modelopt": "nvidia-modelopt",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "hqq": "hqq",
}
METHODS = {"nf4": "bitsandbytes", "int8": "torchao"}
"""The quant_method of each of ``MODEL.TRACE.BACKBONE.QUANTIZE``."""


def need_package(method: str, what: str) -> None:
    """Raise a ValueError if the package of a quant_method, by which ``what`` is read, is absent."""
    need(_PACKAGES[method], what, "pass the model in full precision")


def need(package: str, what: str, instead: str) -> None:
    """Raise a ValueError if ``package`` is absent, which ``what`` needs; or do ``instead``."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"{what} needs the package {package}: run `pip install {package}`, or {instead}"
        ) from error


def stored_method(folder: Path) -> str:
    """The quant_method of the weights in ``folder``; empty for full precision.

    Raises:
        ValueError: it is not known here, or its package is not installed.
    """
    path = folder / "config.json"
    config = read_json(path, "configuration", "copy or download the model again")
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        return NONE
    method = settings.get("quant_method")
    if method is None and any("load_in_" in key for key in settings):
        method = "bitsandbytes"  # as its first versions wrote it
    name = str(method).lower()
    if name not in _PACKAGES:
        raise ValueError(
            f"{path}: quantization_config has the quant_method {quoted(method)}, which is not known"
            " here: pass the model in full precision"
        )
    need_package(name, f"{folder} is quantised by {method}, which")
    return name
