"""Where the image tokens lie in self-attention calls, and maps of one token grid on another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionLayout:
    """The sequences that a network's self-attention runs over, for one size of image.

    Attributes:
        grids: every grid ``(h, w)`` of image tokens the network uses, the largest first.
        text_tokens: tokens that share the sequence with the image tokens: the prompt's (joint
            attention of SD3 and FLUX, language models), class and register tokens; 0 where there
            are none, as where a prompt enters by cross-attention only.
        text_first: all of them come before the image tokens (FLUX), or after them (SD3).
        start: how many of them come before, where some do and others come after.
        order: of each image token, in row-major order, its place among the image tokens of the
            sequence. Empty: the sequence is row-major.
        calls: self-attention calls of one whole pass. None: nobody knows beforehand.
        ignore_masks: softmax runs over all image keys, whatever the call masks: of a language model
            each token sees only those before it, so that rows could not be compared.

    Raises:
        ValueError: there is no grid, one is empty, the first is not the largest, or two different
            sequences would have one length, so that a call could not be told from its length;
            ``start`` or ``order`` does not fit.
    """

    grids: tuple[tuple[int, int], ...]
    text_tokens: int = 0
    text_first: bool = False
    start: int | None = None
    order: tuple[int, ...] = ()
    calls: int | None = None
    ignore_masks: bool = False

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
        self._check_places()

    def _check_places(self) -> None:
        if self.start is not None and (self.text_first or not 0 <= self.start <= self.text_tokens):
            raise ValueError(
                f"start is one of 0 to {self.text_tokens}, text_tokens, without text_first; not "
                f"{self.start}"
            )
        if self.order and len(set(self.grids)) > 1:
            raise ValueError(f"an order is of one grid, and there are {self.grids}")
        if self.order and sorted(self.order) != list(range(self.tokens)):
            raise ValueError(
                f"order must hold each of the {self.tokens} places 0 to {self.tokens - 1} once"
            )
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"calls is a count of at least 1, not {self.calls}")

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

        A sequence holds a grid's tokens alone, or with the others. None: neither.
        """
        first = self.start
        if first is None:
            first = self.text_tokens if self.text_first else 0
        for grid in self.grids:
            size = grid[0] * grid[1]
            if length == size:
                return grid, 0
            if length == size + self.text_tokens:
                return grid, first
        return None

    def image_tokens(
        self, sequence: Tensor, place: tuple[tuple[int, int], int], dim: int = -2
    ) -> Tensor:
        """Of a tensor whose axis ``dim`` is a sequence, its image tokens in row-major order.

        Args:
            sequence: (..., L, ...) as a call has it.
            place: what ``locate`` says of its length.

        Returns:
            (..., h w, ...); a view where the sequence is row-major.
        """
        (height, width), start = place
        tokens = sequence.narrow(dim, start, height * width)
        return tokens.index_select(dim, _index(self.order, tokens.device)) if self.order else tokens


@lru_cache(maxsize=16)
def _index(order: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is trained later may need it
        return torch.tensor(order, device=device)


def nearest_tokens(
    source: tuple[int, int], target: tuple[int, int], device: torch.device | None = None
) -> Tensor:
    """For each token of the ``target`` grid, in row-major order, its token in ``source``: int64.

    Nearest, as the paper's [i/delta, j/delta]: cell i of n is taken from cell floor(i * m / n) of
    m, which is i / delta for a whole ratio delta = n / m, and is defined for every other ratio too.
    """
    rows = torch.arange(target[0], device=device) * source[0] // target[0]
    columns = torch.arange(target[1], device=device) * source[1] // target[1]
    return (rows.unsqueeze(1) * source[1] + columns).flatten()


def key_multiplicity(
    source: tuple[int, int], target: tuple[int, int], device: torch.device | None = None
) -> Tensor:
    """How many tokens of ``target`` each token of ``source`` becomes: (h w,) int64.

    It is counted without a look at the device: cell r of m gets the cells i of n with
    r <= i m / n < r + 1, and delta^2 in all where the ratio delta is whole.
    """
    if _whole_ratio(source, target):
        size = source[0] * source[1]
        return torch.full((size,), target[0] * target[1] // size, device=device)
    rows, columns = (
        _multiples_below(m + 1, n, m, device).diff() for m, n in zip(source, target, strict=True)
    )
    return (rows.unsqueeze(1) * columns).flatten()


def _whole_ratio(source: tuple[int, int], target: tuple[int, int]) -> bool:
    return target[0] % source[0] == target[1] % source[1] == 0


def _multiples_below(count: int, n: int, m: int, device: torch.device | None) -> Tensor:
    """For r = 0 .. count - 1 the number of i >= 0 with i m / n < r, which is ceil(r n / m)."""
    return (torch.arange(count, device=device) * n + m - 1) // m


def normalise_for_grid(attention: Tensor, multiplicity: Tensor) -> Tensor:
    """Divide the rows (..., n, n) so that they sum to 1 once each key is repeated."""
    return attention / (attention @ multiplicity.to(attention)).unsqueeze(-1)


def resample_attention(
    attention: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Repeat rows and keys of (..., n, n) on ``source`` to (..., N, N) on ``target``.

    Rows that were made by ``normalise_for_grid`` sum to 1 afterwards.
    """
    index = nearest_tokens(source, target, attention.device)
    return attention.index_select(-2, index).index_select(-1, index)


def add_resampled(
    total: Tensor,
    attention: Tensor,
    source: tuple[int, int],
    target: tuple[int, int],
    scratch_bytes: int,
) -> None:
    """``total += resample_attention(...)`` in place, with no second (B, N, N) map.

    Args:
        total: (B, N, N) on ``target``, contiguous.
        attention: (B, n, n) on ``source``.
        scratch_bytes: for a copy of some rows at a time, where the ratio of the grids is not whole.
    """
    batch, tokens, _ = total.shape
    index = nearest_tokens(source, target, attention.device)
    columns = attention.index_select(-1, index)
    if _whole_ratio(source, target):
        down, right = target[0] // source[0], target[1] // source[1]
        repeated = columns.view(batch, source[0], 1, source[1], 1, tokens)
        total.view(batch, source[0], down, source[1], right, tokens).add_(repeated)
        return
    step = max(1, scratch_bytes // (batch * tokens * total.element_size()))
    for start in range(0, tokens, step):
        rows = index[start : start + step]
        total[:, start : start + step] += columns.index_select(1, rows)
