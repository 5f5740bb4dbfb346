"""Whether Triton's kernels or plain PyTorch make something: ``MODEL.TRACE.ATTENTION.KERNELS``."""

from __future__ import annotations

import functools
import logging
import os

import torch
from torch import Tensor

_KEY = "MODEL.TRACE.ATTENTION.KERNELS"
_OLDEST = (8, 0)  # compute capability: bfloat16 on tensor cores
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
logger = logging.getLogger(__name__)


def takes_triton(kernels: str, like: Tensor, obstacle: str = "") -> bool:
    """Whether kernels work on ``like`` and what comes with it.

    "auto" takes them on a GPU if it can, and else says once in the log why not.

    Args:
        kernels: one of ``settings.KERNELS``.
        like: decides by device and type.
        obstacle: why kernels cannot make what is asked for, whatever the device; "" if they can.

    Raises:
        ValueError: ``kernels`` is "triton", and they cannot.
    """
    if kernels == "plain" or (kernels == "auto" and like.device.type in ("cpu", "meta")):
        return False
    cause = _obstacle_of(like.device) or _obstacle_of_dtype(like.dtype) or obstacle
    if cause and kernels == "triton":
        raise ValueError(f"{_KEY} triton cannot be: {cause}; set it to auto or plain")
    if cause:
        _tell_once(cause)
    return not cause


def check_kernels(kernels: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise the ValueError of ``takes_triton`` for a network before its first pass."""
    if kernels == "triton":
        takes_triton(kernels, torch.empty(0, dtype=dtype, device=device))


@functools.cache
def _obstacle_of(device: torch.device) -> str:
    """Why ``device`` runs no kernels; "" if it does."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton is not here ({error})"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type != "cuda":
        return f"they run on NVIDIA's and AMD's GPUs, not on {device.type!r}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"{torch.cuda.get_device_name(device)} has compute capability {found}, below 8.0"
    return ""


def _obstacle_of_dtype(dtype: torch.dtype) -> str:
    if dtype in _DTYPES:
        return ""
    return f"they take bfloat16, float16 and float32, not {str(dtype).removeprefix('torch.')}"


@functools.cache
def _tell_once(cause: str) -> None:
    message = "plain PyTorch makes attention maps, many times slower than Triton's kernels: %s (%s)"
    logger.warning(message, cause, _KEY)
