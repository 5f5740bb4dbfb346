"""Self-attention of a denoiser, read while it runs and without a change to it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .layout import (
    AttentionLayout,
    add_resampled,
    key_multiplicity,
    normalise_for_grid,
    resample_attention,
)
from .mean_softmax import accumulation_dtype
from .native import full_precision
from .operators import accumulate_mean_softmax, mean_softmax
from .watching import in_cross_attention, watch_attention

# Of the calls that could be self-attention: length, and whether it is.
_Calls = tuple[tuple[int, bool], ...]
# What each network showed in its first pass, by the reader's layout and where the pass ends. None:
# it has calls that only a close watch sees.
_seen_before: WeakKeyDictionary[nn.Module, dict[Any, _Calls | None]] = WeakKeyDictionary()

_CAUSAL = (
    "causal attention holds no image map, since rows see only earlier tokens: have the layout "
    "ignore masks (AttentionLayout.ignore_masks)"
)


class _AllReadError(Exception):
    """Ends a forward pass of which nothing more is needed."""


class SelfAttentionReader:
    """Accumulates softmax(Q K^T / sqrt(d)) of every self-attention call of a forward pass.

    It watches ``torch.nn.functional.scaled_dot_product_attention``, so that no attention processor
    is replaced: outputs stay bit-identical and adapters stay active::

        with SelfAttentionReader(layout) as reader:
            denoiser(noised, timesteps)
        attention = reader.attention()  # (B, N, N)

    A call is self-attention if query and key have one length that the layout knows. A call whose
    lengths agree by chance is not taken: the module that runs declares ``is_cross_attention``, as
    diffusers' attention modules do. Of joint sequences only the image tokens are kept: softmax
    over the image keys alone is the full softmax with the text keys left out, renormalised. They
    are put into row-major order where the layout says that they come in another, and the layout
    may have masks ignored.

    The first pass of a ``network`` over a layout is watched closely: modules run uncompiled, every
    PyTorch function is looked at and cross-attention is told from self-attention. Later passes cost
    next to nothing, run compiled where the network is (not where they are differentiable), and must
    show the same calls. Without a ``network`` every pass is such a first one.

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
        network: the module whose passes are read, by which they are known again.

    Raises:
        RuntimeError: on leaving, or at a call: a network that is known shows other calls than in
            its first pass.
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
        network: nn.Module | None = None,
    ) -> None:
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
        self.network = network
        self._stack = contextlib.ExitStack()
        self._reset()

    def _reset(self) -> None:
        self.calls = 0  # self-attention calls seen
        self._read = 0  # of them, those averaged
        self._batch = 0  # maps of the forward pass; 0 before the first one
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._kept: list[tuple[tuple[int, int], tuple[Any, ...]]] = []
        self._others: Counter[tuple[int, int]] = Counter()
        self._weights: dict[tuple[int, int], Tensor] = {}
        self._calls: list[tuple[int, bool]] = []
        self._stopped = False
        self._result: Tensor | None = None

    def __enter__(self) -> SelfAttentionReader:
        self._reset()
        self._known = self._memory().get(self._pass_key)
        closely = self._known is None
        compiled = not (closely or self.differentiable)
        watch = watch_attention(self._see, closely=closely, compiled=compiled)
        self._watch = self._stack.enter_context(watch)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        self._stack.close()
        self._stopped = isinstance(error, _AllReadError)
        if error is None or self._stopped:
            self._remember()
        return self._stopped

    @property
    def _pass_key(self) -> tuple[Any, ...]:
        """Passes of one key show the same calls."""
        return self.layout, self.blocks if self.stop_early else None

    def _memory(self) -> dict[Any, _Calls | None]:
        return {} if self.network is None else _seen_before.setdefault(self.network, {})

    def _remember(self) -> None:
        """Keep what this pass showed, or compare it with what is kept."""
        memory, calls = self._memory(), tuple(self._calls)
        if self._pass_key not in memory:
            if calls:
                memory[self._pass_key] = None if self._watch.hidden else calls
        elif self._known is not None and calls != self._known:
            self._refuse_change()

    def _refuse_change(self) -> None:
        self._memory()[self._pass_key] = None
        raise RuntimeError(
            f"{type(self.network).__name__} shows other attention calls over the grids "
            f"{self.layout.grids} than in its first pass, so that some may be missed: a module, an "
            "attention processor or a backend was exchanged, or compiled code hides them. Read "
            "again: from now on it runs uncompiled and is watched closely"
        )

    def _is_self_attention(self, length: int) -> bool:
        """Whether a call of so many queries and keys, of a length of the layout, is one."""
        if self._known is None:
            found = not in_cross_attention()
        else:
            number = len(self._calls)
            if number >= len(self._known) or self._known[number][0] != length:
                self._refuse_change()
            found = self._known[number][1]
        self._calls.append((length, found))
        return found

    def _see(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
    ) -> None:
        """Takes an attention call and reads it if it is self-attention."""
        lengths = query.shape[-2], key.shape[-2]
        place = self.layout.locate(lengths[0]) if lengths[0] == lengths[1] else None
        if place is None or not self._is_self_attention(lengths[0]):
            self._others[lengths] += 1
            return
        index, self.calls = self.calls, self.calls + 1
        if not self.blocks or index in self.blocks:
            self._read_call(place, query, key, mask, is_causal, scale)
        if self.stop_early and self.blocks and self._read == len(self.blocks):
            raise _AllReadError

    def _read_call(
        self,
        place: tuple[tuple[int, int], int],
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
    ) -> None:
        grid, layout = place[0], self.layout
        if layout.ignore_masks:
            mask, is_causal = None, False
        _check_call(query, key, is_causal, self._batch)
        self._batch = query.shape[0]
        if mask is not None:
            mask = self._image_mask(mask.expand(*query.shape[:3], key.shape[2]), place)
        if key.shape[1] != query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        query, key = layout.image_tokens(query, place), layout.image_tokens(key, place)
        call = query, key, scale, mask
        if self.differentiable:
            self._kept.append((grid, call))
        else:
            self._accumulate(grid, *call)
        self._read += 1

    def _image_mask(self, mask: Tensor, place: tuple[tuple[int, int], int]) -> Tensor:
        """Of a mask (B, heads, L, L), what image tokens see of each other."""
        (height, width), start = place
        # A look at the device, so once for each network.
        if self._known is None and height * width > 1 and not mask.is_meta:
            after_first = mask[..., start, start + 1 : start + height * width]
            seen = after_first if mask.dtype == torch.bool else after_first > -1e4
            if not seen.any():
                raise ValueError(_CAUSAL)
        rows = self.layout.image_tokens(mask, place)
        return self.layout.image_tokens(rows, place, dim=-1)

    def _column_weights(
        self, grid: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> Tensor | None:
        """How often each key of ``grid`` is repeated; None: once."""
        if grid == self.layout.largest:
            return None
        if grid not in self._weights:
            counts = key_multiplicity(grid, self.layout.largest, device)
            self._weights[grid] = counts.to(dtype)
        return self._weights[grid]

    def _accumulate(
        self, grid: tuple[int, int], query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> None:
        dtype = accumulation_dtype(query.dtype)
        # A map made in inference mode could not be divided in place outside it.
        with (
            full_precision(query.device),
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
                column_weights=self._column_weights(grid, dtype, query.device),
                kernels=self.kernels,
            )

    def _make_kept_maps(self) -> None:
        """The maps of the calls kept, with their graph."""
        for grid, (query, key, scale, mask) in self._kept:
            with full_precision(query.device):
                attention = mean_softmax(
                    query,
                    key,
                    scale=scale,
                    mask=mask,
                    scratch_bytes=self.scratch_bytes,
                    kernels=self.kernels,
                )
                weights = self._column_weights(grid, attention.dtype, query.device)
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
                add_resampled(total, attention, grid, largest, self.scratch_bytes)
        assert total is not None
        return total / self._read if self.differentiable else total.div_(self._read)

    def _check_read(self) -> None:
        if self.calls == 0:
            seen = ", ".join(f"{q}x{k} ({n} times)" for (q, k), n in self._others.items())
            raise RuntimeError(
                f"the forward pass showed no self-attention over the grids {self.layout.grids} "
                f"with {self.layout.text_tokens} prompt tokens; attention calls seen (queries x "
                f"keys): {seen or 'none'}. If there were none, the model bypasses "
                "scaled_dot_product_attention: run it without attention slicing and on "
                "diffusers' native attention backend (trace_d2.attention.native_attention), or "
                'with attn_implementation "sdpa" of transformers. '
                "If there were, the layout is of another image size."
            )
        expected = self.layout.calls
        if expected is not None and (
            self.calls > expected or (self.calls < expected and not self._stopped)
        ):
            raise RuntimeError(
                f"the forward pass showed {self.calls} self-attention calls over the grids "
                f"{self.layout.grids}, and the layout has {expected}: maps of different images or "
                "of other layers would be averaged. Run one image a pass, and a network whose "
                "layers all call scaled_dot_product_attention"
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
        raise ValueError(_CAUSAL)
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{query.shape[1]} query heads cannot share {key.shape[1]} key heads")
    if batch and query.shape[0] != batch:
        raise ValueError(
            f"a batch of {query.shape[0]} after one of {batch}: enter the reader around one "
            "forward pass"
        )
