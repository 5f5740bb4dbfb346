"""What the dataset mappers do to training images, built from Detectron2's augmentations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from PIL import Image

from trace_d2.data.edge_sizes import EdgeAugmentationSettings, training_side
from trace_d2.settings import NodeSettings, one_of, within

# Strengths of SSD's photometric distortion (Liu et al. 2016), as Mask2Former has them.
_BRIGHTNESS = 32.0
_FACTORS = (0.5, 1.5)
_HUE_DEGREES = 36.0


class _Visible:
    """Resizes to one pixel at least; Detectron2 may shrink the thin side of images to nothing."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Resize ``image`` (H, W, ...)."""
        resize: T.Transform = super().get_transform(image)  # type: ignore[misc]
        if not isinstance(resize, T.ResizeTransform):  # a size of 0 in the config: no resizing
            return resize
        height, width = max(int(resize.new_h), 1), max(int(resize.new_w), 1)
        return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)


class ResizeScale(_Visible, T.ResizeScale):
    """Detectron2's, to fit a randomly scaled target size."""


class ResizeShortestEdge(_Visible, T.ResizeShortestEdge):
    """Detectron2's, so that the short edge has one of the given sizes."""


class ColorJitter(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each half of the time, as SSD has them."""

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
    """``image`` uint8 (H, W, 3), ``RGB`` or ``BGR``, in other colours.

    Args:
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


@dataclass(frozen=True)
class AugmentationSettings(NodeSettings, node="INPUT.TRACE"):
    """How training images are augmented; ``defaults.yaml`` tells what the keys mean."""

    augmentation: str = one_of("lsj", "resize", default="lsj")
    image_size: int = within(1, default=1024)
    min_scale: float = 0.1
    max_scale: float = 2.0
    color_jitter: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.node, self.min_scale, self.max_scale)


def check_scales(node: str, low: float, high: float) -> None:
    """Raise a ValueError unless 0 < ``low`` <= ``high``, MIN_SCALE and MAX_SCALE of ``node``."""
    if not 0 < low <= high:
        raise ValueError(
            f"{node}.MIN_SCALE is {low} and {node}.MAX_SCALE {high}; they must be above 0 and in "
            "this order"
        )


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of ``cfg``; for evaluation only the resizing of ``INPUT.MIN_SIZE_TEST``.

    ``lsj`` is Mask2Former's recipe: flip, scale at random, crop and pad to a fixed size. ``resize``
    obeys Detectron2's own keys: resize the short edge, crop where ``INPUT.CROP`` says so, flip.
    """
    size = cfg.INPUT
    if not is_train:
        return [ResizeShortestEdge(size.MIN_SIZE_TEST, size.MAX_SIZE_TEST, "choice")]
    settings = AugmentationSettings.from_config(cfg)
    # Before anything is padded, so that padding keeps its grey.
    jitter = [ColorJitter(size.FORMAT)] if settings.color_jitter else []
    if settings.augmentation == "lsj":
        side = settings.image_size
        scale = ResizeScale(settings.min_scale, settings.max_scale, side, side)
        return [*jitter, *random_flip(cfg), scale, T.FixedSizeCrop((side, side))]
    resize = ResizeShortestEdge(
        size.MIN_SIZE_TRAIN, size.MAX_SIZE_TRAIN, size.MIN_SIZE_TRAIN_SAMPLING
    )
    crop = [T.RandomCrop(size.CROP.TYPE, size.CROP.SIZE)] if size.CROP.ENABLED else []
    return [*jitter, resize, *crop, *random_flip(cfg)]


def random_flip(cfg: CfgNode) -> list[T.Augmentation]:
    """A flip half of the time as ``INPUT.RANDOM_FLIP`` says, or none."""
    direction = cfg.INPUT.RANDOM_FLIP
    if direction not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP is {direction!r}; it must be none, horizontal or vertical"
        )
    if direction == "none":
        return []
    horizontal = direction == "horizontal"
    return [T.RandomFlip(horizontal=horizontal, vertical=not horizontal)]


class RandomQuarterTurn(T.Augmentation):
    """Turn by 0, 90, 180 or 270 degrees and mirror: one of the square's eight symmetries."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """A transform for images (H, W, ...)."""
        return QuarterTurnTransform(np.random.randint(4), bool(np.random.randint(2)))


class QuarterTurnTransform(T.Transform):
    """Mirror left to right if asked, then turn counter-clockwise by ``turns`` x 90 degrees."""

    def __init__(self, turns: int, mirrored: bool) -> None:
        super().__init__()
        self.turns, self.mirrored = turns, mirrored

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, ...) or, after an odd number of turns, (W, H, ...)."""
        return np.rot90(img[:, ::-1] if self.mirrored else img, self.turns)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Not there: edges have no coordinates."""
        raise NotImplementedError("quarter turns are for images and maps")


class RandomRecolor(T.Augmentation):
    """Permute the channels and, half of the time, invert them."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """A transform of colours alone, for images uint8 (H, W, 3)."""
        order, inverted = np.random.permutation(3), np.random.rand() < 0.5

        def recolor(pixels: np.ndarray) -> np.ndarray:
            return 255 - pixels[..., order] if inverted else pixels[..., order]

        return T.ColorTransform(recolor)


def build_edge_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation | T.Transform]:
    """Crop, resize, flip, turn and recolour as ``cfg`` says; in evaluation resize only."""
    settings = EdgeAugmentationSettings.from_config(cfg)
    side = training_side(cfg, settings.size)
    # As the denoiser's images are resized elsewhere: backbones/image_size.py.
    resize = [T.Resize((side, side), Image.Resampling.LANCZOS)] if side else []
    if not is_train:
        return resize
    crop = [T.RandomCrop("absolute", (settings.crop,) * 2)] if settings.crop else []
    turn = [RandomQuarterTurn()] if settings.rotate else random_flip(cfg)
    jitter = [ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.TRACE.COLOR_JITTER else []
    recolor = [RandomRecolor()] if settings.recolor else []
    return [*crop, *resize, *turn, *jitter, *recolor]
