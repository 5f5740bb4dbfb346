"""The discoverer of masks as a user runs it: outputs, bad input, usage errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from trace_d2.masks.methods import METHODS
from trace_d2.masks.settings import DiscoverySettings


class Standing:
    """In place of a method: its masks with scores are told."""

    def __init__(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = DiscoverySettings
        self.masks: object = parts_between
        monkeypatch.setitem(METHODS, method, self)

    def of_one(self, cfg):
        return self.masks


def parts_between(edges: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """The parts between edges, whose scores are their shares of the image."""
    numbers, count = ndimage.label(edges < 0.5)
    for number in range(1, count + 1):
        yield numbers == number, float((numbers == number).mean())


@pytest.fixture
def parts(monkeypatch) -> Standing:
    return Standing("edges", monkeypatch)


def test_masks_are_coco_with_scores(discovery, parts, capsys):
    discovery.add("n1/b.png", "a.png")
    assert discovery.run() == 0
    said = capsys.readouterr().out
    assert "2 searched (0 of them before), 0 skipped, 0 failed\n6 masks in 2 images\n" in said
    assert f"masks: {discovery.output}   to look at: {discovery.work}/report.html" in said
    found = discovery.found()
    assert found["categories"] == [{"id": 1, "name": "object", "isthing": 1}]
    assert found["images"] == [
        {"id": 1, "file_name": "a.png", "height": 48, "width": 64},
        {"id": 2, "file_name": "n1/b.png", "height": 48, "width": 64},
    ]
    assert [one["id"] for one in found["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [one["image_id"] for one in found["annotations"]] == [1, 1, 1, 2, 2, 2]
    for image, name in ((1, "a"), (2, "n1/b")):
        own = [one for one in found["annotations"] if one["image_id"] == image]
        edges = np.array(Image.open(discovery.root / f"edges/{name}.png")) / 255
        expected = sorted(parts_between(edges), key=lambda one: -one[1])
        for annotation, (mask, score) in zip(own, expected, strict=True):
            assert np.array_equal(coco_mask.decode(annotation["segmentation"]), mask)
            assert annotation["score"] == score
            assert annotation["area"] == mask.sum()
            assert (annotation["category_id"], annotation["iscrowd"]) == (1, 0)
    coco = COCO(str(discovery.output))
    assert coco.annToMask(coco.anns[1]).shape == (48, 64)


def test_the_report_shows_masks_and_edges(discovery, parts):
    discovery.add("a.png")
    assert discovery.run() == 0
    page = (discovery.work / "report.html").read_text()
    assert "Discovered masks" in page
    assert "MODEL.TRACE.DISCOVERY.METHOD" in page
    preview = json.loads((discovery.work / "previews/a.json").read_text())
    assert (list(preview["regions"]), list(preview["strengths"])) == (["masks"], ["edges"])
    marks = [mark[1:] for mark in preview["regions"]["masks"]["marks"]]
    assert [mark[0] for mark in marks] == ["object"] * 3
    assert all("score 0." in mark[2] for mark in marks)


def test_refined_masks_are_made_of_the_file_as_it_is(discovery, parts, refine_masks, capsys):
    discovery.add("a.png", "n1/b.png")
    discovery.save("images/blank.png", np.zeros((8, 8, 3), np.uint8))
    discovery.save("edges/blank.png", np.zeros((8, 8), np.uint8))
    parts.masks = lambda edges: (one for one in parts_between(edges) if one[0].size > 64)
    assert discovery.run() == 0
    capsys.readouterr()
    refined = discovery.root / "refined.json"
    command = ["--images", str(discovery.root / "images"), "--masks", str(discovery.output)]
    command += ["--output", str(refined), "--edges", str(discovery.root / "edges"), "--quiet"]
    assert refine_masks.main([*command, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "6 masks to refine in 2 of 3 images" in said
    assert "2 refined (0 of them before), 1 skipped, 0 failed" in said
    content = json.loads(refined.read_text())
    assert content["categories"] == discovery.found()["categories"]
    assert all(0 < one["score"] <= 1 for one in content["annotations"])


def test_images_without_masks_are_recorded_and_in_the_file(discovery, parts, capsys):
    discovery.add("a.png", "b.png")
    parts.masks = lambda edges: iter(())
    assert discovery.run() == 0
    assert "2 of 2 images have no mask; they are in the file" in capsys.readouterr().out
    assert [image["file_name"] for image in discovery.found()["images"]] == ["a.png", "b.png"]
    assert discovery.found()["annotations"] == []
    record = discovery.journal()["a"]
    assert (record["status"], record["segments"]) == ("done", 0)
    assert record["notes"] == ["no mask was found"]
    assert discovery.run() == 0
    assert "2 searched (2 of them before)" in capsys.readouterr().out


def test_thousands_of_masks_are_encoded_as_they_come(discovery, parts):
    discovery.add("a.png")
    alive: list[np.ndarray] = []

    def many(edges: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        # The mask before may still be in use, those before it are not.
        for number in range(3000):
            mask = np.zeros(edges.shape, bool)
            mask.flat[number] = True
            alive.append(mask)
            assert len(alive) < 3 or sys_references(alive.pop(0)) <= 1
            yield mask, number / 3000

    parts.masks = many
    assert discovery.run() == 0
    scores = [one["score"] for one in discovery.found()["annotations"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3000


def sys_references(array: np.ndarray) -> int:
    """How many others refer to ``array``, the caller's frame and this one aside."""
    return sys.getrefcount(array) - 3


def test_the_best_masks_alone_are_kept(discovery, parts):
    discovery.add("a.png")
    assert discovery.run() == 0
    every = discovery.found()["annotations"]
    assert discovery.run("--overwrite", "MODEL.TRACE.DISCOVERY.MAX_MASKS", "2") == 0
    assert discovery.found()["annotations"] == every[:2]


def test_what_is_no_mask_fails_its_image_alone(discovery, parts, capsys):
    discovery.add("a.png", "b.png", "c.png", "d.png")
    calls = []

    def wrong(edges: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        calls.append(1)
        yield from (
            [(edges > 0, 0.5)],
            [(edges > 0, float("nan"))],
            [(edges, 0.5)],
            [(edges[1:] > 0, 0.5)],
        )[len(calls) - 1]

    parts.masks = wrong
    assert discovery.run() == 3
    assert "1 searched (0 of them before), 0 skipped, 3 failed" in capsys.readouterr().out
    journal = discovery.journal()
    assert "the score nan, not one of bool (48, 64)" in journal["b"]["reason"]
    assert "a mask of float32 (48, 64)" in journal["c"]["reason"]
    assert "a mask of bool (47, 64)" in journal["d"]["reason"]
    assert [image["file_name"] for image in discovery.found()["images"]] == ["a.png"]


def test_changed_images_edges_and_settings_are_searched_again(discovery, parts, capsys):
    discovery.add("a.png", "b.png")
    assert discovery.run() == 0
    discovery.save("edges/b.png", np.zeros((48, 64), np.uint8))
    capsys.readouterr()
    assert discovery.run() == 0
    assert "2 searched (1 of them before)" in capsys.readouterr().out
    assert discovery.run("MODEL.TRACE.DISCOVERY.MAX_MASKS", "1") == 2
    assert "MODEL.TRACE.DISCOVERY.MAX_MASKS" in capsys.readouterr().err
    # What tells nothing of this method changes nothing.
    assert discovery.run("MODEL.TRACE.DISCOVERY.SHARPEN", "none") == 0
    assert "2 searched (2 of them before)" in capsys.readouterr().out


def test_edges_of_another_size_and_missing_ones_are_named(discovery, parts, capsys):
    discovery.add("a.png", "b.png", "c.png")
    discovery.save("edges/b.png", np.zeros((9, 9), np.uint8))
    (discovery.root / "edges/c.png").unlink()
    assert discovery.run() == 3
    assert "no edge file at" in discovery.journal()["c"]["reason"]
    assert "b.png" in discovery.journal()["b"]["reason"]
    assert discovery.journal()["a"]["status"] == "done"


def test_a_folder_without_images_is_refused(discovery, parts, capsys):
    assert discovery.run() == 2
    assert f"no images in {discovery.root / 'images'}" in capsys.readouterr().err
    assert not discovery.work.exists()


def test_options_that_do_not_go_together(discovery, parts, monkeypatch, capsys):
    discovery.add("a.png")
    for method in ("ncut", "tokencut"):
        Standing(method, monkeypatch)
    edges = ["--edges", str(discovery.root / "edges"), "--save-edges"]
    assert discovery.run(edges[0], edges[1], method="ncut") == 2
    assert "--edges goes with --method edges, and the method is ncut" in capsys.readouterr().err
    assert discovery.run("--save-edges", method="tokencut") == 2
    assert "--save-edges goes with --method edges" in capsys.readouterr().err
    none = ("MODEL.TRACE.EDGES.SOURCE", "none")
    assert discovery.tool.main([a for a in discovery.arguments(*none) if a not in edges]) == 2
    assert "--method edges takes edges: set it to another" in capsys.readouterr().err


def test_the_method_of_the_config_counts_without_the_option(discovery, parts, capsys):
    discovery.add("a.png")
    files = ("MODEL.TRACE.EDGES.SOURCE", "files", "MODEL.TRACE.EDGES.DIR")
    assert discovery.run(*files, str(discovery.root / "edges"), method=None) == 0
    assert len(discovery.found()["annotations"]) == 3
    assert discovery.run("MODEL.TRACE.DISCOVERY.METHOD", "nct", method=None) == 2
    assert "DISCOVERY.METHOD must be one of edges, ncut" in capsys.readouterr().err
