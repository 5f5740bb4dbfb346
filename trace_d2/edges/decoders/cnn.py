"""The paper's decoder: one convolution over the attention map."""

from __future__ import annotations

from torch import Tensor, nn

from .base import EdgeDecoder, at_size_of, keys_as_channels, register_decoder


@register_decoder("cnn")
class CnnDecoder(EdgeDecoder):
    """One convolution that reads the map as [HW, H, W], its channels the keys (0.1 MB at N 4096).

    Args:
        kernel: side of the convolution in tokens, odd.
    """

    def __init__(self, *, tokens: int, kernel: int = 3) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"MODEL.TRACE.STUDENT.DECODER.CNN.KERNEL is odd and positive, not {kernel}"
            )
        self.convolution = nn.Conv2d(tokens, 1, kernel, padding=kernel // 2)

    def forward(self, attention: Tensor, grid: tuple[int, int], pixels: Tensor) -> Tensor:
        logits = self.convolution(keys_as_channels(attention, grid))
        return at_size_of(pixels, logits)
