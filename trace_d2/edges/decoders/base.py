"""The contract of edge decoders, and how one is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional

EDGE_DECODERS: dict[str, type[EdgeDecoder]] = {}
"""Values of ``MODEL.TRACE.STUDENT.DECODER.NAME``. A decoder's settings are the keys of the node of
its name in upper case, and in lower case the arguments of its ``__init__``."""


def register_decoder(name: str) -> Callable[[type[EdgeDecoder]], type[EdgeDecoder]]:
    """A class decorator that enters a decoder into ``EDGE_DECODERS``."""

    def enter(decoder: type[EdgeDecoder]) -> type[EdgeDecoder]:
        if name in EDGE_DECODERS:
            raise ValueError(f"an edge decoder {name!r} is registered already")
        EDGE_DECODERS[name] = decoder
        return decoder

    return enter


class EdgeDecoder(nn.Module, ABC):
    """Edges of an image from the self-attention of one forward pass.

    Subclasses take ``tokens``, the N of the grid, and their settings; one that is out of its range
    is a ValueError.

    Attributes:
        of_one_grid: the decoder's weights belong to the tokens of one grid.
        name, settings: what ``build_decoder`` was told, to build it again.
        kernels: ``MODEL.TRACE.ATTENTION.KERNELS``.
    """

    of_one_grid: ClassVar[bool] = True
    name: str
    settings: dict[str, Any]
    kernels: str = "auto"

    def __init__(self, **arguments: Any) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, attention: Tensor, grid: tuple[int, int], pixels: Tensor) -> Tensor:
        """Edge logits.

        Args:
            attention: (B, N, N) float32, rows sum to 1, N = h w in row-major order.
            grid: (h, w).
            pixels: the images (B, 3, H, W) in -1..1, of which most decoders take the size only.

        Returns:
            (B, H, W) float32; above 0 is an edge.
        """


def keys_as_channels(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, N) as features (B, N, h, w): channel k holds what each token gives to key k.

    Times N, so that uniform attention is 1 whatever the grid.
    """
    return attention.transpose(1, 2).unflatten(2, grid) * attention.shape[-1]


def at_size_of(pixels: Tensor, logits: Tensor) -> Tensor:
    """Logits (B, 1, h, w) as (B, H, W) float32 of the size of ``pixels``, bilinear."""
    logits, size = logits.float(), pixels.shape[-2:]
    if logits.shape[-2:] != size:
        logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits[:, 0]


def decoder_settings(node: CfgNode) -> dict[str, Any]:
    """The arguments of the decoder that ``node``, ``cfg.MODEL.TRACE.STUDENT.DECODER``, names."""
    _check_name(node.NAME, "MODEL.TRACE.STUDENT.DECODER.NAME")
    return {key.lower(): value for key, value in node[node.NAME.upper()].items()}


def build_decoder(name: str, tokens: int, settings: dict[str, Any]) -> EdgeDecoder:
    """A decoder with random weights, for a grid of N = ``tokens``; see ``decoder_settings``."""
    _check_name(name, "the edge decoder")
    decoder = EDGE_DECODERS[name](tokens=tokens, **settings)
    decoder.name, decoder.settings = name, dict(settings)
    return decoder


def _check_name(name: str, what: str) -> None:
    if name not in EDGE_DECODERS:
        raise ValueError(f"{what} is {name!r}; choose one of {', '.join(sorted(EDGE_DECODERS))}")
