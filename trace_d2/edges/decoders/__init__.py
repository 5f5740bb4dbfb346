"""Edge decoders G_phi: an accumulated attention map in, edge logits out; one registry."""

from .base import EDGE_DECODERS, EdgeDecoder, build_decoder, decoder_settings, register_decoder
from .cnn import CnnDecoder
from .mask2former import Mask2FormerDecoder
from .relative import RelativeDecoder
from .unet import UNetDecoder

__all__ = [
    "EDGE_DECODERS",
    "CnnDecoder",
    "EdgeDecoder",
    "Mask2FormerDecoder",
    "RelativeDecoder",
    "UNetDecoder",
    "build_decoder",
    "decoder_settings",
    "register_decoder",
]
