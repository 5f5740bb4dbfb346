"""Results in object stores: the same files as on a disk, whatever cuts the work short."""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trace_d2.io import fans
from trace_d2.jobs import object_folder, object_store
from trace_d2.jobs.job import Job
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.object_folder import ObjectFolder
from trace_d2.jobs.object_store import job_store
from trace_d2.jobs.output import OutputError, SettingsChangedError

STEMS = [f"s{number:02}" for number in range(7)]
_TIMES = re.compile(rb'"(seconds|finished)": [0-9.]+|<b>[0-9.]+</b><span>seconds an image')


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tries come at once."""
    monkeypatch.setattr(object_folder, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where results are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def timeless(files: dict[str, bytes]) -> dict[str, bytes]:
    """Contents of files without what hangs on clocks."""
    return {name: _TIMES.sub(b"", content) for name, content in files.items()}


def on_disk(job: Any, name: str = "disk/labels") -> dict[str, bytes]:
    """All that an undisturbed run writes to a folder of this machine."""
    job.output = job.root / name
    job.output.parent.mkdir()
    assert job.run() == 0
    places = [path for path in job.output.parent.rglob("*") if path.is_file()]
    files = {path.relative_to(job.output.parent).as_posix(): path.read_bytes() for path in places}
    return timeless({name: content for name, content in files.items() if ".locks" not in name})


def stored(bucket: Any) -> dict[str, bytes]:
    return timeless(bucket.contents("results"))


def call_until(stem: str, error: type[BaseException]) -> Any:
    """In place of ``Job.__call__``: the same, but ``error`` when the image ``stem`` comes."""
    plain = Job.__call__

    def call(self: Any, entry: Any, ahead: Any = None) -> Any:
        if entry.stem == stem:
            raise error
        return plain(self, entry, ahead)

    return call


def test_a_whole_job_in_and_out_of_memory(label_job, memory_store, temporary, capsys) -> None:
    label_job.add(*STEMS, "deep/x", "deep/y")
    expected = on_disk(label_job)
    label_job.output = f"{memory_store.url}/results/labels"
    assert label_job.run() == 0
    assert stored(memory_store) == expected
    said = capsys.readouterr()
    assert f"{label_job.output} has no locks" in said.out
    assert f"to look at: {label_job.output}/report.html" in said.out
    made = [path for path in temporary.rglob("*") if path.suffix == ".png"]
    assert made == []  # they are removed once they are uploaded
    assert label_job.run() == 0
    assert "9 labelled (9 of them before)" in capsys.readouterr().out
    assert stored(memory_store) == expected
    memory_store.remove("results/labels/panoptic/deep/x.png")
    assert label_job.run() == 0
    assert "9 labelled (8 of them before)" in capsys.readouterr().out
    assert stored(memory_store) == expected


def test_killed_between_two_parts_of_the_journal(
    label_job, memory_store, monkeypatch, capsys
) -> None:
    label_job.add(*STEMS)
    expected = on_disk(label_job)
    label_job.output = f"{memory_store.url}/results/labels"

    with monkeypatch.context() as patch:
        patch.setattr(object_store, "_PART_RECORDS", 2)
        patch.setattr(object_store._Parts, "__exit__", lambda *_: None)  # as by kill -9
        patch.setattr(Job, "__call__", call_until("s05", MemoryError))
        with pytest.raises(MemoryError):
            label_job.run()
    assert len(memory_store.contents("results/labels/panoptic")) == 5
    parts = memory_store.contents("results/labels/shards")
    assert [len(content.splitlines()) for content in parts.values()] == [2, 2]
    capsys.readouterr()
    assert label_job.run() == 0
    assert "7 labelled (4 of them before)" in capsys.readouterr().out
    assert stored(memory_store) == expected


def test_ctrl_c_and_two_workers_on_s3(label_job, bucket, monkeypatch, capsys) -> None:
    label_job.add(*STEMS)
    expected = on_disk(label_job)
    label_job.output = f"{bucket.url}/results/labels"
    with monkeypatch.context() as patch:
        patch.setattr(Job, "__call__", call_until("s03", KeyboardInterrupt))
        assert label_job.run() == 130
    said = capsys.readouterr().err
    assert "3 images are labelled and safe: the same command continues" in said
    assert label_job.merge() == 3  # what there is can be used at once
    assert "4 not labelled yet" in capsys.readouterr().out
    assert label_job.run("--workers", "2") == 0
    assert "7 labelled (3 of them before)" in capsys.readouterr().out
    assert stored(bucket) == expected


def test_shards_on_s3(label_job, bucket, capsys, caplog) -> None:
    label_job.add(*STEMS)
    expected = on_disk(label_job)
    label_job.output = f"{bucket.url}/results/labels"
    assert label_job.run("--shard", "1/2") == 0
    assert f"--merge {label_job.output}" in capsys.readouterr().out
    assert label_job.merge() == 3
    assert label_job.run("--shard", "2/2") == 0
    assert label_job.merge() == 0
    assert stored(bucket) == expected
    # Other settings: refused, as on a disk; one shard among others must not drop what is there.
    other = ("MODEL.TRACE.LABELS.NECK_DEPTH", "0.5")
    capsys.readouterr()
    assert label_job.run(*other) == 2
    assert f"{label_job.output} holds labels made with other" in capsys.readouterr().err
    assert label_job.run("--shard", "1/2", "--overwrite", *other) == 2
    assert "object stores have no locks" in capsys.readouterr().err
    assert stored(bucket) == expected
    bucket.put("results/labels/panoptic/mine.txt", b"not ours")
    assert label_job.run("--overwrite", *other) == 0
    assert "1 files in the folders of" in caplog.text
    assert "panoptic/mine.txt" in caplog.text
    settings = json.loads(bucket.get("results/labels/settings.json"))
    assert settings["MODEL.TRACE.LABELS.NECK_DEPTH"] == 0.5
    assert stored(bucket).keys() == expected.keys() | {"labels/panoptic/mine.txt"}


def test_refined_masks_beside_their_work(mask_job, memory_store) -> None:
    mask_job.add("a.png", "b.png", "deep/c.png")
    mask_job.content["annotations"].append({**mask_job.content["annotations"][0], "area": -1})
    expected = on_disk(mask_job, "disk/refined.json")
    mask_job.output = f"{memory_store.url}/results/refined.json"
    assert mask_job.run("--shard", "1/2") == mask_job.run("--shard", "2/2") == 0
    assert mask_job.merge() == 0
    assert stored(memory_store) == expected
    memory_store.remove("results/refined.json.work/settings.json")
    assert mask_job.run() == 2


def test_what_is_not_ours_is_refused(label_job, memory_store, bucket, monkeypatch, capsys) -> None:
    label_job.add("a")
    memory_store.put("results/labels/notes.txt", b"mine")
    label_job.output = f"{memory_store.url}/results/labels"
    assert label_job.run() == 2
    said = capsys.readouterr().err
    assert f"{label_job.output} is not empty and holds no labels of this tool" in said
    assert "'notes.txt'" in said
    memory_store.put("results/labels/settings.json", b'{"format": 2, "kind": "edges"}')
    assert label_job.run() == 2
    assert f"{label_job.output} holds edges, not labels" in capsys.readouterr().err
    memory_store.put("results/labels/settings.json", b"{")
    assert label_job.run() == 2
    assert f"{label_job.output}/settings.json is damaged" in capsys.readouterr().err
    label_job.output = f"{memory_store.url}/other"
    assert label_job.merge() == 2
    assert f"no settings.json in {label_job.output}" in capsys.readouterr().err
    label_job.output = f"{bucket.url}-no/labels"
    assert label_job.run() == 2
    assert f"there is no bucket {bucket.url}-no: make it" in capsys.readouterr().err
    label_job.output = "nowhere://bucket/labels"
    assert label_job.run() == label_job.merge() == label_job.tool.main(["--status", "no://b"]) == 2
    said = capsys.readouterr().err
    assert said.count("nowhere://bucket/labels cannot be read (Protocol not known: nowhere)") == 2
    assert "no://b cannot be read" in said
    label_job.output = f"{memory_store.url}/labels"

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(type(memory_store.fs), "ls", unreachable)
    assert label_job.run() == 2  # asked once, as there is nothing yet to go on with
    said = capsys.readouterr().err
    assert "(no route): see whether the store can be reached\n" in said


def test_without_what_opens_the_store(label_job, monkeypatch, capsys) -> None:
    label_job.add("a")
    label_job.output = "s3://bucket/labels"

    def url_to_fs(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    assert label_job.run() == label_job.merge() == 2
    assert label_job.tool.main(["--status", label_job.output]) == 2
    assert capsys.readouterr().err.count("pip install 'trace_d2[s3]'") == 3


def test_a_store_that_fails_is_asked_again(label_job, memory_store, monkeypatch, capsys) -> None:
    label_job.add(*STEMS)
    expected = on_disk(label_job)
    label_job.output = f"{memory_store.url}/results/labels"
    plain, calls = type(memory_store.fs).put_file, []

    def fail(tries: float) -> Any:
        """The first ``tries`` of each file; files go up side by side, so each has its count."""

        def put_file(self: Any, local: str, key: str, **more: Any) -> None:
            calls.append(key)
            if calls.count(key) <= tries:
                raise ConnectionResetError("reset by peer")
            plain(self, local, key, **more)

        return put_file

    with monkeypatch.context() as patch:
        patch.setattr(object_folder, "_THREADS", 1)  # once one is given up, others are tried once
        patch.setattr(type(memory_store.fs), "put_file", fail(math.inf))
        assert label_job.run() == 1
    assert "reset by peer, 4 times over)" in capsys.readouterr().err
    calls.clear()
    with monkeypatch.context() as patch:

        def later(self: Any, local: str, key: str, **more: Any) -> None:
            calls.append(key)
            if "s03" in key:
                raise ConnectionResetError("reset by peer")
            plain(self, local, key, **more)

        patch.setattr(type(memory_store.fs), "put_file", later)
        assert label_job.run() == 1
    said = capsys.readouterr().err
    assert "s03" in said
    assert "Finished images are safe, and the same command continues" in said
    with monkeypatch.context() as patch:

        def forbid(*_: Any, **__: Any) -> None:
            raise PermissionError("Access Denied")

        patch.setattr(type(memory_store.fs), "put_file", forbid)
        assert label_job.run() == 1
        assert "(Access Denied): have it allowed" in capsys.readouterr().err
        patch.setattr(type(memory_store.fs), "pipe_file", forbid)
        label_job.output = f"{memory_store.url}/other/labels"
        assert label_job.run() == 2
        assert f"cannot write {label_job.output}/settings.json" in capsys.readouterr().err
        label_job.output = f"{memory_store.url}/results/labels"
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(type(memory_store.fs), "put_file", fail(tries=3))
        assert label_job.run() == 0
    assert "7 labelled (3 of them before)" in capsys.readouterr().out
    assert stored(memory_store) == expected


def test_an_object_is_created_by_one_alone(tmp_path: Path, bucket, memory_store) -> None:
    for place in (bucket, memory_store):
        mine, theirs = (ObjectFolder(place.url, tmp_path / name) for name in ("mine", "theirs"))
        for folder, text in ((mine, "1"), (theirs, "2")):
            folder.local.mkdir(exist_ok=True)
            (folder.local / "x.json").write_text(text)
        assert mine.create(mine.local / "x.json")
        assert not theirs.create(theirs.local / "x.json")
        assert place.get("x.json") == b"1"


def test_folders_in_parts(label_job, memory_store, monkeypatch) -> None:
    monkeypatch.setattr(fans, "FOLDER_FILES", 3)
    label_job.add(*STEMS)
    expected = on_disk(label_job)
    assert any("panoptic/part-" in name for name in expected)
    label_job.output = f"{memory_store.url}/results/labels"
    assert label_job.run("--shard", "1/2") == label_job.run("--shard", "2/2") == 0
    assert label_job.merge() == 0
    assert stored(memory_store) == expected


def test_on_another_machine_that_a_job_travels_to(tmp_path: Path, memory_store) -> None:
    layout = Layout("labels", results=("panoptic/{}.png",), scratch="calibration")
    here = job_store(f"{memory_store.url}/results/labels", layout)
    here.open({"seed": 1})
    here.write_images([ImageEntry("a", "a.png", 1)], 1)
    with pytest.raises(FileNotFoundError, match=r"no x\.json in memory://"):
        here.read_note("x")
    seen = here.root / "calibration/a.npz"
    seen.parent.mkdir()
    seen.write_bytes(b"edges")
    here.share(seen)
    packed = pickle.dumps(here)
    shutil.rmtree(here.root.parent)  # as that machine has none
    there = pickle.loads(packed)
    there.check_settings({"seed": 1})
    with pytest.raises(SettingsChangedError, match=re.escape(here.address)):
        there.check_settings({"seed": 2})
    assert there.fetch(seen).read_bytes() == b"edges"
    there.place("panoptic/{}.png", "a").write_bytes(b"label")
    there.write_note("a", {"height": 1})
    there.deliver("a")
    assert [path for path in there.root.rglob("*.png")] == []
    assert memory_store.get("results/labels/panoptic/a.png") == b"label"
    assert here.read_note("a") == {"height": 1}
    assert not there.share(there.settings_path, first=True)  # they are there


def test_on_a_machine_that_has_its_temporary_files_elsewhere(
    tmp_path: Path, memory_store, monkeypatch
) -> None:
    layout = Layout("masks", results=("panoptic/{}.png",), scratch="calibration", beside=True)
    here = job_store(f"{memory_store.url}/results/masks.json", layout)
    here.open({"seed": 1})
    here.write_images([ImageEntry("a", "a.png", 1)], 1)
    packed = pickle.dumps(here)
    shutil.rmtree(tempfile.gettempdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    there, beside = pickle.loads(packed), pickle.loads(packed)
    there.check_settings({"seed": 1})
    seen = there.root / "calibration/a.npz"
    seen.parent.mkdir()
    seen.write_bytes(b"edges")
    there.share(seen)
    assert there.root == beside.root  # of two processes of that machine
    assert here.fetch(here.root / "calibration/a.npz").read_bytes() == b"edges"
    there.place("panoptic/{}.png", "a").write_bytes(b"label")
    there.deliver("a")
    assert memory_store.get("results/masks.json.work/panoptic/a.png") == b"label"


def test_the_memory_of_one_process_is_no_output_of_several(label_job, memory_store, capsys) -> None:
    label_job.add("a")
    label_job.output = f"{memory_store.url}/results/labels/"
    assert label_job.run("--workers", "2") == 2
    assert f"--output {label_job.output} is in the memory of each" in capsys.readouterr().err
    assert stored(memory_store) == {}
    assert label_job.run() == 0
    assert f"labels: {memory_store.url}/results/labels/panoptic.json" in capsys.readouterr().out


def test_a_store_given_up_is_not_waited_for_again(tmp_path, memory_store, monkeypatch) -> None:
    objects, slept = ObjectFolder(f"{memory_store.url}/x", tmp_path), list[float]()
    assert not objects.exists("a")
    monkeypatch.setattr(object_folder, "time", SimpleNamespace(sleep=slept.append))
    plain = type(memory_store.fs).cat_file

    def lost(*_: Any, **__: Any) -> None:
        raise ConnectionError("reset")

    monkeypatch.setattr(type(memory_store.fs), "cat_file", lost)
    for _ in range(2):
        with pytest.raises(OutputError, match="see whether the store can be reached"):
            objects.read("a")
    assert slept == [0, 0, 0]
    monkeypatch.setattr(type(memory_store.fs), "cat_file", plain)
    memory_store.put("x/a", b"1")
    assert objects.read("a") == b"1"
    assert not objects._given_up


def test_names_that_no_object_can_have(label_job, memory_store, capsys) -> None:
    deep = "/".join(["d" * 200] * 5 + ["x"])
    label_job.add("a", deep)
    label_job.output = f"{memory_store.url}/results/labels"
    assert label_job.run() == 3
    assert "no file can be named after" in capsys.readouterr().err
    assert "labels/panoptic/a.png" in stored(memory_store)
