"""Where the image tokens lie in the self-attention calls of a denoiser."""

from __future__ import annotations

from dataclasses import dataclass


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
