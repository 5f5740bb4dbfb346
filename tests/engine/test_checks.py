"""Configs that cannot work are refused before training."""

from __future__ import annotations

from dataclasses import replace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from trace_d2.config import ConfigError
from trace_d2.data.registration import (
    register_class_agnostic,
    register_sem_seg,
    register_trace_edges,
    register_trace_panoptic,
    register_trace_semantic,
)
from trace_d2.engine.checks import check_categories, check_config
from trace_d2.engine.machine import check_processes
from trace_d2.io.categories import Category


@pytest.fixture
def cfg(tmp_path, make_cfg):
    register_class_agnostic("checks_agnostic", "/nowhere/checks.json", "/nowhere/images")
    objects = (Category(1, "object", True, (255, 0, 0)),)
    register_trace_panoptic(
        "checks_panoptic", "/nowhere/labels", "/nowhere/images", categories=objects
    )
    cfg = make_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.INPUT.TRACE.MAPPER = "detectron2"
    cfg.DATASETS.TRAIN = ("checks_agnostic",)
    cfg.DATASETS.TEST = ("checks_agnostic",)
    return cfg


def test_a_good_config_passes(cfg):
    check_config(cfg, train=True)
    check_config(cfg, train=False)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("SOLVER.AMP.ENABLED", True, ValueError, r"SOLVER\.AMP\.ENABLED needs CUDA"),
        ("MODEL.WEIGHTS", "absent.pth", FileNotFoundError, r"MODEL\.WEIGHTS: no file at .*absent"),
        ("DATASETS.TRAIN", (), ValueError, r"DATASETS\.TRAIN is empty"),
        ("DATASETS.TEST", ("nobody",), ValueError, r"no data set 'nobody'"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, ValueError, r"NUM_CLASSES is 80, but .* has 1"),
        ("INPUT.TRACE.MAPPER", "none", ValueError, r"INPUT\.TRACE\.MAPPER is one of"),
        ("INPUT.TRACE.MAPPER", "trace", ValueError, r"INPUT\.TRACE\.MAPPER must be detectron2"),
        ("INPUT.TRACE.CLASS_AGNOSTIC", True, ValueError, r"is for INPUT\.TRACE\.MAPPER trace"),
        (
            "MODEL.TRACE.SOLVER.ACCUMULATION_STEPS",
            0,
            ValueError,
            r"STEPS is 0; it must be at least",
        ),
        ("MODEL.TRACE.SOLVER.ACCUMULATION_STEPS", -1, ValueError, r"ACCUMULATION_STEPS is -1"),
    ],
)
def test_mistakes_are_named(cfg, key, value, error, message):
    cfg.merge_from_list([key, value])

    with pytest.raises(error, match=message):
        check_config(cfg, train=True)


@pytest.mark.parametrize(
    ("name", "key"), [("checks_panoptic", "PANOPTIC_ON"), ("checks_agnostic", "INSTANCE_ON")]
)
def test_mask2former_gives_what_is_evaluated(cfg, name, key):
    cfg.MODEL.META_ARCHITECTURE = "TraceMask2Former"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1
    cfg.DATASETS.TEST = (name,)
    check_config(cfg, train=False)

    cfg.MODEL.TRACE.MASK2FORMER.TEST[key] = False
    with pytest.raises(ValueError, match=rf"MASK2FORMER\.TEST\.{key} is False"):
        check_config(cfg, train=False)


def test_semantic_truth_is_for_models_that_give_maps(cfg):
    objects = (Category(0, "object", True, (255, 0, 0)),)
    register_sem_seg("checks_sem_seg", "/nowhere/images", "/nowhere/maps", objects)
    cfg.DATASETS.TEST = ("checks_sem_seg",)
    with pytest.raises(ValueError, match=r"evaluated by semantic maps, and .*RCNN gives none"):
        check_config(cfg, train=False)
    cfg.MODEL.META_ARCHITECTURE = "TraceMask2Former"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1
    check_config(cfg, train=False)
    cfg.MODEL.TRACE.MASK2FORMER.TEST.SEMANTIC_ON = False
    with pytest.raises(ValueError, match=r"TEST\.SEMANTIC_ON is False, .* by semantic maps"):
        check_config(cfg, train=False)
    cfg.INPUT.TRACE.MAPPER = "trace"
    cfg.DATASETS.TRAIN = ("checks_sem_seg",)
    with pytest.raises(ValueError, match="'checks_sem_seg', which is semantic truth to evaluate"):
        check_config(cfg, train=True)


def test_copy_paste_takes_no_semantic_map(cfg):
    cfg.DATASETS.TRAIN = ("checks_panoptic",)
    cfg.INPUT.TRACE.MAPPER = "trace"
    cfg.INPUT.TRACE.COPY_PASTE.ENABLED = True

    with pytest.raises(ValueError, match=r"set INPUT\.TRACE\.SEMANTIC none"):
        check_config(cfg, train=True)


def test_weights_are_not_looked_for_when_a_checkpoint_is_there(cfg, tmp_path):
    cfg.MODEL.WEIGHTS = "absent.pth"
    cfg.OUTPUT_DIR = str(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_config(cfg, train=True, resume=True)

    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    check_config(cfg, train=True, resume=True)


def test_nothing_to_evaluate_on(cfg):
    cfg.DATASETS.TEST = ()
    check_config(cfg, train=True)

    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty"):
        check_config(cfg, train=False)


def test_cuda_without_a_device_says_what_to_add(cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cfg.MODEL.DEVICE = "cuda"

    with pytest.raises(ValueError, match=r"MODEL\.DEVICE cpu"):
        check_config(cfg, train=False)


@pytest.fixture
def edges_cfg(cfg):
    """A config that trains an edge predictor."""
    register_trace_edges("checks_edges", "/nowhere/images", "/nowhere/edges")
    cfg.MODEL.META_ARCHITECTURE = "TraceEdgePredictor"
    cfg.MODEL.TRACE.EDGES.SOURCE = "student"
    cfg.MODEL.TRACE.STUDENT.TRAIN = True
    cfg.INPUT.TRACE.MAPPER = "trace_edges"
    cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE = 64
    cfg.DATASETS.TRAIN = ("checks_edges",)
    cfg.DATASETS.TEST = ("checks_panoptic",)
    return cfg


def test_an_edge_predictor_is_trained_on_pseudo_edges_and_tested_on_panoptic_truth(edges_cfg):
    check_config(edges_cfg, train=True)
    check_config(edges_cfg, train=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["INPUT.TRACE.MAPPER", "trace"], r"MAPPER must be trace_edges for the data set"),
        (["DATASETS.TRAIN", ("checks_agnostic",)], r"MAPPER must be detectron2 for the data set"),
        (["DATASETS.TRAIN", ("checks_panoptic",)], r"MAPPER must be trace for the data set"),
        (
            ["DATASETS.TRAIN", ("checks_panoptic",), "INPUT.TRACE.MAPPER", "trace"],
            r"TraceEdgePredictor is trained on data sets of DATASETS\.TRACE\.EDGES",
        ),
        (
            ["MODEL.META_ARCHITECTURE", "TraceMask2Former", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 1],
            r"trace_edges.* is for MODEL\.META_ARCHITECTURE TraceEdgePredictor, not TraceMask2F",
        ),
        (["MODEL.TRACE.EDGES.SOURCE", "teacher"], r"EDGES\.SOURCE is 'teacher'.* to student"),
        (["MODEL.TRACE.STUDENT.TRAIN", False], r"STUDENT\.TRAIN is False"),
        (["INPUT.TRACE.COPY_PASTE.ENABLED", True], r"COPY_PASTE\.ENABLED pastes instances"),
        (["INPUT.TRACE.CLASS_AGNOSTIC", True], r"is for INPUT\.TRACE\.MAPPER trace;"),
        (["INPUT.TRACE.PSEUDO_EDGES.CROP", -1], r"PSEUDO_EDGES\.CROP must be 0 or more, not -1"),
        (["DATASETS.TEST", ("checks_agnostic",)], r"are evaluated on panoptic truth"),
        (["DATASETS.TEST", ("checks_edges",)], r"are evaluated on panoptic truth"),
    ],
)
def test_mistakes_with_edges_are_named(edges_cfg, options, message):
    edges_cfg.merge_from_list(options)

    with pytest.raises(ValueError, match=message):
        check_config(edges_cfg, train=True)


def test_check_categories():
    categories = tuple(
        Category(number, name, name != "ground", (0, 0, 0))
        for number, name in ((7, "dog"), (3, "cat"), (0, "ground"))
    )
    register_trace_panoptic("c_truth", "/nowhere", "/images", categories=categories)
    register_trace_semantic("c_tags", "/images", "/masks", categories)
    swapped = (categories[1], categories[0], categories[2])
    register_trace_semantic("c_swapped", "/images", "/masks", swapped)
    stuff = (categories[0], replace(categories[1], isthing=False), categories[2])
    register_trace_semantic("c_stuff", "/images", "/masks", stuff)
    register_class_agnostic("c_one", "/a.json", "/images")
    DatasetCatalog.register("c_fg", list)
    MetadataCatalog.get("c_fg").thing_classes = ["fg"]
    DatasetCatalog.register("c_unknown", list)
    check_categories(["c_truth", "c_tags", "c_unknown"], 3)
    check_categories(["c_one", "c_fg"], 1)
    with pytest.raises(ValueError, match=r"number 0 is \('dog', True\) there and \('cat', True\)"):
        check_categories(["c_truth", "c_swapped"])
    with pytest.raises(ValueError, match=r"number 1 is \('cat', True\) there and \('cat', False"):
        check_categories(["c_truth", "c_stuff"])
    with pytest.raises(ValueError, match="c_truth has 3 classes and c_one has 1"):
        check_categories(["c_truth", "c_one"])
    with pytest.raises(ValueError, match=r"MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 21, but c_truth"):
        check_categories(["c_truth"], 21)
    with pytest.raises(ValueError, match="no data set 'c_missing' is registered"):
        check_categories(["c_missing"])


def test_all_complaints_come_at_once(cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cuda", "absent.pth"
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.IMS_PER_BATCH = 0
    cfg.DATASETS.TRAIN = ("nobody",)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg, train=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == "several things are wrong:"
    for line, text in zip(
        lines[1:],
        (
            "MODEL.DEVICE is cuda, but no CUDA device",
            "SOLVER.AMP.ENABLED needs CUDA",
            "MODEL.WEIGHTS: no file at",
            "SOLVER.IMS_PER_BATCH is 0",
            "no data set 'nobody' is registered",
        ),
        strict=True,
    ):
        assert line.startswith(f"- {text}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DEVICE", "nowhere"], r"MODEL\.DEVICE 'nowhere' cannot be used"),
        (["MODEL.TRACE.DEVICE", "nowhere"], r"MODEL\.TRACE\.DEVICE 'nowhere' cannot be used"),
        (["MODEL.TRACE.SOLVER.EMA_DECAY", 1.0], r"EMA_DECAY is 1\.0; it lies in"),
        (["MODEL.TRACE.SOLVER.SAMPLES_PERIOD", -1], r"SAMPLES_PERIOD is -1"),
        (["MODEL.TRACE.SOLVER.OPTIMIZER", "lion"], r"SOLVER\.OPTIMIZER is lion: it must be sgd"),
        (["MODEL.TRACE.SOLVER.CLIP_NORM", -1.0], r"CLIP_NORM is -1\.0"),
        (["SOLVER.MAX_ITER", 0], r"SOLVER\.MAX_ITER is 0"),
    ],
)
def test_the_solver_is_checked_before_anything_is_built(cfg, options, message):
    cfg.merge_from_list(options)
    with pytest.raises(ValueError, match=message):
        check_config(cfg, train=True)


@pytest.mark.parametrize(
    ("numbers", "visible", "device", "message"),
    [
        ((2,), 0, "cpu", r"--num-gpus is 2, but 0 CUDA devices are visible: .*MODEL\.DEVICE cpu"),
        ((2,), 1, "cuda", r"--num-gpus is 2, but 1 CUDA devices"),
        ((0,), 0, "cpu", r"--num-gpus 0, .* 1 or more"),
        ((1, 2, 2), 1, "cuda", r"--machine-rank 2: .*counts from 0"),
        ((1, 2, 0), 0, "cuda", r"--num-gpus is 1, but 0 CUDA devices"),
        ((2,), 2, "cpu", r"are for CUDA, but MODEL\.DEVICE is cpu"),
        ((3,), 3, "cuda", r"SOLVER\.IMS_PER_BATCH is 16, no multiple of 3"),
    ],
)
def test_numbers_of_processes(cfg, monkeypatch, numbers, visible, device, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    cfg.MODEL.DEVICE = device
    with pytest.raises(ValueError, match=message):
        check_processes(cfg, *numbers)


def test_processes_that_can_be(cfg, monkeypatch):
    check_processes(cfg, 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    cfg.MODEL.DEVICE = "cuda"
    check_processes(cfg, 8, 2, 1)
