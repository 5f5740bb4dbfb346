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
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)


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


def test_means_over_images(categories):
    """By hand: of a category those images count in which it occurs, true or predicted."""
    counts = np.zeros((3, 3, 4))
    counts[0, 0] = 1.5, 2, 1, 1  # PQ 1.5 / 3, SQ .75, RQ 2 / 3
    counts[1, 0] = 0, 0, 0, 2  # nothing found: 0
    counts[2, 2] = 0.8, 1, 0, 0
    quality = summarize(counts, categories, 3)
    first, last = (quality.per_category[category.id] for category in categories[::2])
    assert (first.pq, first.sq, first.rq) == pytest.approx((0.25, 0.375, 1 / 3))
    assert (first.iou, first.tp, first.fp, first.fn) == (1.5, 2, 1, 3)
    assert last.pq == 0.8
    kinds = [quality.things if category.isthing else quality.stuff for category in categories[::2]]
    assert [kind.n for kind in kinds] == [1, 1]
    assert quality.all.pq == pytest.approx((0.25 + 0.8) / 2)
    assert quality.to_dict()["average"] == "images"
    assert summarize(counts.sum(0), categories, 3).per_category[categories[0].id].pq == 1.5 / 4


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


CATEGORIES = (
    Category(1, "cat", True, (1, 1, 1)),
    Category(7, "dog", True, (7, 1, 1)),
    Category(0, "sky", False, (0, 1, 1)),
)
SIDE = np.s_[8:40]
AB = np.zeros((48, 64), np.int32)  # two things that touch
AB[SIDE, 8:32], AB[SIDE, 32:56] = 260, 70000
AB_CATEGORIES = {260: 1, 70000: 7}


def write_ab(folder, names, ids=AB, listed=None, images=True):
    """Images of the given names by id, all with the same segments, moved down by the id."""
    entries, annotations = [], []
    for image_id, name in names.items():
        moved = np.roll(ids, 4 * len(name), axis=0)
        png = f"{name.rpartition('.')[0]}.png"
        (folder / "panoptic" / png).parent.mkdir(parents=True, exist_ok=True)
        write_panoptic_png(folder / "panoptic" / png, moved)
        info = segments_info(moved, AB_CATEGORIES) if listed is None else listed
        annotations.append(panoptic_annotation(image_id, png, info))
        entries.append(image_entry(image_id, name, *ids.shape))
    write_json(
        folder / "panoptic.json", coco_dataset(entries if images else [], annotations, CATEGORIES)
    )
    return folder


@pytest.mark.parametrize("with_images", [True, False])
def test_labels_numbered_by_rank_find_their_truth_by_file_name(tmp_path, caplog, with_images):
    truth = write_ab(tmp_path / "t", {1: "bear.jpg", 2: "apple.jpg"})
    labels = write_ab(tmp_path / "l", {1: "apple.jpg", 2: "bear.jpg"}, images=with_images)
    quality = evaluate((truth, labels))
    assert (quality.all.pq, quality.images) == (1, 2)
    assert "do not mean the same images by their ids" in caplog.text
    assert evaluate((truth, labels), match="id").all.pq < 1
    only = evaluate((truth, labels), image_ids=[2])
    assert (only.all.pq, only.images) == (1, 1)


def test_ids_of_images_that_names_cannot_settle_are_refused(tmp_path):
    truth = write_ab(tmp_path / "t", {1: "bear.jpg", 2: "apple.jpg"})
    labels = write_ab(tmp_path / "l", {1: "cat.jpg", 2: "dog.jpg"})
    with pytest.raises(ValueError, match=r"image 1 is cat\.jpg in the former, bear\.jpg in the"):
        evaluate((truth, labels))


@pytest.mark.parametrize(
    ("area", "warned"), [(713, False), (300, True), (1500, True), (None, False)]
)
def test_quality_never_passes_one(tmp_path, caplog, area, warned):
    listed = [
        {"id": 260, "category_id": 1, "area": area, "iscrowd": None},
        {"id": 70000, "category_id": 7, "area": area},
    ]
    truth = write_ab(tmp_path / "t", {1: "a.jpg"}, listed=listed)
    quality = evaluate((truth, write_ab(tmp_path / "l", {1: "a.jpg"})))
    assert (quality.all.pq, quality.all.sq) == (1, 1)
    assert ("2 areas that are not those of the PNGs" in caplog.text) == warned


def swapped(ids):
    return ids >> 16 | ids & 0xFF00 | (ids & 0xFF) << 16


@pytest.mark.parametrize(
    ("ids", "cause"),
    [
        (swapped(AB), "order B, G, R"),
        (np.where(AB == 260, 1 + 256, np.where(AB == 70000, 7 + 512, 0)), "two-channel"),
        (np.zeros_like(AB), "nothing but void"),
        (np.where(AB > 0, AB + 1, 0), "none of the ids that are listed"),
    ],
)
def test_pngs_of_other_ids_are_refused(tmp_path, ids, cause):
    sound = write_ab(tmp_path / "s", {1: "a.jpg"})
    listed = segments_info(AB, AB_CATEGORIES)
    wrong = write_ab(tmp_path / "w", {1: "a.jpg"}, ids, listed)
    with pytest.raises(ValueError, match=f"image 1: .*: truth: .*{cause}"):
        evaluate((wrong, sound))
    with pytest.raises(ValueError, match=r"image 1: .*: prediction: segments in the PNG but not"):
        evaluate((sound, wrong))


def test_grey_is_no_panoptic_png(tmp_path):
    ids = np.where(AB == 260, 1, np.where(AB == 70000, 2, 0))
    listed = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 7}]
    wrong = write_ab(tmp_path / "w", {1: "a.jpg"}, ids * (1 + 256 + 65536), listed)
    with pytest.raises(ValueError, match="grey or palette image"):
        evaluate((wrong, write_ab(tmp_path / "s", {1: "a.jpg"})))


def test_single_segments_that_disagree_are_counted_aloud(tmp_path, caplog):
    """As panopticapi counts them: what has no pixel is missed, what is not listed is no void."""
    listed = segments_info(AB, AB_CATEGORIES)
    listed[1]["id"] = 70001
    truth = write_ab(tmp_path / "t", {1: "a.jpg"}, listed=listed)
    quality = evaluate((truth, write_ab(tmp_path / "l", {1: "a.jpg"})))
    assert (quality.per_category[7].fp, quality.per_category[7].fn) == (1, 1)
    assert quality.per_category[1].pq == 1
    assert "in 1 images: 1 listed segments without a pixel, 1 segments of PNGs" in caplog.text


def test_predictions_whose_areas_are_not_those_of_their_pngs_are_counted(tmp_path, caplog):
    """PNGs of other images often have the same ids."""
    listed = segments_info(AB, AB_CATEGORIES)
    listed[0]["area"] //= 2
    truth = write_ab(tmp_path / "t", {1: "a.jpg"})
    labels = write_ab(tmp_path / "l", {1: "a.jpg"}, listed=listed)
    assert evaluate((truth, labels)).all.pq == 1
    assert "l/panoptic.json disagrees with its PNGs in 1 images: 1 areas" in caplog.text


def test_categories_of_other_ids_are_refused(tmp_path):
    truth = write_ab(tmp_path / "t", {1: "a.jpg"})
    labels = write_ab(tmp_path / "l", {1: "a.jpg"})
    content = json.loads((labels / "panoptic.json").read_text())
    names = [category["name"] for category in content["categories"]]
    for category, name in zip(content["categories"], [names[1], names[0], "clouds"], strict=True):
        category["name"] = name
    write_json(labels / "panoptic.json", content)
    with pytest.raises(ValueError, match="category 1 is dog, which has the id 7"):
        evaluate((truth, labels))
    content["categories"][0]["name"] = "Dog "  # spelled otherwise, and the dog still
    content["categories"][1]["name"] = "Cat"
    write_json(labels / "panoptic.json", content)
    with pytest.raises(ValueError, match="category 1 is Dog , which has the id 7"):
        evaluate((truth, labels))
    content["categories"][0]["name"], content["categories"][1]["name"] = "Cat", "a dog"
    write_json(labels / "panoptic.json", content)
    assert evaluate((truth, labels)).all.pq == 1


def test_categories_whose_names_differ_in_capitals_alone_are_two(tmp_path):
    """Swapped, every segment would count as right."""
    truth = write_ab(tmp_path / "t", {1: "a.jpg"})
    labels = write_ab(tmp_path / "l", {1: "a.jpg"})
    for folder, names in ((truth, ("Dog", "dog")), (labels, ("dog", "Dog"))):
        content = json.loads((folder / "panoptic.json").read_text())
        for category, name in zip(content["categories"], names, strict=False):
            category["name"] = name
        write_json(folder / "panoptic.json", content)
    with pytest.raises(ValueError, match="category 1 is dog, which has the id 7"):
        evaluate((truth, labels))
    assert evaluate((truth, truth)).all.pq == 1


def test_a_truth_without_annotations_is_named(tmp_path):
    truth = write_ab(tmp_path / "t", {1: "a.jpg"})
    labels = write_ab(tmp_path / "l", {1: "a.jpg"})
    content = json.loads((truth / "panoptic.json").read_text())
    write_json(truth / "panoptic.json", content | {"annotations": []})
    with pytest.raises(ValueError, match=r"t/panoptic\.json has no annotations: give the truth"):
        evaluate((truth, labels))


def test_names_of_pngs_stay_in_their_folder(tmp_path):
    truth = write_ab(tmp_path / "t", {1: "a.jpg"})
    labels = write_ab(tmp_path / "l", {1: "a.jpg"})
    for name in ("../panoptic/a.png", str(truth / "panoptic/a.png"), "..\\a.png"):
        content = json.loads((labels / "panoptic.json").read_text())
        content["annotations"][0]["file_name"] = name
        write_json(labels / "panoptic.json", content)
        with pytest.raises(ValueError, match="leads out of its folder"):
            evaluate((truth, labels))


def test_names_of_windows_and_macos_are_found(tmp_path):
    truth = write_ab(tmp_path / "t", {1: "caf\u00e9.jpg"})
    labels = write_ab(tmp_path / "l", {1: "caf\u00e9.jpg"})
    (labels / "panoptic/caf\u00e9.png").rename(labels / "panoptic/cafe\u0301.png")
    assert evaluate((truth, labels)).all.pq == 1
    (labels / "panoptic/sub").mkdir()
    (labels / "panoptic/cafe\u0301.png").rename(labels / "panoptic/sub/cafe\u0301.png")
    content = json.loads((labels / "panoptic.json").read_text())
    content["annotations"][0]["file_name"] = "sub\\caf\u00e9.png"
    write_json(labels / "panoptic.json", content)
    assert evaluate((truth, labels)).all.pq == 1


def test_sizes_are_compared_before_anything_is_decoded(tmp_path, monkeypatch):
    truth = write_ab(tmp_path / "t", {1: "a.jpg"})
    labels = write_ab(tmp_path / "l", {1: "a.jpg"})
    write_panoptic_png(labels / "panoptic/a.png", AB[:-1])
    with pytest.raises(ValueError, match=r"l/panoptic/a\.png is 64x47 pixels, by the truth"):
        evaluate((truth, labels))
    write_panoptic_png(truth / "panoptic/a.png", AB.T)
    monkeypatch.setattr("trace_d2.io.png.PngFile.decode", None)
    with pytest.raises(ValueError, match=r"t/panoptic/a\.png is 48x64 pixels, by the JSON .*64x48"):
        evaluate((truth, labels))
