"""The methods of mask discovery by name: functions of an image's token features, and of its edges.

Each gives masks with scores one by one, so that thousands need not be in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trace_d2.settings import NodeSettings

from .settings import DiscoverySettings

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
        function: ``"module:name"`` within ``trace_d2.masks``, from what the method is given (token
            features, or edges) and its settings to ``Iterator[Scored]``.
        settings: the settings class of its node.
    """

    function: str
    settings: type[NodeSettings]

    def bound(self, cfg: CfgNode) -> Callable[[Any], Iterator[Scored]]:
        """The function with the settings of ``cfg``."""
        settings, function = (
            self.settings.from_config(cfg),
            resolve_name(f"{_ROOM}.{self.function}"),
        )
        return lambda given: function(given, settings)


METHODS: dict[str, Method] = {}
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
    """

    def __init__(
        self, reader: FeatureReader, method: Callable[[TokenFeatures], Iterator[Scored]]
    ) -> None:
        self.reader, self.method = reader, method

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TokenMaskFinder:
        """The finder of ``cfg.MODEL.TRACE.DISCOVERY``; raises as ``FeatureReader.from_config``."""
        from .features import FeatureReader  # with torch

        method = METHODS[DiscoverySettings.from_config(cfg).method].bound(cfg)
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
        return self.find(self.reader(image, key))

    def ready(self, image: np.ndarray, key: str) -> Any:
        """What ``detect`` takes of an image."""
        return self.reader.ready(image, key)

    def detect(self, images: Sequence[Any]) -> list[TokenMasks | Exception]:
        """Masks of images, of any number and sizes; what fails in one is returned in its place."""
        return [self._attempt(features) for features in self.reader.detect(images)]

    def find(self, features: TokenFeatures) -> TokenMasks:
        """Masks of an image of these features."""
        found = [checked(one, features.grid) for one in self.method(features)]
        found.sort(key=lambda one: -one[1])
        return TokenMasks(features.grid, [mask for mask, _ in found], [score for _, score in found])

    def _attempt(self, features: TokenFeatures | Exception) -> TokenMasks | Exception:
        if isinstance(features, Exception):
            return features
        try:
            return self.find(features)
        except Exception as error:  # told by who asked for this image; the others go on
            return error


def checked(found: Scored, size: tuple[int, int]) -> Scored:
    """``found``, a mask of ``size`` (H, W) and its score. Raises ValueError if it is none."""
    mask, score = found
    if mask.dtype != bool or mask.shape != size or not 0 <= score <= 1:
        raise ValueError(
            f"a method gives a mask of {mask.dtype} {mask.shape} and the score {score}, not one of "
            f"bool {size} and a score in 0..1: repair the method"
        )
    return mask, float(score)
