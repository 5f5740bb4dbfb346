"""Targets of a batch, and the classes that a data set has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import BitMasks, Instances

from trace_d2.io.categories import Category


def prepare_targets(
    batched_inputs: Sequence[dict[str, Any]],
    *,
    size: tuple[int, int],
    num_classes: int,
    device: torch.device,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Classes and masks of every image, padded to the batch; padding belongs to no segment.

    Args:
        batched_inputs: Detectron2's input dicts with ``instances`` (``gt_classes`` (N,) int64 and
            ``gt_masks``, a (N, H, W) tensor or ``BitMasks``; N may be 0).
        size: height and width of the padded batch.
        num_classes: classes must be below.
        device: where the targets go.

    Returns:
        (N_i,) int64 and (N_i, *size) bool an image.
    """
    classes, masks = [], []
    for record in batched_inputs:
        name = record.get("file_name", "an image")
        if "instances" not in record:
            raise ValueError(f"{name}: training needs `instances` in each input; see the mapper")
        instances = record["instances"]
        labels = instances.gt_classes.long()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"{name}: classes {int(labels.min())}..{int(labels.max())}, but "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}"
            )
        tensor = _mask_tensor(instances, name).to(device=device, dtype=torch.bool)
        height, width = tensor.shape[-2:]
        masks.append(F.pad(tensor, (0, size[1] - width, 0, size[0] - height)))
        classes.append(labels.to(device))
    return classes, masks


def _mask_tensor(instances: Instances, name: str) -> torch.Tensor:
    """The masks as (N, H, W)."""
    if not instances.has("gt_masks"):
        # A mapper that drops empty fields: there is nothing to learn but "no object".
        if len(instances):
            raise ValueError(f"{name}: `instances` has classes and no gt_masks")
        return torch.zeros(0, *instances.image_size, dtype=torch.bool)
    masks = instances.gt_masks
    if isinstance(masks, BitMasks):
        return masks.tensor
    if isinstance(masks, torch.Tensor):
        return masks
    raise ValueError(
        f"{name}: gt_masks is a {type(masks).__name__}; set INPUT.MASK_FORMAT to bitmask"
    )


def thing_ids_of(
    names: Sequence[str], categories: Sequence[Category], *, num_classes: int, panoptic: bool
) -> frozenset[int]:
    """Contiguous ids of the thing classes: by the categories, if there are any, or a data set.

    That is the first data set that knows its own, or the first.

    For evaluation the training set need not be there. A data set without stuff classes, or one
    whose classes are not known yet (Detectron2 fills those of a COCO file in as it loads it), has
    things only.

    Args:
        names: ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        categories: ``MODEL.TRACE.CATEGORIES``.
        num_classes: ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
        panoptic: whether panoptic results are wanted, which need to know things from stuff.
    """
    if categories:
        if len(categories) != num_classes:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but MODEL.TRACE.CATEGORIES has "
                f"{len(categories)} categories: make them agree"
            )
        return frozenset(rank for rank, category in enumerate(categories) if category.isthing)
    key = "thing_dataset_id_to_contiguous_id"
    registered = [name for name in names if name in MetadataCatalog]
    known = [name for name in registered if MetadataCatalog.get(name).get(key) is not None]
    dataset = next(iter([*known, *names]), "")
    metadata = MetadataCatalog.get(dataset) if dataset else Metadata()
    classes = metadata.get("stuff_classes") or metadata.get("thing_classes")
    things = metadata.get(key)
    if classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {dataset} of DATASETS.TRAIN has "
            f"{len(classes)} classes"
        )
    if things is None:
        if panoptic:
            raise ValueError(
                "MODEL.TRACE.MASK2FORMER.TEST.PANOPTIC_ON needs the thing classes of the first "
                f"data set in DATASETS.TRAIN, and {dataset or 'an empty list'} has none: register "
                "it with register_trace_panoptic, set MODEL.TRACE.CATEGORIES (the config.yaml that "
                "training writes has them), or switch PANOPTIC_ON off"
            )
        return frozenset(range(num_classes))
    ids = frozenset(int(value) for value in things.values())
    if ids and not 0 <= min(ids) <= max(ids) < num_classes:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {dataset} of DATASETS.TRAIN "
            f"has a thing class with the contiguous id {max(ids)}"
        )
    return ids
