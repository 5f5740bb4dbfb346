"""The refiner of masks as a user runs it: outputs, quirks of files, going on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trace_d2.edges.sources import EdgeOutput
from trace_d2.propagation.calibration import EdgeCalibration

REPOSITORY = Path(__file__).parents[2]

DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def decode(annotation: dict) -> np.ndarray:
    return coco_mask.decode([annotation["segmentation"]])[..., 0].astype(bool)


def test_masks_are_parted_where_the_edges_are(mask_job, capsys) -> None:
    mask_job.add("b.png", "a.png")
    assert mask_job.run() == 0
    said = capsys.readouterr().out
    assert "masks.json: 2 masks to refine in 2 of 2 images\n2 refined (0 of them before)" in said
    assert f"masks: {mask_job.output}   to look at: {mask_job.work}/report.html" in said
    refined = mask_job.refined()
    assert refined["categories"] == mask_job.content["categories"]
    assert refined["images"] == [
        {"id": 2, "file_name": "a.png", "height": 24, "width": 32},
        {"id": 1, "file_name": "b.png", "height": 24, "width": 32},
    ]
    assert [a["id"] for a in refined["annotations"]] == [1, 2, 3, 4]
    assert [a["image_id"] for a in refined["annotations"]] == [2, 2, 1, 1]
    for annotation in refined["annotations"]:
        mask = decode(annotation)
        assert annotation["area"] == mask.sum() > 0
        x, y, width, height = (int(side) for side in annotation["bbox"])
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert (annotation["iscrowd"], annotation["category_id"]) == (0, 1)
        assert "score" not in annotation
        assert isinstance(annotation["segmentation"]["counts"], str)
    first, second = (decode(a) for a in refined["annotations"][:2])
    given = np.zeros((24, 32), bool)
    given[4:16, 4:24] = True
    assert not (first & second).any()
    assert np.array_equal(first | second, given)
    record = mask_job.journal()["a"]
    assert (record["given"], record["segments"], record["status"]) == (1, 2, "done")


def test_an_image_may_have_more_than_255_masks(mask_job) -> None:
    mask_job.add("a.png")
    for number in range(299):
        mask = np.zeros((24, 32), bool)
        mask[number // 16, 2 * (number % 16)] = True
        mask_job.add_mask(1, mask)
    assert mask_job.run("MODEL.TRACE.BGP.MIN_AREA", "1", edges=["--no-edges"]) == 0
    refined = mask_job.refined()["annotations"]
    assert len(refined) == 300
    assert all(decode(one).sum() == one["area"] for one in refined)


def test_pycocotools_reads_the_output(mask_job, capsys) -> None:
    mask_job.add("a.png", "b.png")
    mask_job.content["annotations"][0]["score"] = 0.5
    mask_job.content["annotations"][1]["score"] = 0.25
    assert mask_job.run() == 0
    coco = COCO(str(mask_job.output))
    assert sorted(coco.anns) == [1, 2, 3, 4]
    assert [coco.anns[n]["score"] for n in (1, 2, 3, 4)] == [0.5, 0.5, 0.25, 0.25]
    assert coco.annToMask(coco.anns[1]).shape == (24, 32)
    results = [
        {key: a[key] for key in ("image_id", "category_id", "segmentation", "score")}
        for a in coco.anns.values()
    ]
    assert len(coco.loadRes(results).anns) == 4


@pytest.mark.detectron2
def test_detectron2_reads_the_output(mask_job) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.detection_utils import annotations_to_instances

    mask_job.add("n01/a.png", "n02/b.png")
    assert mask_job.run() == 0
    dicts = load_coco_json(str(mask_job.output), str(mask_job.root / "images"))
    assert [Path(d["file_name"]).is_file() for d in dicts] == [True, True]
    assert [(d["height"], d["width"]) for d in dicts] == [(24, 32), (24, 32)]
    instances = annotations_to_instances(dicts[0]["annotations"], (24, 32), mask_format="bitmask")
    assert instances.gt_masks.tensor.sum() == 12 * 20
    assert len(instances) == 2


def test_swapped_sizes_are_repaired(mask_job, capsys) -> None:
    mask_job.add("a.png", "b.png")
    for image in mask_job.content["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    assert mask_job.run() == 0
    assert "2 images have width and height swapped in images[]" in capsys.readouterr().out
    assert [(i["height"], i["width"]) for i in mask_job.refined()["images"]] == [(24, 32)] * 2
    assert mask_job.areas().keys() == {"a.png", "b.png"}


def test_swapped_sizes_of_polygons_come_from_the_image(mask_job) -> None:
    mask_job.add("a.png")
    mask_job.content["images"][0].update(height=32, width=24)
    mask_job.content["annotations"][0]["segmentation"] = [[4, 4, 24, 4, 24, 16, 4, 16]]
    assert mask_job.run() == 0
    assert sum(mask_job.areas()["a.png"]) == 12 * 20
    assert (mask_job.refined()["images"][0]["height"]) == 24


def test_file_names_with_folders(mask_job) -> None:
    mask_job.add("n01/x.png", "n02/x.png", "n02/y.png")
    assert mask_job.run() == 0
    assert list(mask_job.areas()) == ["n01/x.png", "n02/x.png", "n02/y.png"]
    assert (mask_job.work / "annotations/n01/x.json").is_file()
    assert sorted(mask_job.journal()) == ["n01/x", "n02/x", "n02/y"]
    # Edges lie beside each other now: fine for y, but x could be either.
    (mask_job.root / "edges/n02/y.png").rename(mask_job.root / "edges/y.png")
    (mask_job.root / "edges/n02/x.png").rename(mask_job.root / "edges/x.png")
    assert mask_job.run() == 3
    assert mask_job.journal()["n02/y"]["status"] == "done"
    assert "no edge file at" in mask_job.journal()["n02/x"]["reason"]


def test_names_without_the_folders_that_there_are(mask_job) -> None:
    mask_job.add("n01/x.png")
    mask_job.content["images"][0]["file_name"] = "x.png"
    assert mask_job.run() == 0
    assert mask_job.refined()["images"][0]["file_name"] == "n01/x.png"  # as trainers find it


def test_a_list_of_results_whose_ids_are_stems(mask_job, capsys) -> None:
    mask_job.add("000042.png", "7.png")
    mask_job.content = [
        {**annotation, "image_id": number, "score": 0.5}
        for annotation, number in zip(mask_job.content["annotations"], (42, 7), strict=True)
    ]
    assert mask_job.run() == 0
    refined = mask_job.refined()
    assert [(i["id"], i["file_name"]) for i in refined["images"]] == [
        (42, "000042.png"), (7, "7.png"),
    ]  # fmt: skip
    assert {a["score"] for a in refined["annotations"]} == {0.5}
    assert refined["categories"] == [{"id": 1, "name": "object"}]


def test_a_list_of_results_with_a_list_of_images(mask_job) -> None:
    mask_job.add("a.png", "b.png")
    listing = mask_job.root / "truth.json"
    listing.write_text(json.dumps({**mask_job.content, "annotations": []}))
    mask_job.content = mask_job.content["annotations"]
    assert mask_job.run("--images-json", str(listing)) == 0
    assert mask_job.areas().keys() == {"a.png", "b.png"}
    assert mask_job.refined()["categories"][0]["name"] == "fg"


def test_degenerate_masks_are_kept(mask_job) -> None:
    mask_job.add("a.png", "b.png")
    one, whole = np.zeros((24, 32), bool), np.ones((24, 32), bool)
    one[20, 30] = True
    mask_job.add_mask(1, one)
    mask_job.add_mask(2, whole)
    assert mask_job.run() == 0
    assert mask_job.areas()["a.png"][0] == 1
    assert max(mask_job.areas()["b.png"]) > 400


def test_masks_of_an_image_as_stored_are_turned_with_it(mask_job) -> None:
    mask_job.add("a.png")
    tags = Image.Exif()
    tags[0x0112] = 6
    path = mask_job.root / "images/a.png"
    Image.open(path).save(path, exif=tags)
    believed = mask_job.root / "believed.json"
    believed.write_text(json.dumps(EdgeCalibration.assumed().to_json()))
    assert mask_job.run("MODEL.TRACE.EDGES.CALIBRATION", str(believed)) == 0
    image = mask_job.refined()["images"][0]
    assert (image["height"], image["width"]) == (32, 24)
    mask = decode(mask_job.refined()["annotations"][0]) | decode(
        mask_job.refined()["annotations"][1]
    )
    expected = np.zeros((24, 32), bool)
    expected[4:16, 4:24] = True
    assert np.array_equal(mask, np.rot90(expected, 3))


def test_masks_of_different_categories_do_not_merge(mask_job) -> None:
    mask_job.add("a.png")
    mask_job.content["categories"].append({"id": 5, "name": "other"})
    mask = np.zeros((24, 32), bool)
    mask[4:16, 4:24] = True
    mask_job.add_mask(1, mask, category_id=5)
    mask_job.add_mask(1, mask)
    assert mask_job.run(edges=["--no-edges"]) == 0
    annotations = mask_job.refined()["annotations"]
    assert [(a["category_id"], a["area"]) for a in annotations] == [(1, 240), (5, 240)]


def test_edges_of_the_backbone(mask_job, monkeypatch) -> None:
    mask_job.add("n01/a.png", "n01/b.png")
    seen = []

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        seen.append(key)
        edges = np.asarray(Image.open(mask_job.root / f"edges/n01/{key}.png")) / np.float32(255)
        return EdgeOutput(edges=edges, timestep=400)

    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert mask_job.run("--save-edges", edges=[]) == 0
    assert seen == ["a", "b"]
    first = mask_job.output.read_bytes()
    assert [r["timestep"] for r in mask_job.journal().values()] == [400, 400]
    assert "emergence point 400" in (mask_job.work / "report.html").read_text()
    kept = mask_job.root / "kept"
    (mask_job.work / "edges").rename(kept)
    shutil.rmtree(mask_job.root / "out")
    (mask_job.root / "out").mkdir()
    # The folder may come from the config as well.
    pairs = ("MODEL.TRACE.EDGES.SOURCE", "files", "MODEL.TRACE.EDGES.DIR", str(kept))
    assert mask_job.run(*pairs, edges=[]) == 0
    assert mask_job.output.read_bytes() == first


def test_the_report_shows_masks_before_and_after(mask_job) -> None:
    mask_job.add("a.png", "b.png")
    assert mask_job.run("--report-images", "1") == 0
    page = (mask_job.work / "report.html").read_text()
    for title in ("Image", "Given masks", "Edges", "Refined masks"):
        assert f"<figcaption>{title}</figcaption>" in page
    assert page.count("<section") == 1
    assert "<b>2</b><span>masks given</span>" in page
    assert "<b>4</b><span>refined masks</span>" in page
    assert "1 mask given, 2 refined" in page


def test_edges_are_measured_on_the_masks_and_the_measure_can_be_given(mask_job, capsys) -> None:
    mask_job.add("n01/a.png", "n02/b.png")
    mask_job.add_mask(1, np.zeros((24, 32), bool))
    assert mask_job.run() == 0
    measured = mask_job.work / "calibration.json"
    content = json.loads(measured.read_text())
    assert content["sample"] == ["n01/a", "n02/b"]
    assert content["images"] == 2
    assert content["stuff_masks"] == 0
    assert f"edges: {content['trust']:.2f} trust in the edges, of 1\n" in capsys.readouterr().out
    page = (mask_job.work / "report.html").read_text()
    assert f"<b>{content['trust']:.2f}</b><span>trust in the edges, of 1</span>" in page
    before = mask_job.output.read_bytes()
    shutil.copy(measured, mask_job.root / "mine.json")
    given = ("MODEL.TRACE.EDGES.CALIBRATION", str(mask_job.root / "mine.json"))
    assert mask_job.run(*given) == 2
    assert "calibration: absent there" in capsys.readouterr().err
    assert mask_job.run(*given, "--overwrite") == 0
    assert mask_job.run(*given) == 0
    assert mask_job.output.read_bytes() == before


def test_a_changed_annotation_is_refined_again(mask_job, capsys) -> None:
    mask_job.add("a.png", "b.png")
    assert mask_job.run() == 0
    mask = np.zeros((24, 32), bool)
    mask[18:22, 2:30] = True
    mask_job.add_mask(2, mask)
    time.sleep(0.01)
    assert mask_job.run() == 0
    assert "2 refined (1 of them before)" in capsys.readouterr().out
    assert 112 in mask_job.areas()["b.png"]


def test_changed_settings_are_refused_unless_overwritten(mask_job, capsys) -> None:
    mask_job.add("a.png")
    assert mask_job.run() == 0
    assert mask_job.run("MODEL.TRACE.LABELS.NECK_DEPTH", "3.0", "MODEL.TRACE.DEVICE", "cpu") == 0
    assert mask_job.run("MODEL.TRACE.BGP.MERGE_IOU", "0.9") == 2
    said = capsys.readouterr().err
    assert "holds refined masks made with other settings" in said
    assert "MODEL.TRACE.BGP.MERGE_IOU: 0.5 there, 0.9 now" in said
    assert mask_job.run("--overwrite", edges=["--no-edges"]) == 0
    assert mask_job.areas() == {"a.png": [240]}


def test_limit_grows(mask_job) -> None:
    mask_job.add("a.png", "b.png", "c.png")
    assert mask_job.run("--limit", "1") == 0
    assert list(mask_job.areas()) == ["a.png"]
    assert mask_job.run("--limit", "2") == 0
    assert list(mask_job.areas()) == ["a.png", "b.png"]


def test_it_runs_as_a_command() -> None:
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/refine_masks.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--images-json" in run.stdout
    assert "exit status" in run.stdout
