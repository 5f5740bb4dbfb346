"""Images and pseudo edges for training: alignment, sizes, bad files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.utils.env import seed_all_rng
from PIL import Image

from trace_d2.backbones.backbone import resize_image
from trace_d2.data.augmentation import QuarterTurnTransform, RandomRecolor
from trace_d2.data.bad_records import BadRecordError, NoUsableRecordError
from trace_d2.data.edge_mapper import TraceEdgeDatasetMapper
from trace_d2.io.edge_maps import write_ternary

HEIGHT, WIDTH = 24, 32
# Ternary label of each level of grey: the picture shows its own labels.
SHADES = {10: 0, 120: -1, 240: 1}


@pytest.fixture
def cfg(make_cfg):
    plain = ("INPUT.FORMAT", "RGB", "INPUT.RANDOM_FLIP", "none")
    return make_cfg(*plain, "INPUT.TRACE.PSEUDO_EDGES.SIZE", 16)


@pytest.fixture
def record(tmp_path):
    return write_record(tmp_path, HEIGHT, WIDTH)


def write_record(folder: Path, height: int, width: int) -> dict[str, Any]:
    """An image of 4 x 4 blocks of three shades, and the labels that these stand for."""
    rng = np.random.default_rng(0)
    blocks = rng.choice(list(SHADES), (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)
    Image.fromarray(np.repeat(blocks[..., None].astype(np.uint8), 3, 2)).save(folder / "a.png")
    labels = np.vectorize(SHADES.get)(blocks).astype(np.int8)
    write_ternary(folder / "edges.png", labels)
    return {
        "file_name": str(folder / "a.png"),
        "image_id": 3,
        "height": height,
        "width": width,
        "trace_pseudo_edges_file_name": str(folder / "edges.png"),
    }


def shown_labels(image: torch.Tensor) -> np.ndarray:
    """The labels that the shades of ``image`` (3, H, W) stand for."""
    grey = image.numpy().astype(int).mean(0)
    shades = np.array(list(SHADES))
    nearest = abs(grey[..., None] - shades).argmin(-1)
    return np.array(list(SHADES.values()))[nearest]


def test_what_models_get(cfg, record):
    mapped = TraceEdgeDatasetMapper(cfg, True)(record)

    assert mapped["image"].shape == (3, 16, 16)
    assert mapped["image"].dtype == torch.uint8
    assert mapped["pseudo_edges"].shape == (16, 16)
    assert mapped["pseudo_edges"].dtype == torch.int8
    assert set(mapped["pseudo_edges"].unique().tolist()) == {-1, 0, 1}
    assert mapped["file_name"] == record["file_name"]
    assert (mapped["height"], mapped["width"]) == (HEIGHT, WIDTH)
    assert "image" not in record
    # As the teacher resizes, so that the student sees the same pixels.
    pixels = np.asarray(Image.open(record["file_name"]))
    expected = resize_image(pixels, (16, 16)).transpose(2, 0, 1)
    assert np.array_equal(mapped["image"].numpy(), expected)


def test_colours_follow_the_format(cfg, record, tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 0)).save(record["file_name"])
    cfg.INPUT.FORMAT = "BGR"

    mapped = TraceEdgeDatasetMapper(cfg, True)(record)

    assert mapped["image"][:, 0, 0].tolist() == [0, 100, 200]


@pytest.mark.parametrize(
    "options",
    [
        ["INPUT.RANDOM_FLIP", "horizontal"],
        ["INPUT.RANDOM_FLIP", "vertical"],
        ["INPUT.TRACE.PSEUDO_EDGES.ROTATE", True],
        ["INPUT.TRACE.PSEUDO_EDGES.CROP", 16],
        ["INPUT.TRACE.PSEUDO_EDGES.CROP", 16, "INPUT.TRACE.PSEUDO_EDGES.ROTATE", True],
    ],
)
def test_image_and_edges_go_through_the_same(options, cfg, record):
    if "INPUT.TRACE.PSEUDO_EDGES.CROP" not in options:  # no resizing, so that all is exact
        cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE = 0
        record = write_record(Path(record["file_name"]).parent, 32, 32)
    cfg.merge_from_list(options)
    mapper = TraceEdgeDatasetMapper(cfg, True)
    seed_all_rng(1)

    results = [mapper(record) for _ in range(24)]

    for mapped in results:
        assert np.array_equal(mapped["pseudo_edges"].numpy(), shown_labels(mapped["image"]))
    assert len({m["pseudo_edges"].numpy().tobytes() for m in results}) > 1


def test_labels_are_resized_by_the_nearest_pixel(cfg, record):
    cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE = 8

    mapped = TraceEdgeDatasetMapper(cfg, True)(record)

    labels = shown_labels(torch.from_numpy(np.array(Image.open(record["file_name"])).T.copy())).T
    # A pixel of 3 x 4: the middle ones of the three rows and, of four columns, the third.
    assert np.array_equal(mapped["pseudo_edges"].numpy(), labels[1::3, 2::4])


def test_eight_symmetries():
    image = np.arange(9, dtype=np.uint8).reshape(3, 3)
    found = {
        QuarterTurnTransform(turns, mirrored).apply_image(image).tobytes()
        for turns in range(4)
        for mirrored in (False, True)
    }
    assert len(found) == 8
    assert QuarterTurnTransform(1, False).apply_image(image)[0].tolist() == [2, 5, 8]


def test_recolouring_permutes_and_inverts():
    image = np.array([[[10, 20, 40]]], np.uint8)
    seed_all_rng(0)
    found = set()
    for _ in range(200):
        found.add(tuple(RandomRecolor().get_transform(image).apply_image(image)[0, 0].tolist()))

    assert len(found) == 12
    assert all(sorted(c) in ([10, 20, 40], [215, 235, 245]) for c in found)


def test_evaluation_only_resizes(cfg, record):
    cfg.merge_from_list(
        ["INPUT.TRACE.PSEUDO_EDGES.CROP", 8, "INPUT.TRACE.PSEUDO_EDGES.ROTATE", True]
    )

    augmentations = TraceEdgeDatasetMapper(cfg, False).augmentations.augs

    assert [type(a) for a in augmentations] == [T.Resize]


def test_the_backbone_gives_the_size(cfg, record):
    cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE = 0
    cfg.MODEL.TRACE.BACKBONE.RESOLUTION = 40

    assert TraceEdgeDatasetMapper(cfg, True)(record)["image"].shape == (3, 40, 40)


def test_without_a_size_images_must_agree(cfg, tmp_path):
    cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE = 0
    records = []
    for height in (24, 24, 28):
        folder = tmp_path / str(len(records))
        folder.mkdir()
        records.append(write_record(folder, height, 32))
    mapper = TraceEdgeDatasetMapper(cfg, True)

    assert mapper(records[0])["image"].shape == mapper(records[1])["image"].shape == (3, 24, 32)
    with pytest.raises(ValueError, match=r"32x28 .*32x24: .*RESOLUTION or .*PSEUDO_EDGES\.SIZE"):
        mapper(records[2])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.TRACE.PSEUDO_EDGES.SIZE", -1, r"PSEUDO_EDGES\.SIZE must be 0 or more, not -1"),
        ("INPUT.TRACE.PSEUDO_EDGES.CROP", -1, r"PSEUDO_EDGES\.CROP must be 0 or more, not -1"),
        ("MODEL.TRACE.BACKBONE.RESOLUTION", 32, r"SIZE is 16, but .*RESOLUTION 32"),
        ("MODEL.TRACE.BACKBONE.ASPECT", "keep", r"BACKBONE\.ASPECT is 'keep'"),
        ("INPUT.RANDOM_FLIP", "diagonal", r"INPUT\.RANDOM_FLIP is 'diagonal'"),
        ("INPUT.FORMAT", "L", r"INPUT\.FORMAT is 'L'"),
    ],
)
def test_wrong_keys_are_named(key, value, message, cfg):
    cfg.merge_from_list([key, value])

    with pytest.raises(ValueError, match=message):
        TraceEdgeDatasetMapper(cfg, True)


def truncate(record: dict[str, Any]) -> None:
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:60])


def shrink_edges(record: dict[str, Any]) -> None:
    write_ternary(record["trace_pseudo_edges_file_name"], np.zeros((12, 16), np.int8))


def grey_edges(record: dict[str, Any]) -> None:
    grey = Image.new("L", (WIDTH, HEIGHT), 77)
    grey.save(record["trace_pseudo_edges_file_name"])


def lose_edges(record: dict[str, Any]) -> None:
    Path(record["trace_pseudo_edges_file_name"]).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"a\.png.* cannot be read"),
        (lambda record: Path(record["file_name"]).unlink(), r"no image at .*a\.png"),
        (shrink_edges, r"edges\.png is 16x12 pixels, but the image .* is 32x24"),
        (grey_edges, r"edges\.png has values \[77\]"),
        (lose_edges, r"no pseudo edges at .*edges\.png"),
        (lambda record: record.pop("trace_pseudo_edges_file_name"), r"DATASETS\.TRACE\.EDGES"),
    ],
)
def test_bad_records_are_left_out_in_training(spoil, message, cfg, record, caplog):
    spoil(record)
    mapper = TraceEdgeDatasetMapper(cfg, True)

    with caplog.at_level(logging.WARNING):
        assert mapper(record) is None
        assert mapper(record) is None
    assert len([r for r in caplog.records if "left out of training" in r.message]) == 1
    for _ in range(7):
        mapper(record)
    with pytest.raises(NoUsableRecordError, match=message):  # the tenth
        mapper(record)

    cfg.INPUT.TRACE.STRICT = True
    with pytest.raises(BadRecordError, match=message):
        TraceEdgeDatasetMapper(cfg, True)(record)
    cfg.INPUT.TRACE.STRICT = False
    with pytest.raises(BadRecordError, match=message):
        TraceEdgeDatasetMapper(cfg, False)(record)


def test_workers_repeat_by_their_seed(cfg, record):
    cfg.INPUT.TRACE.PSEUDO_EDGES.ROTATE = True
    cfg.INPUT.TRACE.PSEUDO_EDGES.RECOLOR = True

    def first_batches() -> list[torch.Tensor]:
        seed_all_rng(5)
        loader = build_detection_train_loader(
            [record] * 4,
            mapper=TraceEdgeDatasetMapper(cfg, True),
            sampler=torch.utils.data.SequentialSampler(range(4)),
            total_batch_size=2,
            aspect_ratio_grouping=False,
            num_workers=1,
        )
        return [r["image"] for batch in loader for r in batch]

    first, again = first_batches(), first_batches()
    assert len(first) == 4
    assert all(map(torch.equal, first, again))
    assert not all(torch.equal(first[0], other) for other in first[1:])


def test_how_photograph_and_pseudo_edges_were_read_is_told(cfg, record, caplog):
    samples = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
    samples[0, 0] = 4095
    Image.fromarray(samples).save(record["file_name"])
    mapper = TraceEdgeDatasetMapper(cfg, True)
    with caplog.at_level(logging.WARNING):
        mapped = mapper(record)
        mapper(record)
    assert caplog.text.count("no sample of the image is above 4095: read as 12 bits") == 1
    assert mapped["image"].float().mean() > 100
