from __future__ import annotations

import json
import logging
import uuid

import pytest
import torch

pytest.importorskip("detectron2", reason="the evaluator needs Detectron2")

from detectron2.data import MetadataCatalog

from trace_d2.evaluation import evaluators as module
from trace_d2.evaluation import panoptic_quality
from trace_d2.evaluation.evaluators import PanopticQualityEvaluator
from trace_d2.io.atomic import write_json

# Contiguous ids that are neither the data set's ids nor the rank in its list.
THINGS = {7: 0, 1: 1}
STUFF = {0: 2}


@pytest.fixture
def dataset(folders):
    """Name of a registered data set whose truth is that of ``folders``."""
    name = f"panoptic_evaluator_{uuid.uuid4()}"
    MetadataCatalog.get(name).set(
        panoptic_json=str(folders[0] / "panoptic.json"),
        panoptic_root=str(folders[0] / "panoptic"),
        thing_dataset_id_to_contiguous_id=THINGS,
        stuff_dataset_id_to_contiguous_id=STUFF,
        label_divisor=1000,
    )
    yield name
    MetadataCatalog.remove(name)


def model_output(ids, segments):
    """What a Detectron2 model returns for a prediction given in the data set's ids."""
    contiguous = [
        {
            "id": segment["id"],
            "category_id": (THINGS | STUFF)[segment["category_id"]],
            "isthing": segment["category_id"] in THINGS,
        }
        for segment in segments
    ]
    return {"panoptic_seg": (torch.from_numpy(ids), contiguous)}


def feed(evaluator, images, image_ids=None):
    for image_id, image in enumerate(images):
        if image_ids is None or image_id in image_ids:
            evaluator.process([{"image_id": image_id}], [model_output(*image[2:])])


def expected(folders, predicted=None, **options):
    truth, predicted = folders[0], predicted or folders[1]
    return panoptic_quality(
        truth / "panoptic.json",
        truth / "panoptic",
        predicted / "panoptic.json",
        predicted / "panoptic",
        **options,
    )


def test_scores_equal_those_of_the_files(dataset, folders, images, caplog):
    evaluator = PanopticQualityEvaluator(dataset)
    feed(evaluator, images)
    with caplog.at_level(logging.INFO):
        scores = evaluator.evaluate()
    quality = expected(folders)
    assert list(scores) == ["panoptic_seg"]
    assert scores["panoptic_seg"] == {
        "PQ": 100 * quality.all.pq,
        "SQ": 100 * quality.all.sq,
        "RQ": 100 * quality.all.rq,
        "PQ_th": 100 * quality.things.pq,
        "SQ_th": 100 * quality.things.sq,
        "RQ_th": 100 * quality.things.rq,
        "PQ_st": 100 * quality.stuff.pq,
        "SQ_st": 100 * quality.stuff.sq,
        "RQ_st": 100 * quality.stuff.rq,
    }
    assert "12 images" in caplog.text


def test_written_predictions_evaluate_to_the_same(dataset, folders, images, tmp_path):
    evaluator = PanopticQualityEvaluator(dataset, tmp_path / "out")
    feed(evaluator, images)
    evaluator.evaluate()
    assert expected(folders, tmp_path / "out") == expected(folders)


def test_label_divisor_without_segments(dataset, folders, images):
    evaluator = PanopticQualityEvaluator(dataset)
    for image_id, (_, _, ids, segments) in enumerate(images):
        labels = torch.full(ids.shape, -1, dtype=torch.int32)
        for rank, segment in enumerate(segments):
            contiguous = (THINGS | STUFF)[segment["category_id"]]
            labels[torch.from_numpy(ids == segment["id"])] = contiguous * 1000 + rank
        before = labels.clone()
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (labels, None)}])
        assert torch.equal(labels, before)
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100 * expected(folders).all.pq


def test_processes_are_gathered_and_doubles_count_once(dataset, folders, images, monkeypatch):
    other = PanopticQualityEvaluator(dataset)
    feed(other, images, range(5, 12))
    evaluator = PanopticQualityEvaluator(dataset)
    feed(evaluator, images, range(6))
    monkeypatch.setattr(module.comm, "gather", lambda own: [own, other._results])
    scores = evaluator.evaluate()["panoptic_seg"]
    assert scores["PQ"] == pytest.approx(100 * expected(folders).all.pq, abs=1e-9)
    monkeypatch.setattr(module.comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() is None


def test_missing_images(dataset, folders, images):
    evaluator = PanopticQualityEvaluator(dataset)
    feed(evaluator, images, range(10))
    with pytest.raises(ValueError, match=r"no prediction for 2 of 12 images \(10, 11\)"):
        evaluator.evaluate()
    skipping = PanopticQualityEvaluator(dataset, missing="skip")
    feed(skipping, images, range(10))
    missing = PanopticQualityEvaluator(dataset, missing="miss")
    feed(missing, images, range(10))
    assert missing.evaluate()["panoptic_seg"]["RQ"] < skipping.evaluate()["panoptic_seg"]["RQ"]
    with pytest.raises(ValueError, match="choose one of"):
        PanopticQualityEvaluator(dataset, missing="ignore")


def test_reset_forgets(dataset, images):
    evaluator = PanopticQualityEvaluator(dataset)
    feed(evaluator, images)
    evaluator.reset()
    with pytest.raises(ValueError, match="no image id in common"):
        evaluator.evaluate()


def test_bad_predictions_are_named(dataset, images):
    evaluator = PanopticQualityEvaluator(dataset)
    output = model_output(*images[0][2:])
    labels, segments = output["panoptic_seg"]
    negative = {"panoptic_seg": (labels - 1, segments)}
    unknown = {"panoptic_seg": (labels, [{"id": 1, "category_id": 55, "isthing": True}])}
    with pytest.raises(ValueError, match="has no image 99"):
        evaluator.process([{"image_id": 99}], [output])
    with pytest.raises(ValueError, match="image 0: panoptic_seg leaves"):
        evaluator.process([{"image_id": 0}], [negative])
    with pytest.raises(ValueError, match="image 0: predicted thing category 55 is not in the"):
        evaluator.process([{"image_id": 0}], [unknown])


def test_incomplete_metadata():
    with pytest.raises(ValueError, match="lacks panoptic_json, panoptic_root"):
        PanopticQualityEvaluator(f"unknown_{uuid.uuid4()}")


def test_records_of_other_images_are_refused(dataset, images):
    """The truth names no images, so its PNGs' names serve: 0003.png is image 3."""
    evaluator = PanopticQualityEvaluator(dataset)
    output = model_output(*images[3][2:])
    evaluator.process([{"image_id": 3, "file_name": "/data/0003.jpg"}], [output])
    evaluator.process([{"image_id": 3, "file_name": "/data/photograph.jpg"}], [output])
    with pytest.raises(ValueError, match=r"image 3 is 0003\.png in .* and /data/0004\.jpg in the"):
        evaluator.process([{"image_id": 3, "file_name": "/data/0004.jpg"}], [output])


def test_truth_that_disagrees_with_its_pngs_is_counted(dataset, folders, images, caplog):
    path = folders[0] / "panoptic.json"
    content = json.loads(path.read_text())
    for segment in content["annotations"][0]["segments_info"]:
        segment["area"] = 100_000
    write_json(path, content)
    evaluator = PanopticQualityEvaluator(dataset)
    feed(evaluator, images)
    evaluator.evaluate()
    assert "areas that are not those of the PNGs" in caplog.text


def test_pngs_of_one_name_in_two_folders_stay_apart(dataset, folders, images, tmp_path):
    path = folders[0] / "panoptic.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        name = f"{annotation['image_id']}/map.png"
        (folders[0] / "panoptic" / name).parent.mkdir()
        old = folders[0] / "panoptic" / annotation["file_name"]
        annotation["file_name"] = old.rename(folders[0] / "panoptic" / name) and name
    write_json(path, content)
    evaluator = PanopticQualityEvaluator(dataset, tmp_path / "out")
    feed(evaluator, images)
    evaluator.evaluate()
    assert expected(folders, tmp_path / "out") == expected(folders)
