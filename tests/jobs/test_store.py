"""The folder of labels: layout, settings, and what counts as finished."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.io.categories import Category
from trace_d2.jobs.entries import ImageEntry, Shard
from trace_d2.jobs.journal import DONE, FAILED, JournalWriter, Record
from trace_d2.jobs.settings import BACKBONE, JobSettings, differences, fingerprint
from trace_d2.jobs.store import (
    ForeignFolderError,
    LabelStore,
    OutputError,
    SettingsChangedError,
    train_ids,
    writing_to,
)
from trace_d2.labels.panoptic import PanopticLabel, Segment

CATEGORIES = (Category(5, "cat", True, (255, 0, 0)), Category(2, "sky", False, (0, 0, 255)))
LABEL = PanopticLabel(
    np.array([[1, 1, 0], [2, 2, 2]], np.int32),
    [Segment(1, 5, True, 2, (0, 0, 2, 1)), Segment(2, 2, False, 3, (0, 1, 3, 1))],
)
ENTRY = ImageEntry("a", "a.jpg", 1, pictured=True)
RECORD = Record("a", "a.jpg", DONE, finished=1.0)


def job_settings(edges: Path | str = BACKBONE, *pairs: object) -> JobSettings:
    cfg = get_trace_cfg()
    cfg.merge_from_list(list(pairs))
    return JobSettings(Path("i"), edges, cfg, Path("s"), "c.json", CATEGORIES)


def test_train_ids_are_ranks_in_the_list_of_categories() -> None:
    assert train_ids(LABEL, CATEGORIES).tolist() == [[0, 0, 255], [1, 1, 1]]
    assert train_ids(LABEL, CATEGORIES).dtype == np.uint8


def test_the_files_of_a_label(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.open({})
    store.write_label("a", LABEL, CATEGORIES)
    panoptic = np.asarray(Image.open(tmp_path / "panoptic/a.png"))
    assert panoptic[..., 0].tolist() == LABEL.segment_ids.tolist()  # R is the low byte
    assert not panoptic[..., 1:].any()
    note = store.read_annotation("a")
    assert (note["height"], note["width"]) == (2, 3)
    assert note["segments"] == [
        {"id": 1, "category_id": 5, "area": 2, "bbox": [0, 0, 2, 1], "iscrowd": 0},
        {"id": 2, "category_id": 2, "area": 3, "bbox": [0, 1, 3, 1], "iscrowd": 0},
    ]
    assert [i["category_id"] for i in note["instances"]] == [5]


def test_large_segment_ids_use_all_three_bytes(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.open({})
    ids = np.arange(1, 70001, dtype=np.int32).reshape(200, 350)
    segments = [Segment(int(i), 2, False, 1, (0, 0, 1, 1)) for i in ids.ravel()]
    store.write_label("a", PanopticLabel(ids, segments), CATEGORIES)
    rgb = np.asarray(Image.open(tmp_path / "panoptic/a.png")).astype(np.int32)
    assert np.array_equal(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2], ids)


def test_a_label_is_finished_when_record_and_all_files_are_there(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.open({})
    plain = replace(ENTRY, pictured=False)
    assert not store.is_finished(RECORD, plain, save_edges=False)
    store.write_label("a", LABEL, CATEGORIES)
    assert store.is_finished(RECORD, plain, save_edges=False)
    assert not store.is_finished(None, plain, save_edges=False)
    assert not store.is_finished(replace(RECORD, status=FAILED), plain, save_edges=False)
    assert not store.is_finished(replace(RECORD, file_name="a.png"), plain, save_edges=False)
    assert not store.is_finished(RECORD, replace(plain, image_id=None), save_edges=False)
    assert not store.is_finished(RECORD, ENTRY, save_edges=False)
    store.preview_path("a").write_text("{}")
    assert store.is_finished(RECORD, ENTRY, save_edges=False)
    assert not store.is_finished(RECORD, ENTRY, save_edges=True)
    store.write_edges("a", np.zeros((2, 3), np.float32))
    assert store.is_finished(RECORD, ENTRY, save_edges=True)


def test_settings_are_kept_and_compared(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "out")
    old = job_settings().to_json()
    store.check_settings(old)
    store.open(old)
    store.check_settings(old)
    new = job_settings(
        BACKBONE, "MODEL.TRACE.SEED", 8, "MODEL.TRACE.LABELS.NECK_DEPTH", 0.5
    ).to_json()
    with pytest.raises(SettingsChangedError) as caught:
        store.check_settings(new)
    assert "MODEL.TRACE.SEED: 0 there, 8 now" in str(caught.value)
    assert "MODEL.TRACE.LABELS.NECK_DEPTH: 2.0 there, 0.5 now" in str(caught.value)
    store.drop_results()
    assert [path.name for path in store.root.iterdir()] == []


def test_what_counts_as_a_setting(tmp_path: Path) -> None:
    def print_of(*args: object) -> str:
        return fingerprint(job_settings(*args).to_json())

    assert print_of() == print_of(BACKBONE, "MODEL.TRACE.DEVICE", "cpu")
    assert print_of() != print_of(BACKBONE, "MODEL.TRACE.SEED", 1)
    assert print_of(tmp_path) == print_of(tmp_path, "MODEL.TRACE.SEED", 1)
    assert print_of(tmp_path) != print_of(tmp_path, "MODEL.TRACE.LABELS.CUT", "components")
    assert print_of() != print_of(tmp_path)
    # What has no say in labels: masks of other tools, training, inference.
    assert print_of() == print_of(BACKBONE, "MODEL.TRACE.BGP.BETA", 1.0)
    assert print_of() == print_of(BACKBONE, "MODEL.TRACE.POSTPROCESSOR.ENABLED", True)
    assert print_of() == print_of(BACKBONE, "MODEL.TRACE.EDGES.DIR", "x")


def test_differences_are_short() -> None:
    lines = differences({"a": 1, "b": list(range(20)), "c": 0}, {"a": 1, "b": [], "d": 2})
    assert lines[0].startswith("b: a list of 20 (sha256 ")
    assert lines[1:] == ["c: 0 there, absent now", "d: absent there, 2 now"]


def test_a_foreign_settings_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"editor": "vim"}')
    with pytest.raises(ForeignFolderError, match=r"settings\.json is not of this tool"):
        LabelStore(tmp_path).check_settings({})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is damaged .*remove it"):
        LabelStore(tmp_path).check_settings({})


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.open({})
    leftovers = [tmp_path / ".panoptic.json.1-a.tmp", tmp_path / "semantic/.a.png.1-a.tmp"]
    for path in leftovers:
        path.write_bytes(b"half")
    store.sweep()
    assert not any(path.exists() for path in leftovers)


def test_journals_of_shards_are_joined_in_order(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.open({})
    for shard, stem in ((Shard(2, 2), "a"), (Shard(1, 2), "b"), (Shard(), "c")):
        with JournalWriter(store.journal_of(shard)) as journal:
            journal.append(replace(RECORD, stem=stem))
    assert list(store.join_journals()) == ["a", "b", "c"]
    assert list(store.read_records()) == ["a", "b", "c"]
    assert not list((tmp_path / "shards").iterdir())


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "the disk is full: make room"), (errno.EROFS, "writable")]
)
def test_errors_of_writing_say_what_to_do(tmp_path: Path, number: int, remedy: str) -> None:
    with pytest.raises(OutputError, match=remedy), writing_to(tmp_path):
        raise OSError(number, "why")
