"""The attention calls of a thread, shown while they run.

The attribute ``torch.nn.functional.scaled_dot_product_attention`` is replaced while anybody
watches, which costs the pass nothing. Code that took the function by another name would be missed
so; a close watch sees that code as well, by looking at every PyTorch function of the pass.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .process_wide import ProcessWide

# Taken once: a test or a profiler may put a wrapper in its place, which still calls this one.
_ATTENTION_FUNCTION = functional.scaled_dot_product_attention
_MODULE_CALL = nn.Module._call_impl.__code__

Show = Callable[[Tensor, Tensor, Tensor | None, bool, float | None], None]
"""Takes query, key, mask, ``is_causal`` and scale of a call, before it runs."""


class AttentionWatch:
    """Somebody who is shown attention calls.

    Attributes:
        hidden: a call came that only a close watch sees.
    """

    def __init__(self, show: Show) -> None:
        self.show = show
        self.hidden = False


class _Thread(threading.local):
    def __init__(self) -> None:
        self.watches: list[AttentionWatch] = []
        self.inside = False  # of a call that was shown


_thread = _Thread()
_underneath: Callable[..., Tensor] = _ATTENTION_FUNCTION


@contextlib.contextmanager
def watch_attention(
    show: Show, *, closely: bool, compiled: bool = False
) -> Iterator[AttentionWatch]:
    """Give the attention calls that this thread makes inside to ``show``.

    Args:
        show: is called before the attention is computed; what it raises ends the pass.
        closely: see calls that go by another name as well.
        compiled: run compiled modules as such, which show tensors without their graph; not closely.
    """
    watch = AttentionWatch(show)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_REPLACED.held())
        _thread.watches.append(watch)
        stack.callback(_thread.watches.remove, watch)
        if closely:
            stack.enter_context(_EveryFunction())
        # Nothing is compiled where the compiler, which takes seconds, was never imported.
        if not (compiled and CAN_WATCH_COMPILED) and "torch._dynamo" in sys.modules:
            stack.enter_context(_UNCOMPILED.held())
        yield watch


def in_cross_attention() -> bool:
    """Whether the innermost running module that declares ``is_cross_attention`` says so.

    Diffusers' attention modules declare it. The modules that run are those on the Python stack.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _MODULE_CALL:
            declared = getattr(frame.f_locals["self"], "is_cross_attention", None)
            if declared is not None:
                return bool(declared)
        frame = frame.f_back  # type: ignore[assignment]
    return False


class _EveryFunction(TorchFunctionMode):
    """Shows the attention calls that do not go by ``torch.nn.functional``."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTENTION_FUNCTION and not _thread.inside:
            for watch in _thread.watches:
                watch.hidden = True
            return _watched_attention(*args, **kwargs)
        return func(*args, **kwargs)


@contextlib.contextmanager
def _replaced() -> Iterator[None]:
    global _underneath
    if functional.scaled_dot_product_attention is not _watched_attention:
        _underneath = functional.scaled_dot_product_attention
        functional.scaled_dot_product_attention = _watched_attention
    try:
        yield
    finally:
        # Who put something on top meanwhile calls ours, which is but a step on the way then.
        if functional.scaled_dot_product_attention is _watched_attention:
            functional.scaled_dot_product_attention = _underneath


_REPLACED = ProcessWide(_replaced)
_UNCOMPILED = ProcessWide(lambda: torch.compiler.set_stance("force_eager"))


def _watched_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    call = (query, key, value, attn_mask, dropout_p, is_causal)
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    if torch.compiler.is_compiling():
        torch.ops.trace_d2.show_attention(query, key, attn_mask, is_causal, scale)
        return _ATTENTION_FUNCTION(*call, **options)
    if _thread.inside:
        return _ATTENTION_FUNCTION(*call, **options)
    _thread.inside = True
    try:
        _show(query, key, attn_mask, is_causal, scale)
        return _underneath(*call, **options)
    finally:
        _thread.inside = False


def _show(
    query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> None:
    for watch in _thread.watches:
        watch.show(query, key, mask, is_causal, scale)


def _define_operator() -> bool:
    """Make ``_show`` an operator that a compiled module calls; False: this PyTorch cannot."""
    # It has an effect, or a compiler would leave it out; and it runs Python, which a CUDA graph
    # would not do again.
    tag = getattr(torch.Tag, "cudagraph_unsafe", None)
    if tag is None or not hasattr(torch.library, "EffectType"):
        return False
    operator = torch.library.custom_op(
        "trace_d2::show_attention", _show, mutates_args=(), tags=(tag,)
    )
    operator.register_fake(lambda *_: None)
    operator.register_effect(torch.library.EffectType.ORDERED)
    return True


CAN_WATCH_COMPILED = _define_operator()
