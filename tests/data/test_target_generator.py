"""Targets read from labels, and made from semantic masks and edges: the same either way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from PIL import Image

from trace_d2.config import add_trace_config
from trace_d2.data import target_generator as module
from trace_d2.data.bad_records import BadRecordError
from trace_d2.data.target_generator import OnlineTargetGenerator, build_target_generator
from trace_d2.data.targets import PanopticTarget, number_segments, read_target
from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.categories import parse_categories
from trace_d2.io.coco_panoptic import MAX_SEGMENT_ID, id2rgb
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.labels import PanopticLabeler

CATEGORIES = parse_categories(
    [
        {"id": 9, "name": "cat", "isthing": 1},
        {"id": 2, "name": "dog", "isthing": 1},
        {"id": 0, "name": "ground", "isthing": 0},
    ],
    "the test",
)
NAME = "trace_test_target_generator"

# Two cats that touch and are parted by an edge, a dog, ground, and a corner that nobody knows.
SEMANTIC = np.array(
    [
        [255, 9, 9, 9, 9, 9, 9, 0],
        [0, 9, 9, 9, 9, 9, 9, 0],
        [0, 9, 9, 9, 9, 9, 9, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 2, 2, 2, 0, 0, 0, 0],
        [0, 2, 2, 2, 0, 0, 0, 0],
    ],
    np.uint8,
)
EDGES = np.where((SEMANTIC == 9) & (np.arange(8) == 4), 255, 0).astype(np.uint8)
KEEP_ALL = ("MODEL.TRACE.LABELS.CUT", "components", "MODEL.TRACE.LABELS.TINY_PIECES", "keep")


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def record(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*SEMANTIC.shape, 3), np.uint8)
    return {
        "file_name": str(save(tmp_path / "images/a.png", image)),
        "image_id": 1,
        "trace_semantic_file_name": str(save(tmp_path / "semantic/a.png", SEMANTIC)),
        "trace_edges_file_name": str(save(tmp_path / "edges/a.png", EDGES)),
    }


def config(tmp_path: Path, *pairs: Any) -> CfgNode:
    MetadataCatalog.get(NAME).set(categories=CATEGORIES)
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.merge_from_list(["INPUT.TRACE.TARGETS", "online", *KEEP_ALL, *pairs])
    return cfg


def check_same(found: PanopticTarget, expected: PanopticTarget) -> None:
    for name, array in vars(expected).items():
        assert getattr(found, name).dtype == array.dtype, name
        np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)


def test_online_labels_by_hand(tmp_path, record):
    target = build_target_generator(config(tmp_path))(record)
    # By category id: ground 0, dog 2, cats 9 from left to right; the edge joins a cat beside it.
    assert target.category_ids.tolist() == [2, 1, 0, 0]
    assert target.isthing.tolist() == [False, True, True, True]
    assert not target.iscrowd.any()
    assert target.segment_map.dtype == np.uint8
    assert target.segment_map[0, 0] == 0
    assert (target.segment_map[SEMANTIC == 0] == 1).all()
    assert (target.segment_map[SEMANTIC == 2] == 2).all()
    assert (target.segment_map[:3, 1:4] == 3).all()
    assert (target.segment_map[:3, 5:7] == 4).all()
    assert np.isin(target.segment_map[:3, 4], (3, 4)).all()


def test_without_edges_touching_things_are_one(tmp_path, record):
    del record["trace_edges_file_name"]
    target = build_target_generator(config(tmp_path, "INPUT.TRACE.EDGES", "none"))(record)
    assert target.category_ids.tolist() == [2, 1, 0]
    assert (target.segment_map[SEMANTIC == 9] == 3).all()


def test_offline_gives_the_same_target(tmp_path, record):
    cfg = config(tmp_path)
    label = PanopticLabeler.from_config(cfg, CATEGORIES)(SEMANTIC, EDGES / np.float32(255))
    job = LabelJob(cfg, tmp_path, tmp_path, CATEGORIES, tmp_path / "labels", [])
    store, entry = job.store, ImageEntry("a", "a.jpg", 1)
    note = job.write(entry, SimpleNamespace(edges=None), label)
    ranks = {category.id: rank for rank, category in enumerate(CATEGORIES)}
    segments = [
        {
            **segment,
            "isthing": CATEGORIES[ranks[segment["category_id"]]].isthing,
            "category_id": ranks[segment["category_id"]],
        }
        for segment in note["segments"]
    ]
    offline = {
        "file_name": record["file_name"],
        "pan_seg_file_name": str(store.root / "panoptic/a.png"),
        "segments_info": segments,
    }
    check_same(read_target(offline), build_target_generator(cfg)(record))


def test_the_second_time_comes_from_the_cache(tmp_path, record, monkeypatch):
    cfg = config(tmp_path)
    first = build_target_generator(cfg)(record)

    def refuse(*inputs: object) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(PanopticLabeler, "__call__", refuse)
        check_same(build_target_generator(cfg)(record), first)
        for pairs in (
            ("MODEL.TRACE.LABELS.NECK_DEPTH", 3.0),
            ("INPUT.TRACE.CACHE_DIR", str(tmp_path / "elsewhere")),
            ("INPUT.TRACE.CACHE_DIR", "none"),
        ):
            with pytest.raises(AssertionError, match="made again"):
                build_target_generator(config(tmp_path, *pairs))(record)
        # What no label depends on.
        other = config(tmp_path, "MODEL.TRACE.SEED", 5, "INPUT.TRACE.IMAGE_SIZE", 64)
        check_same(build_target_generator(other)(record), first)
    save(tmp_path / "edges/a.png", np.zeros_like(EDGES))
    assert build_target_generator(cfg)(record).category_ids.tolist() == [2, 1, 0]


def test_other_categories_are_another_label(tmp_path, record):
    cfg = config(tmp_path)
    build_target_generator(cfg)(record)
    MetadataCatalog.get(NAME + "_reversed").set(categories=CATEGORIES[::-1])
    cfg.DATASETS.TRAIN = (NAME + "_reversed",)
    assert build_target_generator(cfg)(record).category_ids.tolist() == [0, 1, 2, 2]


def test_edges_by_the_config(tmp_path, record):
    expected = build_target_generator(config(tmp_path))(record)
    del record["trace_edges_file_name"]
    pairs = ("INPUT.TRACE.EDGES", "source", "MODEL.TRACE.EDGES.SOURCE", "files")
    folder = ("MODEL.TRACE.EDGES.DIR", str(tmp_path / "edges"))
    check_same(build_target_generator(config(tmp_path, *pairs, *folder))(record), expected)
    (tmp_path / "edges/a.png").unlink()
    with pytest.raises(BadRecordError, match=r"a\.png"):
        build_target_generator(config(tmp_path, *pairs, *folder))(record)


def test_filters_work_in_data_workers(tmp_path, record):
    pairs = ("INPUT.TRACE.EDGES", "source", "DATALOADER.NUM_WORKERS", 2)
    made = build_target_generator(config(tmp_path, *pairs, "MODEL.TRACE.EDGES.SOURCE", "sobel"))
    assert made(record).category_ids.size
    with pytest.raises(ValueError, match=r"NUM_WORKERS is 2"):
        build_target_generator(config(tmp_path, *pairs))


def test_edges_of_a_network(tmp_path, record, monkeypatch):
    expected = build_target_generator(config(tmp_path))(record)
    calls = []

    def network(image: np.ndarray, stem: str) -> EdgeOutput:
        calls.append(stem)
        assert image.shape == (*SEMANTIC.shape, 3)
        return EdgeOutput(EDGES / np.float32(255))

    monkeypatch.setattr(module, "build_edge_source", lambda cfg: network)
    cfg = config(tmp_path, "INPUT.TRACE.EDGES", "source", "DATALOADER.NUM_WORKERS", 0)
    generator = build_target_generator(cfg)
    for _ in range(2):
        check_same(generator(record), expected)
    assert calls == ["a"]
    other = config(tmp_path, "INPUT.TRACE.EDGES", "source", "DATALOADER.NUM_WORKERS", 0)
    other.MODEL.TRACE.EMERGENCE.STRIDE = 50
    check_same(build_target_generator(other)(record), expected)
    assert calls == ["a", "a"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("INPUT.TRACE.TARGETS", "both"), r"INPUT\.TRACE\.TARGETS must be .*not 'both'"),
        (("INPUT.TRACE.EDGES", "some"), r"INPUT\.TRACE\.EDGES must be .*not 'some'"),
        (("INPUT.TRACE.EDGES", "source"), r"NUM_WORKERS is 4.*--save-edges"),
        (("INPUT.TRACE.EDGES", "source", "MODEL.TRACE.EDGES.SOURCE", "x"), r"EDGES\.SOURCE is 'x'"),
        (
            ("INPUT.TRACE.EDGES", "source", "MODEL.TRACE.EDGES.SOURCE", "files"),
            r"MODEL\.TRACE\.EDGES\.DIR",
        ),
        (("MODEL.TRACE.LABELS.CUT", "twice"), r"LABELS\.CUT"),
        (("DATASETS.TRAIN", ()), r"DATASETS\.TRAIN is empty"),
        (("DATASETS.TRAIN", ("trace_test_nobody",)), "'trace_test_nobody'.*no categories"),
        (("DATASETS.TRAIN", (NAME, "trace_test_two")), r"mixes.*categories differ"),
    ],
)
def test_wrong_keys_are_named(tmp_path, pairs, message):
    MetadataCatalog.get("trace_test_two").set(categories=CATEGORIES[:2])
    with pytest.raises(ValueError, match=message):
        build_target_generator(config(tmp_path, *pairs))


def test_a_cache_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"INPUT\.TRACE\.CACHE_DIR"):
        build_target_generator(config(tmp_path, "INPUT.TRACE.CACHE_DIR", str(tmp_path / "file")))


@pytest.mark.parametrize("key", ["trace_semantic_file_name", "trace_edges_file_name"])
def test_records_of_another_kind_are_no_bad_records(tmp_path, record, key):
    del record[key]
    with pytest.raises(ValueError, match=rf"{key}.*INPUT\.TRACE\.TARGETS") as caught:
        build_target_generator(config(tmp_path))(record)
    assert not isinstance(caught.value, BadRecordError)
    with pytest.raises(ValueError, match=r"pan_seg_file_name.*INPUT\.TRACE\.TARGETS"):
        read_target(record)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semantic/a.png", None),
        ("edges/a.png", None),
        ("images/a.png", None),
        ("semantic/a.png", b"\x89PNG but no more"),
        ("semantic/a.png", np.zeros((3, 3), np.uint8)),
        ("semantic/a.png", np.full_like(SEMANTIC, 7)),
        ("edges/a.png", np.zeros((3, 3), np.uint8)),
    ],
)
def test_bad_files_are_bad_records(tmp_path, record, name, content):
    path = tmp_path / name
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save(path, content)
    with pytest.raises(BadRecordError, match=rf"images/a\.png.*{name}"):
        build_target_generator(config(tmp_path))(record)


def test_an_unknown_mask_has_no_segments(tmp_path, record):
    save(tmp_path / "semantic/a.png", np.full_like(SEMANTIC, 255))
    for _ in range(2):  # made, then from the cache
        target = build_target_generator(config(tmp_path))(record)
        assert not target.segment_map.any()
        assert target.category_ids.shape == (0,)


def segment(number: int, category: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": number, "category_id": category, "isthing": True, **more}


def test_ids_become_numbers():
    ids = np.array([[0, MAX_SEGMENT_ID], [300, 7]], np.int32)
    listed = [segment(300, 4), segment(MAX_SEGMENT_ID, 1, iscrowd=1), segment(7, 4, isthing=False)]
    target = number_segments(ids, listed, Path("x.png"))
    assert target.segment_map.tolist() == [[0, 2], [1, 3]]
    assert target.category_ids.tolist() == [4, 1, 4]
    assert target.isthing.tolist() == [True, True, False]
    assert target.iscrowd.tolist() == [False, True, False]


def test_many_segments_take_16_bits():
    ids = np.arange(1, 301, dtype=np.int32).reshape(20, 15)
    target = number_segments(ids, [segment(int(i)) for i in ids.ravel()], Path("x.png"))
    assert target.segment_map.dtype == np.uint16
    np.testing.assert_array_equal(target.segment_map, ids)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([segment(1)], r"x\.png.*without an entry \[2\]"),
        ([segment(1), segment(2), segment(3)], r"without a pixel \[3\]"),
        ([segment(1), segment(2), segment(2)], r"without a pixel \[2\]"),
        ([segment(1), segment(2), segment(0)], "ids outside"),
        ([segment(1), segment(2), segment(2**24)], "ids outside"),
        ([], r"without an entry \[1, 2\]"),
    ],
)
def test_maps_that_disagree_with_the_list(listed, message):
    with pytest.raises(ValueError, match=message):
        number_segments(np.array([[0, 1, 2]], np.int32), listed, Path("x.png"))


def test_segments_without_isthing(tmp_path):
    path = save(tmp_path / "x.png", id2rgb(np.ones((2, 2), np.int32)))
    entry = {"file_name": "x", "pan_seg_file_name": str(path)}
    entry["segments_info"] = [{"id": 1, "category_id": 0}]
    with pytest.raises(ValueError, match="lacks isthing"):
        read_target(entry)


def test_a_bug_is_not_taken_for_a_bad_record(tmp_path, record):
    class Broken(PanopticLabeler):
        def __call__(self, *inputs: object) -> None:
            raise ValueError("a bug")

    generator = OnlineTargetGenerator(Broken(CATEGORIES), CATEGORIES, edges="record")
    with pytest.raises(ValueError, match="a bug") as caught:
        generator(record)
    assert not isinstance(caught.value, BadRecordError)


def test_edges_that_cut_nothing_are_told(tmp_path, record, caplog):
    save(Path(record["trace_edges_file_name"]), EDGES // 255)
    OnlineTargetGenerator(PanopticLabeler(CATEGORIES), CATEGORIES, edges="record")(record)
    assert "images/a.png: the edges are nowhere stronger than 0.0039 of 1" in caplog.text
