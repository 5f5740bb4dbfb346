"""What the dataset mapper does to training images, built from Detectron2's augmentations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode

# Strengths of SSD's photometric distortion (Liu et al. 2016), as Mask2Former has them.
_BRIGHTNESS = 32.0
_FACTORS = (0.5, 1.5)
_HUE_DEGREES = 36.0


class ResizeScale(T.ResizeScale):
    """Detectron2's ``ResizeScale``, which may shrink the thin side of an image to nothing."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Resize ``image`` (H, W, ...) to fit a randomly scaled target size."""
        return _visible(super().get_transform(image))


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ``ResizeShortestEdge``, which may shrink the thin side to nothing as well."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Resize ``image`` (H, W, ...) so that its short edge has one of the given sizes."""
        return _visible(super().get_transform(image))


def _visible(resize: T.Transform) -> T.Transform:
    """``resize`` to one pixel at least, in both directions."""
    if not isinstance(resize, T.ResizeTransform):  # a size of 0 in the config: no resizing
        return resize
    height, width = max(int(resize.new_h), 1), max(int(resize.new_w), 1)
    return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)


class ColorJitter(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each half of the time, as SSD has them.

    Args:
        image_format: ``RGB`` or ``BGR``.
    """

    def __init__(self, image_format: str) -> None:
        super().__init__()
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """A transform of colours alone, for images uint8 (H, W, 3)."""
        jitter = partial(
            jitter_color,
            image_format=self.image_format,
            brightness=self._pick(-_BRIGHTNESS, _BRIGHTNESS, 0.0),
            contrast=self._pick(*_FACTORS, 1.0),
            saturation=self._pick(*_FACTORS, 1.0),
            hue=self._pick(-_HUE_DEGREES, _HUE_DEGREES, 0.0),
        )
        return T.ColorTransform(jitter)

    def _pick(self, low: float, high: float, neutral: float) -> float:
        return float(self._rand_range(low, high)) if self._rand_range() < 0.5 else neutral


def jitter_color(
    image: np.ndarray,
    *,
    image_format: str,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> np.ndarray:
    """``image`` uint8 (H, W, 3) in other colours.

    Args:
        image: the image.
        image_format: ``RGB`` or ``BGR``.
        brightness: added to each channel, of 255.
        contrast: factor of each channel, after the brightness.
        saturation: factor.
        hue: degrees of the colour circle.
    """
    if brightness or contrast != 1.0:
        levels = (np.arange(256) + brightness) * contrast
        image = cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    if saturation == 1.0 and not hue:
        return image
    bgr = image_format == "BGR"
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV if bgr else cv2.COLOR_RGB2HSV)
    degrees = 2  # that a level of an 8-bit hue stands for in OpenCV
    hues = (np.arange(256) + round(hue / degrees)) % (360 // degrees)
    saturations = np.clip(np.rint(np.arange(256) * saturation), 0, 255)
    table = np.stack((hues, saturations, np.arange(256)), axis=1).astype(np.uint8)
    hsv = cv2.LUT(hsv, table[None])
    changed: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR if bgr else cv2.COLOR_HSV2RGB)
    return changed


def large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Flip, scale at random, crop and pad to a fixed size: Mask2Former's recipe.

    Raises:
        ValueError: ``IMAGE_SIZE``, ``MIN_SCALE`` or ``MAX_SCALE`` makes no sense.
    """
    node = cfg.INPUT.TRACE
    if node.IMAGE_SIZE < 1:
        raise ValueError(f"INPUT.TRACE.IMAGE_SIZE is {node.IMAGE_SIZE}; it must be at least 1")
    if not 0 < node.MIN_SCALE <= node.MAX_SCALE:
        raise ValueError(
            f"INPUT.TRACE.MIN_SCALE is {node.MIN_SCALE} and INPUT.TRACE.MAX_SCALE "
            f"{node.MAX_SCALE}; they must be above 0 and in this order"
        )
    side = node.IMAGE_SIZE
    return [
        *random_flip(cfg),
        ResizeScale(node.MIN_SCALE, node.MAX_SCALE, side, side),
        T.FixedSizeCrop((side, side)),
    ]


def resize_and_crop(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize the short edge, crop where ``INPUT.CROP`` says so, flip: Detectron2's own keys."""
    resize = ResizeShortestEdge(
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    )
    crop = cfg.INPUT.CROP
    crops = [T.RandomCrop(crop.TYPE, crop.SIZE)] if crop.ENABLED else []
    return [resize, *crops, *random_flip(cfg)]


AUGMENTATIONS: dict[str, Callable[[CfgNode], list[T.Augmentation]]] = {
    "lsj": large_scale_jitter,
    "resize": resize_and_crop,
}
"""What ``INPUT.TRACE.AUGMENTATION`` may be."""


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of ``cfg``; for evaluation only the resizing of ``INPUT.MIN_SIZE_TEST``.

    Raises:
        ValueError: a key has a value that makes no sense; the message names it.
    """
    if not is_train:
        return [ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    name = cfg.INPUT.TRACE.AUGMENTATION
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"INPUT.TRACE.AUGMENTATION is {name!r}; it must be one of {', '.join(AUGMENTATIONS)}"
        )
    jitter = [ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.TRACE.COLOR_JITTER else []
    # Before anything is padded, so that padding keeps its grey.
    return [*jitter, *AUGMENTATIONS[name](cfg)]


def random_flip(cfg: CfgNode) -> list[T.Augmentation]:
    """A flip half of the time as ``INPUT.RANDOM_FLIP`` says, or none.

    Raises:
        ValueError: the key has another value than none, horizontal and vertical.
    """
    direction = cfg.INPUT.RANDOM_FLIP
    if direction not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP is {direction!r}; it must be none, horizontal or vertical"
        )
    if direction == "none":
        return []
    horizontal = direction == "horizontal"
    return [T.RandomFlip(horizontal=horizontal, vertical=not horizontal)]
