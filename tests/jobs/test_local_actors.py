"""Actors that are processes of this machine: killed, interrupted, left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from trace_d2.jobs.actors import Gone
from trace_d2.jobs.crew import Crew
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.executors import WorkerDiedError
from trace_d2.jobs.local_actors import LocalActors, _how_it_ended, _only_visible

IMAGES = 12


@pytest.fixture
def root(tmp_path: Path, sketching: ModuleType) -> Path:
    sketching.add_images(tmp_path, IMAGES)
    return tmp_path


def test_one_killed_in_the_middle_makes_no_difference(root, sketching, caplog) -> None:
    run_job(sketching.sketching_job(root, "alone"), RunOptions())
    (root / "kill/s09").write_text("once")  # by kill -9, as edges are measured
    (root / "kill/s05.cut").write_text("once")  # and as labels are made
    job = sketching.sketching_job(root)
    caplog.clear()
    result = run_job(job, RunOptions(actors=lambda: LocalActors(workers=1, gpus=["", ""])))
    assert (result.done, list(result.failed)) == (IMAGES, [])
    assert list((root / "kill").iterdir()) == []
    assert sketching.contents(root / "out") == sketching.contents(root / "alone")
    # All four of them said so, once; and each death is told.
    deaths = [text for text in caplog.messages if "held is done by others" in text]
    assert len(deaths) == 2
    assert all("as it was ended by SIGKILL" in text for text in deaths)
    assert {*caplog.messages} == {"sketches are no edges: beware", *deaths}
    workers = {record.worker for record in job.store.read_records().values()}
    assert {name.partition(":")[2] for name in workers} <= {"cpu0", "cpu1"}


def test_an_interrupted_crew_leaves_nothing_behind(root, sketching) -> None:
    job = sketching.sketching_job(root)
    actors = LocalActors(workers=1, gpus=[""])
    with Crew(actors) as crew:
        job.store.open(job.settings)
        for ended, _ in enumerate(crew.look(job, job.entries), start=1):
            (process,) = (one.process for one in actors._processes.values())
            if ended == 3:  # Ctrl-C
                break
    assert process.exitcode == 128 + signal.SIGTERM
    kept = list((root / "out/calibration").iterdir())
    assert len(kept) >= 3
    assert all(path.suffix == ".npz" for path in kept)


ORPHANS = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import sketching_job
from trace_d2.jobs.crew import Crew
from trace_d2.jobs.executors import WorkerDiedError
from trace_d2.jobs.local_actors import LocalActors
if __name__ == "__main__":
    job = sketching_job.sketching_job(Path({root!r}))
    job.store.open(job.settings)
    actors = LocalActors(workers=1, gpus=[""])
    with Crew(actors) as crew:
        for _ in crew.look(job, job.entries):
            print(*(one.process.pid for one in actors._processes.values()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_actors_end_with_the_main_process(root) -> None:
    script = root / "main.py"
    script.write_text(ORPHANS.format(folder=str(Path(__file__).parent), root=str(root)))
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{int(ended.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with _only_visible("3"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    with _only_visible(""):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with _only_visible("0"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_how_it_ended() -> None:
    assert "SIGKILL, which is how a machine without memory" in _how_it_ended(-signal.SIGKILL)
    assert _how_it_ended(-signal.SIGSEGV) == "it was ended by SIGSEGV"
    assert _how_it_ended(1) == "it ended with status 1"


def test_why_one_ends_is_told_as_it_said(monkeypatch, caplog, sketching) -> None:
    monkeypatch.setattr("trace_d2.jobs.local_actors._run_actor", sketching.end_for_a_reason)
    monkeypatch.setattr("trace_d2.jobs.actors._TRIES", 1)
    actors = LocalActors(workers=1, gpus=[""])
    actors.start()
    told = [message for _ in range(2) for _, message in actors.wait()]
    assert told == [Gone("its worker died: use fewer")] * 2
    assert "the last as its worker died: use fewer" in caplog.text


def test_ctrl_c_while_one_starts_is_nothing_to_it(monkeypatch, sketching) -> None:
    monkeypatch.setattr("trace_d2.jobs.local_actors._run_actor", sketching.never_end)
    actors = LocalActors(workers=1, gpus=[""])
    actors.start()
    (process,) = (one.process for one in actors._processes.values())
    for delay in (0.0, 0.02, 0.1):
        time.sleep(delay)
        os.kill(process.pid, signal.SIGINT)
    assert not any(isinstance(message, Gone) for _, message in actors.wait())
    actors.stop()


def test_one_that_loads_a_model_is_ended_at_once(monkeypatch, sketching) -> None:
    monkeypatch.setattr("trace_d2.jobs.local_actors._run_actor", sketching.never_end)
    actors = LocalActors(workers=1, gpus=[""])
    actors.start()
    list(actors.wait())  # it is there
    (process,) = (one.process for one in actors._processes.values())
    monkeypatch.setattr("trace_d2.jobs.local_actors._SECONDS", 99.0)  # it lives for 60
    actors.stop()
    assert process.exitcode == -signal.SIGKILL


def test_a_place_where_all_die_is_given_up(monkeypatch, caplog) -> None:
    monkeypatch.setattr("trace_d2.jobs.local_actors._run_actor", print)  # which ends at once
    actors = LocalActors(workers=1, gpus=[""])
    actors.start()
    told = [message for _ in range(4) for _, message in actors.wait()]
    assert told == [Gone("it ended with status 0")] * 4
    assert "cpu0 is given up: 4 processes died there without a result" in caplog.text
    with pytest.raises(WorkerDiedError, match="all processes died again and again"):
        next(actors.wait())
