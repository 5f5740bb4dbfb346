"""The dataset mapper: exact tensors by hand, and image and masks that stay together."""

from __future__ import annotations

import inspect
import logging
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import MapDataset
from detectron2.structures import BitMasks
from PIL import Image

from trace_d2.data import bad_records, dataset_mapper
from trace_d2.data.bad_records import BadRecordError
from trace_d2.data.dataset_mapper import (
    MapperSettings,
    TraceDatasetMapper,
    instances_of,
)
from trace_d2.data.targets import PanopticTarget, read_target
from trace_d2.io.coco_panoptic import id2rgb

WriteRecord = Callable[..., dict[str, Any]]

# Ids: 5 a thing of class 3, 70000 stuff of class 0, 9 a crowd of class 3, 0 void.
IDS = np.array(
    [
        [5, 5, 5, 5, 9, 9, 0, 0],
        [5, 5, 5, 5, 9, 9, 0, 0],
        [5, 5, 5, 5, 9, 9, 0, 0],
        *[[70000] * 8] * 4,
        [0] * 8,
    ],
    np.int32,
)
SEGMENTS = [
    {"id": 5, "category_id": 3, "isthing": True, "iscrowd": 0},
    {"id": 70000, "category_id": 0, "isthing": False, "iscrowd": 0},
    {"id": 9, "category_id": 3, "isthing": True, "iscrowd": 1},
]
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture
def record(tmp_path, write_record):
    return write_record(tmp_path, IDS, IMAGE, segments_info=SEGMENTS)


def make_mapper(
    augmentations: list[Any], image_format: str = "RGB", **settings: Any
) -> TraceDatasetMapper:
    return TraceDatasetMapper(
        True,
        augmentations=augmentations,
        image_format=image_format,
        target_generator=read_target,
        settings=MapperSettings(**settings),
    )


@pytest.fixture
def config(make_cfg):
    return partial(make_cfg, "INPUT.TRACE.IMAGE_SIZE", 16)


def masks_of(ids: np.ndarray, *wanted: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([ids == number for number in wanted]))


def semantic_of(ids: np.ndarray) -> torch.Tensor:
    table = {0: 255, 5: 3, 70000: 0, 9: 3}
    return torch.tensor([[table[number] for number in row] for row in ids.tolist()])


def check(mapped: dict[str, Any], ids: np.ndarray, image: np.ndarray) -> None:
    """``mapped`` shows segments 5 and 70000 as ``ids`` (H, W) has them."""
    assert mapped["image"].dtype == torch.uint8
    assert mapped["image"].is_contiguous()
    torch.testing.assert_close(mapped["image"], torch.from_numpy(image.copy()).permute(2, 0, 1))
    instances = mapped["instances"]
    assert instances.image_size == ids.shape
    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_classes.tolist() == [3, 0]
    assert instances.gt_masks.dtype == torch.bool
    assert torch.equal(instances.gt_masks, masks_of(ids, 5, 70000))
    assert torch.equal(
        instances.gt_boxes.tensor, BitMasks(instances.gt_masks).get_bounding_boxes().tensor
    )
    assert mapped["sem_seg"].dtype == torch.int64
    assert torch.equal(mapped["sem_seg"], semantic_of(ids))


def test_as_it_is(record):
    before = pickle.dumps(record)
    mapped = make_mapper([])(record)
    check(mapped, IDS, IMAGE)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, 4, 3], [0, 3, 8, 7]]
    assert pickle.dumps(record) == before
    kept = {"file_name", "image_id", "height", "width", "pan_seg_file_name"}
    assert mapped.keys() == kept | {"image", "sem_seg", "instances"}


def test_flip(record):
    mapped = make_mapper([T.RandomFlip(1.0)])(record)
    check(mapped, IDS[:, ::-1], IMAGE[:, ::-1])
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[4, 0, 8, 3], [0, 3, 8, 7]]


def test_crop_drops_what_it_leaves_nothing_of(record):
    check(make_mapper([T.CropTransform(2, 1, 4, 5)])(record), IDS[1:6, 2:6], IMAGE[1:6, 2:6])
    instances = make_mapper([T.CropTransform(0, 4, 8, 4)])(record)["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert torch.equal(instances.gt_masks, masks_of(IDS[4:], 70000))


@pytest.mark.parametrize("seg_pad_value", [0, 255], ids=["v0.6", "main"])
def test_padding_is_void(record, seg_pad_value):
    pad = T.PadTransform(0, 0, 3, 2, 8, 8, 128, seg_pad_value)
    padded = np.pad(IMAGE, ((0, 2), (0, 3), (0, 0)), constant_values=128)
    check(make_mapper([pad])(record), np.pad(IDS, ((0, 2), (0, 3))), padded)


def test_fixed_size_crop_of_the_installed_detectron2(record):
    padded = np.pad(IMAGE, ((0, 2), (0, 4), (0, 0)), constant_values=128)
    mapped = make_mapper([T.FixedSizeCrop((10, 12))])(record)
    check(mapped, np.pad(IDS, ((0, 2), (0, 4))), padded)


def test_resize_doubles_pixels(record):
    mapped = make_mapper([T.Resize((16, 16))])(record)
    doubled = IDS.repeat(2, axis=0).repeat(2, axis=1)
    assert torch.equal(mapped["instances"].gt_masks, masks_of(doubled, 5, 70000))
    assert torch.equal(mapped["sem_seg"], semantic_of(doubled))


def test_bgr(record):
    mapped = make_mapper([], image_format="BGR")(record)
    assert torch.equal(mapped["image"].flip(0), torch.from_numpy(IMAGE).permute(2, 0, 1))


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_bitmask(record, class_agnostic):
    mapper = make_mapper([], format="bitmask", class_agnostic=class_agnostic)
    instances = mapper(record)["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert torch.equal(instances.gt_masks.tensor, masks_of(IDS, 5))
    assert instances.gt_classes.tolist() == [0 if class_agnostic else 3]
    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 4, 3]]


@pytest.mark.parametrize("kind", ["mask2former", "bitmask"])
def test_an_image_without_segments(tmp_path, write_record, kind):
    record = write_record(tmp_path, np.zeros_like(IDS), IMAGE, segments_info=[])
    mapped = make_mapper([T.RandomFlip(1.0)], format=kind)(record)
    masks = mapped["instances"].gt_masks
    masks = masks.tensor if kind == "bitmask" else masks
    assert masks.shape == (0, 8, 8)
    assert mapped["instances"].gt_boxes.tensor.shape == (0, 4)
    assert mapped["instances"].gt_classes.dtype == torch.int64
    assert (mapped["sem_seg"] == 255).all()


def test_semantic_map_of_a_file(tmp_path, record):
    semantic = np.full((8, 8), 255, np.uint8)
    semantic[:4] = 0
    semantic[4:] = 253
    semantic[0, 0] = 255
    Image.fromarray(semantic).save(tmp_path / "sem.png")
    record["sem_seg_file_name"] = str(tmp_path / "sem.png")
    for value in (0, 255):
        pad = T.PadTransform(0, 0, 0, 2, 8, 8, 128, value)
        mapped = make_mapper([T.RandomFlip(1.0), pad], semantic="file")(record)
        expected = np.pad(semantic[:, ::-1], ((0, 2), (0, 0)), constant_values=255)
        assert mapped["sem_seg"].dtype == torch.int64
        assert torch.equal(mapped["sem_seg"], torch.from_numpy(expected.astype(np.int64)))
    assert torch.equal(make_mapper([])(record)["sem_seg"], semantic_of(IDS))
    assert "sem_seg" not in make_mapper([], semantic="none")(record)


def test_semantic_files_that_do_not_fit(tmp_path, record):
    mapper = make_mapper([], semantic="file")
    with pytest.raises(ValueError, match=r"INPUT\.TRACE\.SEMANTIC.*no\s+sem_seg_file_name"):
        mapper(record)
    record["sem_seg_file_name"] = str(tmp_path / "sem.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "sem.png")
    assert mapper(record) is None
    Image.fromarray(np.full((8, 8), 254, np.uint8)).save(tmp_path / "sem.png")
    with pytest.raises(ValueError, match="more than 254"):
        mapper(record)


def test_a_semantic_map_has_no_room_for_class_255():
    one = np.ones(1, bool)
    target = PanopticTarget(np.ones((2, 2), np.uint8), np.array([255]), one, ~one)
    with pytest.raises(ValueError, match=r"INPUT\.TRACE\.SEMANTIC to none"):
        dataset_mapper.semantic_of(target.segment_map, target)


def test_evaluation_gives_the_image_alone(record, config):
    cfg = config("INPUT.MIN_SIZE_TEST", 16, "INPUT.TRACE.TARGETS", "online")
    mapped = TraceDatasetMapper(cfg, False)({**record, "annotations": [1]})
    assert mapped.pop("image").shape == (3, 16, 16)
    assert mapped == {key: record[key] for key in record if key != "segments_info"}


def test_short_edge_and_crop(record, config):
    pairs = ["INPUT.TRACE.AUGMENTATION", "resize", "INPUT.MIN_SIZE_TRAIN", (24,)]
    mapped = TraceDatasetMapper(config(*pairs))(record)
    assert mapped["image"].shape == (3, 24, 24)
    pairs += ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [9, 7]]
    mapped = TraceDatasetMapper(config(*pairs))(record)
    assert mapped["image"].shape == (3, 9, 7)
    assert mapped["instances"].gt_masks.shape[1:] == (9, 7)
    assert mapped["sem_seg"].shape == (9, 7)


@pytest.mark.parametrize("kind", ["lsj", "resize"])
def test_thin_images(tmp_path, write_record, kind, config):
    ids = np.ones((1, 3000), np.int32)
    image = np.zeros((1, 3000, 3), np.uint8)
    record = write_record(tmp_path, ids, image, segments_info=SEGMENTS[:1])
    record["segments_info"] = [{**SEGMENTS[0], "id": 1}]
    cfg = config("INPUT.TRACE.AUGMENTATION", kind)
    for is_train in (True, False):
        for seed in range(5):
            np.random.seed(seed)
            assert TraceDatasetMapper(cfg, is_train)(record)["image"].shape[1] >= 1


def damaged_records(folder: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of every kind that cannot be used, by what the message says."""
    (folder / "cut.png").write_bytes(Path(record["file_name"]).read_bytes()[:-30])
    (folder / "text.png").write_text("no image")
    small = folder / "small.png"
    Image.fromarray(id2rgb(np.full((4, 4), 5, np.int32))).save(small)
    one = SEGMENTS[:1]
    return {
        "no image at": {**record, "file_name": str(folder / "absent.png")},
        "repair or replace": {**record, "file_name": str(folder / "cut.png")},
        "cannot be read": {**record, "file_name": str(folder / "text.png")},
        "no panoptic PNG": {**record, "pan_seg_file_name": str(folder / "absent.png")},
        "make it again": {**record, "pan_seg_file_name": str(folder / "text.png")},
        "disagree": {**record, "segments_info": one},
        "is 4x4 pixels, but the image": {
            **record,
            "pan_seg_file_name": str(small),
            "segments_info": one,
        },
    }


def test_bad_records_are_logged_once_and_left_out(tmp_path, record, caplog):
    for message, bad in damaged_records(tmp_path, record).items():
        mapper, strict = make_mapper([]), make_mapper([], strict=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING, bad_records.__name__):
            assert mapper(bad) is None
            assert mapper(bad) is None
        assert len(caplog.records) == 1, message
        assert bad["file_name"] in caplog.text
        assert message in caplog.text
        with pytest.raises(BadRecordError, match=message):
            strict(bad)


def test_bad_images_are_not_left_out_of_evaluation(record, config):
    mapper = TraceDatasetMapper(config(), False)
    with pytest.raises(BadRecordError, match="no image at"):
        mapper({**record, "file_name": "/absent.png"})
    with pytest.raises(BadRecordError, match="Mismatched image shape"):
        mapper({**record, "width": 9})


def test_training_takes_the_size_of_the_image(tmp_path, write_record):
    """A photograph turned by EXIF, with a label in the frame people see."""
    image, ids = IMAGE[:6], IDS[:6].T
    record = write_record(tmp_path, ids, image, segments_info=SEGMENTS)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(image).save(record["file_name"], exif=exif)
    mapped = make_mapper([])(record)
    check(mapped, ids, np.rot90(image, -1))
    assert (mapped["height"], mapped["width"]) == (8, 6)


@pytest.mark.skipif(
    sys.version_info >= (3, 11) and "sample(self._fallback" in inspect.getsource(MapDataset),
    reason="Detectron2 v0.6 as released draws from a set, which Python 3.11 refuses",
)
def test_the_loader_draws_another_image(record):
    bad = {**record, "pan_seg_file_name": "/absent.png"}
    drawn = MapDataset([bad, record, bad], make_mapper([]))
    for index in range(3):
        check(drawn[index], IDS, IMAGE)


def test_other_errors_are_not_hidden(record):
    def broken(_: object) -> PanopticTarget:
        raise ValueError("a bug")

    mapper = TraceDatasetMapper(True, augmentations=[], image_format="RGB", target_generator=broken)
    with pytest.raises(ValueError, match="a bug"):
        mapper(record)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("INPUT.TRACE.FORMAT", "polygon"), r"INPUT\.TRACE\.FORMAT must be .*not 'polygon'"),
        (("INPUT.TRACE.FORMAT", "bitmask"), r"INPUT\.MASK_FORMAT 'polygon'"),
        (("INPUT.TRACE.CLASS_AGNOSTIC", True), r"INPUT\.TRACE\.CLASS_AGNOSTIC is True"),
        (("INPUT.TRACE.SEMANTIC", "both"), r"INPUT\.TRACE\.SEMANTIC must be .*not 'both'"),
        (
            ("INPUT.TRACE.AUGMENTATION", "crop"),
            r"AUGMENTATION must be one of lsj, resize, not",
        ),
        (("INPUT.TRACE.IMAGE_SIZE", 0), r"INPUT\.TRACE\.IMAGE_SIZE must be 1 or more, not 0"),
        (("INPUT.TRACE.MIN_SCALE", 3.0), r"INPUT\.TRACE\.MIN_SCALE is 3\.0"),
        (("INPUT.TRACE.MIN_SCALE", 0.0), r"INPUT\.TRACE\.MIN_SCALE is 0\.0"),
        (("INPUT.TRACE.TARGETS", "later"), r"INPUT\.TRACE\.TARGETS must be .*not 'later'"),
        (("INPUT.RANDOM_FLIP", "both"), r"INPUT\.RANDOM_FLIP is 'both'"),
        (("INPUT.FORMAT", "L"), r"INPUT\.FORMAT is 'L'"),
    ],
)
def test_wrong_keys_are_named(pairs, message, config):
    with pytest.raises(ValueError, match=message):
        TraceDatasetMapper(config(*pairs))


def test_training_needs_targets():
    with pytest.raises(ValueError, match="target_generator"):
        TraceDatasetMapper(True, augmentations=[], image_format="RGB")


def test_the_mapper_travels_to_workers(record, config):
    mapper = pickle.loads(
        pickle.dumps(TraceDatasetMapper(config("INPUT.TRACE.COLOR_JITTER", True)))
    )
    assert mapper(record)["image"].shape == (3, 16, 16)


def test_instances_of_a_map_by_hand():
    shown = np.array([[0, 2, 2], [3, 2, 0]], np.uint8)
    target = PanopticTarget(
        shown, np.array([8, 6, 7]), np.array([1, 1, 0], bool), np.zeros(3, bool)
    )
    found = instances_of(shown, target, bitmask=False)
    assert found.gt_classes.tolist() == [6, 7]
    assert found.gt_boxes.tensor.tolist() == [[1, 0, 3, 2], [0, 1, 1, 2]]
    assert instances_of(shown, target, bitmask=True).gt_classes.tolist() == [6]
