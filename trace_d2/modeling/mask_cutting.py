"""Cut predicted masks along edges: Detectron2 predictions and an edge map in, predictions out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from trace_d2.propagation import BoundaryGuidedPropagation


def cut_instances(
    instances: Instances,
    edges: np.ndarray,
    propagation: BoundaryGuidedPropagation,
    *,
    share_power: float = 0.5,
    max_instances: int = 100,
) -> Instances:
    """Cut, propagate and merge the masks of each class.

    Masks of different classes do not meet: a piece keeps the class of its mask. Where pieces of
    several masks become one instance, it follows the mask of the highest score.

    Args:
        instances: with ``pred_masks`` (N, H, W) bool, or float where above 0.5 is inside, and
            perhaps ``scores`` (1 without) and ``pred_classes`` (one class without).
        edges: (H, W) float32 in 0..1.
        propagation: how to cut.
        share_power: an instance's score is that of its mask times its share of the mask's pixels
            to this power.
        max_instances: those of the highest scores are kept.

    Returns:
        Instances of the same image size and device, by falling score: ``pred_masks`` of the same
        dtype, ``scores``, ``pred_boxes`` around the masks, and every other field as the mask that
        an instance follows has it. An empty mask gives none.
    """
    given = instances.pred_masks.detach()
    masks = (given if given.dtype == torch.bool else given > 0.5).cpu().numpy()
    scores = _numbers(instances, "scores", 1.0)
    classes = _numbers(instances, "pred_classes", 0)
    found_masks: list[np.ndarray] = []
    found_scores, found_sources = [scores[:0]], [np.zeros(0, np.int64)]
    for category in np.unique(classes):
        members = np.flatnonzero(classes == category)
        # The best first: it is the one that a merged instance follows.
        members = members[np.argsort(-scores[members], kind="stable")]
        found = propagation(masks[members], edges, scores[members])
        sources = members[found.sources]
        weighted = found.scores * _shares(found.masks, masks, sources) ** share_power
        # Views: there may be many more masks than are kept, and each is as large as the image.
        found_masks.extend(found.masks)
        found_scores.append(weighted)
        found_sources.append(sources)
    joined_scores = np.concatenate(found_scores)
    best = np.argsort(-joined_scores, kind="stable")[:max_instances]
    return _follow(
        instances,
        np.concatenate(found_sources)[best],
        np.stack([found_masks[k] for k in best]) if len(best) else masks[:0],
        joined_scores[best],
    )


def cut_panoptic(
    panoptic: Tensor,
    segments_info: list[dict[str, Any]],
    edges: np.ndarray,
    propagation: BoundaryGuidedPropagation,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Cut the thing segments of a panoptic prediction.

    Args:
        panoptic: (H, W) int ids, 0 = void.
        segments_info: of the segments; each has ``id`` and ``isthing``.
        edges: (H, W) float32 in 0..1.
        propagation: how to cut; its ``grow`` must be off, so that segments cannot overlap.

    Returns:
        The ids and their infos. The largest piece of a segment keeps its id and the others get new
        ones, with a copy of the segment's info; an ``area`` is counted anew. Stuff, void and the
        order of the infos stay. An ``instance_id`` (Panoptic FPN) still counts the instances as
        they were before a cut.
    """
    things = [info["id"] for info in segments_info if info["isthing"]]
    highest = max((info["id"] for info in segments_info), default=0)
    ids = iter(range(highest + 1, np.iinfo(np.int32).max))
    cut, pieces = _cut_segments(panoptic, things, edges, propagation, lambda _: next(ids))
    infos = []
    for info in segments_info:
        for number, area in pieces.get(info["id"], [(info["id"], info.get("area"))]):
            infos.append({**info, "id": number, **({"area": area} if "area" in info else {})})
    return cut, infos


def cut_coded_panoptic(
    panoptic: Tensor,
    edges: np.ndarray,
    propagation: BoundaryGuidedPropagation,
    *,
    thing_classes: Collection[int],
    label_divisor: int,
) -> Tensor:
    """``cut_panoptic`` of a prediction without infos, id = class * label_divisor + number.

    Args:
        panoptic: (H, W) int ids; negative = void.
        edges, propagation: as of ``cut_panoptic``.
        thing_classes: contiguous ids of the thing classes.
        label_divisor: of the data set's metadata.
    """
    present = torch.unique(panoptic[panoptic >= 0]).tolist()
    used: dict[int, int] = {}
    for number in present:
        used[number // label_divisor] = number % label_divisor

    def new_id(number: int) -> int:
        category = number // label_divisor
        used[category] += 1
        if used[category] >= label_divisor:
            raise ValueError(
                f"class {category} has {used[category]} segments in one image, more than a "
                f"label_divisor of {label_divisor} can tell apart: raise MODEL.TRACE.BGP.MIN_AREA"
            )
        return category * label_divisor + used[category]

    things = [number for number in present if number // label_divisor in set(thing_classes)]
    return _cut_segments(panoptic, things, edges, propagation, new_id)[0]


def _cut_segments(
    panoptic: Tensor,
    things: list[int],
    edges: np.ndarray,
    propagation: BoundaryGuidedPropagation,
    new_id: Any,
) -> tuple[Tensor, dict[int, list[tuple[int, int]]]]:
    """The new ids, and for each thing segment the (id, pixels) of its pieces, largest first."""
    ids = panoptic.cpu().numpy().copy()
    things = [number for number in things if (ids == number).any()]
    if not things:
        return panoptic, {}
    masks = np.stack([ids == number for number in things])
    found = propagation(masks, edges)
    areas = found.masks.sum((1, 2))
    pieces: dict[int, list[tuple[int, int]]] = {}
    # Largest first within each segment.
    for index in np.lexsort((-areas, found.sources)):
        number = things[found.sources[index]]
        own = new_id(number) if number in pieces else number
        pieces.setdefault(number, []).append((own, int(areas[index])))
        ids[found.masks[index]] = own
    return torch.from_numpy(ids).to(panoptic), pieces


def _numbers(instances: Instances, field: str, default: float) -> np.ndarray:
    if instances.has(field):
        return instances.get(field).detach().cpu().numpy()
    return np.full(len(instances), default)


def _shares(found: np.ndarray, masks: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Share (N,) of each source mask's pixels that an instance covers."""
    covered = [np.count_nonzero(a & masks[k]) for a, k in zip(found, sources, strict=True)]
    total = [np.count_nonzero(masks[k]) for k in sources]
    return np.array(covered, np.float32) / np.array(total, np.float32)


def _follow(
    instances: Instances, sources: np.ndarray, masks: np.ndarray, scores: np.ndarray
) -> Instances:
    """Instances with these masks and scores, and all else from the instances ``sources``."""
    given = instances.pred_masks
    cut = Instances(instances.image_size)
    index = torch.from_numpy(sources).to(given.device)
    for name, value in instances.get_fields().items():
        if name in ("pred_masks", "pred_boxes", "scores"):
            continue
        is_list = isinstance(value, (list, tuple))
        cut.set(name, [value[k] for k in sources.tolist()] if is_list else value[index])
    inside = torch.from_numpy(masks)
    cut.pred_masks = inside.to(given.device, given.dtype)
    cut.pred_boxes = BitMasks(inside).get_bounding_boxes().to(given.device)
    kind = instances.scores.dtype if instances.has("scores") else torch.float32
    cut.scores = torch.from_numpy(scores).to(given.device, kind)
    return cut
