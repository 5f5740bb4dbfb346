"""Where the image tokens lie in self-attention calls, and maps of one token grid on another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionLayout:
    """The sequences that a denoiser's self-attention runs over, for one latent size.

    Attributes:
        grids: every grid ``(h, w)`` of image tokens the denoiser uses, the largest first.
        text_tokens: tokens of the prompt that share the sequence with the image tokens (joint
            attention of SD3 and FLUX); 0 where the prompt enters by cross-attention only.
        text_first: the prompt comes before the image tokens (FLUX) or after them (SD3).

    Raises:
        ValueError: there is no grid, one is empty, the first is not the largest, or two different
            sequences would have one length, so that a call could not be told from its length.
    """

    grids: tuple[tuple[int, int], ...]
    text_tokens: int = 0
    text_first: bool = False

    def __post_init__(self) -> None:
        if not self.grids or any(h < 1 or w < 1 for h, w in self.grids):
            raise ValueError(f"a layout needs grids of at least 1x1 tokens, not {self.grids}")
        if self.text_tokens < 0:
            raise ValueError(f"text_tokens is a count, not {self.text_tokens}")
        sizes = [h * w for h, w in self.grids]
        if max(sizes) != sizes[0]:
            raise ValueError(f"the largest grid comes first, not {self.grids}")
        lengths = set(sizes) | {size + self.text_tokens for size in sizes}
        expected = len(set(self.grids)) * (2 if self.text_tokens else 1)
        if len(lengths) != expected:
            raise ValueError(
                f"grids {self.grids} with {self.text_tokens} prompt tokens give sequences of equal "
                "length; choose another image size or prompt length"
            )

    @property
    def largest(self) -> tuple[int, int]:
        """The grid ``(h, w)`` that accumulated maps have."""
        return self.grids[0]

    @property
    def tokens(self) -> int:
        """Image tokens N of the largest grid."""
        return self.grids[0][0] * self.grids[0][1]

    def locate(self, length: int) -> tuple[tuple[int, int], int] | None:
        """The grid in a sequence of ``length`` tokens and the index of its first image token.

        A sequence holds a grid's tokens alone, or with the prompt's. None: neither.
        """
        for grid in self.grids:
            size = grid[0] * grid[1]
            if length == size:
                return grid, 0
            if length == size + self.text_tokens:
                return grid, self.text_tokens if self.text_first else 0
        return None


def nearest_tokens(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """For each token of the ``target`` grid, in row-major order, its token in ``source``: int64.

    Nearest, as the paper's [i/delta, j/delta]: cell i of n is taken from cell floor(i * m / n) of
    m, which is i / delta for a whole ratio delta = n / m, and is defined for every other ratio too.
    """
    rows = torch.arange(target[0]) * source[0] // target[0]
    columns = torch.arange(target[1]) * source[1] // target[1]
    return (rows.unsqueeze(1) * source[1] + columns).flatten()


def key_multiplicity(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """How many tokens of ``target`` each token of ``source`` becomes: (h w,) int64."""
    return torch.bincount(nearest_tokens(source, target), minlength=source[0] * source[1])


def normalise_for_grid(attention: Tensor, multiplicity: Tensor) -> Tensor:
    """Divide the rows (..., n, n) so that they sum to 1 once each key is repeated."""
    return attention / (attention @ multiplicity.to(attention)).unsqueeze(-1)


def resample_attention(
    attention: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Repeat rows and keys of (..., n, n) on ``source`` to (..., N, N) on ``target``.

    Rows that were made by ``normalise_for_grid`` sum to 1 afterwards.
    """
    index = nearest_tokens(source, target).to(attention.device)
    return attention.index_select(-2, index).index_select(-1, index)
