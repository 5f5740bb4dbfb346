"""Detectron2's mapper with records that cannot be used."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from trace_d2.data.bad_records import BadRecordError, NoUsableRecordError
from trace_d2.data.tolerant_mapper import TolerantDatasetMapper
from trace_d2.io.coco_panoptic import encode_mask

MASK = np.zeros((12, 16), bool)
MASK[2:8, 3:9] = True
POLYGON = [3.0, 2.0, 9.0, 2.0, 9.0, 8.0, 3.0, 8.0]


@pytest.fixture
def cfg(make_cfg):
    masks = ("INPUT.MASK_FORMAT", "bitmask", "MODEL.MASK_ON", True)
    return make_cfg(*masks, "INPUT.MIN_SIZE_TRAIN", (12,))


def annotation(**changes: Any) -> dict[str, Any]:
    return {
        "bbox": [3, 2, 6, 6],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": encode_mask(MASK),
    } | changes


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    rows = [annotation(), annotation(segmentation=[POLYGON])]
    return {
        "file_name": str(path), "image_id": 1, "height": 12, "width": 16, "annotations": rows
    }  # fmt: skip


@pytest.mark.parametrize("is_train", [True, False])
def test_good_records_come_out_as_from_detectron2(cfg, record, is_train):
    cfg.INPUT.RANDOM_FLIP = "none"
    ours = TolerantDatasetMapper(cfg, is_train)(record)
    theirs = DatasetMapper(cfg, is_train)(record)
    assert ours is not None
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    if is_train:
        masks = [mapped["instances"].gt_masks.tensor for mapped in (ours, theirs)]
        assert torch.equal(*masks)
        assert masks[0].sum((1, 2)).tolist() == [36, 36]
    assert len(record["annotations"]) == 2


def test_boxes_alone_train_models_without_masks(cfg, record):
    """As of KITTI and Objects365."""
    record["annotations"] = [annotation() for _ in range(2)]
    for row in record["annotations"]:
        del row["segmentation"]
    with pytest.raises(BadRecordError, match=r"it has no mask; .* with MODEL\.MASK_ON False"):
        TolerantDatasetMapper(cfg, True, strict=True)(record)
    cfg.MODEL.MASK_ON = False
    mapped = TolerantDatasetMapper(cfg, True)(record)
    assert len(mapped["instances"].gt_boxes) == 2
    assert not mapped["instances"].has("gt_masks")


def bad_records(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is said of a record, and the record."""
    folder = Path(record["file_name"]).parent
    (folder / "text.png").write_text("not an image")
    (folder / "cut.png").write_bytes(Path(record["file_name"]).read_bytes()[:200])
    masks: dict[str, Any] = {
        "counts end within a number": {"size": [12, 16], "counts": "P"},
        "its size is 16 x 12": {"size": [16, 12], "counts": [192]},
        "not compressed": {"size": [12, 16], "counts": [192]},
        "has no mask": None,
        "far outside": [[0, 0, 1e9, 0, 1e9, 1e9]],
        "all its polygons have fewer": [[1, 2, 3]],
        "one flat list of numbers": POLYGON,
    }
    found = {
        "no image at": {**record, "file_name": str(folder / "absent.png")},
        "cannot be read": {**record, "file_name": str(folder / "text.png")},
        "repair or replace": {**record, "file_name": str(folder / "cut.png")},
        "Mismatched image shape": {**record, "width": 17, "annotations": []},
        "bbox None": {**record, "annotations": [annotation(bbox=None)]},
    }
    for reason, mask in masks.items():
        rows = [annotation(), annotation(segmentation=mask)]
        found[reason] = {**record, "annotations": rows}
    return found


SHORT = [[3.0, 3.0, 4.0, 4.0], POLYGON]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bbox": [0, 0, 0, 0]}, "object 0 is not in its bbox [0, 0, 0, 0]"),
        ({"bbox": [3, 2, -6, 6]}, "object 0 is not in its bbox"),
        ({"bbox": [3, 2, float("nan"), 6]}, "object 0 is not in its bbox"),
        ({"bbox": [3, 2, 6]}, "object 0 is not in its bbox"),
        ({"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYXY_ABS}, "object 0 is not in its bbox"),
        ({"bbox": [3, 2, 9, 8], "bbox_mode": BoxMode.XYXY_ABS}, ""),
        ({"segmentation": SHORT}, "polygons of fewer than three points: left out"),
    ],
)
def test_masks_decide_over_boxes_and_short_polygons(cfg, record, changes, told, caplog):
    """Detectron2 leaves an object out whose box is empty, and trains on nothing."""
    cfg.INPUT.RANDOM_FLIP = "none"
    mapper = TolerantDatasetMapper(cfg, True)
    rows = [annotation(**changes)]
    for _ in range(2):
        mapped = mapper({**record, "annotations": rows})
        assert mapped is not None
        assert mapped["instances"].gt_boxes.tensor.tolist() == [[3, 2, 9, 8]]
        assert mapped["instances"].gt_masks.tensor.sum() == 36
    assert rows == [annotation(**changes)]
    lines = [entry.getMessage() for entry in caplog.records]
    assert [told in line and record["file_name"] in line for line in lines] == [True] * bool(told)


def test_objects_without_a_pixel_are_left_out_aloud(cfg, record, caplog):
    empty = annotation(segmentation=encode_mask(np.zeros((12, 16), bool)))
    mapped = TolerantDatasetMapper(cfg, True)({**record, "annotations": [empty, annotation()]})
    assert mapped is not None
    assert len(mapped["instances"]) == 1
    assert "object 0 has no pixel: it is left out" in caplog.text


def test_boxes_alone_must_be_boxes(cfg, record):
    cfg.MODEL.MASK_ON = False
    cfg.INPUT.TRACE.STRICT = True
    strict = TolerantDatasetMapper(cfg, True)
    for box in ([0, 0, 0, 0], [3, 2, -1, 6], [3, 2, float("inf"), 6], [1, 2]):
        bad = {**record, "annotations": [annotation(bbox=box)]}
        with pytest.raises(BadRecordError, match=r"its bbox is .*: correct or remove object 0"):
            strict(bad)


def test_bad_records_are_logged_once_and_left_out(cfg, record, caplog):
    strict_cfg = cfg.clone()
    strict_cfg.INPUT.TRACE.STRICT = True
    strict = TolerantDatasetMapper(strict_cfg, True)
    for reason, bad in bad_records(record).items():
        mapper = TolerantDatasetMapper(cfg, True)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert mapper(bad) is None
            assert mapper(bad) is None
        (entry,) = caplog.records
        assert bad["file_name"] in entry.getMessage()
        assert reason in entry.getMessage()
        with pytest.raises(BadRecordError, match=reason):
            strict(bad)


def test_evaluation_raises(cfg, record):
    with pytest.raises(BadRecordError, match="no image at"):
        TolerantDatasetMapper(cfg, False)({**record, "file_name": "/absent.png"})


def test_a_config_that_no_record_fits_ends_with_the_reason(cfg, record):
    cfg.INPUT.MASK_FORMAT = "polygon"
    mapper = pickle.loads(pickle.dumps(TolerantDatasetMapper(cfg, True)))
    assert [mapper(record) for _ in range(9)] == [None] * 9
    with pytest.raises(NoUsableRecordError, match="mask_format=='polygon'"):
        mapper(record)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("rows", [[], [annotation(iscrowd=1)]])
def test_images_without_objects_have_empty_masks(cfg, record, rows, crop):
    cfg.INPUT.CROP.ENABLED = crop
    mapped = TolerantDatasetMapper(cfg, True)({**record, "annotations": rows})
    assert mapped is not None
    instances = mapped["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor.shape == (0, *mapped["image"].shape[1:])
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64
    assert "annotations" not in mapped
    cfg.INPUT.MASK_FORMAT = "polygon"
    mapped = TolerantDatasetMapper(cfg, True)({**record, "annotations": rows})
    assert isinstance(mapped["instances"].gt_masks, PolygonMasks)


def test_models_without_masks_do_not_look_at_them(cfg, record):
    cfg.MODEL.MASK_ON = False
    rows = [annotation(segmentation=None)]
    mapped = TolerantDatasetMapper(cfg, True)({**record, "annotations": rows})
    assert mapped is not None
    assert mapped["instances"].gt_boxes.tensor.shape == (1, 4)
    assert not mapped["instances"].has("gt_masks")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_photographs_are_read_as_everywhere_else(cfg, record, caplog, dtype):
    cfg.INPUT.RANDOM_FLIP = "none"
    levels = np.random.default_rng(0).integers(0, 4096, (12, 16)).astype(np.uint16)
    levels[0, 0] = 4095
    pixels = levels if dtype == np.uint16 else np.rint(levels / 4095 * 255).astype(np.uint8)
    Image.fromarray(pixels).save(record["file_name"])
    image = TolerantDatasetMapper(cfg)(record)["image"]
    assert image[0].numpy().tolist() == np.rint(levels / 4095 * 255).tolist()
    assert ("read as 12 bits, not 16" in caplog.text) == (dtype == np.uint16)


def test_ids_of_a_palette_are_no_colours(cfg, record):
    cfg.INPUT.RANDOM_FLIP = "none"
    palette = Image.fromarray(MASK.astype(np.uint8))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    path = Path(record["file_name"]).with_name("classes.png")
    palette.save(path)
    mapped = TolerantDatasetMapper(cfg)({**record, "sem_seg_file_name": str(path)})
    assert np.array_equal(mapped["sem_seg"].numpy(), MASK)
