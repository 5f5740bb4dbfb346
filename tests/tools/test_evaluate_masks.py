from __future__ import annotations

import json

import pytest

from trace_d2.io.atomic import write_json

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


@pytest.fixture
def job(tmp_path, load_tool):
    """Run the tool on two images with an object each, of which the first one is found."""
    images = [{"id": key, "height": 8, "width": 8, "file_name": f"{key}.jpg"} for key in (1, 2)]
    truth = [{"id": key, "image_id": key, "segmentation": SQUARE} for key in (1, 2)]
    write_json(tmp_path / "truth.json", {"images": images, "annotations": truth})
    write_json(
        tmp_path / "masks.json",
        {"images": images[:1], "annotations": [{"image_id": 1, "segmentation": SQUARE}]},
    )
    arguments = ["--truth", str(tmp_path / "truth.json")]
    arguments += ["--predictions", str(tmp_path / "masks.json")]
    return lambda *extra: load_tool("evaluate_masks").main([*arguments, *extra])


def test_table_and_json(job, tmp_path, capsys):
    assert job("--output", str(tmp_path / "out.json")) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    # Precision 1 up to recall 1/2: 51 of 101 levels.
    assert rows[2][:5] == ["masks", "50.5", "50.5", "50.5", "50.5"]
    assert rows[3][0] == "boxes"
    assert rows[3][9] == "50.0"
    assert "2 images, 2 true instances, 1 predictions; 1 images without prediction" in output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["segm"]["AP"] == pytest.approx(51 / 101)
    assert report["missing"] == [2]


def test_one_kind_and_unknown_images(job, tmp_path, capsys):
    rows = [{"image_id": 1, "bbox": [1, 1, 4, 4]}, {"image_id": 7, "bbox": [1, 1, 4, 4]}]
    write_json(tmp_path / "masks.json", rows)
    assert job() == 2
    assert job("--iou", "bbox") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("give all annotations one, or score boxes alone (--iou bbox)")
    assert "1 predictions of 1 images that" in lines[1]
    assert "--ignore-unknown" in lines[1]
    assert job("--iou", "bbox", "--ignore-unknown") == 0
    assert "1 predictions of other images left out" in capsys.readouterr().out


def test_an_output_that_is_an_input_is_refused(job, tmp_path, capsys):
    before = (tmp_path / "truth.json").read_text()
    assert job("--output", str(tmp_path / "truth.json")) == 2
    assert "is --truth as well, which would be lost" in capsys.readouterr().err
    assert (tmp_path / "truth.json").read_text() == before
    assert job("--output", f"{tmp_path}/../{tmp_path.name}/masks.json") == 2


def test_images_are_found_by_file_name_where_ids_are_of_others(job, tmp_path, capsys, caplog):
    """Labels that number images by rank, where the truth does not."""
    images = [{"id": 3 - key, "file_name": f"{key}.png"} for key in (1, 2)]
    rows = [{"image_id": key, "segmentation": SQUARE} for key in (1, 2)]
    write_json(tmp_path / "masks.json", {"images": images, "annotations": rows})
    assert job("--output", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text())["segm"]["AP"] == pytest.approx(1)
    assert "do not mean the same images by their ids" in caplog.text


def test_no_common_image_is_an_error_and_no_score(job, tmp_path, capsys):
    for image_id in ("a", 77, "77"):
        rows = [{"image_id": image_id, "segmentation": SQUARE}]
        write_json(tmp_path / "masks.json", rows)
        assert job("--ignore-unknown") == 2
        message = capsys.readouterr().err
        assert "no prediction is of an image of the truth: give the truth of these" in message
        assert ("or its image ids, as the predictions have text" in message) == (image_id != 77)
    rows = [{"image_id": str(key), "segmentation": SQUARE} for key in (1, 2)]
    write_json(tmp_path / "masks.json", rows)
    assert job("--output", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text())["segm"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [1, 1, -4, 4], [1, 1, 5, 50], [1, 1], "1 1 4 4"])
@pytest.mark.parametrize("side", ["truth", "masks"])
def test_boxes_are_those_of_the_masks(job, tmp_path, box, side, caplog):
    path = tmp_path / f"{side}.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["bbox"] = box
    write_json(path, content)
    assert job("--output", str(tmp_path / "out.json")) == 0
    scores = json.loads((tmp_path / "out.json").read_text())
    assert scores["bbox"]["AP"] == scores["segm"]["AP"] == pytest.approx(51 / 101)
    assert "the mask's own counts" in caplog.text


def test_a_short_polygon_costs_no_file(job, tmp_path, caplog):
    for side in ("truth", "masks"):
        content = json.loads((tmp_path / f"{side}.json").read_text())
        content["annotations"][0]["segmentation"] = [[10, 10, 10, 15], *SQUARE]
        write_json(tmp_path / f"{side}.json", content)
    assert job("--output", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text())["segm"]["AP"] == pytest.approx(51 / 101)
    assert caplog.text.count("1 masks have polygons of fewer than three points") == 2


def test_match_by_file_name(job, tmp_path, capsys):
    images = [{"id": 5, "file_name": "folder/2.png"}]
    rows = [{"image_id": 5, "segmentation": SQUARE}]
    write_json(tmp_path / "masks.json", {"images": images, "annotations": rows})
    assert job("--match", "file_name", "--output", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text())["missing"] == [1]


def test_a_truth_of_boxes_is_scored_by_boxes(job, tmp_path, capsys):
    """Predictions are masks: their boxes count."""
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        del row["segmentation"]
        row["bbox"] = [1, 1, 4, 4]
    write_json(path, content)
    assert job("--iou", "segm") == 2
    assert "has no masks: give its annotations one, or score boxes" in capsys.readouterr().err
    assert job("--max-detections", "300") == 0
    output = capsys.readouterr().out
    (row,) = [line.split() for line in output.splitlines() if line.startswith(("masks", "boxes"))]
    assert row[:2] == ["boxes", "50.5"]
    assert "AR_300" in output
    assert "note: objects of the truth have no masks: AP and AR are those of boxes" in output
    assert "note: 300 predictions of an image count, not 100" in output
