"""The folder of labels: layout, settings, and what counts as finished."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.io.categories import Category
from trace_d2.jobs.folder import open_job_folder
from trace_d2.jobs.journal import DONE, FAILED, ImageEntry, Record
from trace_d2.jobs.kinds.panoptic_labels import LabelJob, train_ids
from trace_d2.jobs.locks import Shard, folder_lock
from trace_d2.jobs.output import (
    DamagedFileError,
    ForeignFolderError,
    NoPlaceError,
    OutputError,
    SettingsChangedError,
    differences,
    writing_to,
)
from trace_d2.jobs.store import JobStore
from trace_d2.labels.panoptic import PanopticLabel, Segment
from trace_d2.settings import fingerprint

CATEGORIES = (Category(5, "cat", True, (255, 0, 0)), Category(2, "sky", False, (0, 0, 255)))
LABEL = PanopticLabel(
    np.array([[1, 1, 0], [2, 2, 2]], np.int32),
    [Segment(1, 5, True, 2, (0, 0, 2, 1)), Segment(2, 2, False, 3, (0, 1, 3, 1))],
)
ENTRY = ImageEntry("a", "a.jpg", 1, pictured=True)
RECORD = Record("a", "a.jpg", DONE, finished=1.0, facts={"segments": 3, "things": 2})


KEPT = ["edges/{}.png"]
LEFTOVER = ".trace_d2-0123abcd-17-0123abcd.tmp"  # of a writer that was killed


def job_of(cfg: CfgNode, output: str | Path) -> LabelJob:
    return LabelJob(cfg, Path("i"), Path("s"), CATEGORIES, output, [])


def job_settings(edges: Path | str = "teacher", *pairs: object) -> dict:
    cfg = get_trace_cfg()
    cfg.merge_from_list(list(pairs))
    source, folder = ("files", edges) if isinstance(edges, Path) else (edges, "")
    cfg.MODEL.TRACE.EDGES.SOURCE, cfg.MODEL.TRACE.EDGES.DIR = source, str(folder)
    return job_of(cfg, "out").settings


def write_label(store: JobStore, label: PanopticLabel) -> None:
    sample = SimpleNamespace(edges=None)
    store.write_note("a", job_of(get_trace_cfg(), store.output).write(ENTRY, sample, label))


def store_of(folder: Path) -> JobStore:
    return JobStore(folder, LabelJob.layout)


def test_train_ids_are_ranks_in_the_list_of_categories() -> None:
    assert train_ids(LABEL, CATEGORIES).tolist() == [[0, 0, 255], [1, 1, 1]]
    assert train_ids(LABEL, CATEGORIES).dtype == np.uint8


def test_the_files_of_a_label(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.open({})
    write_label(store, LABEL)
    panoptic = np.asarray(Image.open(tmp_path / "panoptic/a.png"))
    assert panoptic[..., 0].tolist() == LABEL.segment_ids.tolist()  # R is the low byte
    assert not panoptic[..., 1:].any()
    note = store.read_note("a")
    assert (note["height"], note["width"]) == (2, 3)
    assert note["segments"] == [
        {"id": 1, "category_id": 5, "area": 2, "bbox": [0, 0, 2, 1], "iscrowd": 0},
        {"id": 2, "category_id": 2, "area": 3, "bbox": [0, 1, 3, 1], "iscrowd": 0},
    ]
    assert [i["category_id"] for i in note["instances"]] == [5]


def test_large_segment_ids_use_all_three_bytes(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.open({})
    ids = np.arange(1, 70001, dtype=np.int32).reshape(200, 350)
    segments = [Segment(int(i), 2, False, 1, (0, 0, 1, 1)) for i in ids.ravel()]
    write_label(store, PanopticLabel(ids, segments))
    rgb = np.asarray(Image.open(tmp_path / "panoptic/a.png")).astype(np.int32)
    assert np.array_equal(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2], ids)


def test_a_label_is_finished_when_record_and_all_files_are_there(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.open({})
    plain = replace(ENTRY, pictured=False)
    assert not store.is_finished(RECORD, plain)
    write_label(store, LABEL)
    assert store.is_finished(RECORD, plain)
    assert not store.is_finished(None, plain)
    assert not store.is_finished(replace(RECORD, status=FAILED), plain)
    assert not store.is_finished(replace(RECORD, file_name="a.png"), plain)
    assert not store.is_finished(RECORD, replace(plain, image_id=None))
    assert not store.is_finished(RECORD, ENTRY)
    store.place("previews/{}.json", "a").write_text("{}")
    assert store.is_finished(RECORD, ENTRY)
    assert not store.is_finished(RECORD, ENTRY, KEPT)
    store.place(*KEPT, "a").touch()
    assert store.is_finished(RECORD, ENTRY, KEPT)
    assert not store.is_finished(replace(RECORD, facts={"segments": 3}), ENTRY)


def test_settings_are_kept_and_compared(tmp_path: Path) -> None:
    store = store_of(tmp_path / "out")
    old = job_settings()
    store.check_settings(old)
    store.open(old)
    store.check_settings(old)
    new = job_settings("teacher", "MODEL.TRACE.SEED", 8, "MODEL.TRACE.LABELS.NECK_DEPTH", 0.5)
    with pytest.raises(SettingsChangedError) as caught:
        store.check_settings(new)
    assert "MODEL.TRACE.SEED: 0 there, 8 now" in str(caught.value)
    assert "MODEL.TRACE.LABELS.NECK_DEPTH: 2.0 there, 0.5 now" in str(caught.value)
    store.drop_results()
    assert [path.name for path in store.root.iterdir()] == []


def test_settings_of_format_1_are_no_change(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    gone = {"MODEL.TRACE.BGP.IRNET_PADDING": False}
    for edges, old in (("teacher", "backbone"), ("none", "none"), (tmp_path, str(tmp_path))):
        new = job_settings(edges)
        (tmp_path / "settings.json").write_text(
            json.dumps({"format": 1, **new, **gone, "edges": old})
        )
        store.check_place()
        store.check_settings(new)
        with pytest.raises(SettingsChangedError, match=r"edges: .* there, student now"):
            store.check_settings({**new, "edges": "student"})


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content in ({"format": 1, "kind": "edges"}, {"format": 1, "masks": "m.json"}):
        (tmp_path / "settings.json").write_text(json.dumps(content))
        with pytest.raises(ForeignFolderError, match=r"holds .*, not labels: choose"):
            store_of(tmp_path).check_place()


def test_what_others_see_of_a_folder(tmp_path: Path) -> None:
    assert open_job_folder(tmp_path) is None
    store = store_of(tmp_path)
    store.open({"categories": []})
    assert open_job_folder(tmp_path).entries == []
    entries = [ImageEntry(stem, f"{stem}.jpg", rank) for rank, stem in enumerate("abcd")]
    store.write_images(entries, 3)
    with store.open_journal("1-of-2") as journal:
        journal.append(RECORD)
        journal.append(replace(RECORD, stem="c", status=FAILED))
    folder = open_job_folder(tmp_path)
    assert folder.settings["categories"] == []
    assert [entry.stem for entry in folder.entries] == ["a", "b", "c"]
    assert [entry.stem for entry in folder.pending] == ["b"]
    assert [record.stem for record in folder.failed] == ["c"]
    assert not folder.joined
    assert not folder.is_locked()
    with folder_lock(tmp_path, Shard(2, 2)):
        assert folder.is_locked()
    store.join_journals()
    assert open_job_folder(tmp_path).joined


def test_what_counts_as_a_setting(tmp_path: Path) -> None:
    def print_of(*args: object) -> str:
        return fingerprint(job_settings(*args))

    assert print_of() == print_of("teacher", "MODEL.TRACE.DEVICE", "cpu")
    assert print_of() != print_of("teacher", "MODEL.TRACE.SEED", 1)
    assert print_of(tmp_path) == print_of(tmp_path, "MODEL.TRACE.SEED", 1)
    assert print_of(tmp_path) != print_of(tmp_path, "MODEL.TRACE.LABELS.CUT", "components")
    assert print_of() != print_of(tmp_path)
    # What has no say in labels: masks of other tools, training, inference.
    assert print_of() == print_of("teacher", "MODEL.TRACE.BGP.BETA", 1.0)
    assert print_of() == print_of("teacher", "MODEL.TRACE.POSTPROCESSOR.ENABLED", True)
    assert print_of() == print_of("teacher", "MODEL.TRACE.EDGES.DIR", "x")


def test_differences_are_short() -> None:
    lines = differences({"a": 1, "b": list(range(20)), "c": 0}, {"a": 1, "b": [], "d": 2})
    assert lines[0].startswith("b: a list of 20 (sha256 ")
    assert lines[1:] == ["c: 0 there, absent now", "d: absent there, 2 now"]


def test_a_foreign_settings_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"editor": "vim"}')
    with pytest.raises(ForeignFolderError, match=r"settings\.json is not of this tool"):
        store_of(tmp_path).check_settings({})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"settings\.json is damaged .*restore it"):
        store_of(tmp_path).check_settings({})


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.open({})
    names = (LEFTOVER, f"semantic/{LEFTOVER}", f"annotations/n0/{LEFTOVER}")
    foreign = ("mine/" + LEFTOVER, ".notes.tmp", "semantic/.a.png.1-a.tmp")
    for name in (*names, *foreign):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    store.sweep()
    assert [(tmp_path / name).exists() for name in names] == [False] * 3
    assert [(tmp_path / name).exists() for name in foreign] == [True] * 3


def test_journals_of_shards_are_joined_in_order(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.open({})
    for shard, stem in (("2-of-2", "a"), ("1-of-2", "b"), ("", "c")):
        with store.open_journal(shard) as journal:
            journal.append(replace(RECORD, stem=stem))
    assert list(store.join_journals()) == ["a", "b", "c"]
    assert list(store.read_records()) == ["a", "b", "c"]
    assert not list((tmp_path / "shards").iterdir())


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "the disk is full: make room"), (errno.EROFS, "writable")]
)
def test_errors_of_writing_say_what_to_do(tmp_path: Path, number: int, remedy: str) -> None:
    (tmp_path / "settings.json").touch()
    told = pytest.raises(OutputError, match=f"{remedy}.*images are safe")
    with told as caught, writing_to(tmp_path):
        raise OSError(number, "why")
    assert not isinstance(caught.value, NoPlaceError)


def test_where_no_folder_can_be_made_nothing_is_called_safe(tmp_path: Path, monkeypatch) -> None:
    told = pytest.raises(NoPlaceError, match=r"why.: make it writable, or choose another --output")
    with told, writing_to(tmp_path):
        raise OSError(errno.EROFS, "why")
    with pytest.raises(OutputError, match="images are safe"), writing_to(tmp_path):
        raise OSError(errno.ENOSPC, "why")  # the same command continues
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(NoPlaceError, match="Permission denied"):
        store_of(tmp_path / "a" / "b").check_place()
