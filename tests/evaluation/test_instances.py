from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trace_d2.evaluation import class_agnostic_ap, class_agnostic_table
from trace_d2.evaluation.instances import METRICS
from trace_d2.io.atomic import write_json


def rle(mask: np.ndarray) -> dict:
    encoded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def rectangle(y: int, x: int, height: int, width: int, size=(60, 80)) -> dict:
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return rle(mask)


def dataset(annotations, images=1) -> dict:
    return {
        "images": [
            {"id": key, "height": 60, "width": 80, "file_name": f"{key}.jpg"}
            for key in range(1, images + 1)
        ],
        "annotations": [
            {"id": number, "category_id": number % 3, "image_id": 1} | row
            for number, row in enumerate(annotations)
        ],
        "categories": [{"id": key, "name": str(key)} for key in range(3)],
    }


@pytest.fixture
def two_objects():
    """Two objects of 20 x 20, of different categories; the annotation ids start at 0."""
    masks = [rectangle(0, 0, 20, 20), rectangle(30, 30, 20, 20)]
    return dataset([{"segmentation": mask} for mask in masks])


def found(score, *corner, image_id=1) -> dict:
    return {"image_id": image_id, "score": score, "segmentation": rectangle(*corner)}


def test_by_hand(two_objects):
    """Best: IoU 1. Then one in the wrong place, then one of IoU 16/20 = 0.8."""
    predictions = [found(0.9, 0, 0, 20, 20), found(0.8, 0, 50, 9, 9), found(0.7, 30, 30, 20, 16)]
    result = class_agnostic_ap(two_objects, predictions)
    # Precision 1 up to recall 1/2 (51 of the 101 recall levels), then 2/3 where 0.8 suffices:
    # thresholds .5 .. .8, so 7 of 10.
    strict, loose = 51 / 101, (51 + 50 * 2 / 3) / 101
    for scores in result.scores.values():
        assert scores["AP50"] == pytest.approx(loose)
        assert scores["AP75"] == pytest.approx(loose)
        assert scores["AP"] == pytest.approx(0.7 * loose + 0.3 * strict)
        assert scores["AR_1"] == pytest.approx(0.5)
        assert scores["AR_100"] == pytest.approx(0.7 * 1 + 0.3 * 0.5)
        assert scores["APs"] == scores["AP"]
        assert math.isnan(scores["APl"])
    assert (result.images, result.instances, result.predictions) == (1, 2, 3)
    assert result.to_dict()["segm"]["APl"] is None


def test_categories_do_not_matter_and_ids_of_zero_do_not_harm(two_objects):
    predictions = [found(0.9, 0, 0, 20, 20), found(0.8, 30, 30, 20, 20)]
    predictions[0]["category_id"] = 77
    assert class_agnostic_ap(two_objects, predictions).scores["segm"]["AP"] == pytest.approx(1)


def test_equals_cocoeval_on_random_data():
    rng = np.random.default_rng(3)

    def rows(images, count):
        for image_id in range(1, images + 1):
            for _ in range(int(rng.integers(0, count))):
                corner = [int(value) for value in rng.integers(0, 30, 2)]
                yield image_id, corner, [int(value) for value in rng.integers(8, 45, 2)]

    truth = dataset([], images=12)
    for number, (image_id, corner, size) in enumerate(rows(12, 7), 1):
        mask = rectangle(*corner, *size)
        truth["annotations"].append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": int(rng.random() < 0.2),
                "area": int(mask_api.area(mask)),
                "bbox": mask_api.toBbox(mask).tolist(),
                "segmentation": mask,
            }
        )
    truth["categories"] = [{"id": 1, "name": "object"}]
    predictions = [
        found(float(rng.random()), *corner, *size, image_id=image_id) | {"category_id": 1}
        for image_id, corner, size in rows(11, 12)
    ]
    predictions += [
        found(float(rng.random()), 1, 1, 8, 8, image_id=row["image_id"])
        | {"category_id": 1, "segmentation": row["segmentation"]}
        for row in truth["annotations"][::2]
    ]
    result = class_agnostic_ap(truth, predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        for kind, scores in result.scores.items():
            boxes = [mask_api.toBbox(row["segmentation"]).tolist() for row in predictions]
            rows = [
                {key: value for key, value in row.items() if key != "segmentation"} | {"bbox": box}
                for row, box in zip(predictions, boxes, strict=True)
            ]
            results = coco.loadRes(rows if kind == "bbox" else [dict(row) for row in predictions])
            evaluation = COCOeval(coco, results, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
            assert list(scores) == list(METRICS)
            np.testing.assert_array_equal(list(scores.values()), expected)


def test_a_prediction_in_a_crowd_counts_neither_way(two_objects):
    predictions = [found(0.9, 0, 0, 20, 20), found(0.95, 30, 30, 10, 10)]
    assert class_agnostic_ap(two_objects, predictions).scores["segm"]["AP"] < 0.3
    two_objects["annotations"][1]["iscrowd"] = 1
    result = class_agnostic_ap(two_objects, predictions)
    assert result.scores["segm"]["AP"] == pytest.approx(1)
    assert result.instances == 1


def test_training_free_json_without_scores(two_objects, tmp_path):
    """A COCO dictionary: polygons and uncompressed RLE, images[] with sides swapped."""
    column = [0, *[20, 40] * 19, 20, 40 + 60 * 60]
    predictions = {
        "images": [{"id": 1, "height": 80, "width": 60, "file_name": "folder/1.png"}],
        "annotations": [
            {"image_id": 1, "segmentation": {"size": [60, 80], "counts": column}},
            {"image_id": 1, "segmentation": [[30, 30, 50, 30, 50, 50, 30, 50]]},
        ],
        "categories": [{"id": 1, "name": "fg"}],
    }
    write_json(tmp_path / "masks.json", predictions)
    write_json(tmp_path / "truth.json", two_objects)
    result = class_agnostic_ap(tmp_path / "truth.json", tmp_path / "masks.json")
    assert result.scores["segm"]["AP"] == pytest.approx(1)
    assert result.scores["bbox"]["AP"] == pytest.approx(1)
    table = class_agnostic_table(result).splitlines()
    assert table[0].split() == list(METRICS)
    assert table[2].split()[:5] == ["masks", "100.0", "100.0", "100.0", "100.0"]
    assert table[2].split()[5:7] == ["-", "-"]


def test_equal_scores_rank_as_in_the_file(two_objects):
    right, wrong = found(1.0, 0, 0, 20, 20), found(1.0, 50, 0, 5, 5)
    first = class_agnostic_ap(two_objects, [right, wrong]).scores["segm"]["AP"]
    second = class_agnostic_ap(two_objects, [wrong, right]).scores["segm"]["AP"]
    assert first == pytest.approx(51 / 101)
    assert second == pytest.approx(51 / 101 / 2)


def test_images_without_prediction_and_unknown_images(two_objects):
    truth = dataset([row | {"image_id": row["id"] + 1} for row in two_objects["annotations"]], 2)
    predictions = [found(0.9, 0, 0, 20, 20), found(0.9, 0, 0, 9, 9, image_id=5)]
    with pytest.raises(ValueError, match=r"1 predictions of 1 images that .* lacks \(such as 5\)"):
        class_agnostic_ap(truth, predictions)
    result = class_agnostic_ap(truth, predictions, ignore_unknown=True)
    assert result.scores["segm"]["AR_100"] == pytest.approx(0.5)
    assert (result.missing, result.ignored, result.predictions) == ((2,), 1, 1)


def test_ids_of_text_and_numbers_together_lose_no_image():
    """COCOeval sorts ids by numpy, which makes text of all of them."""
    truth = dataset([], images=2)
    truth["images"][1]["id"] = "b"
    keys = [1, "b"]
    truth["annotations"] = [
        {"id": n, "image_id": key, "segmentation": rectangle(0, 0, 20, 20)}
        for n, key in enumerate(keys, 1)
    ]
    predictions = [found(0.9, 0, 0, 20, 20, image_id=key) for key in keys]
    assert class_agnostic_ap(truth, predictions).scores["segm"]["AP"] == pytest.approx(1)


def test_predictions_without_a_pixel_are_counted(two_objects, caplog):
    predictions = [found(0.9, 0, 0, 20, 20), found(0.8, 30, 30, 20, 20), found(0.7, 0, 0, 0, 0)]
    assert class_agnostic_ap(two_objects, predictions, ["segm"]).scores["segm"]["AP"] == 1
    assert "1 predictions are masks without a pixel: they count as false ones" in caplog.text


def test_values_of_numpy_are_numbers(two_objects):
    row = found(np.float32(0.9), 0, 0, 20, 20, image_id=np.int64(1))
    row["bbox"] = [np.float64(side) for side in (0, 0, 20, 20)]
    result = class_agnostic_ap(two_objects, [row])
    assert result.scores["bbox"]["AR_100"] == pytest.approx(0.5)


def test_no_prediction_at_all(two_objects):
    scores = class_agnostic_ap(two_objects, []).scores["segm"]
    assert scores["AP"] == scores["AR_100"] == 0


def test_matching_by_file_name(two_objects):
    row = {"image_id": 9, "segmentation": rectangle(0, 0, 20, 20)}
    predictions = {"images": [{"id": 9, "file_name": "a/1.png"}], "annotations": [row]}
    result = class_agnostic_ap(two_objects, predictions, match="file_name")
    assert result.scores["segm"]["AR_100"] == pytest.approx(0.5)
    predictions["images"] = [{"id": 1, "file_name": "2.png"}]
    predictions["annotations"][0]["image_id"] = 1
    with pytest.raises(ValueError, match=r"do not mean the same images .*no file name is in both"):
        class_agnostic_ap(two_objects, predictions)
    by_id = class_agnostic_ap(two_objects, predictions, match="id")
    assert by_id.scores["segm"]["AR_100"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="has no file_name of image 1"):
        class_agnostic_ap(two_objects, [found(1.0, 0, 0, 5, 5)], match="file_name")


def test_masks_of_another_size_are_named(two_objects):
    mask = rectangle(0, 0, 5, 5, size=(80, 60))
    with pytest.raises(ValueError, match=r"image 1 \(1.jpg\) does .* 80 x 60 .* 60 x 80"):
        class_agnostic_ap(two_objects, [{"image_id": 1, "score": 1, "segmentation": mask}])


@pytest.fixture
def two_boxes(two_objects):
    """The same objects as boxes alone."""
    for row in two_objects["annotations"]:
        row["bbox"] = mask_api.toBbox(row.pop("segmentation")).tolist()
        row["area"] = 400
    return two_objects


def test_a_truth_of_boxes_is_scored_by_boxes_and_says_so(two_boxes):
    """One prediction has a bbox of its own, the other a mask alone: 20 x 16 of 20 x 20."""
    boxed = {"image_id": 1, "score": 0.9, "bbox": [0, 0, 20, 20]}
    with pytest.raises(ValueError, match=r"the truth has no masks: .* boxes alone \(--iou bbox\)"):
        class_agnostic_ap(two_boxes, [boxed], ["segm"])
    result = class_agnostic_ap(two_boxes, [boxed, found(0.7, 30, 30, 20, 16)])
    assert list(result.scores) == ["bbox"]
    # Thresholds .5 .. .8 find both.
    assert result.scores["bbox"]["AR_100"] == pytest.approx(0.7 * 1 + 0.3 * 0.5)
    (remark,) = result.remarks
    assert remark.startswith(
        "objects of the truth have no masks: AP and AR are those of boxes (AP^box"
    )
    assert result.to_dict()["remarks"] == [remark]
    assert result.to_dict()["boxes_alone"]
    assert [row.split()[0] for row in class_agnostic_table(result).splitlines()[2:]] == ["boxes"]


def test_a_truth_some_of_whose_objects_have_no_masks_is_scored_by_boxes(two_objects, caplog):
    second = two_objects["annotations"][1]
    second["bbox"] = mask_api.toBbox(second["segmentation"]).tolist()
    second["segmentation"] = []
    predictions = [found(0.9, 0, 0, 20, 20), found(0.8, 30, 30, 20, 20)]
    result = class_agnostic_ap(two_objects, predictions)
    assert list(result.scores) == ["bbox"]
    assert result.scores["bbox"]["AR_100"] == pytest.approx(1)
    assert result.boxes_alone
    assert "the truth: 1 of 2 annotations have a box and no mask (segmentation)" in caplog.text
    wrong = r"annotation .*: it has no mask .*: give all annotations one, or score boxes alone \(--"
    with pytest.raises(ValueError, match=wrong):
        class_agnostic_ap(two_objects, predictions, ["segm"])
    caplog.clear()
    class_agnostic_ap(two_objects, predictions, ["bbox"])
    assert "have a box and no mask" not in caplog.text


def test_more_or_fewer_predictions_of_an_image_count(two_objects):
    """What is right comes second, and 150th after boxes of one pixel."""
    right = [found(0.95, 0, 0, 20, 20), found(0.1, 30, 30, 20, 20)]
    predictions = [right[0], *(found(0.5, 59, k % 80, 1, 1) for k in range(148)), right[1]]
    usual = class_agnostic_ap(two_objects, predictions).scores["segm"]
    many = class_agnostic_ap(two_objects, predictions, max_detections=300)
    assert usual["AR_100"] == pytest.approx(0.5)
    assert (many.scores["segm"]["AR_100"], many.scores["segm"]["AR_300"]) == (0.5, 1)
    # 51 levels of recall at precision 1, 50 at 2 / 150.
    assert usual["AP"] == pytest.approx(51 / 101)
    assert many.scores["segm"]["AP"] == pytest.approx((51 + 50 * 2 / 150) / 101)
    assert many.remarks == ["300 predictions of an image count, not 100"]
    few = class_agnostic_ap(two_objects, predictions, max_detections=5).scores["segm"]
    assert [name for name in few if name.startswith("AR_")] == ["AR_1", "AR_5"]
    with pytest.raises(ValueError, match="max_detections=0: count 1"):
        class_agnostic_ap(two_objects, predictions, max_detections=0)


def test_unknown_options(two_objects):
    with pytest.raises(ValueError, match="iou type 'keypoints'"):
        class_agnostic_ap(two_objects, [], ["keypoints"])
    with pytest.raises(ValueError, match="match='name'"):
        class_agnostic_ap(two_objects, [], match="name")


def test_some_images_alone():
    truth = dataset(
        [{"segmentation": rectangle(0, 0, 20, 20), "image_id": key} for key in (1, 2)], images=3
    )
    predictions = [found(0.9, 30, 30, 20, 20), found(0.8, 0, 0, 20, 20, image_id=2)]
    scores = {
        ids: class_agnostic_ap(truth, predictions, ["segm"], image_ids=ids)
        for ids in ((1,), (2, 3), (1, 2, 3))
    }
    assert [one.scores["segm"]["AP"] for one in scores.values()][:2] == [0, pytest.approx(1)]
    assert 0 < scores[1, 2, 3].scores["segm"]["AP"] < 1
    one = scores[2, 3]
    assert (one.images, one.instances, one.predictions) == (2, 1, 1)
    assert (one.missing, one.ignored) == ((3,), 0)
    with pytest.raises(ValueError, match="lists no image 9: choose of its image ids"):
        class_agnostic_ap(truth, predictions, ["segm"], image_ids=[9])
