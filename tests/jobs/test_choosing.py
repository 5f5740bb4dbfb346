"""What --num-gpus gives, and what is wrong with it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trace_d2.jobs.arguments import NotAsked
from trace_d2.jobs.choosing import asked_actors
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.local_actors import LocalActors
from trace_d2.jobs.ray_actors import RayActors


def actors(devices, asked=2, workers=8, beside=False, looks=True):
    job = SimpleNamespace(looks=looks, devices=devices)
    args = SimpleNamespace(num_gpus=asked, workers=workers, beside=beside)
    build = asked_actors(job, args)
    return None if build is None else build()


@pytest.fixture
def see(monkeypatch):
    def see(*gpus: str) -> None:
        monkeypatch.setattr("trace_d2.jobs.choosing.visible_gpus", lambda: list(gpus))

    return see


def test_gpus_and_workers_are_shared_out(see, capsys):
    see("2", "GPU-5ab", "7")
    found = actors({"MODEL.TRACE.DEVICE": "cuda"})
    assert isinstance(found, LocalActors)
    assert (found._gpus, found._workers) == (["2", "GPU-5ab"], 4)
    assert actors({"MODEL.DEVICE": "auto"}, workers=1)._workers == 1
    assert actors({"MODEL.DEVICE": "auto"}, workers=3, beside=True)._workers == 3
    assert actors({"MODEL.DEVICE": "auto"}, asked=None) is None
    assert capsys.readouterr().out == ""


def test_processes_may_be_on_the_cpu(see, capsys):
    see()
    assert actors({"MODEL.TRACE.DEVICE": "cpu"})._gpus == ["", ""]
    assert capsys.readouterr().out == (
        "note: MODEL.TRACE.DEVICE is cpu: 2 processes look at images, and share the CPUs\n"
    )


def test_where_only_pytorch_can_tell(monkeypatch):
    monkeypatch.setattr("trace_d2.jobs.choosing.visible_gpus", lambda: None)
    assert actors({"MODEL.DEVICE": "cuda"})._gpus == ["0", "1"]


@pytest.mark.parametrize(
    ("devices", "visible", "message"),
    [
        (
            {"K": "cuda:1"},
            ["0", "1"],
            "--num-gpus is 2, .* but K is cuda:1: leave out",
        ),
        ({"M": "cuda", "K": "mps"}, ["0", "1"], "but K is mps: leave out one or the other"),
        ({"K": "auto"}, [], "no CUDA device is visible: mend .*put `K cpu` at the end"),
        ({"M": "cpu", "K": "cuda"}, [], "no CUDA device is visible"),
        ({"K": "cuda"}, ["3"], r"but 1 are visible \(3\): .*correct CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_is_wrong(devices, visible, message, see):
    see(*visible)
    with pytest.raises(UsageError, match=message):
        actors(devices)


def test_jobs_without_a_model(see):
    see("0", "1")
    with pytest.raises(UsageError, match="no model looks at the images of this job: leave it out"):
        actors({"K": "cuda"}, looks=False)


CPUS = NotAsked(8)


class TestRay:
    """--executor ray."""

    def found(self, devices, looks=True, workers=CPUS, beside=False, **more):
        options = {"num_gpus": None, "address": None, "executor": "ray", **more}
        job = SimpleNamespace(looks=looks, devices=devices)
        args = SimpleNamespace(workers=workers, beside=beside, **options)
        build = asked_actors(job, args)
        actors = build()
        assert isinstance(actors, RayActors)
        return actors._gpus, actors._workers

    def test_every_gpu_of_the_cluster(self, see):
        see()  # this machine need not have one
        assert self.found({"K": "cuda"}) == (True, None)
        assert self.found({"K": "auto"}) == (None, None)
        assert self.found({"M": "cpu", "K": "cuda"}) == (True, None)
        assert self.found({"K": "cpu"}, workers=3) == (False, 3)
        assert self.found({"K": "auto"}, looks=False) == (False, None)
        assert self.found({"K": "cuda"}, workers=NotAsked(1), beside=True) == (True, 1)

    def test_what_is_wrong(self):
        with pytest.raises(ValueError, match="--executor ray takes every GPU of the") as told:
            self.found({"K": "cuda:1"}, num_gpus=2)
        assert "but K is cuda:1: leave out one or the other" in str(told.value)
        with pytest.raises(UsageError, match="--address a:1 is of a cluster of Ray: give"):
            self.found({}, executor="here", address="a:1")
