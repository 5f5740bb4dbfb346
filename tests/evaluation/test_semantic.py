"""Mean IoU against Detectron2's evaluator, mmseg's definition and counts by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from trace_d2.evaluation import semantic as module
from trace_d2.evaluation.semantic import confusion_matrix, semantic_quality, summarize
from trace_d2.io.atomic import write_png
from trace_d2.io.categories import Category, load_categories
from trace_d2.io.semantic_rules import SemanticRule, TruthFiles, load_rule

CLASSES = tuple(Category(k, f"class {k}", True, (k, 1, 1)) for k in range(6))


def write(folder, maps) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for rank, values in enumerate(maps):
        write_png(folder / f"{rank:03d}.png", np.asarray(values, np.uint8))


def detectron2_scores(tmp_path, maps, predictions, names):
    """What ``SemSegEvaluator`` says of maps, and of predictions that are ranks of ``names``."""
    write(tmp_path / "truth", maps)
    records = [
        {"file_name": f"{k}.jpg", "sem_seg_file_name": str(tmp_path / "truth" / f"{k:03d}.png")}
        for k in range(len(maps))
    ]
    name = f"semantic_{tmp_path.name}_{len(names)}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=names, ignore_label=255)
    try:
        evaluator = SemSegEvaluator(name, distributed=False)
        evaluator.reset()
        for record, prediction in zip(records, predictions, strict=True):
            one_hot = np.arange(len(names))[:, None, None] == prediction
            evaluator.process([record], [{"sem_seg": torch.from_numpy(one_hot.astype(np.float32))}])
        return evaluator.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def random_maps(seed, absent=()):
    """Three truths with ignored pixels, and predictions that are partly right."""
    rng = np.random.default_rng(seed)
    present = [k for k in range(6) if k not in absent]
    maps, predictions = [], []
    for height, width in ((7, 9), (12, 5), (1, 3)):
        truth = rng.choice(present, (height, width))
        wrong = rng.random(truth.shape) < 0.4
        predictions.append(np.where(wrong, rng.integers(0, 6, truth.shape), truth))
        maps.append(np.where(rng.random(truth.shape) < 0.2, 255, truth))
    return maps, predictions


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [(), (2,), (0, 5)])  # which are predicted all the same
def test_equals_detectron2(tmp_path, seed, absent):
    maps, predictions = random_maps(seed, absent)
    if seed == 2:  # classes that are nowhere
        predictions = [np.where(p == 5, 1, p) for p in predictions]
        maps = [np.where(m == 5, 1, m) for m in maps]
    theirs = detectron2_scores(tmp_path, maps, predictions, [c.name for c in CLASSES])
    write(tmp_path / "predictions", predictions)
    own = semantic_quality(tmp_path / "truth", tmp_path / "predictions", CLASSES)
    means = {"mIoU": own.miou, "fwIoU": own.fwiou, "mACC": own.macc, "pACC": own.pacc}
    for key, value in means.items():
        assert 100 * value == pytest.approx(theirs[key], abs=1e-10), key
    for category in CLASSES:
        quality = own.per_class[category.id]
        if quality.truth:  # Detectron2 shows no IoU of other classes, but counts it as 0
            assert 100 * quality.iou == pytest.approx(theirs[f"IoU-{category.name}"], abs=1e-10)
            assert 100 * quality.accuracy == pytest.approx(theirs[f"ACC-{category.name}"])
        else:
            assert quality.iou == 0 if quality.predicted else math.isnan(quality.iou)


def test_no_class_is_a_miss_as_a_class_of_its_own_is(tmp_path):
    """255 in predictions costs what Detectron2 takes for a class that the truth never has."""
    maps, predictions = random_maps(7)
    predictions = [np.where(p == 3, 255, p) for p in predictions]
    names = [*(c.name for c in CLASSES), "none"]
    ranks = [np.where(p == 255, 6, p) for p in predictions]
    theirs = detectron2_scores(tmp_path, maps, ranks, names)
    write(tmp_path / "predictions", predictions)
    own = semantic_quality(tmp_path / "truth", tmp_path / "predictions", CLASSES)
    for category in CLASSES:
        quality = own.per_class[category.id]
        assert 100 * quality.iou == pytest.approx(theirs[f"IoU-{category.name}"], abs=1e-10)
    assert 100 * own.miou == pytest.approx(theirs["mIoU"] * 7 / 6)  # "none" counts there with 0
    assert 100 * own.pacc == pytest.approx(theirs["pACC"])
    assert 100 * own.fwiou == pytest.approx(theirs["fwIoU"])


def test_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, -1, -1, 2]])
    prediction = np.array([[0, 1, 1, -1], [0, 0, 3, 1]], np.int8)
    matrix = confusion_matrix(truth, prediction, 4)
    assert matrix.tolist() == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 0, 0], [0] * 5]
    own = summarize(matrix, CLASSES[:4], 1, ["x"])
    iou = [own.per_class[k].iou for k in range(4)]
    assert iou[:3] == [pytest.approx(2 / 3), 1 / 4, 0]
    assert math.isnan(iou[3])  # predicted where the truth is left out alone
    assert own.miou == pytest.approx((2 / 3 + 1 / 4) / 3)
    assert own.macc == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert own.pacc == pytest.approx(3 / 6)
    assert own.fwiou == pytest.approx((3 * 2 / 3 + 2 / 4) / 6)
    assert (own.per_class[1].truth, own.per_class[1].predicted, own.per_class[1].both) == (2, 3, 1)
    report = json.loads(json.dumps(own.to_dict(), allow_nan=False))
    assert report["per_class"]["3"] == {
        "name": "class 3", "iou": None, "accuracy": None, "truth": 0, "predicted": 0, "both": 0,
    }  # fmt: skip
    assert report["missing"] == ["x"]


def test_a_truth_of_which_nothing_counts_is_named(tmp_path):
    write(tmp_path / "truth", [np.full((3, 4), 255)] * 2)
    write(tmp_path / "found", [np.zeros((3, 4))] * 2)
    with pytest.raises(ValueError, match=r"/truth: all pixels of 2 maps are left out"):
        semantic_quality(tmp_path / "truth", tmp_path / "found", CLASSES)


def test_means_over_nothing_are_nan():
    own = summarize(np.zeros((2, 3), np.int64), CLASSES[:2], 1)
    assert all(math.isnan(value) for value in (own.miou, own.fwiou, own.macc, own.pacc))


def test_ranks_out_of_range_and_sizes_are_refused():
    map_ = np.zeros((2, 2), np.int64)
    for other in (map_ + 3, map_ - 2):
        with pytest.raises(ValueError, match=r"ranks of 0\.\.2 or -1"):
            confusion_matrix(map_, other, 3)
    with pytest.raises(ValueError, match="different sizes"):
        confusion_matrix(map_, np.zeros((2, 3), np.int64), 3)


def test_histograms_are_exact_in_parts(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 10)  # less than a row is a row at a time
    maps = np.random.default_rng(0).integers(0, 256, (2, 9, 12), np.uint8)
    counts = module._value_counts(*maps)
    assert counts.sum() == 9 * 12
    cells = maps[0].astype(np.int64) * 256 + maps[1]
    expected = np.bincount(cells.ravel(), minlength=2**16)
    assert np.array_equal(counts.ravel(), expected)


@pytest.fixture
def folders(tmp_path):
    """Two images, 0 and 1; of the second the left half is right."""
    truth = [[[0, 0, 1, 1]], [[2, 2, 3, 3]]]
    write(tmp_path / "truth", truth)
    write(tmp_path / "out/semantic", [truth[0], [[2, 2, 255, 255]]])
    return tmp_path / "truth", tmp_path / "out"


def test_missing_predictions(folders):
    (folders[1] / "semantic/001.png").unlink()
    with pytest.raises(ValueError, match=r"no prediction for 1 of 2 images \(001\)"):
        semantic_quality(*folders, CLASSES)
    missed = semantic_quality(*folders, CLASSES, missing="miss")
    assert (missed.miou, missed.pacc, missed.images, missed.missing) == (0.5, 0.5, 2, ("001",))
    skipped = semantic_quality(*folders, CLASSES, missing="skip")
    assert (skipped.miou, skipped.images, skipped.missing) == (1, 1, ("001",))
    with pytest.raises(ValueError, match="missing='none'"):
        semantic_quality(*folders, CLASSES, missing="none")


def test_a_list_says_which_images_count(folders):
    quality = semantic_quality(*folders, CLASSES, stems=["images/001.jpg"])
    assert (quality.images, quality.miou) == (1, 0.5)
    with pytest.raises(ValueError, match=r"1 of 2 images of the list have no truth .*\(007\)"):
        semantic_quality(*folders, CLASSES, stems=["000", "007"])


def test_subfolders_and_ends_of_names(tmp_path):
    rule = SemanticRule(
        "city", CLASSES[:2], (
            TruthFiles("_gt_Ids", (7, 9), frozenset({0})), TruthFiles("", (0, 1), frozenset()),
        ), image_end="_left",
    )  # fmt: skip
    for town, right in (("a", 1), ("b", 0)):
        for folder in ("truth", "out"):
            (tmp_path / folder / town).mkdir(parents=True)
        write_png(tmp_path / "truth" / town / "1_gt_Ids.png", np.array([[0, 7, 9]], np.uint8))
        write_png(tmp_path / "truth" / town / "1_gt_color.png", np.array([[77, 77, 77]], np.uint8))
        write_png(tmp_path / "out" / town / "1_left.png", np.array([[4, 0, right]], np.uint8))
    quality = semantic_quality(tmp_path / "truth", tmp_path / "out", CLASSES, rule)
    assert quality.images == 2
    assert [quality.per_class[k].both for k in (0, 1)] == [2, 1]
    folders = tmp_path / "truth", tmp_path / "out"
    assert semantic_quality(*folders, CLASSES, rule, stems=["b/1_left.png"]).images == 1
    write_png(tmp_path / "out/a/1.png", np.zeros((1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a/1\.png and .*a/1_left\.png are of one image"):
        semantic_quality(*folders, CLASSES, rule)


def test_scores_are_maps_too(tmp_path):
    rule, things = load_rule("voc21"), load_categories("voc20")
    write(tmp_path / "truth", [[[0, 0, 3, 3], [0, 0, 3, 3]], [[0, 5, 5, 5]]])
    scores = np.zeros((20, 1, 2), np.float32)
    scores[2, 0, 1] = 0.9  # bird, in half the resolution
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "out/000.npz", scores)
    np.save(tmp_path / "out/001.npy", np.full((20, 1, 4), 0.5, np.float32))
    folders = tmp_path / "truth", tmp_path / "out"
    quality = semantic_quality(*folders, things, rule, threshold=0.6)
    assert quality.per_class[3].iou == 1
    assert (quality.per_class[0].truth, quality.per_class[0].predicted) == (5, 8)
    first = semantic_quality(*folders, things, rule, threshold=0.3)  # all alike: the first class
    assert first.per_class[1].predicted == 4
    for what, classes, level in (("is nan", things, math.nan), ("of no use", CLASSES, 0.5)):
        with pytest.raises(ValueError, match=what):
            semantic_quality(*folders, classes, rule if classes is things else None,
                             threshold=level)  # fmt: skip
    np.save(tmp_path / "out/001.npy", np.zeros((20, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"001\.npy is 4x3 pixels, and its truth .* is 4x1"):
        semantic_quality(*folders, things, rule)
    np.save(tmp_path / "out/001.npy", np.zeros((19, 1, 4), np.float32))
    with pytest.raises(ValueError, match=r"001\.npy has scores of 19 classes"):
        semantic_quality(*folders, things, rule)


def test_bad_files_are_named_together(folders, tmp_path):
    write(tmp_path / "truth", [[[0, 0, 1, 9]], [[2, 2, 3]]])
    with pytest.raises(ValueError, match="several things are wrong") as error:
        semantic_quality(*folders, CLASSES, origin="classes.txt")
    assert "000.png holds 9, which no class that the categories (classes.txt) have" in str(
        error.value
    )
    assert "001.png is 4x1 pixels, and its truth" in str(error.value)
    write(tmp_path / "truth", [[[0, 0, 1, 1]], [[2, 2, 3, 3]]])
    write(tmp_path / "out/semantic", [[[0, 0, 1, 200]], [[2, 2, 3, 3]]])
    with pytest.raises(ValueError, match=r"semantic/000\.png holds 200, .*write 255 for unknown"):
        semantic_quality(*folders, CLASSES)
    (tmp_path / "out/semantic/000.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"semantic/000\.png cannot be read"):
        semantic_quality(*folders, CLASSES)


def test_folders_without_maps(folders, tmp_path):
    with pytest.raises(NotADirectoryError, match=r"no folder of truth at .*nowhere"):
        semantic_quality(tmp_path / "nowhere", folders[1], CLASSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no truth <stem>\.png in .*empty"):
        semantic_quality(tmp_path / "empty", folders[1], CLASSES)
    with pytest.raises(ValueError, match=r"no prediction <stem>\.png in .*empty for any of 2"):
        semantic_quality(folders[0], tmp_path / "empty", CLASSES)


def test_workers_change_nothing(folders, monkeypatch):
    calls = []
    monkeypatch.setattr(
        module,
        "ordered_map",
        lambda job, tasks, workers, **_: calls.append(workers) or map(job, tasks),
    )
    assert semantic_quality(*folders, CLASSES, workers=3).miou == pytest.approx(3 / 4)
    assert calls == [3]
