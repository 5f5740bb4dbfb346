"""From class and mask logits to semantic, panoptic and instance results.

Each function takes one image: class logits (Q, C + 1) whose last column is "no object", and mask
logits (Q, H, W) at the size of the result.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances


def semantic_inference(class_logits: torch.Tensor, mask_logits: torch.Tensor) -> torch.Tensor:
    """Class scores a pixel: masks summed with their class probabilities as weights.

    Returns:
        (C, H, W) float, 0 or more; the argmax over C is the semantic segmentation.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", probabilities, mask_logits.sigmoid())


def panoptic_inference(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    *,
    thing_ids: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """One segment a pixel: the query with the greatest class score times mask probability.

    Args:
        thing_ids: contiguous ids of thing classes. Segments of one stuff class become one.
        object_mask_threshold: 0..1, queries need a higher class score.
        overlap_threshold: 0..1, a segment needs at least this share of its own mask (probability
            of 0.5 or more); else others hide too much of it.

    Returns:
        (H, W) int32 segment ids, 0 = none, and ``{"id", "isthing", "category_id"}`` a segment.
    """
    scores, classes = class_logits.softmax(-1).max(-1)
    kept = (classes != class_logits.shape[-1] - 1) & (scores > object_mask_threshold)
    panoptic = torch.zeros(mask_logits.shape[-2:], dtype=torch.int32, device=mask_logits.device)
    segments: list[dict[str, Any]] = []
    if not kept.any():
        return panoptic, segments
    scores, masks = scores[kept], mask_logits[kept].sigmoid()
    owner = (scores[:, None, None] * masks).argmax(0)
    own_mask = masks >= 0.5
    won = torch.bincount(owner.flatten(), minlength=len(scores))
    whole = own_mask.flatten(1).sum(1)
    visible = own_mask.gather(0, owner[None])[0]
    shown = torch.bincount(owner[visible], minlength=len(scores))
    stuff: dict[int, int] = {}
    for query, category in enumerate(classes[kept].tolist()):
        if not shown[query] or won[query] / whole[query] < overlap_threshold:
            continue
        is_thing = category in thing_ids
        if is_thing or category not in stuff:
            segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": category})
        segment_id = len(segments) if is_thing else stuff.setdefault(category, len(segments))
        panoptic[(owner == query) & visible] = segment_id
    return panoptic, segments


def instance_inference(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    *,
    thing_ids: Collection[int],
    top_k: int,
) -> Instances:
    """The ``top_k`` pairs of query and class with the greatest scores, things only.

    Args:
        thing_ids: contiguous ids of thing classes.
        top_k: pairs before those of stuff classes are left out.

    Returns:
        ``pred_masks`` (N, H, W) bool, ``pred_boxes`` around the masks (xyxy, pixels), ``scores``
        (N,) float 0..1 = class score times mean mask probability, ``pred_classes`` (N,) int64.
    """
    class_scores = class_logits.softmax(-1)[:, :-1]
    num_classes = class_scores.shape[1]
    scores, pairs = class_scores.flatten().topk(min(top_k, class_scores.numel()), sorted=False)
    classes = pairs % num_classes
    is_thing = torch.isin(classes, torch.tensor(sorted(thing_ids), device=classes.device))
    scores, classes = scores[is_thing], classes[is_thing]
    queries = pairs.div(num_classes, rounding_mode="floor")[is_thing]

    # A query may be chosen for several classes: its mask is looked at once.
    masks = mask_logits > 0
    confidence = (mask_logits.sigmoid() * masks).flatten(1).sum(1)
    confidence = confidence / (masks.flatten(1).sum(1) + 1e-6)
    result = Instances(tuple(mask_logits.shape[-2:]))
    result.pred_masks = masks[queries]
    result.pred_boxes = BitMasks(masks).get_bounding_boxes().to(masks.device)[queries]
    result.scores = scores * confidence[queries]
    result.pred_classes = classes
    return result
