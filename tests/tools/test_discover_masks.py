"""The discoverer of masks as a user runs it: outputs, bad input, usage errors, whole chains."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from trace_d2.masks.methods import METHODS
from trace_d2.masks.settings import DiscoverySettings


class DiscoveryTool:
    """A folder of images with edges, and the command on them.

    Every image shows two boxes that touch; the edges part and outline them.
    """

    slow = ("trace_d2.jobs.kinds.discovered_masks", "DiscoveryJob")

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root, self.tool = root, tool
        self.output = root / "out/masks.json"
        self.work = root / "out/masks.json.work"
        for name in ("images", "edges", "out"):
            (root / name).mkdir()

    def add(self, *names: str, size: tuple[int, int] = (48, 64)) -> None:
        """Add images of ``size`` (H, W), a little different each."""
        for name in names:
            rng = np.random.default_rng([ord(letter) for letter in name])
            middle = int(rng.integers(28, 36)) * size[1] // 64
            image = np.full((*size, 3), (30, 90, 60), np.uint8)
            edges = np.zeros(size, np.uint8)
            boxes = [np.s_[8:40, 6:middle], np.s_[8:40, middle:58]]
            for box, color in zip(boxes, ((200, 60, 40), (60, 80, 220)), strict=True):
                image[box] = color
                mask = np.zeros(size, bool)
                mask[box] = True
                edges[mask ^ ndimage.binary_erosion(mask)] = 255
            self.save(f"images/{name}", image)
            self.save(f"edges/{name.rpartition('.')[0]}.png", edges)

    def save(self, name: str, pixels: np.ndarray, **options: object) -> Path:
        """Write ``pixels`` as an image file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    def arguments(self, *extra: str, method: str | None = "edges") -> list[str]:
        """The command line; with given edges, if the method takes any."""
        return [
            *("--images", str(self.root / "images"), "--output", str(self.output), "--quiet"),
            *(("--method", method) if method else ()),
            *(("--edges", str(self.root / "edges")) if method == "edges" else ()),
            *(() if "--workers" in extra else ("--workers", "1")),
            *extra,
        ]

    def run(self, *extra: str, method: str | None = "edges") -> int:
        """Run the tool in this process; returns its exit status."""
        return self.tool.main(self.arguments(*extra, method=method))

    def merge(self) -> int:
        """Join the masks of shards."""
        return self.tool.main(["--merge", str(self.output)])

    def journal(self) -> dict[str, dict]:
        """The joined journal by stem."""
        lines = (self.work / "journal.jsonl").read_text().splitlines()
        return {r["stem"]: {**r, **r["facts"]} for r in map(json.loads, lines)}

    def found(self) -> dict:
        """The file of masks."""
        return json.loads(self.output.read_text())


@pytest.fixture
def discovery(tmp_path: Path, load_tool) -> DiscoveryTool:
    return DiscoveryTool(tmp_path, load_tool("discover_masks"))


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


# The methods themselves, with the backbone that comes with the package.

TINY = ("MODEL.TRACE.BACKBONE.NAME", "trace-tiny", "MODEL.TRACE.BACKBONE.RESOLUTION", "64")


@pytest.fixture
def odd_images(discovery) -> DiscoveryTool:
    """Two sound images, one of one colour, one smaller than a patch, one that is cut off."""
    discovery.add("a.png", "n1/b.png")
    discovery.save("images/flat.png", np.full((48, 64, 3), 120, np.uint8))
    discovery.save("images/small.png", np.arange(45, dtype=np.uint8).reshape(3, 5, 3))
    path = discovery.save("images/torn.png", np.zeros((48, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:60])
    for stem, size in (("flat", (48, 64)), ("small", (3, 5)), ("torn", (48, 64))):
        discovery.save(f"edges/{stem}.png", np.zeros(size, np.uint8))
    return discovery


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_images_of_all_kinds(odd_images, method):
    assert odd_images.run(*TINY, method=method) == 3
    journal = odd_images.journal()
    assert {stem: record["status"] for stem, record in journal.items()} == {
        **dict.fromkeys(("a", "n1/b", "flat", "small"), "done"),
        "torn": "failed",
    }
    assert "torn.png" in journal["torn"]["reason"]
    if method == "edges":  # a backbone may tell places of one colour apart
        flat = journal["flat"]
        assert (flat["segments"], flat["notes"][-1]) == (0, "no mask was found")
    found = odd_images.found()
    sizes = {image["id"]: [image["height"], image["width"]] for image in found["images"]}
    assert sorted(sizes.values()) == [[3, 5], [48, 64], [48, 64], [48, 64]]
    for annotation in found["annotations"]:
        assert annotation["segmentation"]["size"] == sizes[annotation["image_id"]]
        assert 0 <= annotation["score"] <= 1
        assert coco_mask.decode(annotation["segmentation"]).sum() == annotation["area"] > 0
    assert found["annotations"]


def test_edges_find_the_two_boxes(discovery):
    discovery.add("a.png")
    assert discovery.run() == 0
    image = np.array(Image.open(discovery.root / "images/a.png")).astype(int)
    masks = [coco_mask.decode(one["segmentation"]) for one in discovery.found()["annotations"]]
    for color in ((200, 60, 40), (60, 80, 220)):
        box = (image == color).all(-1)
        assert max((mask & box).sum() / (mask | box).sum() for mask in masks) > 0.85


def test_tokens_and_masks_are_both_on_the_page(discovery):
    discovery.add("a.png")
    assert discovery.run(*TINY, method="promerge") == 0
    preview = json.loads((discovery.work / "previews/a.json").read_text())
    assert sorted(preview["regions"]) == ["masks", "tokens"]
    settings = json.loads((discovery.work / "settings.json").read_text())
    assert any("DISCOVERY.PROMERGE." in key for key in settings)
    assert settings["MODEL.TRACE.BACKBONE.NAME"] == "trace-tiny"
    assert not any("DISCOVERY.EDGES" in key or "NCUT" in key for key in settings)
    # How the work is done changes no result.
    assert discovery.run(*TINY, "MODEL.TRACE.EDGES.BATCH", "2", method="promerge") == 0


def test_features_that_are_not_finite_fail_their_image(discovery, monkeypatch, capsys):
    from trace_d2.masks import features

    discovery.add("a.png")
    monkeypatch.setattr(features, "key_features", lambda keys: keys * float("nan"))
    assert discovery.run(*TINY, method="promerge") == 3
    said = capsys.readouterr().err
    assert "failed: a.png: " in said
    assert "features are not finite" in said
    reason = discovery.journal()["a"]["reason"]
    assert reason.startswith("features are not finite: the weights may be damaged")
    assert "\n" not in reason
    assert "BACKBONE.DTYPE" not in said  # it ran in float32


def test_masks_that_are_the_same_once_sharp_are_kept_once(discovery, monkeypatch, capsys):
    from trace_d2.masks.sharpening import Sharpener

    whole = np.zeros((48, 64), bool)
    whole[8:40, 6:58] = True
    discovery.add("a.png")
    monkeypatch.setattr(Sharpener, "of_image", lambda *_: lambda mask: whole)
    assert discovery.run(*TINY, "MODEL.TRACE.DISCOVERY.MAX_MASKS", "5", method="ncut") == 0
    record = discovery.journal()["a"]
    assert record["segments"] == 1 < record["twins"]
    said = f"left out: {record['twins']} masks of tokens, the same as a better one"
    assert said in capsys.readouterr().out


def test_the_page_of_token_methods_tells_backbone_and_features(discovery):
    discovery.add("a.png")
    assert discovery.run(*TINY, method="promerge") == 0
    head = (discovery.work / "report.html").read_text().partition("<img")[0]
    found = re.sub(r"<[^>]+>", " ", head)
    assert re.search(r"Backbone\s+trace-tiny\s+Features\s+keys", found), found[:3000]
    assert not re.search(r"Edges\s+none", found)


@pytest.mark.parametrize(("method", "blind"), [("edges", True), ("ncut", False)])
def test_refining_masks_that_edges_drew_warns(discovery, refine_masks, capsys, method, blind):
    discovery.add("a.png", "b.png")
    assert discovery.run(*(TINY if method == "ncut" else ()), method=method) == 0
    assert discovery.found()["info"]["method"] == method
    refined = discovery.root / "out/refined.json"
    paths = ["--images", str(discovery.root / "images"), "--masks", str(discovery.output)]
    edges = ["--edges", str(discovery.root / "edges"), "--workers", "1"]
    capsys.readouterr()
    assert refine_masks.main([*paths, *edges, "--output", str(refined)]) == 0
    out, err = capsys.readouterr()
    page = Path(f"{refined}.work/report.html").read_text()
    assert ("warning: these masks were drawn along edges" in err) is blind
    assert ("these masks were drawn along edges" in page) is blind
    assert ("trust in the edges, of 1" in out) is not blind
    assert ("trust in the edges, of 1" in page) is not blind
    for option, value in (
        ("--no-edges", ()),
        (
            "--edges",
            (edges[1], "MODEL.TRACE.EDGES.CALIBRATION", f"{refined}.work/calibration.json"),
        ),
    ):
        other = str(discovery.root / f"out/other{option}.json")
        given = [*paths, "--workers", "1", "--output", other, option, *value]
        assert refine_masks.main(given) == 0
        assert "drawn along edges" not in capsys.readouterr().err


def test_a_killed_job_goes_on_and_shards_give_the_same_file(discovery, start_slowly, capsys):
    names = [f"n{number % 2}/{number}.png" for number in range(5)]
    discovery.add(*names)
    assert discovery.run() == 0
    expected = discovery.output.read_bytes()
    discovery.output.unlink()
    shutil.rmtree(discovery.work)
    process = start_slowly(discovery, seconds=0.5)
    process.kill()
    process.communicate()
    capsys.readouterr()
    assert discovery.run("--shard", "1/2") == 0
    assert discovery.run("--shard", "2/2") == 0
    assert " 0 of them before" not in capsys.readouterr().out
    assert discovery.merge() == 0
    assert discovery.output.read_bytes() == expected


def test_workers_find_the_same(discovery):
    discovery.add("a.png", "n1/b.png")
    assert discovery.run(*TINY, method="promerge") == 0
    expected = discovery.output.read_bytes()
    discovery.output.unlink()
    shutil.rmtree(discovery.work)
    assert discovery.run(*TINY, "--workers", "2", method="promerge") == 0
    assert discovery.output.read_bytes() == expected
