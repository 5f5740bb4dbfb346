"""What looks at images with a backbone: they are made ready ahead, and share forward passes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .backbone import AttentionBackbone, ReadImage, square_layout

logger = logging.getLogger(__name__)

FoundT = TypeVar("FoundT")

_MOST_IMAGES = 16  # of a pass; beyond that a GPU gains next to nothing
_MAPS_MB = 256  # of their attention
_PIXEL_BYTES = 2048  # of activations, of VAE and denoiser: 2 GiB at 1024 x 1024


class ReadyImage(NamedTuple):
    """What a pass needs of an image: what its backbone reads, and the image's own size (H, W)."""

    read: ReadImage
    size: tuple[int, int]


class ImagePasses(ABC, Generic[FoundT]):
    """Runs a backbone over images, and finds something in each.

    Results do not depend on the batch, up to rounding.

    Args:
        backbone: shows its attention to images.
        seed: with an image's key it fixes the noise, whatever the batch or the order.
        batch: images of one size that are looked at in one pass, where that many fit; 0: one on
            the CPU, on CUDA as many as its free memory allows.
    """

    def __init__(self, backbone: AttentionBackbone, seed: int, batch: int) -> None:
        self.backbone, self.seed = backbone, seed
        self.batch = batch or _images_that_fit(backbone)

    @property
    def square(self) -> tuple[int, int]:
        """Side in pixels of a square image as the network reads it, and the tokens along it."""
        return self.backbone.size_of((1, 1))[0], square_layout(self.backbone).largest[0]

    @abstractmethod
    def find(self, images: Sequence[ReadyImage]) -> list[FoundT]:
        """What is in images of one size, by one pass at a time for all of them."""

    def __call__(self, image: np.ndarray, key: str) -> FoundT:
        """Of ``image``, (H, W, 3) uint8 RGB; ``key`` (a file stem) fixes its noise."""
        return self.find([self.ready(image, key)])[0]

    def ready(self, image: np.ndarray, key: str, tile: str = "") -> ReadyImage:
        """What ``detect`` takes of an image: the CPU's share, done in any thread.

        ``tile`` tells the noise of parts of one image apart; the network is told what the image is.
        """
        read = self.backbone.read(image, (self.seed, key + tile), key)
        return ReadyImage(read, image.shape[:2])

    def detect(self, images: Sequence[ReadyImage]) -> list[FoundT | Exception]:
        """Of images of any number and sizes; what fails in one is returned in its place."""
        found: dict[int, FoundT | Exception] = {}
        for ranks in self._passes(images):
            outcome = self._attempt([images[rank] for rank in ranks])
            if isinstance(outcome[0], Exception) and len(ranks) > 1:
                # Whatever it was, it fails the image alone that it belongs to.
                self._tell(outcome[0], len(ranks))
                del outcome  # the error holds what the pass had in memory
                outcome = [self._attempt([images[rank]])[0] for rank in ranks]
            found.update(zip(ranks, outcome, strict=False))
        return [found[rank] for rank in range(len(images))]

    def _passes(self, images: Sequence[ReadyImage]) -> Iterator[list[int]]:
        """Ranks of the images that share a pass, those of each, as ``batch`` is by then."""
        of_one_size: dict[object, list[int]] = defaultdict(list)
        for rank, (read, _) in enumerate(images):
            alone = rank if not isinstance(read.noise, Tensor) else -1
            of_one_size[read.pixels.shape, alone].append(rank)
        for ranks in map(iter, of_one_size.values()):
            while taken := list(islice(ranks, self.batch)):
                yield taken

    def _attempt(self, images: Sequence[ReadyImage]) -> Sequence[FoundT | Exception]:
        """What ``find`` gives, or the one error that it raises."""
        try:
            return self.find(images)
        except Exception as error:  # told by who asked for these images; the others go on
            return [error]

    def _tell(self, error: Exception, images: int) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            logger.warning(
                "a pass of %d images does not fit into memory, so it is one from here on: set "
                "MODEL.TRACE.EDGES.BATCH to fewer (%s)",
                *(images, error),
            )
            self.batch = 1
        else:
            logger.info("a pass of %d images failed, so each has one of its own: %s", images, error)


def not_finite(what: str, dtype: torch.dtype) -> FloatingPointError:
    """The error that ``what`` of a backbone of this ``dtype`` is no finite number."""
    remedy = "the weights may be damaged: copy or download them again"
    if dtype == torch.float16:
        remedy = "run the backbone in bfloat16 or float32 (MODEL.TRACE.BACKBONE.DTYPE)"
    return FloatingPointError(f"{what} not finite: {remedy}")


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Arrays of tensors that are on one device: by one copy, and one wait for it."""
    device = tensors[0].device
    if device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    joined = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])
    if device.type == "cuda":
        host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        host.copy_(joined, non_blocking=True)
        torch.cuda.current_stream(device).synchronize()
    else:
        host = joined.cpu()
    return list(_split(host.numpy(), tensors))


def _split(joined: np.ndarray, like: Sequence[Tensor]) -> list[np.ndarray]:
    """Arrays of the types and shapes of ``like`` from their bytes, in memory of their own."""
    arrays, start = [], 0
    for tensor in like:
        stop = start + tensor.nbytes
        array = np.empty(tensor.shape, torch.empty(0, dtype=tensor.dtype).numpy().dtype)
        array.reshape(-1).view(np.uint8)[:] = joined[start:stop]
        arrays.append(array)
        start = stop
    return arrays


def timesteps_per_pass(tokens: int, memory_mb: float) -> int:
    """How many float32 maps of ``tokens`` x ``tokens`` fit in ``memory_mb`` MiB; at least 1."""
    return max(1, int(memory_mb * 2**20 // (4 * tokens**2)))


def _images_that_fit(backbone: AttentionBackbone) -> int:
    """Images a pass on the backbone's device: one on any but CUDA."""
    device = backbone.device
    if device.type != "cuda":
        return 1
    height, width = backbone.size_of((1, 1))
    # Weights that are to be moved there take their part of it.
    away = sum(p.nbytes for p in backbone.parameters() if p.device != device)
    free = (torch.cuda.mem_get_info(device)[0] - away) / 2
    maps = timesteps_per_pass(square_layout(backbone).tokens, _MAPS_MB)
    return max(1, min(_MOST_IMAGES, maps, int(free // (_PIXEL_BYTES * height * width))))
