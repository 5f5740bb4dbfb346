"""What mappers share that read a photograph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from trace_d2.data.bad_records import Record, TolerantMapper
from trace_d2.io.images import Photograph, read_image
from trace_d2.remarks import RemarkLog

logger = logging.getLogger(__name__)


class ImageMapper(TolerantMapper):
    """Base of the mappers that augment a photograph together with what is known of it."""

    def __init__(
        self,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        strict: bool,
    ) -> None:
        """
        Args:
            is_train: bear bad records; subclasses make targets.
            augmentations: what to do to images uint8 (H, W, 3) in ``image_format``.
            image_format: ``BGR`` or ``RGB``.
            strict: raise on records that cannot be used, in training as well.
        """
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}; it must be one of BGR, RGB")
        super().__init__(strict or not is_train)
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self._remark = RemarkLog(logger)
        mode = "training" if is_train else "evaluation"
        logger.info("Augmentations in %s: %s", mode, self.augmentations)

    def _read(self, record: Record, *labels: str) -> Photograph:
        """The photograph of ``record``, its pixels in ``image_format``.

        The files at the keys ``labels``, if the record has them, must be of its size.
        """
        beside = [PathManager.get_local_path(record[key]) for key in labels if key in record]
        photograph = read_image(PathManager.get_local_path(record["file_name"]), beside)
        self._remark(record["file_name"], photograph.notes)
        if self.image_format == "RGB":
            return photograph
        return replace(photograph, pixels=cv2.cvtColor(photograph.pixels, cv2.COLOR_RGB2BGR))

    def _augment(
        self, image: np.ndarray, labels: np.ndarray | None = None
    ) -> tuple[torch.Tensor, Any, T.TransformList]:
        """``image`` (H, W, 3) as a tensor (3, h, w), ``labels``, and the transforms of both."""
        augmented = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(augmented)
        return to_tensor(augmented.image.transpose(2, 0, 1)), augmented.sem_seg, transforms


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of ``array``, as images from files cannot be written to."""
    return torch.from_numpy(np.array(array, order="C"))
