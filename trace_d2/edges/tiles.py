"""Large images read in overlapping tiles, each at the size that a network was made for.

The image is a lattice of cells, the tokens of its tiles, which fills it exactly, and tiles are
squares of cells that overlap. What the tiles say is added up by weights that fall to 0 before a
tile's border, unless that is the image's own: no tile ends anywhere in the sum. So memory is that
of the image and of the tiles of one pass, however many tiles there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from fvcore.common.config import CfgNode

from trace_d2.backbones.backbone import resize_image

from .detector import EdgeDetector
from .settings import TileSettings
from .sources import BatchedEdgeSource, EdgeOutput, EdgeSource

# Of what neighbours share: what lies this near to a tile's border counts for nothing ...
_MARGIN = 0.25
# ... and weights rise to 1 within this.
_RAMP = 0.5


class TileableSource(BatchedEdgeSource, Protocol):
    """A source that looks at images through a network."""

    @property
    def square(self) -> tuple[int, int]:
        """Side in pixels of a square image as the network reads it, and the tokens along it."""

    def ready(self, image: np.ndarray, key: str, tile: str = "") -> Any:
        """What ``detect`` takes of an image, or of one ``tile`` of it, which has its own noise."""


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis of an image.

    Attributes:
        pixels: of the image.
        cells: of the image; a cell is ``pixels / cells`` wide.
        tile: cells of a tile.
        starts: first cell of each tile. The last tile ends with the image; an image that is
            narrower than a tile has one, which goes beyond it.
        overlap: cells that neighbours share at least.
    """

    pixels: int
    cells: int
    tile: int
    starts: tuple[int, ...]
    overlap: int

    @classmethod
    def of(cls, pixels: int, side: int, tile: int, overlap: float) -> Axis:
        """Of an image of ``pixels``, by tiles of about ``side`` pixels and ``tile`` cells.

        With fewer pixels than cells in a tile, pixels can lie between all weights: see TiledEdges.
        ``overlap`` is the share (0 to below 1) of a tile that it has in common with the next one.
        """
        cells = max(1, round(pixels * tile / side))
        step = max(1, int(tile * (1 - overlap)))
        count = 1 + max(0, -(-(cells - tile) // step))
        starts = np.linspace(0, max(0, cells - tile), count).round().astype(int)
        return cls(pixels, cells, tile, tuple(starts.tolist()), tile - step)

    @property
    def side(self) -> int:
        """Pixels of a tile, beyond the image or not."""
        return -(-self.tile * self.pixels // self.cells)

    def span(self, start: int) -> slice:
        """The pixels of the image in the tile that starts at this cell."""
        first = min(start * self.pixels // self.cells, max(0, self.pixels - self.side))
        return slice(first, min(first + self.side, self.pixels))

    def span_of_cells(self, start: int) -> slice:
        """The cells of the image in that tile."""
        return slice(start, min(start + self.tile, self.cells))

    @cached_property
    def weights(self) -> dict[int, np.ndarray]:
        """Of the pixels of each tile, float32; they add up to 1 in every pixel of the image."""
        return self._weights(self.pixels, self.span)

    @cached_property
    def cell_weights(self) -> dict[int, np.ndarray]:
        """The same of cells."""
        return self._weights(self.cells, self.span_of_cells)

    def _weights(self, points: int, span: Any) -> dict[int, np.ndarray]:
        places = (np.arange(points) + 0.5) * self.cells / points
        own = {start: self._rise(start, places[span(start)]) for start in self.starts}
        total = np.zeros(points)
        for start, weights in own.items():
            total[span(start)] += weights
        return {
            start: (weights / total[span(start)]).astype(np.float32)
            for start, weights in own.items()
        }

    def _rise(self, start: int, places: np.ndarray) -> np.ndarray:
        """Weights, not yet divided, of places in cells, by their distance to the tile's border."""
        weights = np.ones(len(places))
        if self.overlap:
            margin, ramp = _MARGIN * self.overlap, _RAMP * self.overlap
            if start > 0:
                weights = np.minimum(weights, (places - start - margin) / ramp)
            if start + self.tile < self.cells:
                weights = np.minimum(weights, (start + self.tile - places - margin) / ramp)
        return np.clip(weights, 0, 1)


class TiledImage(NamedTuple):
    """An image that is to be read in tiles: uint8 (H, W, 3), the key of its noise, its axes."""

    pixels: np.ndarray
    key: str
    rows: Axis
    columns: Axis

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """First cells (down, right) of all tiles."""
        return [(down, right) for down in self.rows.starts for right in self.columns.starts]

    def crop(self, tile: tuple[int, int], side: int) -> np.ndarray:
        """A tile at ``side`` pixels square, uint8; mirrored where it goes beyond the image."""
        axes = (self.rows, self.columns)
        own = self.pixels[tuple(axis.span(start) for axis, start in zip(axes, tile, strict=True))]
        beyond = [(0, axis.side - n) for axis, n in zip(axes, own.shape[:2], strict=True)]
        return resize_image(np.pad(own, [*beyond, (0, 0)], "symmetric"), (side, side))


@dataclass
class TiledEdges:
    """An edge source that reads large images in tiles, and others as ``source`` does.

    The teacher's ABDiv is joined in nats before the image's own mean and deviation say what an
    edge is, and all tiles are read at one t*, that of the mean of their curves: normalised on its
    own, a tile of plain sky would have edges. Other strengths are joined as they are. The noise of
    a tile is fixed by the seed, the image's key and the tile's place.

    Attributes:
        source: finds the edges of a tile. Its ``batch`` tiles share a pass.
        settings: which images are tiled, and how.

    Raises:
        ValueError: a tile has fewer pixels along its side than the network has tokens.
    """

    source: TileableSource
    settings: TileSettings

    def __post_init__(self) -> None:
        _, cells = self.source.square
        if 0 < self.settings.size < cells:
            raise ValueError(
                f"{self.settings.node}.SIZE is {self.settings.size}, and the backbone has {cells} "
                f"tokens along a tile, which need a pixel each: set it to {cells} or more, or to 0 "
                "for what the backbone reads"
            )

    @property
    def batch(self) -> int:
        """Images of one size that are looked at in one pass, or tiles of one image."""
        return self.source.batch

    @property
    def backbone(self) -> Any:
        """The source's."""
        return getattr(self.source, "backbone", None)

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Edges of ``image``, see ``EdgeSource``."""
        found = self.detect([self.ready(image, key)])[0]
        if isinstance(found, Exception):
            raise found
        return found

    def ready(self, image: np.ndarray, key: str) -> Any:
        """What ``detect`` takes of an image; tiles are cut out of it when they are looked at."""
        height, width = image.shape[:2]
        native, cells = self.source.square
        side = self.settings.size or native
        if not self.settings.tiles(max(height, width), side):
            return self.source.ready(image, key)
        rows, columns = (Axis.of(n, side, cells, self.settings.overlap) for n in (height, width))
        return TiledImage(image, key, rows, columns)

    def detect(self, images: Sequence[Any]) -> list[EdgeOutput | Exception]:
        """Edges of images of any number and sizes; what fails in one is returned in its place."""
        whole = [image for image in images if not isinstance(image, TiledImage)]
        found = iter(self.source.detect(whole) if whole else ())
        return [
            self._attempt(image) if isinstance(image, TiledImage) else next(found)
            for image in images
        ]

    def _attempt(self, image: TiledImage) -> EdgeOutput | Exception:
        try:
            if isinstance(self.source, EdgeDetector):
                found = self._divergence(self.source, image)
            else:
                found = self._strengths(image)
            return replace(found, tiles=len(image.tiles))
        except Exception as error:  # told by who asked for this image; the others go on
            return error

    def _strengths(self, image: TiledImage) -> EdgeOutput:
        joined = np.zeros(image.pixels.shape[:2], np.float32)
        for (down, right), found in self._look(self.source, image):
            rows, columns = image.rows.span(down), image.columns.span(right)
            sides = image.columns.side, image.rows.side
            shrinks = min(sides) < min(found.edges.shape)
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            edges = cv2.resize(found.edges, sides, interpolation=way)
            edges = edges[: rows.stop - rows.start, : columns.stop - columns.start]
            edges *= image.rows.weights[down][:, None]
            edges *= image.columns.weights[right]
            joined[rows, columns] += edges
        return EdgeOutput(np.clip(joined, 0, 1, out=joined), timestep=found.timestep)

    def _divergence(self, teacher: EdgeDetector, image: TiledImage) -> EdgeOutput:
        curve: dict[float, float] = {}
        if teacher.searches:
            sums = Counter[float]()
            for _, found in self._look(teacher, image):
                sums.update(found.curve)
            curve = {t: total / len(image.tiles) for t, total in sums.items()}
            teacher = teacher.at(max(curve, key=curve.__getitem__))
        joined = np.zeros((image.rows.cells, image.columns.cells), np.float32)
        for (down, right), found in self._look(teacher, image):
            rows, columns = image.rows.span_of_cells(down), image.columns.span_of_cells(right)
            assert found.abdiv is not None
            abdiv = found.abdiv[: rows.stop - rows.start, : columns.stop - columns.start]
            weights = np.outer(image.rows.cell_weights[down], image.columns.cell_weights[right])
            joined[rows, columns] += weights * abdiv
        edges = teacher.strengths(torch.from_numpy(joined), image.pixels.shape[:2]).numpy()
        return EdgeOutput(edges, joined, found.timestep, curve)

    def _look(
        self, source: TileableSource, image: TiledImage
    ) -> Iterator[tuple[tuple[int, int], EdgeOutput]]:
        """Each tile with what ``source`` finds in it; no more of them live than share a pass."""
        tiles, (native, _) = iter(image.tiles), source.square
        while taken := list(islice(tiles, source.batch)):
            crops = [
                source.ready(image.crop(tile, native), image.key, f" {tile[0]} {tile[1]}")
                for tile in taken
            ]
            for tile, found in zip(taken, source.detect(crops), strict=True):
                if isinstance(found, Exception):
                    raise _told_of(found, image, tile)
                yield tile, found


def _told_of(error: Exception, image: TiledImage, tile: tuple[int, int]) -> Exception:
    """``error`` with the tile that it is of, where its text is all there is to it."""
    if type(error) not in (ValueError, FloatingPointError):
        return error
    rows, columns = image.rows.span(tile[0]), image.columns.span(tile[1])
    told = type(error)(
        f"in the tile of rows {rows.start} to {rows.stop} and columns {columns.start} to "
        f"{columns.stop}: {error}"
    )
    told.__cause__ = error
    return told


def in_tiles(source: EdgeSource, cfg: CfgNode) -> EdgeSource:
    """``source``, which reads large images in tiles if ``MODEL.TRACE.EDGES.TILES`` says so."""
    settings = TileSettings.from_config(cfg)
    return source if settings.mode == "never" else TiledEdges(source, settings)  # type: ignore[arg-type]
