from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Mask2FormerImageProcessor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerForUniversalSegmentationOutput,
)

from trace_d2.modeling.mask2former.inference import (
    instance_inference,
    panoptic_inference,
    semantic_inference,
)

THINGS = {0, 1}


def random_logits(seed, queries=9, classes=4, size=(17, 23)):
    """Class logits (Q, C + 1) and smooth mask logits (Q, H, W) of some certainty."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = 3 * torch.randn(queries, classes + 1, generator=generator)
    coarse = torch.randn(1, queries, 4, 5, generator=generator)
    return class_logits, 4 * F.interpolate(coarse, size, mode="bilinear")[0]


def panoptic_by_loops(class_logits, mask_logits, score_threshold, overlap_threshold):
    """The published algorithm, pixel by pixel."""
    probabilities = class_logits.softmax(-1).numpy()
    masks = mask_logits.sigmoid().numpy()
    kept = [
        (p.max(), int(p.argmax()), mask)
        for p, mask in zip(probabilities, masks, strict=True)
        if p.argmax() < len(p) - 1 and p.max() > score_threshold
    ]
    height, width = masks.shape[1:]
    ids, segments, stuff = np.zeros((height, width), int), [], {}
    owner = np.full((height, width), -1)
    for y in range(height):
        for x in range(width):
            if kept:
                owner[y, x] = np.argmax([score * mask[y, x] for score, _, mask in kept])
    for index, (_, category, mask) in enumerate(kept):
        pixels = (owner == index) & (mask >= 0.5)
        if not pixels.any() or (owner == index).sum() / (mask >= 0.5).sum() < overlap_threshold:
            continue
        if category not in THINGS and category in stuff:
            ids[pixels] = stuff[category]
            continue
        segments.append(
            {"id": len(segments) + 1, "isthing": category in THINGS, "category_id": category}
        )
        stuff[category] = len(segments)
        ids[pixels] = len(segments)
    return ids, segments


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("scores", "overlap"), [(0.8, 0.8), (0.3, 0.2), (0.0, 0.0)])
def test_panoptic_inference_by_loops(seed, scores, overlap):
    logits = random_logits(seed)
    ids, segments = panoptic_inference(
        *logits, thing_ids=THINGS, object_mask_threshold=scores, overlap_threshold=overlap
    )
    expected_ids, expected_segments = panoptic_by_loops(*logits, scores, overlap)
    assert segments == expected_segments
    assert np.array_equal(ids.numpy(), expected_ids)


def test_panoptic_inference_by_hand():
    # Two queries of the stuff class 2 become one segment; a thing covers the middle; the last
    # query sees nothing but "no object".
    class_logits = torch.tensor([[0, 0, 9.0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0, 0, 0, 9.0]])
    mask_logits = torch.full((4, 1, 6), -9.0)
    mask_logits[0, 0, :2] = 9
    mask_logits[1, 0, 2:4] = 9
    mask_logits[2, 0, 4:5] = 9
    mask_logits[3] = 9
    ids, segments = panoptic_inference(
        class_logits,
        mask_logits,
        thing_ids={0, 1},
        object_mask_threshold=0.8,
        overlap_threshold=0.8,
    )
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[1, 1, 2, 2, 1, 0]]
    assert segments == [
        {"id": 1, "isthing": False, "category_id": 2},
        {"id": 2, "isthing": True, "category_id": 1},
    ]


def test_nothing_above_the_threshold():
    ids, segments = panoptic_inference(
        torch.zeros(3, 5),
        torch.zeros(3, 4, 4),
        thing_ids=THINGS,
        object_mask_threshold=0.8,
        overlap_threshold=0.8,
    )
    assert (ids == 0).all()
    assert segments == []


def instances_by_loops(class_logits, mask_logits, top_k):
    probabilities = class_logits.softmax(-1).numpy()[:, :-1]
    pairs = [(p, q, c) for q, row in enumerate(probabilities) for c, p in enumerate(row)]
    found = []
    for probability, query, category in sorted(pairs, reverse=True)[:top_k]:
        if category not in THINGS:
            continue
        mask = mask_logits[query].numpy() > 0
        confidence = mask_logits[query].sigmoid().numpy()[mask].sum() / (mask.sum() + 1e-6)
        rows, columns = np.nonzero(mask)
        box = [0, 0, 0, 0]
        if mask.any():
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found.append((probability * confidence, category, mask, box))
    return sorted(found, key=lambda item: -item[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("top_k", [5, 1000])
def test_instance_inference_by_loops(seed, top_k):
    class_logits, mask_logits = random_logits(seed)
    mask_logits[3] = -1
    expected = instances_by_loops(class_logits, mask_logits, top_k)
    result = instance_inference(class_logits, mask_logits, thing_ids=THINGS, top_k=top_k)
    result = result[result.scores.argsort(descending=True, stable=True)]
    assert len(result) == len(expected)
    assert result.image_size == (17, 23)
    assert result.pred_masks.dtype == torch.bool
    assert result.scores.numpy() == pytest.approx([score for score, *_ in expected], abs=1e-6)
    present = [i for i, item in enumerate(expected) if item[0] > 0]
    for index in present:
        _, category, mask, box = expected[index]
        assert result.pred_classes[index] == category
        assert np.array_equal(result.pred_masks[index].numpy(), mask)
        assert result.pred_boxes.tensor[index].tolist() == box


def test_semantic_inference_is_that_of_transformers():
    # Their processor scales every mask to 384 x 384 first.
    class_logits, mask_logits = random_logits(0, size=(96, 96))
    output = Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=class_logits[None], masks_queries_logits=mask_logits[None]
    )
    expected = Mask2FormerImageProcessor().post_process_semantic_segmentation(output)[0]
    full = F.interpolate(mask_logits[None], (384, 384), mode="bilinear", align_corners=False)[0]
    assert torch.equal(semantic_inference(class_logits, full).argmax(0), expected)
