"""Attention maps of one token grid on another: nearest, as the paper's [i/delta, j/delta]."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_tokens(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """For each token of the ``target`` grid, in row-major order, its token in ``source``: int64.

    Cell i of n is taken from cell floor(i * m / n) of m, which is i / delta for a whole ratio
    delta = n / m and is defined for every other ratio too.
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
