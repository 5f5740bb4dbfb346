"""Who is met at a lock is told by name, and what is to be done about it."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from trace_d2.jobs import locks
from trace_d2.jobs.holders import Holder, read_holder
from trace_d2.jobs.locks import LOCKS, FolderInUseError, Shard, folder_lock, hold_in_turn


def refused(folder: Path, shard: Shard) -> str:
    """What a process is told that comes to ``folder``."""
    with pytest.raises(FolderInUseError) as caught, folder_lock(folder, shard):
        pass
    return str(caught.value)


def tell(folder: Path, **holder: object) -> None:
    (folder / LOCKS / "job-2-of-3.holder").write_text(json.dumps(holder))


def test_a_holder_leaves_its_name_while_it_holds(tmp_path: Path) -> None:
    lock = tmp_path / LOCKS / "job-2-of-3.lock"
    with folder_lock(tmp_path, Shard(2, 3)):
        holder = read_holder(lock)
        assert holder is not None
        assert holder.name == f"{socket.gethostname()}:{os.getpid()}"
        assert abs(time.time() - holder.since) < 60
        assert holder.is_here
        assert not holder.is_gone
        said = refused(tmp_path, Shard(2, 3))
    named = (
        rf"\(shard 2/3, process {os.getpid()} on {socket.gethostname()}, since 2\d{{3}}-.*:\d\d\)"
    )
    assert re.search(rf"{named}: wait until it ends, or choose another --output$", said)
    assert read_holder(lock) is None


def test_the_remedy_depends_on_who_holds(tmp_path: Path) -> None:
    with folder_lock(tmp_path, Shard(2, 3)):
        tell(tmp_path, host="node3", pid=7, since=1e9)
        assert "process 7 on node3" in refused(tmp_path, Shard(2, 3))
        assert "If node3 went down, its lock ends with it" in refused(tmp_path, Shard())
        child = multiprocessing.get_context("spawn").Process(target=int)
        child.start()
        child.join()
        tell(tmp_path, host=socket.gethostname(), pid=child.pid, since=1e9)
        said = refused(tmp_path, Shard(2, 3))
        assert said.endswith("has ended, but something that it started still runs: end that")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"host": "a"}', '{"host": "a", "pid": -1, "since": 1}', '{"pid": "x"}']
)
def test_without_a_name_the_lock_itself_is_told(tmp_path: Path, text: str) -> None:
    with folder_lock(tmp_path, Shard(2, 3)):
        (tmp_path / LOCKS / "job-2-of-3.holder").write_text(text)
        assert "in use by another job (shard 2/3): wait" in refused(tmp_path, Shard(2, 3))


def test_a_name_that_stayed_holds_nothing(tmp_path: Path) -> None:
    with folder_lock(tmp_path, Shard(2, 3)):
        pass
    tell(tmp_path, host="node3", pid=7, since=1e9)
    with folder_lock(tmp_path, Shard()):
        pass


def test_who_waits_says_for_whom(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.1)
    path, held, told = tmp_path / "calibration.lock", threading.Event(), threading.Event()
    say = locks.say

    def tell(*words: object, **how: bool) -> None:
        say(*words, **how)
        told.set()

    def hold() -> None:
        with hold_in_turn(path, "measures edges"):
            held.set()
            assert told.wait(60)

    monkeypatch.setattr(locks, "say", tell)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    with hold_in_turn(path, "measures edges"):
        assert read_holder(path) is not None
    other.join()
    said = capsys.readouterr().err
    assert re.fullmatch(r"waiting for process \d+ on .*, which measures edges for all\n", said)
    assert str(Holder("h", 3, 0.0)).startswith("process 3 on h, since 19")
