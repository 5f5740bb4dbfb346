"""Files of instances that would be scored as something else than what they are."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trace_d2.evaluation import class_agnostic_ap
from trace_d2.evaluation.instances import METRICS
from trace_d2.io.atomic import write_json

IMAGE = {"id": 1, "height": 60, "width": 80, "file_name": "1.jpg"}
BOXES = np.array([(5, 5, 20, 20), (40, 20, 30, 30), (55, 5, 20, 12)], float)
CORNERS = np.concatenate([BOXES[:, :2], BOXES[:, :2] + BOXES[:, 2:]], 1)


def boxes(places, **fields) -> list[dict]:
    rows = np.asarray(places).tolist()
    return [{"image_id": 1, "bbox": place} | fields for place in rows]


def polygons(places, **fields) -> list[dict]:
    return [
        {"image_id": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]} | fields
        for x, y, w, h in np.asarray(places).tolist()
    ]


def truth(annotations) -> dict:
    return {"images": [IMAGE], "annotations": annotations, "categories": []}


@pytest.mark.parametrize("given", [boxes(BOXES), polygons(BOXES)], ids=["boxes", "masks"])
def test_a_truth_without_objects_is_named(tmp_path, given) -> None:
    files = tmp_path / "truth.json", tmp_path / "found.json"
    write_json(files[1], given)
    write_json(files[0], truth([]))
    with pytest.raises(ValueError, match=r"truth\.json has no annotations, so there is nothing"):
        class_agnostic_ap(*files)
    write_json(files[0], truth(polygons(BOXES, iscrowd=1)))
    with pytest.raises(ValueError, match=r"truth\.json has no annotations but crowd regions"):
        class_agnostic_ap(*files)


def test_corners_are_no_boxes(tmp_path, caplog) -> None:
    """Two of the three reach beyond; of a few boxes that may be chance, of many it is not."""
    right, wrong = boxes(BOXES), boxes(CORNERS)
    assert class_agnostic_ap(truth(right), right, ["bbox"]).scores["bbox"]["AP"] == pytest.approx(1)
    assert not caplog.text
    class_agnostic_ap(truth(right), wrong, ["bbox"])
    assert "the predictions: 2 of 3 boxes or polygons reach beyond their images" in caplog.text
    assert "[40.0, 20.0, 70.0, 50.0] in image 1 of 80 x 60" in caplog.text
    message = "10 of 15 boxes reach far beyond their images, and all lie inside if read as"
    with pytest.raises(ValueError, match=f"the predictions: {message}"):
        class_agnostic_ap(truth(right), wrong * 5, ["bbox"])
    with pytest.raises(ValueError, match=f"the truth: {message}"):
        class_agnostic_ap(truth(wrong * 5), right)
    outside = boxes([*BOXES, (-9, 5, 20, 20)])  # a detector that does not clip
    class_agnostic_ap(truth(right), outside * 20, ["bbox"])
    assert "20 of 80 boxes" in caplog.text


@pytest.mark.parametrize(
    "found",
    [
        boxes([(20, 10, 64, 45)] * 12),  # amodal: all of them, by 4 pixels
        boxes([(35, 5, 60, 50)] * 10 + [(5, 5, 60, 50)] * 90),  # a detector that does not clip
        [box | polygons([(30, 20, 60, 50)])[0] for box in boxes([(30, 20, 60, 50)] * 12)],
    ],
    ids=["by little", "few", "as the masks"],
)
def test_large_boxes_that_reach_beyond_are_boxes(found, caplog) -> None:
    """All of them would be corners inside the image, too."""
    scores = class_agnostic_ap(truth(found), found, ["bbox"]).scores
    assert scores["bbox"]["AP"] == pytest.approx(1)
    assert "boxes or polygons reach beyond their images" in caplog.text


def test_boxes_that_do_not_count_are_not_looked_at(caplog) -> None:
    wrong = [box | mask for box, mask in zip(boxes(CORNERS), polygons(BOXES), strict=True)]
    masks = truth(polygons(BOXES))
    assert class_agnostic_ap(masks, wrong, ["segm"]).scores["segm"]["AP"] == pytest.approx(1)
    assert "reach beyond" not in caplog.text


@pytest.mark.parametrize("kind", [boxes, polygons])
def test_annotations_of_larger_images_are_told(caplog, kind) -> None:
    class_agnostic_ap(truth(kind(BOXES)), kind(2 * BOXES))
    assert "the predictions: 2 of 3 boxes or polygons reach beyond their images" in caplog.text


def test_images_of_another_size_are_told(caplog) -> None:
    """Boxes in a smaller image lie in the larger one, too."""
    halves = {"images": [IMAGE | {"height": 30, "width": 40}], "annotations": boxes(BOXES / 2)}
    class_agnostic_ap(truth(boxes(BOXES)), halves)
    assert "the predictions: 1 images are listed in another size than in the truth" in caplog.text
    assert "First: image 1 as 40 x 30" in caplog.text
    caplog.clear()
    for sides in ({}, {"height": 80, "width": 60}, {"height": None}):  # MaskCut has them swapped
        same = {"images": [IMAGE | sides], "annotations": boxes(BOXES)}
        result = class_agnostic_ap(truth(boxes(BOXES)), same)
        assert result.scores["bbox"]["AP"] == pytest.approx(1)
    assert "another size" not in caplog.text


def test_boxes_in_shares_of_the_image_are_refused() -> None:
    shares = boxes(BOXES / [80, 60, 80, 60])
    for files in ((truth(boxes(BOXES)), shares), (truth(shares), boxes(BOXES))):
        with pytest.raises(ValueError, match=r"all boxes lie within 0\.\.1 and look normalised"):
            class_agnostic_ap(*files)
    # One tiny box among others is one.
    tiny = boxes([*BOXES, (0, 0, 1, 1)])
    assert class_agnostic_ap(truth(tiny), tiny).scores["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("crowd", [0, 1])
def test_boxes_without_area_count_as_they_do_for_coco(crowd, caplog) -> None:
    """Nothing matches them: the truth has more to find, the predictions are false."""
    thin = boxes([(50, 50, 0, 10), (50, 50, 0, 0)])
    true = [row | {"area": 300, "iscrowd": 0} for row in boxes(BOXES)]
    true += [row | {"area": 5000 * rank, "iscrowd": crowd} for rank, row in enumerate(thin)]
    found = [row | {"score": 0.9 - 0.1 * rank} for rank, row in enumerate([thin[0], *boxes(BOXES)])]
    scores = class_agnostic_ap(truth(true), found).scores["bbox"]
    assert "the truth: 2 boxes without masks have no area: nothing can match them" in caplog.text
    assert "the predictions: 1 boxes without masks have no area" in caplog.text
    assert scores["AR_100"] == pytest.approx(1 if crowd else 0.6)
    coco = COCO()
    named = [row | {"id": number, "category_id": 1} for number, row in enumerate(true, 1)]
    coco.dataset = truth(named) | {"categories": [{"id": 1, "name": "object"}]}
    coco.createIndex()
    reference = COCOeval(coco, coco.loadRes([row | {"category_id": 1} for row in found]), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    expected = [value if value > -1 else np.nan for value in reference.stats]
    assert [scores[name] for name in METRICS] == pytest.approx(expected, nan_ok=True)


def test_what_is_there_twice_is_told(caplog) -> None:
    given = boxes(BOXES)
    class_agnostic_ap(truth(given), boxes([*BOXES, BOXES[0]], score=0.5))
    assert "the predictions: 1 annotations are there twice or more" in caplog.text
    class_agnostic_ap(truth([*polygons(BOXES), *polygons(BOXES[:2])]), polygons(BOXES))
    assert "the truth: 2 annotations are there twice or more" in caplog.text
    caplog.clear()
    other_scores = [row | {"score": 0.1 * rank} for rank, row in enumerate([*given, *given])]
    class_agnostic_ap(truth(given), other_scores)
    assert "twice" not in caplog.text


@pytest.mark.parametrize("area", [0, 0.08, 50_000])
def test_an_area_that_is_none_is_that_of_the_box(caplog, area) -> None:
    """The boxes are of 1600, 3600 and 960 pixels: small is below 32 x 32."""
    large = {"images": [IMAGE | {"height": 120, "width": 160}], "categories": []}
    found = boxes(2 * BOXES)
    rows = boxes(2 * BOXES, area=area)
    scores = class_agnostic_ap(large | {"annotations": rows}, found).scores["bbox"]
    assert [scores["APs"], scores["APm"]] == pytest.approx([1, 1])
    assert np.isnan(scores["APl"])
    assert "3 boxes have an area that nothing in them has" in caplog.text
    thin = boxes(2 * BOXES, area=100)
    scores = class_agnostic_ap(large | {"annotations": thin}, found).scores["bbox"]
    assert scores["APs"] == pytest.approx(1)
    assert np.isnan(scores["APm"])
