"""From a record with pseudo edges to what an edge predictor is trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from trace_d2.data.augmentation import ColorJitter, random_flip
from trace_d2.data.bad_records import BadRecordLog, blame
from trace_d2.data.edge_dicts import EDGES_KEY
from trace_d2.io.edge_maps import read_ternary
from trace_d2.io.images import Photograph, fit_to_photograph, read_image

logger = logging.getLogger(__name__)

KEY = "INPUT.TRACE.PSEUDO_EDGES"
_SIZE_REMEDY = (
    f"set MODEL.TRACE.BACKBONE.RESOLUTION or {KEY}.SIZE to the side in pixels that images are to "
    "be resized to"
)


class TraceEdgeDatasetMapper:
    """Maps a record of ``DATASETS.TRACE.EDGES`` to an image and its pseudo edges.

    Both are cropped, resized and turned alike; edges by the nearest pixel, so that they stay edge,
    none or ignored. A record whose files cannot be used, once training runs, is logged once and
    maps to None, so that Detectron2's loader draws another. In evaluation it raises.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        strict: bool = False,
    ) -> None:
        """
        Args:
            is_train: bear bad records.
            augmentations: what to do to images uint8 (H, W, 3) in ``image_format``; the results
                must all have one size.
            image_format: ``BGR`` or ``RGB``.
            strict: raise on records that cannot be used, in training as well.

        Raises:
            ValueError: another ``image_format``.
        """
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}; it must be one of BGR, RGB")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.strict = strict
        self._size: tuple[int, int] | None = None
        self._bad_records = BadRecordLog()
        logger.info("Augmentations of images with pseudo edges: %s", self.augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of ``__init__``, from ``INPUT``, ``INPUT.TRACE`` and the backbone's size.

        Raises:
            ValueError: a key that is wrong, or does not fit the others; the message names it.
        """
        return {
            "is_train": is_train,
            "augmentations": build_edge_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "strict": cfg.INPUT.TRACE.STRICT,
        }

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Map one record, which stays as it is.

        Args:
            record: ``file_name`` and ``trace_pseudo_edges_file_name``.

        Returns:
            The record with ``height`` and ``width`` of the image in its file, ``image`` uint8
            (3, R, R) and ``pseudo_edges`` int8 (R, R): 1 edge, 0 none, -1 ignored. Or None, in
            training, for a record that cannot be used.

        Raises:
            BadRecordError: such a record, if ``strict`` or in evaluation.
            NoUsableRecordError: in training, too many such records and no others.
            ValueError: images come out at different sizes; the message names the keys.
        """
        if self.strict or not self.is_train:
            return self._map(record)
        return self._bad_records.map(self._map, record)

    def _map(self, record: Mapping[str, Any]) -> dict[str, Any]:
        with blame(record):
            photograph = read_image(PathManager.get_local_path(record["file_name"]))
            ternary = self._read_edges(record, photograph)
            detection_utils.check_image_size(dict(record), ternary)
        image = photograph.pixels
        if self.image_format == "BGR":
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        # Detectron2's transforms take uint8: -1 travels as 255.
        augmented = T.AugInput(image, sem_seg=ternary.view(np.uint8))
        self.augmentations(augmented)
        self._check_size(record, augmented.image.shape[:2])
        return {
            **record,
            "height": image.shape[0],
            "width": image.shape[1],
            "image": _tensor(augmented.image.transpose(2, 0, 1)),
            "pseudo_edges": _tensor(augmented.sem_seg.view(np.int8)),
        }

    def _read_edges(self, record: Mapping[str, Any], photograph: Photograph) -> np.ndarray:
        """int8 (H, W) in the frame of the photograph."""
        if EDGES_KEY not in record:
            raise ValueError(
                f"its record has no {EDGES_KEY}: INPUT.TRACE.MAPPER trace_edges is for data sets "
                "of DATASETS.TRACE.EDGES"
            )
        path = PathManager.get_local_path(record[EDGES_KEY])
        fitted, _ = fit_to_photograph(read_ternary(path), photograph, path)
        return np.ascontiguousarray(fitted)

    def _check_size(self, record: Mapping[str, Any], size: tuple[int, int]) -> None:
        """Raise unless all images come out at one size, as those of a batch must."""
        if self._size is None:
            self._size = size
        if size != self._size:
            raise ValueError(
                f"image {record['file_name']} comes out at {size[1]}x{size[0]} pixels, and others "
                f"at {self._size[1]}x{self._size[0]}: {_SIZE_REMEDY}"
            )


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
        """Not there: edges have no coordinates.

        Raises:
            NotImplementedError: always.
        """
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
    """Crop, resize, flip, turn and recolour as ``cfg`` says; in evaluation resize only.

    Raises:
        ValueError: a key has a value that makes no sense, or does not fit another.
    """
    node = cfg.INPUT.TRACE.PSEUDO_EDGES
    side = training_side(cfg)
    # As the denoiser's images are resized elsewhere: backbones/image_size.py.
    resize = [T.Resize((side, side), Image.Resampling.LANCZOS)] if side else []
    if not is_train:
        return resize
    if node.CROP < 0:
        raise ValueError(f"{KEY}.CROP is {node.CROP}; it must be 0 (off) or a side in pixels")
    crop = [T.RandomCrop("absolute", (node.CROP, node.CROP))] if node.CROP else []
    turn = [RandomQuarterTurn()] if node.ROTATE else random_flip(cfg)
    jitter = [ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.TRACE.COLOR_JITTER else []
    recolor = [RandomRecolor()] if node.RECOLOR else []
    return [*crop, *resize, *turn, *jitter, *recolor]


def training_side(cfg: CfgNode) -> int:
    """Side in pixels of the square that images are resized to; 0: they keep their size.

    Raises:
        ValueError: two keys disagree, a side is negative, or images would not become squares.
    """
    backbone, size = cfg.MODEL.TRACE.BACKBONE, cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE
    if backbone.ASPECT != "square":
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.ASPECT is {backbone.ASPECT!r}, but edge predictors are trained "
            "on squares: set it to square"
        )
    if size < 0:
        raise ValueError(f"{KEY}.SIZE is {size}; it must be 0 or a side in pixels")
    if size and backbone.RESOLUTION and size != backbone.RESOLUTION:
        raise ValueError(
            f"{KEY}.SIZE is {size}, but MODEL.TRACE.BACKBONE.RESOLUTION {backbone.RESOLUTION}: set "
            "the former to 0"
        )
    return int(backbone.RESOLUTION or size)


def _tensor(array: np.ndarray) -> torch.Tensor:
    # A copy, as images from files cannot be written to.
    return torch.from_numpy(np.array(array, order="C"))
