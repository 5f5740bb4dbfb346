"""Runs a model so that its attention calls can be seen, and so that gradients are finite."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .process_wide import ProcessWide

_DISPATCH = "diffusers.models.attention_dispatch"


@contextlib.contextmanager
def native_attention(model: nn.Module | None = None) -> Iterator[None]:
    """Switches to PyTorch's own attention function, and back again.

    Other attention backends of diffusers (flash, sage, xformers, ...) never call
    ``scaled_dot_product_attention``, so that a reader would see nothing.

    Args:
        model: a model whose attention processors may have a backend of their own, set by
            diffusers' ``model.set_attention_backend``. None: only the global one is switched.
    """
    with contextlib.ExitStack() as stack:
        # There is no diffusers model where diffusers was never imported.
        if _DISPATCH in sys.modules:
            stack.enter_context(_NATIVE.held())
        stack.enter_context(_default_processors(model))
        yield


def _native_backend() -> contextlib.AbstractContextManager[Any]:
    dispatch = sys.modules[_DISPATCH]
    return dispatch.attention_backend(dispatch.AttentionBackendName.NATIVE)


_NATIVE = ProcessWide(_native_backend)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Without mixed precision on ``device``; the meta device knows none."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def forbid_cudnn_attention() -> None:
    """Keep this process from cuDNN's attention, whose gradients can be NaN.

    PyTorch 2.11 takes it on an H100. There the first gradients of trace-tiny in bfloat16 were NaN,
    while those of random queries and keys of the same shape were not. This is no context, since
    gradient checkpointing calls attention again in the backward pass.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextlib.contextmanager
def _default_processors(model: nn.Module | None) -> Iterator[None]:
    """Lets the processors of ``model`` use the global backend."""
    chosen = [(p, p._attention_backend) for p in _processors(model) if p._attention_backend]
    try:
        for processor, _ in chosen:
            processor._attention_backend = None
        yield
    finally:
        for processor, backend in chosen:
            processor._attention_backend = backend


def _processors(model: nn.Module | None) -> Iterator[Any]:
    """The attention processors in ``model`` that have a backend of their own.

    A large denoiser has thousands of modules, and ``getattr`` of what a module lacks is slow.
    """
    left = [] if model is None else [model]
    while left:
        module = left.pop()
        left.extend(child for child in module._modules.values() if child is not None)
        processor = module.__dict__.get("processor", module)  # one that is a module has a child
        if "_attention_backend" in getattr(processor, "__dict__", ()):
            yield processor
