"""What a model looks at is read ahead, several images at a time, and fails alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import EdgeOutput
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.job import Looked, UsageError
from trace_d2.jobs.journal import DONE, FAILED, ImageEntry, Record
from trace_d2.jobs.kinds.edges import PredictedEdgeJob, edge_entries
from trace_d2.jobs.looking import look_through

DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"
PATIENCE = 30  # seconds until a test that waits for another thread fails


class Source:
    """A source that looks at ``batch`` images together, and notes what happens in which order."""

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.made_ready: list[str] = []
        self.together: list[list[str]] = []
        self.threads: set[int] = set()
        self.failing: set[str] = set()
        self.step = threading.Condition()

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        (found,) = self.detect([(image, key)])
        if isinstance(found, Exception):
            raise found
        return found

    def ready(self, image: np.ndarray, key: str) -> tuple[np.ndarray, str]:
        with self.step:
            self.threads.add(threading.get_ident())
            self.made_ready.append(key)
            self.step.notify_all()
        return image, key

    def detect(self, images: Sequence[tuple[np.ndarray, str]]) -> list[EdgeOutput | Exception]:
        self.together.append([key for _, key in images])
        self.wait()
        return [self.find(image, key) for image, key in images]

    def find(self, image: np.ndarray, key: str) -> EdgeOutput | Exception:
        if key in self.failing:
            return FloatingPointError(f"nothing of {key}")
        strength = np.float32(int(key) % 10 / 10)
        return EdgeOutput(np.tile([strength, 0], (*image.shape[:1], image.shape[1] // 2)))

    def wait(self) -> None:
        """Nothing here; a slow source waits."""


class SlowSource(Source):
    """Looks at images until others are being made ready, or forever."""

    def wait(self) -> None:
        with self.step:
            last = int(self.together[-1][-1])
            waited = self.step.wait_for(
                lambda: len(self.made_ready) > last or last == 9, timeout=PATIENCE
            )
        assert waited, "nothing is made ready while the model looks"


def job_of(folder: Path, source: Source | None, broken: Sequence[int] = ()) -> PredictedEdgeJob:
    """Ten images, of which the model has been loaded."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for number in range(10):
        path = images / f"{number}.png"
        if path.exists():
            continue
        Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(path)
        if number in broken:
            path.write_bytes(b"no image")
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.EDGES.SOURCE = "student"
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    job = PredictedEdgeJob(cfg, images, folder / "out", edge_entries(images, None, 0))
    if source:
        job.detector = source
    return job


def outcomes(job: PredictedEdgeJob) -> dict[str, Looked | Record | None]:
    return {entry.stem: looked for entry, looked in look_through(job, job.entries)}


@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_made_ready_while_the_model_looks(tmp_path: Path, batch: int) -> None:
    source = SlowSource(batch)
    found = outcomes(job_of(tmp_path, source))
    assert list(found) == [str(number) for number in range(10)]
    assert all(isinstance(looked, Looked) for looked in found.values())
    assert sorted(source.made_ready) == list(found)
    assert threading.get_ident() not in source.threads
    assert source.together == [list(found)[start : start + batch] for start in range(0, 10, batch)]


def test_no_more_is_read_than_comes_next(tmp_path: Path) -> None:
    job = job_of(tmp_path, source := Source(2))
    looked = look_through(job, job.entries)
    for number in range(5):
        assert next(looked)[0].stem == str(number)
    looked.close()
    assert source.together == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert len(source.made_ready) <= 8  # the fourth two were under way


def test_each_image_fails_alone(tmp_path: Path) -> None:
    source = Source(4)
    source.failing = {"2", "7"}
    job = job_of(tmp_path, source, broken=(1, 5))
    skip = job.skip
    job.skip = lambda entry: "not wanted" if entry.stem in "09" else skip(entry)
    found = outcomes(job)
    assert source.together == [["2", "3", "4"], ["6", "7", "8"]]
    assert found["0"] is found["9"] is None
    for stem, reason in (("1", "1.png"), ("5", "5.png"), ("2", "nothing of 2"), ("7", "of 7")):
        assert found[stem].status == FAILED
        assert reason in found[stem].reason
    for stem in "3468":
        assert found[stem].inputs.edges.max() == pytest.approx(int(stem) / 10, abs=1e-4)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_journal_keeps_the_order_and_every_result(tmp_path: Path, batch: int) -> None:
    source = Source(batch)
    source.failing = {"6"}
    job = job_of(tmp_path, None)
    with patch(DETECTOR, lambda cfg: source):
        result = run_job(job, RunOptions())
        assert (result.done, [record.stem for record in result.failed]) == (9, ["6"])
        records = job.store.read_records()
        assert list(records) == [str(number) for number in range(10)]
        assert {record.status for record in records.values()} == {DONE, FAILED}
        # The first look builds the model: from then on it is known how many go together.
        assert [len(part) for part in source.together[:2]] == [1, 1]
        assert max(map(len, source.together)) == batch
        source.failing.clear()
        source.together.clear()
        assert run_job(job_of(tmp_path, None), RunOptions()).done == 10
        assert source.together == [["6"]]


def test_a_model_that_cannot_be_built_ends_the_job(tmp_path: Path) -> None:
    def build(cfg: object) -> Source:
        raise UsageError("no such model")

    with patch(DETECTOR, build), pytest.raises(UsageError, match="no such model"):
        run_job(job_of(tmp_path, None), RunOptions())


def test_nothing_is_built_for_images_that_cannot_be_read(tmp_path: Path) -> None:
    def build(cfg: object) -> Source:
        raise AssertionError("built")

    job = job_of(tmp_path, None, broken=range(10))
    with patch(DETECTOR, build):
        assert len(run_job(job, RunOptions()).failed) == 10


def test_entries_of_nothing(tmp_path: Path) -> None:
    assert list(look_through(job_of(tmp_path, Source()), [])) == []
    assert job_of(tmp_path, Source()).look_ahead([]) == []
    assert isinstance(job_of(tmp_path, Source()).entries[0], ImageEntry)


@pytest.mark.parametrize(
    ("most", "together"),
    [(96, [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]]),
     (48, [[str(number)] for number in range(10)])],
)  # fmt: skip
def test_large_images_are_not_read_while_others_are_looked_at(
    tmp_path: Path, most: int, together: list[list[str]]
) -> None:
    """Of 48 pixels each: two fit, or one."""
    job = job_of(tmp_path, source := Source(2))
    with patch("trace_d2.jobs.looking._MOST_PIXELS", most):
        for number, (entry, looked) in enumerate(look_through(job, job.entries)):
            assert entry.stem == str(number)
            assert isinstance(looked, Looked)
            assert len(source.made_ready) <= len(source.together) * len(together[0])
    assert source.together == together
