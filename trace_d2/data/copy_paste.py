"""Copy-paste augmentation (Ghiasi et al., CVPR 2021) of a batch, resized as CutLER does.

The instances of one image of the batch are pasted into another, at a random size, place and side.
Pseudo masks cover part of the objects; pasting shows those that they do cover more often, and in
front of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

from trace_d2.data.augmentation import check_scales
from trace_d2.settings import NodeSettings, within

_FIELDS = {"gt_boxes", "gt_classes", "gt_masks"}


@dataclass(frozen=True)
class CopyPasteSettings(NodeSettings, node="INPUT.TRACE.COPY_PASTE"):
    """How much is pasted; ``defaults.yaml`` tells what the keys mean."""

    probability: float = within(0.0, 1.0, default=1.0)
    max_instances: int = within(0, default=0)
    min_scale: float = 0.3
    max_scale: float = 1.0
    min_visible: float = within(0.0, 1.0, default=0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.node, self.min_scale, self.max_scale)


class CopyPaste:
    """Pastes instances between the images of a batch; the batch itself is left as it was.

    What is pasted comes from the images as they were given, never from one with pastes. It hides
    what lies below: hidden pixels leave the masks, and boxes follow. Random numbers are torch's.
    """

    def __init__(self, settings: CopyPasteSettings) -> None:
        self.settings = settings

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CopyPaste:
        """Read ``INPUT.TRACE.COPY_PASTE``."""
        settings = CopyPasteSettings.from_config(cfg)
        if cfg.INPUT.MASK_FORMAT != "bitmask":
            raise ValueError(
                f"INPUT.MASK_FORMAT is {cfg.INPUT.MASK_FORMAT!r}; {settings.node} needs 'bitmask'"
            )
        return cls(settings)

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """
        Args:
            batch: records with ``image`` (C, H, W) uint8, and ``instances`` with ``gt_boxes``,
                ``gt_classes`` and ``gt_masks`` (``BitMasks``). Sizes may differ.

        Returns:
            as many records; those of the images that got nothing are the given ones' copies, with
            the same tensors in them.
        """
        for record in batch:
            _check(record)
        return [self._paste_into(record, number, batch) for number, record in enumerate(batch)]

    def _paste_into(
        self, record: Mapping[str, Any], number: int, batch: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        if _uniform() >= self.settings.probability:
            return dict(record)
        others = [i for i in range(len(batch)) if i != number and len(batch[i]["instances"])]
        if not others:
            return dict(record)
        source = batch[others[_below(len(others))]]
        image, masks, classes = self._choose(source, record["image"].shape[-2:])
        return self._compose(record, image, masks, classes) if len(classes) else dict(record)

    def _choose(
        self, source: Mapping[str, Any], size: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Some instances of ``source``, flipped, resized and placed on a canvas of ``size``.

        Returns:
            image (C, H, W), arbitrary outside the masks, masks (K, H, W) bool, classes (K,) int64.
        """
        instances: Instances = source["instances"]
        limit = min(self.settings.max_instances or len(instances), len(instances))
        order = torch.randperm(len(instances))
        chosen = order[: 1 + _below(limit)]
        image, masks = source["image"], instances.gt_masks.tensor[chosen]
        if _below(2):
            image, masks = image.flip(-1), masks.flip(-1)
        low, high = self.settings.min_scale, self.settings.max_scale
        image, masks = _resize(image, masks, low + (high - low) * _uniform())
        shift = [_shift(to, of) for to, of in zip(size, image.shape[-2:], strict=True)]
        areas = masks.sum((1, 2))
        image, masks = _place(image, size, shift), _place(masks, size, shift)
        kept = _visible(masks, areas, self.settings.min_visible)
        return image, masks[kept], instances.gt_classes[chosen][kept]

    def _compose(
        self,
        record: Mapping[str, Any],
        pasted: torch.Tensor,
        pasted_masks: torch.Tensor,
        classes: torch.Tensor,
    ) -> dict[str, Any]:
        """``record`` with what ``_choose`` gave in front."""
        front = pasted_masks.any(0)
        own: Instances = record["instances"]
        masks = own.gt_masks.tensor & ~front
        areas = own.gt_masks.tensor.sum((1, 2))
        hidden = masks.sum((1, 2)) < areas
        # Labels that nothing covers stay as they are, degenerate ones too.
        kept = ~hidden | _visible(masks, areas, self.settings.min_visible)
        boxes = own.gt_boxes.clone()
        boxes.tensor[hidden] = _boxes(masks[hidden], boxes.tensor)
        boxes.tensor = torch.cat([boxes.tensor[kept], _boxes(pasted_masks, boxes.tensor)])
        result = Instances(own.image_size)
        result.gt_boxes = boxes
        result.gt_classes = torch.cat([own.gt_classes[kept], classes])
        result.gt_masks = BitMasks(torch.cat([masks[kept], pasted_masks]))
        image = torch.where(front, pasted, record["image"])
        return {**record, "image": image, "instances": result}


def _check(record: Mapping[str, Any]) -> None:
    name = record.get("file_name", "an image")
    instances = record["instances"]
    fields = set(instances.get_fields())
    if fields != _FIELDS or not isinstance(instances.gt_masks, BitMasks):
        raise ValueError(
            f"{name}: INPUT.TRACE.COPY_PASTE needs gt_boxes, gt_classes and gt_masks (BitMasks, "
            f"INPUT.MASK_FORMAT bitmask) and no other target; found {', '.join(sorted(fields))}: "
            "turn the others off, or set INPUT.TRACE.COPY_PASTE.ENABLED False"
        )
    if "sem_seg" in record:
        raise ValueError(
            f"{name}: INPUT.TRACE.COPY_PASTE would leave sem_seg wrong: set INPUT.TRACE.SEMANTIC "
            "to none"
        )


def _resize(
    image: torch.Tensor, masks: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, H, W) smoothed and (K, H, W) bool by the nearest pixel, both by ``scale``."""
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image, masks
    smooth = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    smooth = smooth.round().clamp(0, 255).to(image.dtype)
    return smooth, F.interpolate(masks[None].float(), size, mode="nearest-exact")[0] > 0.5


def _place(pixels: torch.Tensor, size: Sequence[int], shift: Sequence[int]) -> torch.Tensor:
    """(..., h, w) on a canvas of zeros (..., H, W), its corner at ``shift``, which may be < 0."""
    (top, left), (height, width) = shift, pixels.shape[-2:]
    return F.pad(pixels, (left, size[1] - left - width, top, size[0] - top - height))


def _visible(masks: torch.Tensor, areas: torch.Tensor, share: float) -> torch.Tensor:
    """(K,) bool: masks that have pixels, and at least ``share`` of ``areas``."""
    left = masks.sum((1, 2))
    return (left > 0) & (left >= share * areas)


def _boxes(masks: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(K, 4) boxes of (K, H, W) masks; zeros for an empty one."""
    return BitMasks(masks).get_bounding_boxes().tensor.to(like)


def _uniform() -> float:
    return float(torch.rand(()))


def _below(limit: int) -> int:
    return int(torch.randint(limit, ()))


def _shift(canvas: int, side: int) -> int:
    """Where a side goes on a canvas: within it or, if it is longer, all over it."""
    return min(0, canvas - side) + _below(abs(canvas - side) + 1)
