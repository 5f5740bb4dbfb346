"""A pass whose attention is read, and the parts around it, to be run alone on a meta device."""

from __future__ import annotations

from typing import Any

import torch

from trace_d2.attention import SelfAttentionReader, native_attention
from trace_d2.edges.abdiv import attention_boundary_divergence, normalise_edges, upsample_edges
from trace_d2.edges.decoders import build_decoder
from trace_d2.edges.emergence import search_trajectory


class PassParts:
    """Parts of a pass over one image at native resolution; each needs what those before it made.

    Attributes:
        layout: of the attention.
        calls: self-attention calls that ``read`` read.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        self.size = (backbone.resolution, backbone.resolution)
        self.layout = backbone.layout(self.size)
        self.calls = 0
        with torch.device("meta"):
            self._pixels = torch.zeros(1, 3, *self.size)
            latent = (1, backbone.denoiser_latent_channels, *backbone.latent_size(self.size))
            self._noise = torch.zeros(latent)
            self._decoder = build_decoder("relative", self.layout.tokens, {})

    def encode(self) -> None:
        """The image becomes what the network takes."""
        self._prepared = self.backbone.prepare(self._pixels, self._noise)

    def run(self) -> None:
        """The bare pass."""
        with native_attention(self.backbone):
            self.backbone.run(self._prepared, [0])

    def read(self) -> None:
        """The pass with its attention map."""
        reader = SelfAttentionReader(self.layout, network=self.backbone.network, kernels="auto")
        with native_attention(self.backbone), reader:
            self.backbone.run(self._prepared, [0])
        self._map, self.calls = reader.attention(), reader.calls

    def search(self) -> None:
        """The emergence point among ten maps."""
        search_trajectory(lambda steps: self._map.expand(len(steps), -1, -1), range(10))

    def edges(self) -> None:
        """ABDiv, and edges at the size of the image."""
        abdiv = attention_boundary_divergence(self._map[0], self.layout.largest)
        upsample_edges(normalise_edges(abdiv), self.size)

    def decode(self) -> None:
        """A student's edges of the map."""
        self._decoder(self._map, self.layout.largest, self._pixels)
