"""From a record of a data set to what a Detectron2 model takes: image, segments, semantic map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.file_io import PathManager

from trace_d2.data.augmentation import build_augmentations
from trace_d2.data.bad_records import BadRecordError, Record, blame
from trace_d2.data.image_mapper import ImageMapper
from trace_d2.data.stem_dicts import SEMANTIC_KEY
from trace_d2.data.target_generator import build_target_generator
from trace_d2.data.targets import PanopticTarget, TargetGenerator
from trace_d2.io.categories import UNKNOWN
from trace_d2.io.coco_panoptic import VOID, id2rgb, rgb2id
from trace_d2.io.images import read_semantic
from trace_d2.io.regions import region_statistics
from trace_d2.settings import NodeSettings, one_of

# What records hold for each segment, which models do not read and workers need not send.
_ANNOTATIONS = ("segments_info", "annotations")
# Keys of files that targets are made from.
_LABELS = ("pan_seg_file_name", SEMANTIC_KEY)
_MOST_FILE_CLASSES = 254


@dataclass(frozen=True)
class MapperSettings(NodeSettings, node="INPUT.TRACE"):
    """What a ``TraceDatasetMapper`` gives; ``defaults.yaml`` tells what the keys mean."""

    format: str = one_of("mask2former", "bitmask", default="mask2former")
    class_agnostic: bool = False
    semantic: str = one_of("segments", "file", "none", default="segments")
    strict: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_agnostic and self.format != "bitmask":
            raise ValueError(
                f"INPUT.TRACE.CLASS_AGNOSTIC is True, but INPUT.TRACE.FORMAT {self.format!r}: "
                "it is for bitmask"
            )


class TraceDatasetMapper(ImageMapper):
    """Maps a record to the input of a model, for training and for evaluation.

    Image, segments and semantic map go through the same augmentations. A crop that leaves nothing
    of a segment drops it; crowd regions are no segments. For bad records see ``TolerantMapper``.

    A record has ``file_name``, ``height`` and ``width`` (pixels) for evaluation, and what the
    target generator reads. It maps to itself without annotations, and ``image`` uint8 (3, H, W). In
    training also ``instances`` with ``gt_classes`` int64 (N,), ``gt_boxes`` and ``gt_masks``, bool
    (N, H, W) for ``mask2former``, ``BitMasks`` of things for ``bitmask``; and ``sem_seg`` int64
    (H, W) contiguous ids, 255 = void, unless ``INPUT.TRACE.SEMANTIC`` is ``none``.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        target_generator: TargetGenerator | None = None,
        settings: MapperSettings | None = None,
    ) -> None:
        """
        Args:
            is_train: make targets; else only the image.
            augmentations, image_format: as of ``ImageMapper``.
            target_generator: from a record to its segments; needed for training only.
            settings: what to give; None: the defaults.

        Raises:
            ValueError: an unknown format, or training without a target generator.
        """
        self.settings = settings or MapperSettings()
        super().__init__(is_train, augmentations, image_format, self.settings.strict)
        if is_train and target_generator is None:
            raise ValueError("training needs a target_generator; pass one, or is_train=False")
        self.target_generator = target_generator if is_train else None

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of ``__init__``, from ``INPUT``, ``INPUT.TRACE`` and ``MODEL.TRACE``."""
        settings = MapperSettings.from_config(cfg)
        if is_train and settings.format == "bitmask" and cfg.INPUT.MASK_FORMAT != "bitmask":
            raise ValueError(
                f"INPUT.TRACE.FORMAT is 'bitmask', but INPUT.MASK_FORMAT {cfg.INPUT.MASK_FORMAT!r}:"
                " set both to bitmask"
            )
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "target_generator": build_target_generator(cfg) if is_train else None,
            "settings": settings,
        }

    def _map(self, record: Record) -> dict[str, Any]:
        mapped = {key: value for key, value in record.items() if key not in _ANNOTATIONS}
        with blame(record):
            image = self._read(record, *(_LABELS if self.is_train else ())).pixels
            if not self.is_train:  # predictions are resized to what the record says
                detection_utils.check_image_size(mapped, image)
        if self.target_generator is None:
            mapped["image"], _, _ = self._augment(image)
            return mapped
        # Records made from masks may have the size of a photograph before it is turned.
        mapped["height"], mapped["width"] = image.shape[:2]
        target = self.target_generator(record)
        _check_size(record, target.segment_map, image)
        semantic = self._read_semantic(record, image) if self.settings.semantic == "file" else None
        mapped["image"], packed, transforms = self._augment(image, _pack(target.segment_map))
        segment_map = _unpack(packed, len(target.category_ids))
        if semantic is not None:
            mapped["sem_seg"] = _semantic_tensor(transforms.apply_segmentation(semantic))
        elif self.settings.semantic == "segments":
            mapped["sem_seg"] = semantic_of(segment_map, target)
        bitmask = self.settings.format == "bitmask"
        mapped["instances"] = instances_of(segment_map, target, bitmask=bitmask)
        if self.settings.class_agnostic:
            mapped["instances"].gt_classes.zero_()
        return mapped

    def _read_semantic(self, record: Record, image: np.ndarray) -> np.ndarray:
        """The record's own semantic map, uint8 (H, W): contiguous id + 1, 0 = void."""
        if "sem_seg_file_name" not in record:
            raise ValueError(
                f"INPUT.TRACE.SEMANTIC is 'file', but the record of {record['file_name']} has no "
                "sem_seg_file_name: set it to segments"
            )
        with blame(record):
            path = PathManager.get_local_path(record["sem_seg_file_name"])
            height, width = image.shape[:2]
            semantic = read_semantic(path, (height, width))
        if (semantic == _MOST_FILE_CLASSES).any():
            raise ValueError(
                f"{path} has class {_MOST_FILE_CLASSES}: with more than {_MOST_FILE_CLASSES} "
                "classes INPUT.TRACE.SEMANTIC must be segments"
            )
        return semantic + np.uint8(1)  # 255 becomes 0


def instances_of(segment_map: np.ndarray, target: PanopticTarget, *, bitmask: bool) -> Instances:
    """The segments that a map shows, as Mask2Former and MaskFormer take them, or Mask R-CNN.

    Args:
        segment_map: integers (H, W) after augmentation, ``i + 1`` where segment i is, 0 = void.
        target: the segments that the numbers stand for.
        bitmask: things alone, for ``INPUT.MASK_FORMAT bitmask``; else things and stuff.

    Returns:
        ``gt_classes`` int64 (N,), ``gt_boxes``, and ``gt_masks``, bool (N, H, W) or ``BitMasks``;
        N may be 0.
    """
    wanted = ~target.iscrowd & (target.isthing | (not bitmask))
    labels, _, boxes = region_statistics(segment_map)
    kept = labels != VOID
    kept[kept] = wanted[labels[kept] - 1]
    numbers, boxes = labels[kept], boxes[kept]
    instances = Instances(segment_map.shape)
    instances.gt_classes = torch.from_numpy(target.category_ids[numbers - 1])
    corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
    instances.gt_boxes = Boxes(torch.from_numpy(corners.astype(np.float32)))
    # numpy compares bytes twenty times as fast as torch does.
    shown = segment_map == numbers.astype(segment_map.dtype)[:, None, None]
    masks = torch.from_numpy(shown)
    instances.gt_masks = BitMasks(masks) if bitmask else masks
    return instances


def semantic_of(segment_map: np.ndarray, target: PanopticTarget) -> torch.Tensor:
    """int64 (H, W): the contiguous category of each pixel, crowd regions included, 255 = void."""
    if target.category_ids.size and target.category_ids.max() >= UNKNOWN:
        raise ValueError(
            f"category {target.category_ids.max()} and {UNKNOWN} for void do not fit one semantic "
            "map: set INPUT.TRACE.SEMANTIC to none"
        )
    table = np.concatenate(([UNKNOWN], target.category_ids))
    return torch.from_numpy(np.take(table, segment_map))


def _semantic_tensor(shifted: np.ndarray) -> torch.Tensor:
    """int64 (H, W) contiguous ids, 255 = void, of ids + 1 and what Detectron2 padded with."""
    table = np.arange(-1, 255)
    table[[0, 255]] = UNKNOWN  # v0.6 pads with 0, later versions with 255
    return torch.from_numpy(np.take(table, shifted))


def _pack(segment_map: np.ndarray) -> np.ndarray:
    """A map that every transform of Detectron2 takes: uint8, (H, W) or (H, W, 3)."""
    return segment_map if segment_map.dtype == np.uint8 else id2rgb(segment_map)


def _unpack(packed: np.ndarray, count: int) -> np.ndarray:
    """The map of ``count`` segments from ``_pack`` after transforms, uint8 or int32 (H, W).

    Padding is 0 in Detectron2 v0.6 and 255 in later versions, in each channel: void, both.
    """
    segment_map = packed if packed.ndim == 2 else rgb2id(packed)
    return np.where(segment_map > count, segment_map.dtype.type(VOID), segment_map)


def _check_size(record: Record, array: np.ndarray, image: np.ndarray) -> None:
    """Raise a BadRecordError unless ``array`` (H, W) has the size of the image."""
    if array.shape != image.shape[:2]:
        raise BadRecordError(
            f"image {record['file_name']} is {image.shape[1]}x{image.shape[0]} pixels, but its "
            f"label {array.shape[1]}x{array.shape[0]}: make the label again"
        )
