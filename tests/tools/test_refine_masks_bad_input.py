"""What the refiner of masks says of bad input and of usage errors."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image


def test_what_is_left_out_is_in_the_journal(mask_job, capsys) -> None:
    mask_job.add("a.png", "b.png", "c.png")
    mask_job.add_mask(1, np.zeros((24, 32), bool))
    mask_job.add_mask(99, np.ones((24, 32), bool))
    mask_job.content["annotations"][2]["segmentation"]["counts"] = "oops"
    assert mask_job.run() == 0
    said = capsys.readouterr().out
    assert "note: 1 annotations have an empty mask (left out); first: annotation 4:" in said
    assert "3 refined" not in said
    assert "2 refined (0 of them before), 1 skipped, 0 failed" in said
    records = mask_job.journal()
    assert records["a"]["notes"] == ["annotation 4 is left out: its mask is empty"]
    assert records["c"]["status"] == "skipped"
    assert re.search(r"no mask to refine\nannotation 3 is left out: counts", records["c"]["reason"])
    lines = (mask_job.work / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["annotation_id"] for line in lines] == [3, 4, 5]
    page = (mask_job.work / "report.html").read_text()
    assert "Annotations left out (3)" in page
    assert "image_id 99" in page


def test_images_that_are_absent_or_damaged(mask_job, capsys) -> None:
    mask_job.add("a.png", "b.png", "c.png", "d.png")
    (mask_job.root / "images/b.png").unlink()
    whole = (mask_job.root / "images/c.png").read_bytes()
    (mask_job.root / "images/c.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (30, 20)).save(mask_job.root / "images/d.png")
    Image.new("L", (30, 20)).save(mask_job.root / "edges/d.png")
    assert mask_job.run() == 3
    said = capsys.readouterr()
    assert "note: 1 images are skipped; first: no image b.png in" in said.out
    assert "1 refined (0 of them before), 1 skipped, 2 failed" in said.out
    records = mask_job.journal()
    assert records["b.png"]["status"] == "skipped"
    assert re.search(r"c\.png cannot be read .*repair or replace it", records["c"]["reason"])
    assert re.search(r"a mask of d\.png is 32x24 pixels, but .* is 30x20", records["d"]["reason"])
    assert list(mask_job.areas()) == ["a.png"]
    (mask_job.root / "images/c.png").write_bytes(whole)
    mask_job.run()
    assert "2 refined (1 of them before)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shard", "3/2"], r"--shard is I/N"),
        (["--config-file", "nowhere.yaml"], r"no config file at nowhere\.yaml"),
        (["MODEL.TRACE.NONSENSE", "1"], r"NONSENSE"),
        (["MODEL.TRACE.BGP.STRIDE", "0"], r"STRIDE"),
        (["--masks", "nowhere.json"], r"no file at nowhere\.json"),
        (["--images", "nowhere"], r"no folder at nowhere: correct --images"),
        (["--edges", "nowhere"], r"no folder at nowhere: correct --edges"),
        (["--images-json", "nowhere.json"], r"no file at nowhere\.json"),
    ],
)
def test_usage_errors(mask_job, capsys, extra: list[str], message: str) -> None:
    mask_job.add("a.png")
    assert mask_job.run(*extra) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not mask_job.work.exists()


def test_unusable_files_end_with_2_and_a_remedy(mask_job, capsys) -> None:
    mask_job.add("a.png")
    sound, mask_job.content = mask_job.content, None
    for text, message in {
        "{": "is not valid JSON",
        "[]": "no annotations at all: make the masks first",
        json.dumps({**sound, "images": []}): "no mask that can be used",
    }.items():
        mask_job.masks.write_text(text)
        assert mask_job.run() == 2
        assert message in capsys.readouterr().err
    mask_job.masks.write_text(json.dumps(sound))
    (mask_job.root / "images/a.png").unlink()
    assert mask_job.run() == 2
    assert "none of the 1 images" in capsys.readouterr().err
    for wrong, message in {
        ("MODEL.TRACE.EDGES.SOURCE", "files"): "correct MODEL.TRACE.EDGES.DIR",
        ("MODEL.TRACE.EDGES.SOURCE", "magic"): "MODEL.TRACE.EDGES.SOURCE is 'magic'",
    }.items():
        assert mask_job.run(*wrong, edges=[]) == 2
        assert message in capsys.readouterr().err


def test_files_of_others_are_left_alone(mask_job, capsys) -> None:
    mask_job.add("a.png")
    mask_job.arguments()
    mask_job.output = mask_job.masks
    before = mask_job.masks.read_bytes()
    assert mask_job.run() == 2
    assert "masks.json is --masks as well, which would be lost" in capsys.readouterr().err
    assert mask_job.masks.read_bytes() == before
    mask_job.output = mask_job.root / "images"
    assert mask_job.run() == 2
    assert "is a folder: choose a file for --output" in capsys.readouterr().err
    mask_job.output = mask_job.root / "other.json"
    (mask_job.root / "other.json.work").mkdir()
    (mask_job.root / "other.json.work/mine.txt").write_text("")
    assert mask_job.run() == 2
    assert "holds no refined masks of this tool" in capsys.readouterr().err
    assert mask_job.merge() == 2
