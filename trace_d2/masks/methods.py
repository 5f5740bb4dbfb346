"""The methods of mask discovery by name: functions of an image's token features, and of its edges.

Each gives masks with scores one by one, so that thousands need not be in memory together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trace_d2.settings import NodeSettings

from .settings import (
    DiscoverySettings,
    EdgeHierarchySettings,
    MaskCutSettings,
    NcutSettings,
    ProMergeSettings,
    TokenCutSettings,
)

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from .features import FeatureReader, TokenFeatures

Scored = tuple[np.ndarray, float]
"""A mask bool, and how sure the method is of it, 0..1."""

_ROOM = "trace_d2.masks"


@dataclass(frozen=True)
class Method:
    """A method, which is imported at its first use.

    Attributes:
        function: ``"module:name"`` within ``trace_d2.masks``, from what the method is given of one
            image (token features, or edges) and its settings to ``Iterator[Scored]``.
        settings: the settings class of its node.
        together: another such name where the method is faster on several images of one grid at
            once, from their features and its settings to a list of such iterables.
    """

    function: str
    settings: type[NodeSettings]
    together: str = ""

    def of_one(self, cfg: CfgNode) -> Callable[[Any], Iterable[Scored]]:
        """What finds the masks of one image by the settings of ``cfg``."""
        return self._bound(self.function, cfg)

    def of_several(
        self, cfg: CfgNode
    ) -> Callable[[Sequence[TokenFeatures]], Sequence[Iterable[Scored]]]:
        """What finds the masks of images of one grid by the settings of ``cfg``."""
        if self.together:
            return self._bound(self.together, cfg)
        find = self.of_one(cfg)
        return lambda images: [find(features) for features in images]

    def _bound(self, name: str, cfg: CfgNode) -> Callable[[Any], Any]:
        settings, function = self.settings.from_config(cfg), resolve_name(f"{_ROOM}.{name}")
        return lambda given: function(given, settings)


METHODS: dict[str, Method] = {
    "edges": Method("edge_hierarchy:edge_masks", EdgeHierarchySettings),
    "ncut": Method("ncut:recursive_cuts", NcutSettings),
    "promerge": Method("pro_merge:pro_merge", ProMergeSettings),
    "maskcut": Method("mask_cut:mask_cut", MaskCutSettings, "mask_cut:mask_cuts"),
    "tokencut": Method("token_cut:token_cut", TokenCutSettings, "token_cut:token_cuts"),
}
"""By the value of ``MODEL.TRACE.DISCOVERY.METHOD``. "edges" takes edges float32 (H, W) in 0..1 and
gives masks (H, W); all others take ``TokenFeatures`` and give masks of the tokens' grid."""


class TokenMasks(NamedTuple):
    """What a method found among the tokens of one image.

    Attributes:
        grid: (h, w) of the tokens, which cover the whole image.
        masks: bool (h, w) each, from the highest score to the lowest.
        scores: 0..1.
    """

    grid: tuple[int, int]
    masks: list[np.ndarray]
    scores: list[float]


class TokenMaskFinder:
    """From images to masks of tokens: a ``FeatureReader``, and a method after it.

    It is asked as a ``BatchedEdgeSource`` is: ``ready`` in any thread, then ``detect``.

    Args:
        reader: gives the features of images.
        method: gives masks of images of one grid, at most as many as share a pass of the reader.
    """

    def __init__(
        self,
        reader: FeatureReader,
        method: Callable[[Sequence[TokenFeatures]], Sequence[Iterable[Scored]]],
    ) -> None:
        self.reader, self.method = reader, method

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TokenMaskFinder:
        """The finder of ``cfg.MODEL.TRACE.DISCOVERY``; raises as ``FeatureReader.from_config``."""
        from .features import FeatureReader  # with torch

        method = METHODS[DiscoverySettings.from_config(cfg).method].of_several(cfg)
        return cls(FeatureReader.from_config(cfg), method)

    @property
    def backbone(self) -> Any:
        """The reader's."""
        return self.reader.backbone

    @property
    def batch(self) -> int:
        """Images of one size that are looked at in one pass."""
        return self.reader.batch

    def __call__(self, image: np.ndarray, key: str) -> TokenMasks:
        """Masks of ``image``, (H, W, 3) uint8 RGB; ``key`` (a file stem) fixes its noise."""
        return self.find([self.reader(image, key)])[0]

    def ready(self, image: np.ndarray, key: str) -> Any:
        """What ``detect`` takes of an image."""
        return self.reader.ready(image, key)

    def detect(self, images: Sequence[Any]) -> list[TokenMasks | Exception]:
        """Masks of images, of any number and sizes; what fails in one is returned in its place."""
        of_one_grid: dict[tuple[int, int], list[int]] = defaultdict(list)
        found: dict[int, TokenMasks | Exception] = {}
        features: dict[int, TokenFeatures] = {}
        for rank, read in enumerate(self.reader.detect(images)):
            if isinstance(read, Exception):
                found[rank] = read
            else:
                features[rank] = read
                of_one_grid[read.grid].append(rank)
        for ranks in map(iter, of_one_grid.values()):
            while taken := list(islice(ranks, max(1, self.batch))):
                masks = self._attempt([features[rank] for rank in taken])
                found.update(zip(taken, masks, strict=True))
        return [found[rank] for rank in range(len(images))]

    def find(self, images: Sequence[TokenFeatures]) -> list[TokenMasks]:
        """Masks of images of these features, which have one grid."""
        return [
            _sorted([checked(one, features.grid) for one in found], features.grid)
            for features, found in zip(images, self.method(images), strict=True)
        ]

    def _attempt(self, images: Sequence[TokenFeatures]) -> Sequence[TokenMasks | Exception]:
        """What ``find`` gives; where that fails, it fails the image alone that it belongs to."""
        try:
            return self.find(images)
        except Exception as error:  # told by who asked for these images; the others go on
            return [error] if len(images) == 1 else [self._attempt([one])[0] for one in images]


def _sorted(found: list[Scored], grid: tuple[int, int]) -> TokenMasks:
    found.sort(key=lambda one: -one[1])
    return TokenMasks(grid, [mask for mask, _ in found], [score for _, score in found])


def checked(found: Scored, size: tuple[int, int]) -> Scored:
    """``found``, a mask of ``size`` (H, W) and its score. Raises ValueError if it is none."""
    mask, score = found
    if mask.dtype != bool or mask.shape != size or not 0 <= score <= 1:
        raise ValueError(
            f"a method gives a mask of {mask.dtype} {mask.shape} and the score {score}, not one of "
            f"bool {size} and a score in 0..1: repair the method"
        )
    return mask, float(score)
