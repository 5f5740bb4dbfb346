"""Detectron2's own dataset mapper, for training that no single record can end."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils, transforms
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.file_io import PathManager
from PIL import Image

from trace_d2.data.bad_records import Record, TolerantMapper, blame
from trace_d2.data.image_mapper import to_tensor
from trace_d2.io.coco_rows import settled_box
from trace_d2.io.images import read_image, read_semantic
from trace_d2.io.json_files import shown
from trace_d2.io.mask_rle import SoundMask, check_segmentation
from trace_d2.remarks import RemarkLog

logger = logging.getLogger(__name__)


class TolerantDatasetMapper(TolerantMapper, DatasetMapper):
    """``DatasetMapper`` that leaves out what it cannot use, see ``TolerantMapper``.

    That is a record whose image or masks cannot be read, or do not fit together. In evaluation it
    raises. Images without objects have empty masks, where Detectron2's have none. Masks decide over
    boxes that are none or elsewhere; objects without a pixel are left out, which is told.
    """

    @configurable
    def __init__(self, is_train: bool = True, *, strict: bool = False, **options: Any) -> None:
        """``options`` are ``DatasetMapper``'s; ``strict`` raises on bad records in training too."""
        TolerantMapper.__init__(self, strict or not is_train)
        DatasetMapper.__init__(self, is_train, **options)
        self._told: set[str] = set()
        self._remark = RemarkLog(logger)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """What ``DatasetMapper`` reads, and ``INPUT.TRACE.STRICT``."""
        options: dict[str, Any] = super().from_config(cfg, is_train)
        return options | {"strict": cfg.INPUT.TRACE.STRICT}

    def _map(self, record: Record) -> dict[str, Any]:
        if self.is_train and "annotations" in record:
            rows = [
                row if row.get("iscrowd", 0) else self._sound(number, row, record)
                for number, row in enumerate(record["annotations"])
            ]
            record = {**record, "annotations": [row for row in rows if row is not None]}
        with blame(record):
            image, semantic = self._read(record)
        with blame(record, "repair or replace the image, or correct its labels"):
            return self._as_detectron2(record, image, semantic)

    def _read(self, record: Record) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and semantic mask, if there is one, by the readers of everything else.

        Detectron2's own cuts 16 bits down to black or white, and takes colours of a palette for
        ids.
        """
        photograph = read_image(PathManager.get_local_path(record["file_name"]))
        self._remark(record["file_name"], photograph.notes)
        rgb = Image.fromarray(photograph.pixels)
        image = detection_utils.convert_PIL_to_numpy(rgb, self.image_format)
        if "sem_seg_file_name" not in record:
            return image, None
        return image, read_semantic(PathManager.get_local_path(record["sem_seg_file_name"]))

    def _as_detectron2(
        self, record: Record, image: np.ndarray, semantic: np.ndarray | None
    ) -> dict[str, Any]:
        """What ``DatasetMapper`` makes of them."""
        mapped = copy.deepcopy(dict(record))
        mapped.pop("sem_seg_file_name", None)
        detection_utils.check_image_size(mapped, image)
        augmented = transforms.AugInput(image, sem_seg=semantic)
        applied = self.augmentations(augmented)
        size = augmented.image.shape[:2]
        mapped["image"] = to_tensor(augmented.image.transpose(2, 0, 1))
        if semantic is not None:
            mapped["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                mapped, size, applied, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            mapped.pop("annotations", None)
        elif "annotations" in mapped:
            self._transform_annotations(mapped, applied, size)
        return mapped

    def _sound(
        self, number: int, row: Mapping[str, Any], record: Record
    ) -> Mapping[str, Any] | None:
        """An object with a mask and a box that can be trained on; None without a pixel."""
        remedy = f"correct or remove object {number} of this image in the labels"
        with blame(record, remedy):
            mask = _check_mask(row, record) if self.use_instance_mask else None
            box, fault = _settled_box(row, mask)
            if mask is not None and not mask.has_pixels():
                self._tell(record, f"object {number} has no pixel: it is left out")
                return None
        if mask is not None and mask.short:
            self._tell(record, f"object {number} has polygons of fewer than three points: left out")
            row = {**row, "segmentation": mask.segmentation}
        if fault:
            self._tell(record, f"object {number} is not in its bbox {row['bbox']}: its mask counts")
            row = {**row, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
        return row

    def _tell(self, record: Record, remark: str) -> None:
        """Warn of an object of an image, the first time that it is met."""
        line = f"image {shown(str(record.get('file_name')))}: {remark}"
        if line not in self._told:
            self._told.add(line)
            logger.warning("%s", line)

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


def _settled_box(row: Mapping[str, Any], mask: SoundMask | None) -> tuple[Any, str]:
    """The box of an object, x, y, width, height or as it was; and what was wrong with it.

    Raises:
        ValueError: it would make the loss infinite, or nothing of the object is in it.
    """
    box, mode = row.get("bbox"), row.get("bbox_mode", BoxMode.XYWH_ABS)
    if box is None or mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        if box is None or not all(map(math.isfinite, box)):
            raise ValueError(f"bbox {box} is no box")
        return box, ""
    sides = list(box)
    if mode == BoxMode.XYXY_ABS and len(sides) == 4:
        sides = [*sides[:2], sides[2] - sides[0], sides[3] - sides[1]]
    settled, fault = settled_box(sides, mask)
    return (settled if fault else box), fault


def _check_mask(annotation: Mapping[str, Any], record: Record) -> SoundMask | None:
    """The mask, which pycocotools can decode; None where it is an array, as Detectron2 takes too.

    Raises:
        ValueError: pycocotools would not decode it, or wrongly.
    """
    mask = annotation.get("segmentation")
    if mask is None:
        raise ValueError(
            "it has no mask; a data set of boxes trains models with MODEL.MASK_ON False"
        )
    if isinstance(mask, np.ndarray) or (
        isinstance(mask, list) and any(isinstance(part, np.ndarray) for part in mask)
    ):
        return None
    sound = check_segmentation(mask)
    if "height" in record and "width" in record:
        sound.check_fit(record["height"], record["width"])
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        raise ValueError("its RLE is not compressed")
    return sound
