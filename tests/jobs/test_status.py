"""How a job stands is read from its folder: counts, speed, time left, who does what."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from trace_d2.jobs import status_text
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.locks import LOCKS
from trace_d2.jobs.object_store import job_store
from trace_d2.jobs.output import DamagedFileError, ForeignFolderError
from trace_d2.jobs.status import ENDED, KILLED, RUNNING, SILENT, STOPPED, Looker
from trace_d2.jobs.status_text import duration, show_status, status_json
from trace_d2.jobs.store import JobStore

NOW = 1_800_000_000.0
LAYOUT = Layout("labels")


def begin(output: Path, images: int, limit: int | None = None, beside: bool = False) -> JobStore:
    """A job of ``images`` that has just begun."""
    store = JobStore(output, replace(LAYOUT, beside=beside))
    store.open({"images": "/i", "semantic": "/s"})
    entries = [ImageEntry(f"s{i:05}", f"s{i:05}.jpg", i) for i in range(images)]
    store.write_images(entries, images if limit is None else limit)
    return store


def give(store: JobStore, ranks: object, shard: str = "", **more: object) -> None:
    """Append a record of each image; ``finished`` may be a function of its rank."""
    finished = more.pop("finished", NOW)
    with store.open_journal(shard) as journal:
        for rank in ranks:
            at = finished(rank) if callable(finished) else finished
            record = Record(f"s{rank:05}", f"s{rank:05}.jpg", DONE, finished=at, seconds=1.0)
            journal.append(replace(record, **more))


def hold(store: JobStore, lock: str = "job", **holder: object) -> None:
    path = store.root / LOCKS / lock
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".lock").touch()
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": NOW - 600}
    path.with_suffix(".holder").write_text(json.dumps({**own, **holder}))


@pytest.fixture
def gone() -> int:
    """A process that has ended."""
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    child.join()
    assert child.pid
    return child.pid


def test_counts_speed_and_time_left(tmp_path: Path) -> None:
    store = begin(tmp_path, 1000, limit=900)
    hold(store)
    give(store, range(100), finished=lambda rank: NOW - 500 + rank)  # to NOW - 401
    give(store, range(100, 160), finished=lambda rank: NOW - 159 + (rank - 100))
    give(store, [160, 161], status=SKIPPED, reason="no mask", finished=NOW - 50)
    give(store, range(162, 165), status=FAILED, reason="/i/a.jpg is 3 wide", finished=NOW - 1)
    status = Looker(tmp_path).look(NOW)
    assert (status.images, status.done, status.skipped, status.failed) == (900, 160, 2, 3)
    assert (status.pending, status.exit_status) == (735, 4)
    assert status.kind == "labels"
    assert status.lately == 65 / 300
    # From NOW - 501 to NOW - 400, and from NOW - 160 to NOW - 1.
    assert status.overall == pytest.approx(165 / (100 + 159), rel=1e-3)
    assert status.seconds_left == pytest.approx(735 / (65 / 300))
    (part,) = status.parts
    assert (part.name, part.state, part.last) == ("whole job", RUNNING, NOW - 1)
    assert [(kind.text, kind.count) for kind in status.failures] == [("… is N wide", 3)]
    assert [(kind.text, kind.count) for kind in status.skips] == [("no mask", 2)]


def test_of_several_records_the_latest_counts(tmp_path: Path) -> None:
    store = begin(tmp_path, 6)
    give(store, range(5), status=FAILED, reason="odd", finished=NOW - 9)
    give(store, [1, 2], "1-of-2", finished=NOW - 8)  # done at last
    give(store, [2], "2-of-2", status=FAILED, reason="even", finished=NOW - 7)
    give(store, [3], "2-of-2", finished=NOW - 10)  # before
    give(store, [0])
    give(store, [99])  # of another list
    looker = Looker(tmp_path)
    status = looker.look(NOW)
    assert (status.done, status.failed, status.pending) == (2, 3, 1)
    kinds = [(kind.text, kind.count, kind.example) for kind in status.failures]
    assert kinds == [("odd", 2, ""), ("even", 1, "s00002.jpg")]  # s00000 does not fail any more
    give(store, [5, 3], status=FAILED, reason="odd")
    kinds = [(k.text, k.count, k.example) for k in looker.look(NOW).failures]
    assert kinds == [("odd", 3, "s00005.jpg"), ("even", 1, "s00002.jpg")]


def test_looking_again_reads_what_was_added(tmp_path: Path) -> None:
    rng, ranks = random.Random(0), list(range(40))
    rng.shuffle(ranks)
    store = begin(tmp_path, 40)
    looker = Looker(tmp_path)
    assert looker.look(NOW).pending == 40
    for step, rank in enumerate(ranks):
        shard = f"{rank % 2 + 1}-of-2"
        give(store, [rank], shard, status=FAILED if rank % 3 == 0 else DONE, reason="x")
        with open(store.shard_journals()[0], "ab") as journal:  # another line is being written
            size = journal.tell()
            journal.write(b'{"stem": "s0')
        status = looker.look(NOW + step)
        os.truncate(store.shard_journals()[0], size)
        assert status.pending == 39 - step
        assert status == Looker(tmp_path).look(NOW + step)
    store.join_journals()
    assert looker.look(NOW).done == 26
    begin(tmp_path, 50)  # of other images
    assert looker.look(NOW).pending == 10


def test_each_shard_has_its_row(tmp_path: Path, gone: int) -> None:
    store = begin(tmp_path / "refined.json", 100, beside=True)
    hold(store, "job-1-of-5")
    give(store, range(0, 50, 5), "1-of-5", finished=NOW - 20)
    hold(store, "job-2-of-5", pid=gone)
    give(store, [1], "2-of-5")
    hold(store, "job-3-of-5", host="node3", since=NOW - 5000)
    give(store, [2], "3-of-5", status=FAILED, reason="x", finished=NOW - 4000)
    give(store, range(3, 100, 5), "4-of-5")
    status = Looker(tmp_path / "refined.json").look(NOW)
    rows = [(p.name, p.state, p.images, p.done, p.failed, p.pending) for p in status.parts]
    assert rows == [
        ("shard 1/5", RUNNING, 20, 10, 0, 10),
        ("shard 2/5", KILLED, 20, 1, 0, 19),
        ("shard 3/5", SILENT, 20, 0, 1, 19),
        ("shard 4/5", ENDED, 20, 20, 0, 0),
    ]
    assert status.unbegun == ("shard 5/5",)
    assert status.lately == status.parts[0].lately == 10 / 300
    assert status.seconds_left == pytest.approx(68 * 30)  # what others leave, it may have to do
    hold(store, "job-3-of-5", host="node3", since=NOW - 60)
    (store.root / LOCKS / "job-1-of-5.holder").unlink()
    states = [part.state for part in Looker(store.root).look(NOW).parts]
    assert states == [STOPPED, KILLED, RUNNING, ENDED]


def test_processes_that_records_tell_are_listed(tmp_path: Path) -> None:
    store = begin(tmp_path, 100)
    hold(store)
    give(store, range(5), worker="old:1", finished=NOW - 1000)
    give(store, range(5, 25), worker="a:1", finished=lambda rank: NOW - 30 + rank)
    give(store, range(25, 35), worker="b:2", finished=NOW - 100)
    give(store, [35], worker="b:2", status=FAILED, reason="x", finished=NOW - 90)
    workers = Looker(tmp_path).look(NOW).parts[0].workers
    assert [(w.name, w.images, w.failed, w.last) for w in workers] == [
        ("a:1", 20, 0, NOW - 6), ("b:2", 11, 1, NOW - 90),
    ]  # fmt: skip
    assert workers[0].lately == pytest.approx(20 / 26)  # since it began
    assert workers[1].lately == pytest.approx(11 / 101)


def test_one_image_at_a_time_is_no_break(tmp_path: Path) -> None:
    store = begin(tmp_path, 100)
    hold(store)
    give(store, range(10), seconds=400.0, finished=lambda rank: NOW - 4000 + 400 * (rank + 1))
    assert Looker(tmp_path).look(NOW).overall == pytest.approx(10 / 4000)


def test_the_text_says_it_all(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    store = begin(tmp_path, 2000)
    hold(store, "job-1-of-2", host="node1", pid=7, since=NOW - 400)
    give(store, range(0, 600, 2), "1-of-2", worker="node1:9", finished=NOW - 12)
    give(store, [1], "2-of-2", status=FAILED, reason="/i/s00001.jpg: no\x1b[2J", finished=NOW - 70)
    assert show_status(str(tmp_path)) == 4
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"labels in {tmp_path}, 2027-01-1")
    assert said[1:] == [
        "300 of 2,000 images done, 0 skipped, 1 failed, 1,699 to do",
        "1 images/s lately, 5.1 overall; about 28 min left",
        "",
        "           process  state       images  failed  images/s  last sign",
        "shard 1/2  node1:7  running  300/1,000       0         1   12 s ago",
        "           node1:9                 300       0      23.1   12 s ago",
        "shard 2/2           stopped    1/1,000       1            1 min ago",
        "",
        "shard 2/2: run the same command again, it continues",
        "",
        "1 failed:",
        "        1  s00001.jpg: /i/s00001.jpg: no\\x1b[2J",
    ]


def test_a_young_job_has_no_speed_yet(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    store = begin(tmp_path, 20)
    hold(store, since=NOW - 44)
    assert show_status(str(tmp_path)) == 4
    said = capsys.readouterr().out.splitlines()
    assert said[2] == "no image has ended yet, so the time left is not known"
    give(store, [0], status=FAILED, reason="s00000.jpg is odd", finished=NOW - 400)
    assert show_status(str(tmp_path)) == 4
    said = capsys.readouterr().out.splitlines()
    assert "; no image in the last 5 min, so the time left is not known" in said[2]
    assert said[-2:] == ["1 failed:", "        1  s00000.jpg: s00000.jpg is odd"]


def test_json_holds_the_same(tmp_path: Path, capsys) -> None:
    store = begin(tmp_path, 3)
    give(store, [0, 1], finished=NOW)
    give(store, [2], status=FAILED, reason="why 3")
    assert show_status(str(tmp_path), as_json=True) == 3
    content = json.loads(capsys.readouterr().out)
    assert content == {**json.loads(json.dumps(status_json(Looker(tmp_path).look(content["now"]))))}
    wanted = {
        "output": str(tmp_path), "kind": "labels", "images": 3, "done": 2, "skipped": 0,
        "failed": 1, "pending": 0, "seconds_left": 0.0, "exit_status": 3, "unbegun": [],
        "failures": [
            {"text": "why N", "count": 1, "example": "s00002.jpg", "reason": "why 3"}
        ],
    }  # fmt: skip
    assert {key: content[key] for key in wanted} == wanted
    assert content["parts"][0]["state"] == "ended"


def test_watching_ends_with_the_job(tmp_path: Path, capsys, monkeypatch) -> None:
    store = begin(tmp_path, 3)
    left = iter(range(3))
    monkeypatch.setattr(status_text.time, "sleep", lambda seconds: give(store, [next(left)]))
    assert show_status(str(tmp_path), every=2.0) == 0
    said = capsys.readouterr().out
    assert [f"{n} of 3 images done" in said for n in range(4)] == [True] * 4
    assert "nobody is at work: run the command again, it continues" in said
    assert "\x1b" not in said


def test_what_is_no_job_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no job has begun in .*there is no .*settings"):
        Looker(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ForeignFolderError, match="is not of this tool"):
        Looker(tmp_path)
    (tmp_path / "settings.json").unlink()
    JobStore(tmp_path, LAYOUT).open({})
    with pytest.raises(FileNotFoundError, match="has just begun and knows no images yet"):
        Looker(tmp_path).look()
    begin(tmp_path, 1).images_path.write_text("[")
    with pytest.raises(DamagedFileError, match="run the job again"):
        Looker(tmp_path).look()


def test_durations() -> None:
    seconds = (0, 0.4, 59.6, 61, 3599, 3661, 7200, 90_000, 864_000)
    assert [duration(s) for s in seconds] == [
        "0 s", "0 s", "1 min", "1 min", "59 min", "1 h 1 min", "2 h", "1 d 1 h", "10 d",
    ]  # fmt: skip


def test_a_job_in_an_object_store() -> None:
    address = "memory://status/labels"
    store = job_store(address, LAYOUT)
    with pytest.raises(FileNotFoundError, match=f"in {address} .*no {address}/settings.json"):
        Looker(address)
    store.open({"images": "/i"})
    entries = [ImageEntry(f"s{i:05}", f"s{i:05}.jpg", i) for i in range(8)]
    store.write_images(entries, 8)
    looker = Looker(address)
    assert looker.look(NOW).pending == 8
    give(store, [0, 2, 4], "1-of-2")
    give(store, [1, 3], "2-of-2", finished=NOW - 700)
    status = looker.look(NOW)
    assert status.output == address
    states = [(part.name, part.state, part.done) for part in status.parts]
    assert states == [("shard 1/2", RUNNING, 3), ("shard 2/2", SILENT, 2)]
    give(store, [6], "1-of-2", finished=NOW + 1)  # another part of its journal
    status = looker.look(NOW + 2)
    assert [(part.state, part.done) for part in status.parts] == [(ENDED, 4), (SILENT, 2)]
    assert status == Looker(address).look(NOW + 2)
    job_store(address, LAYOUT).join_journals()
    assert [(p.name, p.done) for p in looker.look(NOW).parts] == [("whole job", 6)]
