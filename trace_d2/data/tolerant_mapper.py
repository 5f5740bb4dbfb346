"""Detectron2's own dataset mapper, for training that no single record can end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, transforms
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from trace_d2.data.bad_records import Record, TolerantMapper, blame
from trace_d2.io.mask_rle import check_fit, check_segmentation


class TolerantDatasetMapper(TolerantMapper, DatasetMapper):
    """``DatasetMapper`` that leaves out what it cannot use, see ``TolerantMapper``.

    That is a record whose image or masks cannot be read, or do not fit together. In evaluation it
    raises. Images without objects have empty masks, where Detectron2's have none.
    """

    @configurable
    def __init__(self, is_train: bool = True, *, strict: bool = False, **options: Any) -> None:
        """``options`` are ``DatasetMapper``'s; ``strict`` raises on bad records in training too."""
        TolerantMapper.__init__(self, strict or not is_train)
        DatasetMapper.__init__(self, is_train, **options)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """What ``DatasetMapper`` reads, and ``INPUT.TRACE.STRICT``."""
        options: dict[str, Any] = super().from_config(cfg, is_train)
        return options | {"strict": cfg.INPUT.TRACE.STRICT}

    def _map(self, record: Record) -> dict[str, Any]:
        if self.is_train:
            for number, annotation in enumerate(_objects(record)):
                remedy = f"correct or remove object {number} of this image in the labels"
                with blame(record, remedy):
                    _check_box(annotation)
                    if self.use_instance_mask:
                        _check_mask(annotation, record)
        with blame(record, "repair or replace the image, or correct its labels"):
            mapped: dict[str, Any] = DatasetMapper.__call__(self, record)
        return mapped

    def _transform_annotations(
        self,
        dataset_dict: dict[str, Any],
        applied: transforms.TransformList,
        image_shape: tuple[int, int],
    ) -> None:
        if _objects(dataset_dict):
            super()._transform_annotations(dataset_dict, applied, image_shape)
            return
        del dataset_dict["annotations"]
        instances = Instances(image_shape)
        instances.gt_boxes = Boxes(torch.zeros(0, 4))
        instances.gt_classes = torch.zeros(0, dtype=torch.int64)
        if self.use_instance_mask and self.instance_mask_format == "bitmask":
            instances.gt_masks = BitMasks(torch.zeros(0, *image_shape, dtype=torch.bool))
        elif self.use_instance_mask:
            instances.gt_masks = PolygonMasks([])
        dataset_dict["instances"] = instances


def _objects(record: Record) -> list[Mapping[str, Any]]:
    """The annotations that instances are made from."""
    return [row for row in record.get("annotations", ()) if not row.get("iscrowd", 0)]


def _check_box(annotation: Mapping[str, Any]) -> None:
    """Raise a ValueError for a box that is missing, or would make the loss infinite."""
    box = annotation.get("bbox")
    if box is None or not all(map(math.isfinite, box)):
        raise ValueError(f"bbox {box} is no box")


def _check_mask(annotation: Mapping[str, Any], record: Record) -> None:
    """Raise a ValueError for a mask that pycocotools would not decode, or wrongly."""
    mask = annotation.get("segmentation")
    if isinstance(mask, np.ndarray) or (
        isinstance(mask, list) and any(isinstance(part, np.ndarray) for part in mask)
    ):
        return  # Detectron2 takes these too
    check_segmentation(mask)
    if "height" in record and "width" in record:
        check_fit(mask, record["height"], record["width"])
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        raise ValueError("its RLE is not compressed")
