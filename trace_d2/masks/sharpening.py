"""Masks of tokens brought to the image's own size: by a guided filter, a dense CRF, or as they are.

MaskCut and ProMerge end so: each mask is sharpened, its holes are filled, and it is left out where
it has become another mask.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .settings import CrfSettings, DiscoverySettings, GuidedSettings

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

Size = tuple[int, int]
Filter = Callable[[np.ndarray], np.ndarray]
"""A mask bool (h, w) of tokens, at the size that the filter works at, to one that fits the image
better, of the same size."""


class Sharpener:
    """Brings masks of tokens to the size of their image, as ``MODEL.TRACE.DISCOVERY`` says.

    Args:
        common: which way, and what comes after.
        guided, crf: settings of the two.
    """

    def __init__(
        self,
        common: DiscoverySettings = DiscoverySettings(),
        guided: GuidedSettings = GuidedSettings(),
        crf: CrfSettings = CrfSettings(),
    ) -> None:
        self.common, self.guided, self.crf = common, guided, crf

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Sharpener:
        """The sharpener of ``cfg.MODEL.TRACE.DISCOVERY``.

        Raises:
            ValueError: a key is wrong, or a package is missing.
        """
        common = DiscoverySettings.from_config(cfg)
        check_package(common.sharpen)
        return cls(common, GuidedSettings.from_config(cfg), CrfSettings.from_config(cfg))

    def of_image(self, image: np.ndarray, grid: Size) -> Callable[[np.ndarray], np.ndarray | None]:
        """What sharpens the masks of one image; what they share is computed here.

        Args:
            image: uint8 (H, W, 3) RGB.
            grid: (h, w) of the tokens, which cover the whole image.

        Returns:
            a function from a mask bool (h, w) to one bool (H, W); to None where the mask is left
            out, since its IoU with itself as it was is below ``MIN_IOU``, or nothing is left of it.
        """
        if self.common.sharpen == "none":
            return functools.partial(_whole_mask, size=image.shape[:2])
        if self.common.sharpen == "crf":
            small = resized(image, (self.crf.side, self.crf.side))
            sharpen: Filter = functools.partial(dense_crf, image=small, settings=self.crf)
        else:
            small = resized(image, _within(image.shape[:2], self.guided.side))
            sharpen = _guided(small, grid, self.guided)
        return functools.partial(self._sharpened, small.shape[:2], image.shape[:2], sharpen)

    def _sharpened(
        self, working: Size, size: Size, sharpen: Filter, mask: np.ndarray
    ) -> np.ndarray | None:
        before = enlarged(mask, working)
        after = sharpen(before)
        if self.common.fill_holes:
            after = without_holes(after)
        union = np.count_nonzero(before | after)
        if not union or np.count_nonzero(before & after) / union < self.common.min_iou:
            return None
        whole = resized(after.view(np.uint8) * np.uint8(255), size) > 127
        return whole if whole.any() else None


def check_package(sharpen: str) -> None:
    """Raise a ValueError where the package is missing that the ``SHARPEN`` of this name needs."""
    if sharpen == "crf" and importlib.util.find_spec("pydensecrf") is None:
        raise ValueError(
            'MODEL.TRACE.DISCOVERY.SHARPEN "crf" needs the package pydensecrf2: run `pip install '
            'pydensecrf2`, which compiles it for some minutes, or set it to "guided"'
        )


def enlarged(mask: np.ndarray, size: Size) -> np.ndarray:
    """``mask`` bool (h, w) at ``size`` (H, W): each pixel is of the token that it lies in."""
    pixels = mask.astype(np.uint8)
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).view(bool)


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """``image`` uint8 (H, W) or (H, W, 3) at ``size`` (height, width)."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=how)


def without_holes(mask: np.ndarray) -> np.ndarray:
    """``mask`` bool (H, W), and what does not reach the image's border without crossing it.

    A way outside goes from pixel to pixel by their sides.
    """
    _, labels = cv2.connectedComponents((~mask).view(np.uint8), connectivity=4)
    outside = np.zeros(labels.max() + 1, bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[line] = True
    outside[0] = False  # the mask itself
    return ~outside[labels]


class GuidedFilter:
    """The guided filter of He, Sun and Tang (TPAMI 2013, section 3.4) with a guide of colours.

    In each window the mask is fitted by a linear function of the colours; a pixel has the mean of
    what the windows that it is in say of it. Windows end at the image's border.

    Args:
        guide: float32 (H, W, 3) in 0..1.
        radii: (rows, columns) of the window on each side of its pixel.
        epsilon: variance of the colours below which a window is smoothed.
    """

    def __init__(self, guide: np.ndarray, radii: tuple[int, int], epsilon: float) -> None:
        self.guide, self.radii = guide, radii
        self._share = 1 / self._sums(np.ones(guide.shape[:2], np.float32))
        self._mean = self._sums(guide) * self._share[..., None]
        self._inverse = self._inverse_covariance(epsilon)

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """The filtered ``mask``, bool or float32 (H, W), as float32 (H, W).

        Only the box of its pixels and two radii around it are computed, beyond which all is 0.
        """
        found = np.zeros(mask.shape, np.float32)
        box = self._box(mask)
        if box is None:
            return found
        given, guide = mask[box].astype(np.float32), self.guide[box]
        share, mean_guide = self._share[box], self._mean[box]
        mean = self._sums(given) * share
        together = self._sums(guide * given[..., None]) * share[..., None]
        covariance = together - mean_guide * mean[..., None]
        slope = np.einsum("hwij,hwj->hwi", self._inverse[box], covariance)
        offset = mean - (slope * mean_guide).sum(-1)
        said = (self._sums(slope) * guide).sum(-1) + self._sums(offset)
        found[box] = said * share
        return found

    def _box(self, mask: np.ndarray) -> tuple[slice, slice] | None:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if not len(rows):
            return None
        reach = [2 * radius for radius in self.radii]
        top, left = (
            max(0, int(line[0]) - far) for line, far in zip((rows, columns), reach, strict=True)
        )
        return (
            slice(top, int(rows[-1]) + reach[0] + 1),
            slice(left, int(columns[-1]) + reach[1] + 1),
        )

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the windows of ``values`` float32 (h, w) or (h, w, 3), which end at 0."""
        height, width = (2 * radius + 1 for radius in self.radii)
        return cv2.boxFilter(
            values, -1, (width, height), normalize=False, borderType=cv2.BORDER_CONSTANT
        )

    def _inverse_covariance(self, epsilon: float) -> np.ndarray:
        """(H, W, 3, 3): the inverse of each window's covariance of colours, plus ``epsilon``.

        By cofactors, which is ten times as fast as a solver for each pixel.
        """
        colors = np.moveaxis(self.guide, -1, 0)
        mean = np.moveaxis(self._mean, -1, 0)
        pairs = {
            (i, j): self._sums(colors[i] * colors[j]) * self._share - mean[i] * mean[j]
            for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        }
        rr, gg, bb = (pairs[i, i] + epsilon for i in range(3))
        rg, rb, gb = pairs[0, 1], pairs[0, 2], pairs[1, 2]
        first = (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb)
        second = (rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg)
        determinant = rr * first[0] + rg * first[1] + rb * first[2]
        rows = (first, (first[1], *second[:2]), (first[2], *second[1:]))
        cofactors = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
        inverse: np.ndarray = cofactors / determinant[..., None, None]
        return inverse


def _guided(image: np.ndarray, grid: Size, settings: GuidedSettings) -> Filter:
    guide = image.astype(np.float32) / np.float32(255)
    rows, columns = (
        max(1, round(settings.radius * side / tokens))
        for side, tokens in zip(image.shape[:2], grid, strict=True)
    )
    soft = GuidedFilter(guide, (rows, columns), settings.epsilon)
    return lambda mask: soft(mask) > 0.5


def dense_crf(mask: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """``mask`` after mean-field inference in a dense CRF (Kraehenbuehl and Koltun, 2011).

    Args:
        mask: bool (H, W).
        image: uint8 (H, W, 3) RGB.
        settings: weights and widths of the two kernels.

    Returns:
        bool (H, W): where inside is likelier than outside.
    """
    height, width = mask.shape
    crf = _package().DenseCRF2D(width, height, 2)
    logits = settings.contrast * np.where(mask.ravel(), 1.0, -1.0)
    inside, outside = np.logaddexp(0.0, -logits), np.logaddexp(0.0, logits)  # -log of shares
    crf.setUnaryEnergy(np.ascontiguousarray([outside, inside], np.float32))
    crf.addPairwiseGaussian(sxy=settings.smooth_xy, compat=settings.smooth_weight)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_xy,
        srgb=settings.bilateral_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral_weight,
    )
    likely = np.asarray(crf.inference(settings.steps), np.float32)
    if not np.isfinite(likely).all():
        raise ValueError(
            "the CRF gives no finite probabilities: lower its weights, MODEL.TRACE.DISCOVERY.CRF"
        )
    found: np.ndarray = likely[1] > likely[0]
    return found.reshape(height, width)


def _package() -> ModuleType:
    import pydensecrf.densecrf as package  # optional: trace_d2[crf]

    return package


def _within(size: Size, side: int) -> Size:
    """``size`` (H, W), or one in proportion whose longer side is ``side``."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _whole_mask(mask: np.ndarray, size: Size) -> np.ndarray | None:
    whole = enlarged(mask, size)
    return whole if whole.any() else None
