"""Every method of mask discovery by the command line, with the backbone of the package."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from discovery import DiscoveryTool
from PIL import Image
from pycocotools import mask as coco_mask

from trace_d2.masks.methods import METHODS

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


def test_a_killed_job_goes_on_and_shards_give_the_same_file(discovery, start_midway, capsys):
    names = [f"n{number % 2}/{number}.png" for number in range(5)]
    discovery.add(*names)
    assert discovery.run() == 0
    expected = discovery.output.read_bytes()
    discovery.output.unlink()
    shutil.rmtree(discovery.work)
    process = start_midway(discovery)
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
