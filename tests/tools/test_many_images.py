"""Folders of results in parts, as folders with very many images have them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from trace_d2.io.exports.sources import read_labels
from trace_d2.io.fans import fanned
from trace_d2.io.json_files import read_json
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.store import JobStore

STEMS = ("a", "b", "c", "d/a")


@pytest.fixture
def few_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images are many."""
    monkeypatch.setattr("trace_d2.io.fans.FOLDER_FILES", 2)


def results(folder: Path) -> dict[str, bytes]:
    """The files of single images by their path, without previews."""
    kinds = ("panoptic", "semantic", "annotations")
    paths = (path for kind in kinds for path in (folder / kind).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_results_in_parts_are_the_same_results(label_job, monkeypatch, request) -> None:
    label_job.add(*STEMS)
    assert label_job.run() == 0
    plain, panoptic = results(label_job.output), label_job.coco("panoptic.json")
    whole = {name: (label_job.output / name).read_bytes() for name in ("instances.json",)}
    shutil.rmtree(label_job.output)
    request.getfixturevalue("few_a_folder")
    for shard in ("1/2", "2/2"):
        assert label_job.run("--shard", shard) == 0
    assert label_job.merge() == 0
    named = {}
    for name, content in plain.items():
        folder, _, rest = name.partition("/")
        stem, dot, ending = rest.rpartition(".")
        named[f"{folder}/{fanned(stem, 1)}{dot}{ending}"] = content
    assert results(label_job.output) == named
    assert (label_job.output / "instances.json").read_bytes() == whole["instances.json"]
    in_parts = label_job.coco("panoptic.json")
    for one in panoptic["annotations"]:
        one["file_name"] = f"{fanned(one['file_name'].removesuffix('.png'), 1)}.png"
    assert in_parts == panoptic
    # A folder stays as it began, and whoever reads it finds all.
    monkeypatch.undo()
    assert label_job.run() == 0
    assert results(label_job.output) == named
    assert json.loads((label_job.output / "images.json").read_text())["fan"] == 1
    page = (label_job.output / "report.html").read_text()
    assert "damaged" not in page.partition("<script")[0]
    labels = read_labels(label_job.output)
    assert all(image.png.is_file() for image in labels.images)
    store = pickle.loads(pickle.dumps(JobStore(label_job.output, LabelJob.layout)))
    assert store.path("panoptic/{}.png", "d/a").is_file()


@pytest.mark.usefixtures("few_a_folder")
def test_results_in_parts_are_dropped_and_others_stay(label_job, capsys) -> None:
    label_job.add(*STEMS)
    assert label_job.run() == 0
    stranger = label_job.output / "panoptic" / "part-0" / "mine.png"
    stranger.parent.mkdir(exist_ok=True)
    stranger.touch()
    before = results(label_job.output)
    assert label_job.run("MODEL.TRACE.LABELS.NECK_DEPTH", "0.5", "--overwrite") == 0
    assert results(label_job.output).keys() == before.keys()
    assert stranger.exists()


def test_given_edges_and_masks_may_lie_in_parts(label_job) -> None:
    label_job.add(*STEMS)
    assert label_job.run() == 0
    plain = results(label_job.output)
    shutil.rmtree(label_job.output)
    for name in ("edges", "semantic"):
        inputs = label_job.root / name
        for path in [path for path in inputs.rglob("*") if path.is_file()]:
            stem = path.relative_to(inputs).with_suffix("").as_posix()
            target = inputs / f"{fanned(stem, 1)}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    assert label_job.run() == 0
    assert results(label_job.output) == plain


def test_what_is_joined_is_not_joined_again_without_need(label_job) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    names = ("panoptic.json", "instances.json", "report.html")
    paths = [label_job.output / name for name in names]

    def written() -> list[int]:
        return [path.stat().st_ino for path in paths]

    first = written()
    assert label_job.run() == 0
    assert label_job.merge() == 0
    assert written() == first
    contents = paths[0].read_bytes()
    paths[0].write_bytes(b"{}")  # somebody did
    assert label_job.run() == 0
    assert paths[0].read_bytes() == contents
    note = label_job.output / "annotations" / "a.json"
    content = read_json(note)
    content["segments"][0]["area"] += 1
    note.write_text(json.dumps(content))
    assert label_job.merge() == 0
    found = {one["image_id"]: one for one in label_job.coco("panoptic.json")["annotations"]}
    assert found[1]["segments_info"][0]["area"] == content["segments"][0]["area"]
    label_job.add("c")
    assert label_job.run() == 0
    assert len(label_job.coco("panoptic.json")["images"]) == 3
    assert np.unique([one["id"] for one in label_job.coco("instances.json")["annotations"]]).size
