"""Segments of a panoptic label whose outlines somebody knows better: another label of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from scipy import ndimage

from trace_d2.io.regions import region_statistics
from trace_d2.masks.patches import Patch, moved, patches_of_regions

from .panoptic import PanopticLabel, Segment


def parts_of(label: PanopticLabel) -> list[tuple[int, Patch]]:
    """What could be one object each, with the id of its segment: things, and parts of stuff.

    Stuff, which is one segment a class, has a part wherever its pixels touch.
    """
    found = []
    patches = patches_of_regions(label.segment_ids)
    for segment in label.segments:
        whole = patches[segment.id]
        if segment.isthing:
            found.append((segment.id, whole))
            continue
        for part in patches_of_regions(ndimage.label(whole.mask)[0]).values():
            found.append((segment.id, Patch(moved(part.box, whole.box), part.mask)))
    return found


def replace_parts(label: PanopticLabel, patches: Sequence[Patch | None]) -> PanopticLabel:
    """``label`` with other masks of its ``parts_of``, in their order; None leaves one as it is."""
    masks: dict[int, list[Patch]] = defaultdict(list)
    changed = set()
    for (segment_id, part), patch in zip(parts_of(label), patches, strict=True):
        masks[segment_id].append(patch or part)
        if patch is not None:
            changed.add(segment_id)
    return replace_masks(label, {key: masks[key] for key in sorted(changed)})


def replace_masks(label: PanopticLabel, masks: Mapping[int, Sequence[Patch]]) -> PanopticLabel:
    """``label`` with other masks of some of its segments; each pixel keeps exactly one segment.

    Void stays void, and the rest stays known. Segments keep their classes, whose borders move with
    them. Where masks overlap, things lie over stuff and the smaller over the larger, so that
    nothing small is lost in what is around it. What a segment gives up and no other one takes goes
    to the nearest other segment within its former box, or stays. Segments without a pixel go.

    Args:
        label: of the image.
        masks: by the ids of segments, the parts of each; segments without any keep their mask.

    Returns:
        segments in their former order, numbered from 1.
    """
    ids, known = label.segment_ids, label.segment_ids > 0
    segments = {segment.id: segment for segment in label.segments}
    areas = {key: sum(part.area for part in parts) for key, parts in masks.items()}
    order = sorted(
        segments.values(), key=lambda one: (one.isthing, -areas.get(one.id, one.area), one.id)
    )
    painted = np.zeros_like(ids)
    for segment in order:
        if segment.id not in masks:
            painted[ids == segment.id] = segment.id
        for part in masks.get(segment.id, ()):
            painted[part.box][part.mask & known[part.box]] = segment.id
    settled = painted.copy()
    for key in masks:
        _settle_given_up(settled, painted, ids, segments[key])
    return _numbered(settled, segments)


def _settle_given_up(
    settled: np.ndarray, painted: np.ndarray, ids: np.ndarray, segment: Segment
) -> None:
    """Give the pixels that ``segment`` gave up, and nobody took, to the nearest other segment."""
    left, top, width, height = segment.bbox
    box = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    given_up = (ids[box] == segment.id) & (painted[box] == 0)
    if not given_up.any():
        return
    others = (painted[box] > 0) & (painted[box] != segment.id)
    if not others.any():
        settled[box][given_up] = segment.id
        return
    _, nearest = cv2.distanceTransformWithLabels(
        (~others).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owners = np.zeros(int(nearest.max()) + 1, np.int32)
    owners[nearest[others]] = painted[box][others]
    settled[box][given_up] = owners[nearest[given_up]]


def _numbered(ids: np.ndarray, segments: Mapping[int, Segment]) -> PanopticLabel:
    """A label of a map of the ids of ``segments``, which count from 1 then, without gaps."""
    columns = (column.tolist() for column in region_statistics(ids))
    kept = [(key, area, tuple(box)) for key, area, box in zip(*columns, strict=True) if key]
    table = np.zeros(max(segments, default=0) + 1, np.int32)
    table[[key for key, _, _ in kept]] = np.arange(1, len(kept) + 1)
    return PanopticLabel(
        table[ids],
        [
            replace(segments[key], id=number, area=area, bbox=box)
            for number, (key, area, box) in enumerate(kept, start=1)
        ],
    )
