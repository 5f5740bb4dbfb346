"""What the label maker says of bad input and of usage errors."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from trace_d2.edges.sources import EdgeOutput

DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def test_many_failures_are_told_by_kind(label_job, capsys) -> None:
    stems = [f"{number:02}" for number in range(12)]
    label_job.add(*stems)
    for stem in stems[1:]:
        label_job.save(f"semantic/{stem}.png", np.zeros((20 + int(stem), 32), np.uint8))
    for stem in stems[:10:9]:
        (label_job.root / f"edges/{stem}.png").unlink()
    assert label_job.run() == 3
    said = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("failed", "all"))
    ]
    at = label_job.root / "semantic/01.png"
    assert said[0].startswith(f"failed: 01.png: {at} is 32x21 pixels, but the image ")
    assert said[0].endswith(" (and 8 like it)")
    assert said[1].startswith(f"failed: 00.png: no edge file at {label_job.root}/edges/00.png ")
    assert said[1].endswith(" (and 1 like it)")
    assert said[2:] == [f"all 11 are in {label_job.output}/journal.jsonl"]


BAD = {
    "truncated image": (r"images/x\.png cannot be read .*: repair or replace it"),
    "no image": (r"images/x\.png cannot be read .*: repair or replace it"),
    "dangling image": (r"no image at .*images/x\.png"),
    "truncated mask": (r"semantic/x\.png cannot be read .*: write the mask again"),
    "colour mask": (r"semantic/x\.png has colours that no category has"),
    "mask size": (r"semantic/x\.png is 31x24 pixels, but the image .*x\.png is 32x24: make it"),
    "class value": (r"class values \[9\] that the categories \(.*categories\.json\) lack: add"),
    "NaN edges": (r"edges/x\.npy has NaN or infinite values in 1 of 768 pixels"),
    "no edges": (r"no edge file at .*edges/x\.png \(nor x\.npy\)"),
    "two edges": (r"both .*x\.png and x\.npy exist: remove one"),
    "edge size": (r"edges/x\.png is 32x23 pixels, but the image .*x\.png is 32x24"),
}


def spoil(job, how: str) -> None:
    """Make the inputs of the image x bad in one way."""
    image, mask, edges = (job.root / f"{kind}/x.png" for kind in ("images", "semantic", "edges"))
    pixels = np.array(Image.open(mask))
    if how in ("truncated image", "truncated mask"):
        path = image if how == "truncated image" else mask
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "no image":
        image.write_bytes(b"<html>not found</html>")
    elif how == "dangling image":
        image.unlink()
        image.symlink_to(job.root / "gone.png")
    elif how == "colour mask":
        Image.fromarray(pixels).convert("RGB").save(mask)
    elif how == "mask size":
        job.save("semantic/x.png", pixels[:, :-1])
    elif how == "class value":
        pixels[5, 5] = 9
        job.save("semantic/x.png", pixels)
    elif how == "edge size":
        job.save("edges/x.png", pixels[:-1])
    else:
        values = np.zeros(pixels.shape, np.float32)
        values[2, 2] = np.nan
        if how in ("NaN edges", "two edges"):
            np.save(edges.with_suffix(".npy"), values)
        if how != "two edges":
            edges.unlink()


@pytest.mark.parametrize("how", BAD)
def test_bad_input_is_recorded_and_the_others_go_on(label_job, capsys, how: str) -> None:
    label_job.add("w", "x", "y")
    spoil(label_job, how)
    assert label_job.run() == 3
    assert "2 labelled (0 of them before), 0 skipped, 1 failed" in (said := capsys.readouterr()).out
    assert re.search(BAD[how], label_job.reason("x"), re.S)
    assert "failed: x.png: " in said.err
    assert [i["file_name"] for i in label_job.coco("panoptic.json")["images"]] == ["w.png", "y.png"]
    assert "x.png" in (label_job.output / "report.html").read_text()
    label_job.add("x")
    (label_job.root / "edges/x.npy").unlink(missing_ok=True)
    assert label_job.run() == 0
    assert "3 labelled (2 of them before), 0 skipped, 0 failed" in capsys.readouterr().out


def test_edges_of_a_backbone_that_fails_are_a_failure(label_job, monkeypatch) -> None:
    label_job.add("a", "b")

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        if key == "b":
            raise RuntimeError("CUDA out of memory")
        return EdgeOutput(edges=np.full((24, 32), np.nan, np.float32), timestep=0)

    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert label_job.run(edges=[]) == 3
    assert label_job.reason("a").startswith("the edges detected in a.png has NaN")
    # What nobody foresaw is recorded with where it came from.
    assert label_job.reason("b").startswith("Traceback")
    assert label_job.reason("b").endswith("RuntimeError: CUDA out of memory")


def test_missing_options_are_told_with_those_that_are_wrong(label_job, capsys) -> None:
    assert label_job.tool.main(["--watch", "3"]) == 2
    said = capsys.readouterr().err
    assert "--images, --semantic, --categories, --output missing; see --help" in said
    assert "--watch and --json go with --status OUTPUT" in said


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shard", "0/2"], r"--shard is I/N"),
        (["--status", "/none"], r"no job has begun in /none .*: give the --output of its command"),
        (["--watch", "3"], r"--watch and --json go with --status OUTPUT"),
        (["--status", "x", "--merge", "x"], r"--status and --merge are two commands"),
        (["--num-gpus", "2", "--merge", "x"], r"--merge looks at no .* no use for --num-gpus 2:"),
        (["--num-gpus", "2", "--status", "x"], r"--status looks at no .* for --num-gpus 2:"),
        (["--executor", "ray", "--merge", "x"], r"no use for --executor ray: leave out"),
        (["--json", "--merge", "x"], r"--watch and --json go with --status OUTPUT"),
        (["--config-file", "nowhere.yaml"], r"no config file at nowhere\.yaml"),
        (["MODEL.TRACE.SEED"], r"config keys come as KEY VALUE pairs"),
        (["MODEL.TRACE.NONSENSE", "1"], r"NONSENSE"),
        (["MODEL.TRACE.SEED", "abc"], r"SEED"),
        (["--categories", "nowhere.json"], r"no categories file at nowhere\.json"),
        (["--images", "nowhere"], r"no folder of images at nowhere"),
        (["--semantic", "nowhere"], r"no folder at nowhere: correct --semantic"),
        (["--edges", "nowhere"], r"no folder at nowhere: correct --edges"),
        (["--images-json", "nowhere.json"], r"no list of images at nowhere\.json"),
    ],
)
def test_usage_errors(label_job, capsys, extra: list[str], message: str) -> None:
    label_job.add("a")
    assert label_job.run(*extra) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not label_job.output.exists()


@pytest.mark.parametrize("empty", ["", " "])
def test_an_option_of_an_unset_variable_is_refused(label_job, capsys, empty: str) -> None:
    label_job.add("a")
    for option in ("--images-json", "--config-file", "--status", "--merge"):
        assert label_job.run(option, empty) == 2
        said = f"error: {option} is empty: name what it is to be, or leave it out\n"
        assert capsys.readouterr().err == said
    assert label_job.run(edges=["--edges", empty]) == 2
    assert capsys.readouterr().err.count("--edges is empty") == 1
    assert not label_job.output.exists()


def test_missing_and_misspelt_options(label_job, capsys) -> None:
    assert label_job.tool.main(["--images", "x"]) == 2
    assert "--semantic, --categories, --output missing" in capsys.readouterr().err
    for extra in (["--worker", "2"], ["--workers", "0"], ["--limit", "-1"], ["--no-edges"]):
        with pytest.raises(SystemExit) as stopped:
            label_job.run(*extra)
        assert stopped.value.code == 2


def test_two_images_with_one_stem(label_job, capsys) -> None:
    label_job.add("a")
    label_job.save("images/a.jpg", np.zeros((24, 32, 3), np.uint8))
    assert label_job.run() == 2
    assert re.search(r"a\.jpg and .*a\.png share the stem 'a'", capsys.readouterr().err)


def test_masks_that_belong_to_no_image(label_job, capsys) -> None:
    label_job.add("a", "b")
    (label_job.root / "images/a.png").unlink()
    assert label_job.run() == 0
    assert "1 masks have no image" in capsys.readouterr().out
    (label_job.root / "semantic/b.png").unlink()
    assert label_job.run() == 2
    assert "is named like one of the 1 images: expected b.png" in capsys.readouterr().err


def test_somebody_elses_folder_is_left_alone(label_job, capsys) -> None:
    label_job.add("a")
    label_job.output = label_job.root
    before = sorted(label_job.root.rglob("*"))
    assert label_job.run() == 2
    assert "is not empty and holds no labels of this tool" in capsys.readouterr().err
    assert sorted(label_job.root.rglob("*")) == before
    label_job.output = label_job.categories
    assert label_job.run() == 2
    assert "is a file: choose a folder" in capsys.readouterr().err
    assert label_job.merge() == 2
