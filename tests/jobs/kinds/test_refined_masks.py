"""Refined masks of one image, and what travels to a worker."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.io.coco_masks import Findings, GivenMask, MaskFile
from trace_d2.io.coco_panoptic import encode_mask
from trace_d2.jobs.coco_files import mask_annotations
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.mask_entries import MaskEntry
from trace_d2.jobs.kinds.refined_masks import RefineJob
from trace_d2.jobs.pictures import stacked
from trace_d2.settings import fingerprint

LEFT, RIGHT, MIDDLE = (np.zeros((12, 20), bool) for _ in range(3))
LEFT[2:10, 1:11] = True
RIGHT[2:10, 11:19] = True
MIDDLE[2:10, 3:12] = True


def job_of(folder: Path, edges: Path | None = None, *pairs: object) -> RefineJob:
    cfg = get_trace_cfg()
    cfg.merge_from_list(list(pairs))
    node = cfg.MODEL.TRACE.EDGES
    node.SOURCE, node.DIR = ("files", str(edges)) if edges else ("none", "")
    file = MaskFile(Path("m.json"), (), ({"id": 1, "name": "fg"},), Findings())
    return RefineJob(cfg, folder, file, folder / "refined.json", [])


def entry_of(folder: Path, *masks: np.ndarray, scores: tuple = ()) -> MaskEntry:
    Image.new("RGB", (20, 12)).save(folder / "x.png")
    padded = scores or (None,) * len(masks)
    given = tuple(
        GivenMask(n, 1, encode_mask(m), s)
        for n, (m, s) in enumerate(zip(masks, padded, strict=True))
    )
    return MaskEntry("x", "x.png", 1, masks=given, size=(12, 20), edge_stems=("x",))


def test_without_edges_masks_only_merge(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    entry = entry_of(tmp_path, LEFT, RIGHT, MIDDLE, scores=(0.2, 0.9, 0.6))
    result = job.make(entry, job.load(entry))
    # 8 of 11 columns are common to the first and the last mask.
    assert np.array_equal(result.masks, [LEFT | MIDDLE, RIGHT])
    assert result.scores == pytest.approx([0.6, 0.9])
    assert len(result.given) == 3


def test_a_job_travels_light_and_an_entry_takes_its_own_masks_along(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    entry = entry_of(tmp_path, LEFT, RIGHT)
    assert len(pickle.dumps(job)) < 20_000
    assert pickle.loads(pickle.dumps(entry)) == entry
    again = pickle.loads(pickle.dumps(job))
    assert again.fingerprint(entry) == job.fingerprint(entry)
    assert len(again.make(entry, again.load(entry)).masks) == 2


def test_the_list_of_images_has_no_masks_in_it(tmp_path: Path) -> None:
    store = job_of(tmp_path).store
    store.open({})
    store.write_images([entry_of(tmp_path, LEFT)], 1)
    (listed,) = json.loads(store.images_path.read_text())["images"]
    assert listed == {"stem": "x", "file_name": "x.png", "image_id": 1, "pictured": False}
    images, limit = store.read_images()
    assert (list(images), limit) == ([ImageEntry("x", "x.png", 1)], 1)


def test_inputs_change_with_annotations_and_image(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    before = job.fingerprint(entry_of(tmp_path, LEFT))
    assert job.fingerprint(entry_of(tmp_path, RIGHT)) != before
    assert job.fingerprint(entry_of(tmp_path, LEFT, scores=(0.5,))) != before


def test_what_decides_refined_masks(tmp_path: Path) -> None:
    def print_of(*pairs: object) -> str:
        return fingerprint(job_of(tmp_path, tmp_path, *pairs).settings)

    assert print_of() != print_of("MODEL.TRACE.BGP.BETA", 3.0)
    for pair in (
        ("MODEL.TRACE.LABELS.NECK_DEPTH", 0.9),
        ("MODEL.TRACE.SEED", 5),
        ("MODEL.TRACE.BGP.THREADS", 2),
        ("MODEL.TRACE.POSTPROCESSOR.ENABLED", True),
    ):
        assert print_of() == print_of(*pair)


def test_polygons_without_a_pixel_are_left_out(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    entry = entry_of(tmp_path, LEFT)
    outside = GivenMask(7, 1, [[40, 40, 45, 40, 45, 45]], None)
    both = MaskEntry("x", "x.png", 1, masks=(*entry.masks, outside), size=(12, 20))
    result = job.make(both, job.load(both))
    assert result.notes == ("annotation no. 7 is left out: its mask is empty",)
    assert len(result.masks) == 1
    alone = MaskEntry("x", "x.png", 1, masks=(outside,))
    with pytest.raises(ValueError, match=r"no mask of x\.png has a pixel in it: annotation no\. 7"):
        job.make(alone, job.load(alone))


def test_masks_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch) -> None:
    job = job_of(tmp_path)
    entry = entry_of(tmp_path, LEFT, RIGHT)
    monkeypatch.setattr("trace_d2.jobs.kinds.mask_entries._MOST_GIB", 2**-22)  # 256 bytes
    with pytest.raises(
        ValueError, match=r"2 masks of x\.png at 20x12 pixels need .* GiB .*: give few"
    ):
        job.make(entry, job.load(entry))


def test_masks_of_another_size_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    side = 2**14
    job = job_of(tmp_path)
    entry = entry_of(tmp_path, LEFT)
    rle = {"size": [side, side], "counts": [0, side * side]}
    large = MaskEntry("x", "x.png", 1, masks=(GivenMask(0, 1, rle, None),), size=(side, side))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.png is 16384x16384 pixels, but the image"):
        job.make(large, job.load(entry))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_annotations_hold_what_coco_readers_expect() -> None:
    masks = np.stack([LEFT, RIGHT])
    first, second = mask_annotations(masks, [3, 1], [0.5, 0.25])
    assert first == {
        "category_id": 3,
        "bbox": [1.0, 2.0, 10.0, 8.0],
        "area": 80,
        "iscrowd": 0,
        "segmentation": encode_mask(LEFT),
        "score": 0.5,
    }
    assert (second["area"], second["score"]) == (64, 0.25)
    assert mask_annotations(masks[:0], [], None) == []


def test_small_masks_are_shown_over_large_ones() -> None:
    whole = np.ones((12, 20), bool)
    assert np.array_equal(stacked([whole, LEFT], (12, 20)), 1 + LEFT.astype(int))
    assert np.array_equal(stacked([LEFT, whole], (12, 20)), 2 - LEFT.astype(int))
    assert not stacked([], (12, 20)).any()


def test_pictures_without_edges(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    entry = entry_of(tmp_path, LEFT)
    inputs = job.load(entry)
    assert sorted(job.pictures(inputs, job.make(entry, inputs)).panes) == ["given", "refined"]
