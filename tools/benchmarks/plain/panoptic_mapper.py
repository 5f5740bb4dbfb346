"""The plain way to Mask2Former's targets: decode colours, transform colours, compare in a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.structures import BitMasks, Boxes, Instances


class PlainPanopticMapper:
    """Image, segments and semantic map of panoptic records in Mask2Former's format.

    Args:
        augmentations: of images uint8 (H, W, 3); they must not pad (see ``pad_to``).
        image_format: ``BGR`` or ``RGB``.
        pad_to: (height, width) to pad to on the right and at the bottom: image 128, segments 0,
            semantic map 255.
    """

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        pad_to: tuple[int, int] | None = None,
    ) -> None:
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.pad_to = pad_to

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """``image``, ``instances`` and, where the record has a file of it, ``sem_seg``."""
        image = detection_utils.read_image(record["file_name"], self.image_format)
        colors = detection_utils.read_image(record["pan_seg_file_name"], "RGB")
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        colors = self._pad(transforms.apply_segmentation(colors), 0).astype(np.int64)
        ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        image = self._pad(augmented.image, 128)
        mapped = {"image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))}
        if "sem_seg_file_name" in record:
            semantic = detection_utils.read_image(record["sem_seg_file_name"])
            semantic = self._pad(transforms.apply_segmentation(semantic), 255)
            mapped["sem_seg"] = torch.from_numpy(semantic.astype(np.int64))
        mapped["instances"] = plain_instances(ids, record["segments_info"])
        return mapped

    def _pad(self, array: np.ndarray, value: int) -> np.ndarray:
        if self.pad_to is None:
            return array
        sides = [(0, to - have) for to, have in zip(self.pad_to, array.shape, strict=False)]
        sides += [(0, 0)] * (array.ndim - 2)
        return np.pad(array, sides, constant_values=value)


def plain_instances(ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> Instances:
    """Classes, masks bool (N, H, W) and boxes of the segments that ``ids`` int64 (H, W) shows."""
    classes, masks = [], []
    for segment in segments:
        mask = ids == segment["id"]
        if mask.any() and not segment["iscrowd"]:
            classes.append(segment["category_id"])
            masks.append(torch.from_numpy(mask))
    instances = Instances(ids.shape)
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if masks:
        instances.gt_masks = torch.stack(masks)
        instances.gt_boxes = BitMasks(instances.gt_masks).get_bounding_boxes()
    else:
        instances.gt_masks = torch.zeros((0, *ids.shape), dtype=torch.bool)
        instances.gt_boxes = Boxes(torch.zeros(0, 4))
    return instances
