"""Whether the attention blocks that a config names are there, before any image is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from trace_d2.attention import AttentionLayout, SelfAttentionReader, native_attention

from .backbone import AttentionBackbone
from .network_config import no_such_blocks

_LARGEST = 8  # times the smallest side that the backbone takes


@torch.no_grad()
def check_blocks(backbone: AttentionBackbone, blocks: Sequence[int], key: str) -> None:
    """Raise a ValueError that names ``key`` if the backbone has not all of ``blocks``.

    How many there are shows a pass over an image as small as can be.
    """
    if not blocks:
        return
    if any(type(block) is not int or block < 0 for block in blocks):
        raise ValueError(f"{key} are whole numbers from 0, not {list(blocks)}")
    size, layout = _smallest(backbone)
    pixels = torch.zeros(1, 3, *size, device=backbone.device)
    prepared = backbone.prepare(pixels, (0, ""))
    reader = SelfAttentionReader(layout, blocks=(max(blocks),), stop_early=True)
    with native_attention(backbone), reader:
        backbone.run(prepared, list(backbone.timesteps[:1]))
    absent = sorted(block for block in set(blocks) if block >= reader.calls)
    if absent:
        raise no_such_blocks(key, absent, backbone.name, reader.calls)


def _smallest(backbone: AttentionBackbone) -> tuple[tuple[int, int], AttentionLayout]:
    """The smallest square whose sequences can be told apart, and their layout."""
    for factor in range(1, _LARGEST):
        size = (factor * backbone.size_multiple,) * 2
        with contextlib.suppress(ValueError):
            return size, backbone.layout(size)
    size = backbone.size_of((1, 1))
    return size, backbone.layout(size)
