"""Image and masks go through the same augmentations, and the plain way gives the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import BitMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plain.panoptic_mapper import PlainPanopticMapper

from trace_d2.data.dataset_mapper import TraceDatasetMapper

WriteRecord = Callable[..., dict[str, Any]]


def blocks(rows: int, columns: int, side: int) -> np.ndarray:
    """Segments 1.. in squares of ``side`` pixels."""
    ids = 1 + np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return ids.repeat(side, axis=0).repeat(side, axis=1)


def colors_of(ids: np.ndarray) -> np.ndarray:
    """An image whose colours, but for the blue of padding, are its segment numbers."""
    return np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.sampled_from([(3, 4), (15, 17), (16, 17)]))
def test_image_and_masks_stay_together(tmp_path_factory, write_record, seed, count, make_cfg):
    """Also for more than 254 segments, whose maps go through the transforms as colours."""
    ids = blocks(*count, 4)
    segments = [{"id": int(i), "category_id": int(i) % 5, "isthing": True} for i in np.unique(ids)]
    folder = tmp_path_factory.mktemp("together")
    record = write_record(folder, ids, colors_of(ids), segments_info=segments)
    cfg = make_cfg(
        "INPUT.TRACE.IMAGE_SIZE", 64, "INPUT.FORMAT", "RGB", "INPUT.TRACE.MIN_SCALE", 0.5
    )
    mapper = TraceDatasetMapper(cfg)
    mapper.augmentations.augs[1].interp = Image.NEAREST  # blends no colours
    np.random.seed(seed)
    mapped = mapper(record)
    image = mapped["image"].numpy().astype(int)
    assert image.shape == (3, 64, 64)
    instances = mapped["instances"]
    covered = instances.gt_masks.sum(0)
    assert covered.max() == 1
    padding = covered.numpy() == 0
    assert (image[:, padding] == 128).all()
    assert (image[2, ~padding] == 0).all()
    assert (mapped["sem_seg"].numpy()[padding] == 255).all()
    assert instances.gt_masks.any(-1).any(-1).all()
    for mask, category in zip(instances.gt_masks.numpy(), instances.gt_classes, strict=True):
        numbers = np.unique(image[0][mask] + 256 * image[1][mask])
        assert len(numbers) == 1
        assert numbers[0] % 5 == category
        assert (mapped["sem_seg"].numpy()[mask] == int(category)).all()
    assert torch.equal(
        instances.gt_boxes.tensor, BitMasks(instances.gt_masks).get_bounding_boxes().tensor
    )


def test_the_plain_way_gives_the_same(tmp_path, write_record, make_cfg):
    rng = np.random.default_rng(3)
    ids = blocks(5, 6, 5)
    ids[rng.random(ids.shape) < 0.2] = 0
    image = rng.integers(0, 256, (*ids.shape, 3), np.uint8)
    segments = [
        {"id": int(i), "category_id": int(i) % 7, "isthing": True, "iscrowd": int(i == 11)}
        for i in np.unique(ids)[1:]
    ]
    record = write_record(tmp_path, ids, image, segments_info=segments)
    mapper = TraceDatasetMapper(make_cfg("INPUT.TRACE.IMAGE_SIZE", 32))
    jitter = [T.RandomFlip(), T.ResizeScale(0.1, 2.0, 32, 32), T.FixedSizeCrop((32, 32), False)]
    plain = PlainPanopticMapper(jitter, "BGR", (32, 32))
    for seed in range(8):
        np.random.seed(seed)
        ours = mapper(record)
        np.random.seed(seed)
        expected = plain(record)
        assert torch.equal(ours["image"], expected["image"])
        for name in ("gt_classes", "gt_masks"):
            assert torch.equal(ours["instances"].get(name), expected["instances"].get(name))
        assert torch.equal(ours["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
