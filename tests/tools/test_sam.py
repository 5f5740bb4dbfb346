"""SAM in the jobs that cut masks: what it redraws, and what becomes of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from miniature.models.sam import tiny_sam
from PIL import Image
from pycocotools import mask as coco_mask

from trace_d2.edges.sources import EdgeOutput
from trace_d2.masks.patches import Patch, patch_of
from trace_d2.masks.sam import Redrawn

WHOLE = slice(0, 24), slice(0, 32)


class ScriptedSam:
    """Redraws each mask by ``draw``, which gives None where it stays."""

    commit = None

    def __init__(self, draw: Callable[[np.ndarray], np.ndarray | None]) -> None:
        self.draw = draw
        self.images: list[np.ndarray] = []

    def asked(self, masks: Sequence[Patch], shape: tuple[int, int]) -> list[int]:
        return [rank for rank, mask in enumerate(masks) if mask.area >= 20]

    def __call__(self, image: np.ndarray, masks: Sequence[Patch]) -> list[Redrawn | None]:
        self.images.append(image)
        drawn = [self.draw(mask.cut_out(WHOLE)) for mask in masks]
        return [None if one is None else Redrawn(patch_of(one), 0.9, 0.8) for one in drawn]


def moved_right(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, 1, axis=1)


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A folder that passes for a SAM, and the networks that were built of it."""
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "sam"}')
    (folder / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    found = SimpleNamespace(
        folder=folder, built=[], draw=moved_right, options=("--sam", str(folder))
    )

    def build(cfg: object) -> ScriptedSam:
        found.built.append(ScriptedSam(lambda mask: found.draw(mask)))
        return found.built[-1]

    monkeypatch.setattr("trace_d2.masks.sam.build_sam", build)
    return found


def refined_masks(job) -> list[np.ndarray]:
    rows = job.refined()["annotations"]
    return [coco_mask.decode(row["segmentation"]).astype(bool) for row in rows]


def test_cut_masks_are_redrawn(mask_job, sam, capsys) -> None:
    mask_job.add("a.png")
    assert mask_job.run() == 0
    before = refined_masks(mask_job)
    assert mask_job.run("--overwrite", *sam.options) == 0
    after = refined_masks(mask_job)
    assert len(before) == 2
    assert all(map(np.array_equal, after, map(moved_right, before)))
    (record,) = mask_job.journal().values()
    assert (record["asked"], record["redrawn"]) == (2, 2)
    assert "SAM: 2 of 2 masks redrawn" in capsys.readouterr().out
    page = (mask_job.work / "report.html").read_text()
    assert "Masks before SAM" in page
    assert "masks redrawn by SAM" in page
    # It saw the photograph, once: not while edges were measured.
    (image,) = sam.built[0].images
    assert np.array_equal(image, np.asarray(Image.open(mask_job.root / "images/a.png")))


def test_masks_that_become_one_object_are_merged_and_keep_the_highest_score(mask_job, sam) -> None:
    mask_job.add("a.png")
    mask_job.content["annotations"][0]["score"] = 0.7
    whole = np.zeros((24, 32), bool)
    whole[4:16, 4:24] = True
    sam.draw = lambda mask: whole
    assert mask_job.run(*sam.options) == 0
    (row,) = mask_job.refined()["annotations"]
    assert (row["area"], row["score"]) == (240, pytest.approx(0.7))


def test_what_sam_is_not_believed_in_stays(mask_job, sam, capsys) -> None:
    mask_job.add("a.png")
    mask_job.run()
    before = refined_masks(mask_job)
    sam.draw = lambda mask: None
    assert mask_job.run("--overwrite", *sam.options) == 0
    assert all(map(np.array_equal, refined_masks(mask_job), before))
    said = capsys.readouterr()
    assert "SAM: 0 of 2 masks redrawn" in said.out
    assert "warning: SAM redrew no mask at all" in said.err


def test_without_edges_given_masks_are_asked_for(mask_job, sam) -> None:
    mask_job.add("a.png")
    assert mask_job.run(*sam.options, edges=["--no-edges"]) == 0
    (mask,) = refined_masks(mask_job)
    assert np.array_equal(np.flatnonzero(mask.any(0)), np.arange(5, 25))


def test_detected_edges_come_first(mask_job, sam, monkeypatch) -> None:
    mask_job.add("a.png", "b.png")
    edges = {name: np.asarray(Image.open(mask_job.root / f"edges/{name}.png")) / np.float32(255)
             for name in "ab"}  # fmt: skip
    detector = "trace_d2.jobs.kinds.edge_job.build_edge_source"
    monkeypatch.setattr(detector, lambda cfg: lambda image, key: EdgeOutput(edges[key]))
    assert mask_job.run() == 0
    expected = refined_masks(mask_job)
    tiny = ("MODEL.TRACE.BACKBONE.NAME", "trace-tiny", "MODEL.DEVICE", "cpu")
    assert mask_job.run("--overwrite", *sam.options, *tiny, edges=[]) == 0
    assert all(map(np.array_equal, refined_masks(mask_job), map(moved_right, expected)))
    assert len(sam.built[0].images) == 2


def test_workers_write_what_came_of_it(mask_job, sam) -> None:
    mask_job.add("a.png", "b.png", "c.png")
    assert mask_job.run(*sam.options) == 0
    alone = mask_job.refined()
    assert mask_job.run("--overwrite", *sam.options, "--workers", "2", "--report-images", "1") == 0
    assert mask_job.refined()["annotations"] == alone["annotations"]


def test_jobs_go_on_and_settings_are_kept(mask_job, sam, capsys) -> None:
    mask_job.add("a.png", "b.png")
    assert mask_job.run(*sam.options, "--limit", "1") == 0
    assert mask_job.run(*sam.options, "MODEL.TRACE.SAM.BATCH", "3") == 0
    assert [len(one.images) for one in sam.built] == [1, 1]
    assert mask_job.run(*sam.options) == 0
    assert len(sam.built) == 2  # nothing was left to do
    assert mask_job.run(*sam.options, "MODEL.TRACE.SAM.POINTS", "1") == 2
    assert "MODEL.TRACE.SAM.POINTS" in capsys.readouterr().err
    assert mask_job.run() == 2
    (sam.folder / "config.json").write_text('{"model_type": "sam", "other": 1}')
    assert mask_job.run(*sam.options) == 2
    stored = json.loads((mask_job.work / "settings.json").read_text())
    assert stored["MODEL.TRACE.SAM.WEIGHTS"] == str(sam.folder)


def test_without_sam_no_setting_tells_of_it(mask_job) -> None:
    mask_job.add("a.png")
    assert mask_job.run("MODEL.TRACE.SAM.POINTS", "1") == 0
    assert "SAM" not in (mask_job.work / "settings.json").read_text()
    assert "SAM" not in (mask_job.work / "journal.jsonl").read_text()


def test_an_image_that_sam_fails_on_is_recorded_and_others_go_on(mask_job, sam) -> None:
    mask_job.add("a.png", "b.png")
    calls = []

    def draw(mask: np.ndarray) -> np.ndarray:
        calls.append(mask)
        if len(calls) == 1:
            raise ValueError("out of its mind")
        return mask

    sam.draw = draw
    assert mask_job.run(*sam.options) == 3
    journal = mask_job.journal()
    assert (journal["a"]["status"], journal["a"]["reason"]) == ("failed", "out of its mind")
    assert journal["b"]["status"] == "done"


def test_labels_of_redrawn_things_and_stuff(label_job, sam, capsys) -> None:
    label_job.add("a", "b")
    assert label_job.run() == 0
    before = label_job.coco("panoptic.json")
    assert label_job.run("--overwrite", *sam.options) == 0
    after = label_job.coco("panoptic.json")
    assert "SAM: " in capsys.readouterr().out
    assert "Segments before SAM" in (label_job.output / "report.html").read_text()
    for stem, one, other in zip("ab", before["annotations"], after["annotations"], strict=True):
        assert [s["category_id"] for s in one["segments_info"]] == [
            s["category_id"] for s in other["segments_info"]
        ]
        ids = np.asarray(Image.open(label_job.output / f"panoptic/{stem}.png")).astype(int)
        ids = ids @ (1, 256, 65536)
        mask = np.asarray(Image.open(label_job.root / f"semantic/{stem}.png"))
        assert np.array_equal(ids > 0, mask != 255)
        areas = {s["id"]: s["area"] for s in other["segments_info"]}
        assert {i: int((ids == i).sum()) for i in areas} == areas
        assert sum(areas.values()) == (mask != 255).sum()
        # The dog is where SAM drew it; its class moved along.
        ranks = np.asarray(Image.open(label_job.output / f"semantic/{stem}.png"))
        assert np.array_equal(ranks == 2, moved_right(mask == 7))
        assert np.array_equal(ranks == 255, mask == 255)
    things = [row for row in label_job.coco("instances.json")["annotations"]]
    assert len(things) == sum(s["category_id"] > 0 for a in after["annotations"]
                              for s in a["segments_info"])  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "tool", "image", "count"),
    [
        ("sam", "mask_job", "a.png", 2),
        ("sam_hq", "mask_job", "a.png", 2),
        ("sam2_video", "label_job", "a", 4),
    ],
)
def test_a_folder_of_transformers(
    kind: str, tool: str, image: str, count: int, request, tmp_path: Path
) -> None:
    """The real classes, asked for everything; their random weights see nothing."""
    job = request.getfixturevalue(tool)
    tiny_sam(kind).save_pretrained(tmp_path / "tiny")
    job.add(image)
    assert job.run() == 0
    before = {key: job.journal()["a"][key] for key in ("segments", "things")}
    options = ("--sam", str(tmp_path / "tiny"), "MODEL.DEVICE", "cpu", "--overwrite")
    assert job.run(*options, "MODEL.TRACE.SAM.MIN_SCORE", "0.0") == 0
    record = job.journal()["a"]
    assert (record["asked"], record["redrawn"]) == (count, 0)
    assert {key: record[key] for key in before} == before


def test_a_model_that_is_none_is_told_before_anything_is_made(mask_job, capsys) -> None:
    mask_job.add("a.png")
    assert mask_job.run("--sam", "no/such/folder", "MODEL.TRACE.SAM.POINTS", "0") == 2
    said = capsys.readouterr().err
    assert "MODEL.TRACE.SAM.POINTS must be 1 or more" in said
    assert mask_job.run("--sam", "no/such/folder") == 2
    assert "no model folder at no/such/folder" in capsys.readouterr().err
    assert mask_job.run("--sam", "") == 2
    assert "--sam is empty: name what it is to be, or leave it out" in capsys.readouterr().err
    assert not mask_job.work.exists()


def test_weights_that_cannot_be_loaded_leave_no_output(mask_job, sam, monkeypatch, capsys) -> None:
    def build(cfg: object) -> None:
        raise ValueError("they are of another model")

    monkeypatch.setattr("trace_d2.masks.sam.build_sam", build)
    mask_job.add("a.png")
    assert mask_job.run(*sam.options, edges=["--no-edges"]) == 2
    said = capsys.readouterr().err
    assert f"SAM ({sam.folder}) cannot be loaded: they are of another model" in said
    assert [path.name for path in mask_job.work.iterdir()] == [".locks"]
