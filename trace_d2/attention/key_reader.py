"""Keys of self-attention, read while a network runs: features of its image tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .layout import AttentionLayout
from .reader import SelfAttentionReader


class KeyReader(SelfAttentionReader):
    """Keeps the keys of one self-attention call of a forward pass, as the attention takes them.

    Of a ViT without rotary positions they are what its last ``k_proj`` says of each patch::

        with KeyReader(layout) as reader:
            network(pixels)
        keys = reader.keys()  # (B, h w, D)

    Nothing in the pass changes and nothing is done twice. Maps of the same pass can be read as
    well, by a ``SelfAttentionReader`` around it that does not stop early.

    Args:
        layout, stop_early, network: see ``SelfAttentionReader``.
        block: the self-attention call, counted from 0 in the order they run; -1: the last one.
    """

    def __init__(
        self,
        layout: AttentionLayout,
        *,
        block: int = -1,
        stop_early: bool = False,
        network: nn.Module | None = None,
    ) -> None:
        blocks = () if block == -1 else (block,)
        super().__init__(layout, blocks=blocks, stop_early=stop_early, network=network)

    def _reset(self) -> None:
        super()._reset()
        self._keys = torch.empty(0)
        self.grid = 0, 0
        """Of the tokens (h, w): of the call that was read, after leaving the context."""

    def _read_call(
        self,
        place: tuple[tuple[int, int], int],
        query: Tensor,
        key: Tensor,
        *others: Any,
    ) -> None:
        if key.ndim != 4:
            raise ValueError(f"keys are read of (B, heads, N, d), not {tuple(key.shape)}")
        self.grid = place[0]
        image = self.layout.image_tokens(key, place)
        # A copy: the module may go on to use the memory for something else.
        self._keys = image.detach().transpose(1, 2).flatten(2).clone()
        self._read += 1

    def keys(self) -> Tensor:
        """(B, h w, heads d) of the last forward pass, after leaving the context.

        Image tokens alone, in row-major order; heads stand one after the other; in the type of the
        network.

        Raises:
            RuntimeError: no self-attention was seen, or not the ``block``.
        """
        self._check_read()
        return self._keys

    def attention(self) -> Tensor:
        """Raises a TypeError: this reader makes no maps."""
        raise TypeError("a KeyReader makes no maps: read them with a SelfAttentionReader around it")
