"""Actors on a cluster of Ray of two nodes, both here: lost, killed, joining, with other code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trace_d2.io.atomic import is_temporary
from trace_d2.jobs import ray_actors
from trace_d2.jobs.actors import LOOK, Batch, Begin, Ended, Gone, Ready, packed
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.ray_actors import Place, RayActors

pytest.importorskip("ray", reason="needs the package ray")
IMAGES = 40


@pytest.fixture(scope="module")
def cluster(sketching: ModuleType) -> Iterator[Any]:
    """A cluster whose head has one core; its nodes find what this process finds."""
    from ray.cluster_utils import Cluster

    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def expected(sketching: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone")
    sketching.add_images(root, IMAGES)
    run_job(sketching.sketching_job(root), RunOptions())
    return sketching.contents(root / "out")


@pytest.fixture
def root(tmp_path: Path, sketching: ModuleType) -> Path:
    sketching.add_images(tmp_path, IMAGES)
    return tmp_path


def results(root: Path, sketching: ModuleType) -> dict[str, bytes]:
    """Without writes that were cut short, which stay until the next run."""
    made = sketching.contents(root / "out")
    return {name: one for name, one in made.items() if not is_temporary(Path(name).name)}


class Eventful(RayActors):
    """Actors during whose work something happens, once."""

    def __init__(self, address: str, after: int, node: str, event: Any) -> None:
        super().__init__(address, workers=1, gpus=False, looks=True)
        self.after, self.node, self.event = after, node, event
        self.nodes: set[str] = set()

    def start(self) -> None:
        super().start()
        import ray

        ray.wait(list(self._polls), num_returns=len(self._polls))  # all are there

    def wait(self) -> list[Any]:
        slots = {key: one.slot for key, one in self._live.items()}
        news = super().wait()
        for key, message in news:
            slot = slots.get(key)
            if isinstance(message, Ended) and message.record and slot:
                self.nodes.add(slot.node)
                self.after -= slot.node == self.node
                if self.after == 0:
                    self.after = -IMAGES
                    self.event()
        return news


def test_a_node_that_is_lost_makes_no_difference(cluster, root, sketching, expected, capfd):
    lost = cluster.add_node(num_cpus=1)
    actors = Eventful(
        cluster.address, 5, lost.node_id, lambda: cluster.remove_node(lost, allow_graceful=False)
    )
    job = sketching.sketching_job(root)
    result = run_job(job, RunOptions(actors=lambda: actors))
    assert (result.done, list(result.failed)) == (IMAGES, [])
    assert actors.after < 0
    assert len(actors.nodes) == 2
    assert results(root, sketching) == expected
    assert "".join(capfd.readouterr()) == ""  # Ray has nothing to say


def test_nodes_that_come_and_actors_that_are_killed(cluster, root, sketching, monkeypatch, capfd):
    monkeypatch.setattr(ray_actors, "_LOOK_AROUND", 0.1)
    actors = RayActors(cluster.address, workers=1, gpus=False, looks=True)
    actors.start()
    try:
        ((_, hello),) = actors.wait()
        came = cluster.add_node(num_cpus=1)
        ((second, _),) = actors.wait()
        assert actors._live[second].slot.node == came.node_id
        job = sketching.sketching_job(root)
        job.store.open(job.settings)
        (root / "kill" / job.entries[0].stem).write_text("once")
        actors.send(second, Begin(packed(job), LOOK))
        told = list(actors.wait())
        while (second, Ready(8)) not in told:  # its model has something to say before
            told += actors.wait()
        actors.send(second, Batch(tuple(job.entries[:1])))
        news = actors.wait()
        while not isinstance(news[-1][1], Gone):
            news += actors.wait()
        key, gone = news[-1]
        assert key == second
        assert isinstance(gone, Gone)
        assert hello.where in gone.reason  # both nodes are this machine
        ((third, _),) = actors.wait()  # in its place
        assert actors._live[third].slot.node == came.node_id
        cluster.remove_node(came, allow_graceful=False)
        ((key, gone),) = actors.wait()
        assert (key, isinstance(gone, Gone)) == (third, True)
    finally:
        actors.stop()
    assert "".join(capfd.readouterr()) == ""


def test_what_keeps_a_cluster_from_the_job_is_told(cluster, root, sketching, monkeypatch) -> None:
    job = sketching.sketching_job(root)

    def run(gpus: bool = False) -> None:
        actors = RayActors(cluster.address, workers=1, gpus=gpus, looks=True)
        run_job(job, RunOptions(actors=lambda: actors))

    with pytest.raises(UsageError, match="no node of the cluster of Ray has a GPU: start nodes"):
        run(gpus=True)
    with monkeypatch.context() as patch:
        patch.setattr(Place, "here", staticmethod(lambda: Place("0.0.1", "abc", "/")))
        with pytest.raises(UsageError, match=r"another trace_d2 .*0\.0\.1 \(code abc\): install"):
            run()
    assert not (root / "out").exists() or not job.store.has_work()


DRIVER = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import sketching_job
from trace_d2.jobs.actors import Ended
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.ray_actors import RayActors

class Mortal(RayActors):
    ended = 0

    def wait(self):
        if self.ended > 5:  # and in the journal
            os.kill(os.getpid(), signal.SIGKILL)
        news = super().wait()
        self.ended += sum(isinstance(m, Ended) and m.record is not None for _, m in news)
        return news

job = sketching_job.sketching_job(Path({root!r}))
run_job(job, RunOptions(actors=lambda: Mortal({address!r}, 1, None, True)))
"""


def test_after_kill_9_of_the_main_process_the_job_goes_on(cluster, root, sketching, expected):
    folder = str(Path(__file__).parent)
    script = DRIVER.format(folder=folder, root=str(root), address=cluster.address)
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    job = sketching.sketching_job(root)
    done = len(job.store.read_records())
    assert 5 < done < IMAGES
    # Ray ends the actors of whoever is gone, which makes room for others.
    actors = RayActors(cluster.address, workers=1, gpus=None, looks=True)
    result = run_job(job, RunOptions(actors=lambda: actors))
    assert (result.done, result.earlier) == (IMAGES, done)
    assert results(root, sketching) == expected
