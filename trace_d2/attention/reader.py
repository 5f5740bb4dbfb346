"""Self-attention of a denoiser, read while it runs and without a change to it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from .layout import (
    AttentionLayout,
    key_multiplicity,
    nearest_tokens,
    normalise_for_grid,
    resample_attention,
)
from .mean_softmax import accumulation_dtype
from .operators import accumulate_mean_softmax, mean_softmax

# Taken once: a test or a profiler may put a wrapper in its place, which still calls this one.
_ATTENTION_FUNCTION = torch.nn.functional.scaled_dot_product_attention


class _AllReadError(Exception):
    """Ends a forward pass of which nothing more is needed."""


class SelfAttentionReader(TorchFunctionMode):
    """Accumulates softmax(Q K^T / sqrt(d)) of every self-attention call of a forward pass.

    It watches ``torch.nn.functional.scaled_dot_product_attention``, so that no attention processor
    is replaced: outputs stay bit-identical and adapters stay active::

        with SelfAttentionReader(layout) as reader:
            denoiser(noised, timesteps)
        attention = reader.attention()  # (B, N, N)

    A call is self-attention if query and key have one length that the layout knows. A call whose
    lengths agree by chance is not taken: the module that runs declares ``is_cross_attention``, as
    diffusers' attention modules do. Of joint sequences only the image tokens are kept: softmax
    over the image keys alone is the full softmax with the text keys left out, renormalised.

    Args:
        layout: the token grids and the prompt's place, for the size of latent that is run.
        blocks: which self-attention calls to average, counted from 0 in the order they run; empty
            for all.
        scratch_mb: scratch memory in MiB beside the accumulated map, where no kernels are used.
        kernels: ``MODEL.TRACE.ATTENTION.KERNELS``.
        differentiable: keep the graph from query and key to the map (first derivatives). Queries
            and keys are kept during the forward pass, and ``attention`` makes the map of them
            outside of it, so that the denoiser may recompute its blocks (gradient checkpointing).
        stop_early: leave the context, without an error, once the last of ``blocks`` was read: the
            rest of the forward pass is not computed. Without ``blocks`` it has no effect.
    """

    def __init__(
        self,
        layout: AttentionLayout,
        *,
        blocks: Sequence[int] = (),
        scratch_mb: float = 16,
        kernels: str = "auto",
        differentiable: bool = False,
        stop_early: bool = False,
    ) -> None:
        super().__init__()
        if any(block < 0 for block in blocks):
            raise ValueError(f"blocks are counted from 0, not {tuple(blocks)}")
        if scratch_mb <= 0:
            raise ValueError(f"scratch_mb must be positive, not {scratch_mb}")
        self.layout = layout
        self.blocks = frozenset(blocks)
        self.scratch_bytes = int(scratch_mb * 2**20)
        self.kernels = kernels
        self.differentiable = differentiable
        self.stop_early = stop_early
        self._reset()

    def _reset(self) -> None:
        self.calls = 0  # self-attention calls seen
        self._read = 0  # of them, those averaged
        self._batch = 0  # maps of the forward pass; 0 before the first one
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._kept: list[tuple[tuple[int, int], tuple[Any, ...]]] = []
        self._others: Counter[tuple[int, int]] = Counter()
        self._cross_attention: list[bool] = []
        self._result: Tensor | None = None

    def __enter__(self) -> SelfAttentionReader:
        self._reset()
        thread = threading.get_ident()

        # Module hooks are global while they are set: other threads' modules are not ours.
        def enter_module(module: nn.Module, _: Any) -> None:
            if threading.get_ident() == thread and hasattr(module, "is_cross_attention"):
                self._cross_attention.append(bool(module.is_cross_attention))

        def leave_module(module: nn.Module, *_: Any) -> None:
            if threading.get_ident() == thread and hasattr(module, "is_cross_attention"):
                self._cross_attention.pop()

        super().__enter__()
        self._hooks = (
            register_module_forward_pre_hook(enter_module),
            register_module_forward_hook(leave_module, always_call=True),
        )
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(kind, error, traceback)
        return isinstance(error, _AllReadError)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTENTION_FUNCTION:
            self._watch(*args, **kwargs)
            if self.stop_early and self.blocks and self._read == len(self.blocks):
                raise _AllReadError
        return func(*args, **kwargs)

    def _watch(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """Takes the arguments of ``scaled_dot_product_attention`` and reads a self-attention."""
        lengths = query.shape[-2], key.shape[-2]
        place = self.layout.locate(lengths[0]) if lengths[0] == lengths[1] else None
        crossed = bool(self._cross_attention) and self._cross_attention[-1]
        if place is None or crossed:
            self._others[lengths] += 1
            return
        index, self.calls = self.calls, self.calls + 1
        if self.blocks and index not in self.blocks:
            return
        grid, start = place
        _check_call(query, key, is_causal, self._batch)
        self._batch = query.shape[0]
        image = slice(start, start + grid[0] * grid[1])
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:2], *lengths)[..., image, image]
        if key.shape[1] != query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        call = query[:, :, image], key[:, :, image], scale, attn_mask
        if self.differentiable:
            self._kept.append((grid, call))
        else:
            self._accumulate(grid, *call)
        self._read += 1

    def _column_weights(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        if grid == self.layout.largest:
            return None
        return key_multiplicity(grid, self.layout.largest).to(device)

    def _accumulate(
        self, grid: tuple[int, int], query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> None:
        weights = self._column_weights(grid, query.device)
        dtype = accumulation_dtype(query.dtype)
        # A map made in inference mode could not be divided in place outside it.
        with (
            torch.autocast(query.device.type, enabled=False),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            if grid not in self._maps:
                shape = (query.shape[0], query.shape[2], query.shape[2])
                self._maps[grid] = torch.zeros(shape, dtype=dtype, device=query.device)
            accumulate_mean_softmax(
                query,
                key,
                self._maps[grid],
                scale=scale,
                mask=mask,
                scratch_bytes=self.scratch_bytes,
                column_weights=None if weights is None else weights.to(dtype),
                kernels=self.kernels,
            )

    def _make_kept_maps(self) -> None:
        """The maps of the calls kept, with their graph."""
        for grid, (query, key, scale, mask) in self._kept:
            with torch.autocast(query.device.type, enabled=False):
                attention = mean_softmax(
                    query,
                    key,
                    scale=scale,
                    mask=mask,
                    scratch_bytes=self.scratch_bytes,
                    kernels=self.kernels,
                )
                weights = self._column_weights(grid, query.device)
                if weights is not None:
                    attention = normalise_for_grid(attention, weights)
                previous = self._maps.get(grid)
                self._maps[grid] = attention if previous is None else previous + attention
        self._kept.clear()

    def attention(self) -> Tensor:
        """The accumulated map (B, N, N) of the last forward pass, after leaving the context.

        N = h w of the largest grid; rows (queries) and columns (keys) run over it in row-major
        order; float32 (float64 for a float64 model); rows sum to 1. Blocks of smaller grids are
        repeated to the largest one, rows and keys, and their rows renormalised.

        Raises:
            RuntimeError: no self-attention was seen, or not all of ``blocks``.
        """
        if self._result is None:
            self._check_read()
            self._make_kept_maps()
            self._result = self._merge()
            self._maps.clear()
        return self._result

    def _merge(self) -> Tensor:
        largest = self.layout.largest
        total = self._maps.pop(largest, None)
        for grid, attention in self._maps.items():
            if total is None:
                total = resample_attention(attention, grid, largest)
            elif self.differentiable:
                total = total + resample_attention(attention, grid, largest)
            else:
                _add_resampled(total, attention, grid, largest)
        assert total is not None
        return total / self._read if self.differentiable else total.div_(self._read)

    def _check_read(self) -> None:
        if self.calls == 0:
            seen = ", ".join(f"{q}x{k} ({n} times)" for (q, k), n in self._others.items())
            raise RuntimeError(
                f"the forward pass showed no self-attention over the grids {self.layout.grids} "
                f"with {self.layout.text_tokens} prompt tokens; attention calls seen (queries x "
                f"keys): {seen or 'none'}. If there were none, the model bypasses "
                "scaled_dot_product_attention: run it uncompiled, without attention slicing, and "
                "on diffusers' native attention backend (trace_d2.attention.native_attention). "
                "If there were, the layout is of another image size."
            )
        missing = sorted(block for block in self.blocks if block >= self.calls)
        if missing:
            raise RuntimeError(
                f"attention blocks {missing} do not exist: the forward pass showed {self.calls} "
                f"self-attention calls, 0 to {self.calls - 1}"
            )


def _check_call(query: Tensor, key: Tensor, is_causal: bool, batch: int) -> None:
    """Raise a ValueError unless the call can be read, after others of ``batch`` maps (0: none)."""
    if query.ndim != 4:
        raise ValueError(f"attention is read of (B, heads, N, d) queries, not {tuple(query.shape)}")
    if is_causal:
        raise ValueError("causal attention holds no image map: rows see only earlier tokens")
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{query.shape[1]} query heads cannot share {key.shape[1]} key heads")
    if batch and query.shape[0] != batch:
        raise ValueError(
            f"a batch of {query.shape[0]} after one of {batch}: enter the reader around one "
            "forward pass"
        )


def _add_resampled(
    total: Tensor, attention: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> None:
    """``total += resample_attention(...)`` a source row at a time: no second (B, N, N) map."""
    index = nearest_tokens(source, target).to(attention.device)
    for row in range(attention.shape[1]):
        rows = (index == row).nonzero().flatten()
        total[:, rows] += attention[:, row].index_select(-1, index).unsqueeze(1)
