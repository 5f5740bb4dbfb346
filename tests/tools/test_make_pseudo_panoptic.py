"""The label maker as a user runs it: outputs, odd images, going on."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trace_d2.edges.sources import EdgeOutput

DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def panoptic_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def test_the_files_are_what_coco_readers_expect(label_job, capsys) -> None:
    label_job.add("12", "5")
    assert label_job.run() == 0
    assert "2 labelled (0 of them before), 0 skipped, 0 failed" in capsys.readouterr().out
    panoptic = label_job.coco("panoptic.json")
    assert [image["id"] for image in panoptic["images"]] == [12, 5]
    assert panoptic["images"][0] == {"id": 12, "file_name": "12.png", "height": 24, "width": 32}
    assert [c["id"] for c in panoptic["categories"]] == [0, 3, 7]
    assert {c["name"]: c["isthing"] for c in panoptic["categories"]} == {
        "ground": 0, "cat": 1, "dog": 1,
    }  # fmt: skip
    for annotation in panoptic["annotations"]:
        ids = panoptic_ids(label_job.output / "panoptic" / annotation["file_name"])
        segments = annotation["segments_info"]
        assert sorted(s["category_id"] for s in segments) == [0, 3, 3, 7]
        assert set(np.unique(ids)) == {0} | {s["id"] for s in segments}
        mask = np.asarray(Image.open(label_job.root / f"semantic/{annotation['file_name']}"))
        for segment in segments:
            own = ids == segment["id"]
            assert set(mask[own]) == {segment["category_id"]}
            assert segment["area"] == own.sum()
            x, y, width, height = segment["bbox"]
            assert own[y : y + height, x : x + width].sum() == segment["area"]
        assert (ids == 0).tolist() == (mask == 255).tolist()


def test_instances_and_train_ids_agree_with_the_segments(label_job) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    with_api = COCO(str(label_job.output / "instances.json"))
    assert sorted(with_api.cats) == [3, 7]
    assert sorted(with_api.anns) == [1, 2, 3, 4, 5, 6]
    panoptic = label_job.coco("panoptic.json")
    for annotation in panoptic["annotations"]:
        ids = panoptic_ids(label_job.output / "panoptic" / annotation["file_name"])
        things = [s for s in annotation["segments_info"] if s["category_id"] != 0]
        own = with_api.loadAnns(with_api.getAnnIds(imgIds=[annotation["image_id"]]))
        assert [a["category_id"] for a in own] == [s["category_id"] for s in things]
        for instance, segment in zip(own, things, strict=True):
            decoded = coco_mask.decode(instance["segmentation"]).astype(bool)
            assert (decoded == (ids == segment["id"])).all()
        trained = np.asarray(Image.open(label_job.output / "semantic" / annotation["file_name"]))
        given = np.asarray(Image.open(label_job.root / "semantic" / annotation["file_name"]))
        for category, rank in ((0, 0), (3, 1), (7, 2), (255, 255)):
            assert ((given == category) == (trained == rank)).all()


def test_edges_decide_how_many_cats_there_are(label_job) -> None:
    label_job.add("a")
    assert label_job.run() == 0
    assert label_job.journal()["a"]["things"] == 3
    shutil.rmtree(label_job.output)
    assert label_job.run(edges=["--no-edges"]) == 0
    assert label_job.journal()["a"]["things"] == 2


def test_an_image_without_a_mask_is_skipped(label_job) -> None:
    label_job.add("a", "b")
    (label_job.root / "semantic/b.png").unlink()
    assert label_job.run() == 0
    assert label_job.journal()["b"]["status"] == "skipped"
    assert "no semantic mask at" in label_job.reason("b")
    assert len(label_job.coco("panoptic.json")["images"]) == 1


def test_an_all_unknown_mask_gives_a_label_without_segments(label_job) -> None:
    label_job.add("a", "b")
    label_job.save("semantic/b.png", np.full((24, 32), 255, np.uint8))
    assert label_job.run() == 0
    record = label_job.journal()["b"]
    assert (record["status"], record["segments"]) == ("done", 0)
    assert record["notes"][0] == "the mask is all unknown (255)"
    assert label_job.coco("panoptic.json")["annotations"][1]["segments_info"] == []
    assert not panoptic_ids(label_job.output / "panoptic/b.png").any()


def test_constant_edges_are_no_edges(label_job) -> None:
    label_job.add("a")
    label_job.save("edges/a.png", np.full((24, 32), 255, np.uint8))
    assert label_job.run() == 0
    assert label_job.journal()["a"]["things"] == 2
    assert "cut nothing" in label_job.journal()["a"]["notes"][0]


def test_images_of_every_kind(label_job) -> None:
    stems = ["alpha", "deep", "exif", "grey"]
    label_job.add(*stems)
    pixels = np.asarray(Image.open(label_job.root / "images/grey.png"))
    label_job.save("images/grey.png", pixels[..., 0])
    label_job.save("images/deep.png", pixels[..., 0].astype(np.uint16) * 257)
    label_job.save("images/alpha.png", np.dstack([pixels, pixels[..., 0]]))
    tags = Image.Exif()
    tags[0x0112] = 6
    label_job.save("images/exif.png", pixels, exif=tags)
    assert label_job.run() == 0
    sizes = {
        i["file_name"]: (i["height"], i["width"]) for i in label_job.coco("panoptic.json")["images"]
    }
    assert sizes == {f"{s}.png": (32, 24) if s == "exif" else (24, 32) for s in stems}
    assert len(label_job.journal()["exif"]["notes"]) == 2  # the mask and the edges were turned


def test_one_pixel(label_job) -> None:
    label_job.save("images/a.png", np.zeros((1, 1, 3), np.uint8))
    label_job.save("semantic/a.png", np.full((1, 1), 3, np.uint8))
    label_job.save("edges/a.png", np.zeros((1, 1), np.uint8))
    assert label_job.run() == 0
    assert label_job.coco("instances.json")["annotations"][0]["area"] == 1


def test_more_pixels_than_float32_counts(label_job) -> None:
    height, width = 4000, 4200
    assert height * width > 2**24
    mask = np.zeros((height, width), np.uint8)
    mask[400:1400, 500:2500] = 3
    mask[1600:3900, 200:4100] = 7
    edges = np.zeros_like(mask)
    edges[400:1400, 1500] = 255
    for top, bottom, left, right in ((400, 1400, 500, 2500), (1600, 3900, 200, 4100)):
        edges[top:bottom, [left - 1, right - 1]] = 255
        edges[[top - 1, bottom - 1], left:right] = 255
    label_job.save("images/a.jpg", np.zeros((height, width, 3), np.uint8))
    label_job.save("semantic/a.png", mask, compress_level=1)
    label_job.save("edges/a.png", edges, compress_level=1)
    assert label_job.run("--report-images", "0") == 0
    assert label_job.journal()["a"]["things"] == 3


def test_kept_edges_give_the_same_labels_again(label_job, monkeypatch) -> None:
    label_job.add("a", "b")
    seen = []

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        seen.append(key)
        edges = np.asarray(Image.open(label_job.root / f"edges/{key}.png")) / np.float32(255)
        noise = np.random.default_rng(len(key)).random(edges.shape, dtype=np.float32)
        return EdgeOutput(edges=0.9 * edges + 0.1 * noise, timestep=400)

    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert label_job.run("--save-edges", edges=[]) == 0
    assert seen == ["a", "b"]
    assert [r["timestep"] for r in label_job.journal().values()] == [400, 400]
    assert "emergence point 400" in (label_job.output / "report.html").read_text()
    first = label_job.contents()
    kept = label_job.root / "kept"
    (label_job.output / "edges").rename(kept)
    shutil.rmtree(label_job.output)
    assert label_job.run(edges=["--edges", str(kept)]) == 0
    assert label_job.contents() == first
    # Without kept edges the labels are the same, and workers make them just so.
    shutil.rmtree(label_job.output)
    assert label_job.run("--workers", "2", edges=[]) == 0
    assert label_job.contents() == first


def test_ids_from_a_list_of_images(label_job, capsys) -> None:
    label_job.add("a", "b", "c")
    listed = [{"id": 70, "file_name": "b.png"}, {"id": 4, "file_name": "train/a.jpg"}]
    path = label_job.root / "list.json"
    path.write_text(json.dumps({"images": listed}))
    assert label_job.run("--images-json", str(path)) == 0
    assert [i["id"] for i in label_job.coco("panoptic.json")["images"]] == [4, 70]
    assert label_job.journal()["c"]["status"] == "skipped"
    assert "does not name 1 images: c.png" in capsys.readouterr().out
    path.write_text(json.dumps([{"id": 1, "file_name": "z.jpg"}]))
    assert label_job.run("--images-json", str(path)) == 2
    assert "names none of the 3 images (the first is a.png)" in capsys.readouterr().err


def test_limit_grows(label_job) -> None:
    label_job.add("a", "b", "c")
    assert label_job.run("--limit", "1") == 0
    assert sorted(label_job.journal()) == ["a"]
    assert label_job.run("--limit", "2") == 0
    assert sorted(label_job.journal()) == ["a", "b"]
    assert label_job.run("--limit", "1") == 0  # nothing that is finished is lost
    assert len(label_job.coco("panoptic.json")["images"]) == 2


def test_changed_settings_are_refused_unless_overwritten(label_job, capsys) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    before = label_job.contents()
    assert label_job.run(edges=["--no-edges"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"edges: .*/edges there, none now", said)
    assert "--overwrite" in said
    assert label_job.contents() == before
    shutil.copy(label_job.root / "images/a.png", label_job.root / "images/c.png")
    (label_job.root / "images/b.png").unlink()
    assert label_job.run("--overwrite", edges=["--no-edges"]) == 0
    assert not (label_job.output / "panoptic/b.png").exists()
    assert label_job.journal()["a"]["things"] == 2
    # With settings that agree, --overwrite goes on like the plain command.
    capsys.readouterr()
    assert label_job.run("--overwrite", edges=["--no-edges"]) == 0
    assert "1 labelled (1 of them before)" in capsys.readouterr().out


def test_edges_are_measured_and_the_measure_can_be_given(label_job, capsys) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    said = capsys.readouterr()
    measured = label_job.output / "calibration.json"
    trust = json.loads(measured.read_text())["trust"]
    assert re.search(
        rf"^edges: {trust:.2f} trust in the edges, of 1; 0\.00 pieces that edges would cut off a "
        r"stuff mask; \d\.\d things an image; 2\.0 things an image if edges cut nothing$",
        said.out, re.M,
    )  # fmt: skip
    assert "say little" not in said.err
    before = label_job.contents()
    kept = label_job.root / "mine.json"
    shutil.copy(measured, kept)
    given = ("MODEL.TRACE.EDGES.CALIBRATION", str(kept))
    assert label_job.run(*given) == 2
    assert re.search(r"calibration: absent there, .*trust .* now", capsys.readouterr().err)
    assert label_job.run(*given, "--overwrite") == 0
    assert label_job.run(*given) == 0
    assert label_job.contents() == before
    assert not measured.exists()
    for path, message in (
        ("nowhere.json", "no calibration of edges at nowhere"),
        (kept, "damaged"),
    ):
        kept.write_text("{")
        assert label_job.run("MODEL.TRACE.EDGES.CALIBRATION", str(path)) == 2
        assert message in capsys.readouterr().err


def test_useless_edges_are_told(label_job, capsys) -> None:
    label_job.add("a", "b")
    stripes = np.zeros((24, 32), np.uint8)
    stripes[:, ::4] = 255
    for stem in "ab":
        label_job.save(f"edges/{stem}.png", stripes)
    assert label_job.run() == 0
    assert "warning: these edges say little here" in capsys.readouterr().err
    assert "these edges say little here" in (label_job.output / "report.html").read_text()


def test_changed_categories_are_named(label_job, capsys) -> None:
    label_job.add("a")
    assert label_job.run() == 0
    entries = json.loads(label_job.categories.read_text())
    entries[1]["isthing"] = 0
    label_job.categories.write_text(json.dumps(entries))
    assert label_job.run() == 2
    assert "categories: " in capsys.readouterr().err


def test_a_changed_input_is_labelled_again(label_job, capsys) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    time.sleep(0.01)
    label_job.save("semantic/b.png", np.zeros((24, 32), np.uint8))
    assert label_job.run() == 0
    assert "2 labelled (1 of them before)" in capsys.readouterr().out
    assert label_job.journal()["b"]["segments"] == 1


def test_a_label_file_that_was_removed_is_made_again(label_job) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    before = label_job.contents()
    (label_job.output / "panoptic/a.png").unlink()
    assert label_job.run() == 0
    assert label_job.contents() == before


def test_config_pairs_may_stand_between_options(label_job) -> None:
    label_job.add("a")
    assert label_job.run("MODEL.TRACE.SEED", "3", "--limit", "1") == 0
    # Given edges do not depend on the seed of the backbone, so this is no change.
    assert label_job.run("MODEL.TRACE.SEED", "4") == 0
