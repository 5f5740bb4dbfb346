"""What mappers share that read a photograph and augment it together with what is known of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from trace_d2.data.bad_records import Record, Tolerant
from trace_d2.io.images import Photograph, read_image

logger = logging.getLogger(__name__)


class ImageMapper(ABC):
    """Base of the mappers from a record to the input of a model, for training and evaluation.

    A record whose files cannot be used, once training runs, is logged once and maps to None, so
    that Detectron2's loader draws another image. In evaluation, and if strict, it raises.
    """

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
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self._tolerant = Tolerant(self._map, strict or not is_train)
        mode = "training" if is_train else "evaluation"
        logger.info("Augmentations in %s: %s", mode, self.augmentations)

    def __call__(self, record: Record) -> dict[str, Any] | None:
        """What ``record``, which stays as it is, maps to; None, in training, if it cannot be used.

        Raises:
            BadRecordError: such a record, if ``strict`` or in evaluation.
            NoUsableRecordError: in training, too many such records and no others.
            ValueError: the record is of another kind of data set, or does not fit the config.
        """
        return self._tolerant(record)

    @abstractmethod
    def _map(self, record: Record) -> dict[str, Any]:
        """What ``record`` maps to; a BadRecordError if it cannot be used."""

    def _read(self, record: Record) -> Photograph:
        """The photograph of ``record``, its pixels in ``image_format``."""
        photograph = read_image(PathManager.get_local_path(record["file_name"]))
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
