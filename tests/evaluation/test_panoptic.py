from __future__ import annotations

import json
import math

import numpy as np
import pytest
from plain.panoptic_quality import panoptic_quality_reference

from trace_d2.evaluation import panoptic as module
from trace_d2.evaluation.panoptic import (
    MISSING_POLICIES,
    panoptic_quality,
    summarize,
)
from trace_d2.io.atomic import write_json


def evaluate(folders, **options):
    truth, predicted = folders
    return panoptic_quality(
        truth / "panoptic.json",
        truth / "panoptic",
        predicted / "panoptic.json",
        predicted / "panoptic",
        **options,
    )


def drop_predictions(folders, image_ids):
    path = folders[1] / "panoptic.json"
    content = json.loads(path.read_text())
    kept = [a for a in content["annotations"] if a["image_id"] not in image_ids]
    write_json(path, content | {"annotations": kept})


def test_summary_by_hand(categories):
    counts = np.array(
        [
            [1.5, 2, 1, 3],  # cat: PQ 1.5 / 4, SQ 1.5 / 2, RQ 2 / 4
            [0, 0, 0, 0],  # dog: does not occur
            [0, 0, 2, 0],  # sky: only predicted, so it counts with 0
        ]
    )
    quality = summarize(counts, categories, 9, ["x"])
    assert (quality.things.pq, quality.things.sq, quality.things.rq) == (0.375, 0.75, 0.5)
    assert (quality.things.n, quality.stuff.n, quality.all.n) == (1, 1, 2)
    assert (quality.all.pq, quality.all.sq, quality.all.rq) == (0.1875, 0.375, 0.25)
    assert quality.stuff.pq == 0
    assert quality.per_category[7].pq == 0
    assert (quality.per_category[1].tp, quality.per_category[1].fn) == (2, 3)
    assert (quality.images, quality.missing) == (9, ("x",))


def test_a_mean_over_nothing_is_nan_and_null_in_json(categories):
    quality = summarize(np.zeros((3, 4)), categories, 1)
    assert math.isnan(quality.all.pq)
    report = json.loads(json.dumps(quality.to_dict(), allow_nan=False))
    assert report["Things"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert report["per_class"]["7"]["pq"] == 0


def test_files_equal_the_definition(folders, images, categories):
    quality = evaluate(folders)
    expected = panoptic_quality_reference(images, [category.id for category in categories])
    for identity, (iou, tp, fp, fn) in expected.items():
        own = quality.per_category[identity]
        assert (own.tp, own.fp, own.fn) == (tp, fp, fn)
        assert own.pq == pytest.approx(iou / (tp + fp / 2 + fn / 2), abs=1e-12)
        assert own.pq == pytest.approx(own.sq * own.rq, abs=1e-12)
    assert quality.images == len(images)


def test_truth_against_itself_is_perfect(folders):
    quality = evaluate((folders[0], folders[0]))
    # Crowd segments are never missed, and ignored where they are predicted.
    assert (quality.all.pq, quality.all.sq, quality.all.rq) == (1, 1, 1)


def test_processes_change_nothing(folders, monkeypatch):
    monkeypatch.setattr(module, "_IMAGES_A_WORKER", 6)
    assert evaluate(folders, workers=2) == evaluate(folders)


def test_missing_predictions(folders, images, categories):
    drop_predictions(folders, {3, 8})
    with pytest.raises(ValueError, match=r'no prediction for 2 of 12 images \(3, 8\).*"skip"'):
        evaluate(folders)
    rest = [image for rank, image in enumerate(images) if rank not in (3, 8)]
    ids = [category.id for category in categories]

    skipped = evaluate(folders, missing="skip")
    assert (skipped.images, skipped.missing) == (10, (3, 8))
    assert [skipped.per_category[i].fn for i in ids] == [
        panoptic_quality_reference(rest, ids)[i][3] for i in ids
    ]
    emptied = [(image[0], image[1], np.zeros_like(image[0]), []) for image in images]
    mixed = [emptied[rank] if rank in (3, 8) else image for rank, image in enumerate(images)]
    missed = evaluate(folders, missing="miss")
    assert (missed.images, missed.missing) == (12, (3, 8))
    assert [missed.per_category[i].fn for i in ids] == [
        panoptic_quality_reference(mixed, ids)[i][3] for i in ids
    ]


def test_no_common_image_is_an_error_under_every_policy(folders):
    drop_predictions(folders, range(12))
    for policy in MISSING_POLICIES:
        with pytest.raises(ValueError, match="no image id in common"):
            evaluate(folders, missing=policy)


def test_unknown_policy(folders):
    with pytest.raises(ValueError, match="choose one of error, miss, skip"):
        evaluate(folders, missing="ignore")


def test_a_wrong_image_is_named(folders):
    (folders[1] / "panoptic" / "0004.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"image 4: .*0004\.png cannot be read"):
        evaluate(folders)
    (folders[1] / "panoptic" / "0004.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0004\.png"):
        evaluate(folders)


def test_truth_without_categories(folders):
    path = folders[0] / "panoptic.json"
    content = json.loads(path.read_text())
    write_json(path, {"annotations": content["annotations"]})
    with pytest.raises(ValueError, match='no "categories"'):
        evaluate(folders)


def test_missing_folder(folders):
    with pytest.raises(FileNotFoundError, match="no folder of panoptic PNGs"):
        panoptic_quality(
            folders[0] / "panoptic.json", folders[0] / "no", folders[1] / "panoptic.json", "x"
        )


def test_some_images_alone(folders, images, categories):
    """As if the truth listed no others; those left out may lack a prediction."""
    drop_predictions(folders, {0})
    quality = evaluate(folders, image_ids=[2, 5, 7])
    chosen = [images[index] for index in (2, 5, 7)]
    expected = panoptic_quality_reference(chosen, [category.id for category in categories])
    for identity, (_, tp, fp, fn) in expected.items():
        own = quality.per_category[identity]
        assert (own.tp, own.fp, own.fn) == (tp, fp, fn)
    assert (quality.images, quality.missing) == (3, ())
    with pytest.raises(ValueError, match="no annotation of image 99: choose of its image ids"):
        evaluate(folders, image_ids=[2, 99])
