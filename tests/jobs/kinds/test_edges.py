"""What decides edges, what the journal and the report page tell of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import EdgeOutput
from trace_d2.jobs.job import Looked
from trace_d2.jobs.journal import DONE, FAILED, Record
from trace_d2.jobs.kinds.edge_job import STUDENT, TEACHER
from trace_d2.jobs.kinds.edges import (
    PredictedEdgeJob,
    PseudoEdgeJob,
    edge_entries,
    label_summary,
)
from trace_d2.jobs.output import differences

ABDIV = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a student's files, which any config leads to."""
    folder = tmp_path / "student"
    (folder / "lora").mkdir(parents=True)
    (folder / "student.json").write_text("{}")
    (folder / "lora/weights.safetensors").write_bytes(b"one")
    monkeypatch.setattr("trace_d2.edges.student_files.student_folder", lambda cfg: folder)
    return folder


def build(images: Path, edges: str, *opts: object, output: Path = Path("out")) -> PredictedEdgeJob:
    cfg = get_trace_cfg()
    cfg.merge_from_list([*opts, "MODEL.TRACE.EDGES.SOURCE", edges])
    entries = edge_entries(images, None, 0) if images.is_dir() else []
    kind = PseudoEdgeJob if edges == TEACHER else PredictedEdgeJob
    return kind(cfg, images, output, entries)


def settings_of(*args: object) -> dict:
    return build(Path("nowhere"), *args).settings


def changed(edges: str, *opts: object) -> list[str]:
    """The settings that ``opts`` change."""
    before, now = (settings_of(edges, *o) for o in ((), opts))
    return [line.split(":")[0] for line in differences(before, now)]


def test_what_decides_the_teachers_edges(tmp_path: Path) -> None:
    for key, value in (
        ("MODEL.TRACE.SEED", 1),
        ("MODEL.TRACE.ABDIV.THRESHOLD", "mean"),
        ("MODEL.TRACE.EMERGENCE.STRIDE", 50),
    ):
        assert changed(TEACHER, key, value) == [key]
    # Keys that came later are settings where they change something.
    for key, value in (
        ("MODEL.TRACE.EMERGENCE.SPACING", "scheduler"),
        ("MODEL.TRACE.BACKBONE.GUIDANCE", 3.5),
    ):
        assert key not in settings_of(TEACHER)
        assert changed(TEACHER, key, value) == [key]
    assert changed(TEACHER, "MODEL.TRACE.LABELS.NECK_DEPTH", 0.5) == []
    assert changed(TEACHER, "MODEL.TRACE.EMERGENCE.BATCH", 3) == []
    assert changed(TEACHER, "MODEL.TRACE.EDGES.CALIBRATION", "nowhere.json") == []


def test_what_decides_the_students_edges(tmp_path: Path, student: Path) -> None:
    for key, value in (
        ("MODEL.TRACE.ABDIV.THRESHOLD", "mean"),
        ("MODEL.TRACE.EMERGENCE.STRIDE", 50),
        ("MODEL.TRACE.STUDENT.LORA.RANK", 8),  # how one is trained is in its files
        ("MODEL.TRACE.STUDENT.WEIGHTS", "elsewhere"),  # the hash of its files counts
    ):
        assert changed(STUDENT, key, value) == []
    for key, value in (
        ("MODEL.TRACE.SEED", 1),
        ("MODEL.TRACE.BACKBONE.NAME", "trace-tiny"),
        ("MODEL.TRACE.STUDENT.MERGE_LORA", False),
    ):
        assert changed(STUDENT, key, value) == [key]


def test_another_student_in_the_same_folder_is_noticed(tmp_path: Path, student: Path) -> None:
    before = settings_of(STUDENT)
    (student / "notes.txt").write_text("no weights")
    assert settings_of(STUDENT) == before
    (student / "lora/weights.safetensors").write_bytes(b"two")
    assert differences(before, settings_of(STUDENT))[0].startswith("student: ")
    (student / "lora/weights.safetensors").write_bytes(b"one")
    assert settings_of(STUDENT) == before
    assert "student" not in settings_of(TEACHER)


def detected(**more: Any) -> EdgeOutput:
    edges = np.linspace(0, 1, 6 * 8, dtype=np.float32).reshape(6, 8)
    return EdgeOutput(**{"edges": edges, "abdiv": ABDIV, "timestep": 300, **more})


def job_of(tmp_path: Path, edges: str) -> PredictedEdgeJob:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "images/a.png")
    return build(tmp_path / "images", edges, output=tmp_path / "out")


def detect(job: PredictedEdgeJob, found: EdgeOutput) -> Looked | Record:
    (entry,) = job.entries
    job.detector = lambda image, key: found
    (looked,) = job.look_ahead([(entry, lambda: job.read(entry))])
    return looked


def test_the_teacher_gives_labels_and_its_timestep(tmp_path: Path) -> None:
    loaded = detect(job_of(tmp_path, TEACHER), detected())
    assert loaded.facts == {"timestep": 300}
    assert loaded.inputs.labels.shape == (6, 8)


def test_the_student_gives_edges_and_no_timestep(tmp_path: Path, student: Path) -> None:
    job = job_of(tmp_path, STUDENT)
    loaded = detect(job, detected(abdiv=None, timestep=0))
    assert loaded.facts == {}
    assert loaded.inputs.labels is None
    assert not (job.store.root / "pseudo_edges").exists()


def test_what_is_no_edge_map_fails_with_a_remedy(tmp_path: Path) -> None:
    job = job_of(tmp_path, TEACHER)
    small = detect(job, detected(edges=np.zeros((3, 4), np.float32)))
    assert small.status == FAILED
    assert "edges detected in a.png are of shape (3, 4), not (6, 8): repair" in small.reason
    assert "pseudo edges need the teacher" in detect(job, detected(abdiv=None)).reason


def test_the_summary_counts_images_without_labels() -> None:
    record = Record("a", "a.png", DONE)
    assert label_summary([record, replace(record, status=FAILED)]) == []
    both, positive = (
        replace(record, facts={"shares": (0.2, 0.4, 0.4)}),
        replace(record, facts={"shares": (0.1, 0, 0.9)}),
    )
    assert label_summary([both, both]) == [
        "pseudo edges: 20.0% edge, 40.0% none, 40.0% ignored on average"
    ]
    few = replace(record, facts={"shares": (0.1, 0.009, 0.891)})
    lines = label_summary([both, positive, replace(record, facts={"shares": (0, 0, 1.0)}), few])
    assert lines[:4] == [
        "pseudo edges: 10.0% edge, 10.2% none, 79.8% ignored on average",
        "1 of 4 images have no positive (edge) pixel",
        "2 of 4 images have no negative (none) pixel",
        "1 of 4 images have fewer than 1% of them",
    ]
    assert "MODEL.TRACE.ABDIV.THRESHOLD upper_band takes" in lines[4]
    assert len(label_summary([both, few])) == 3


def test_entries_have_ids_whatever_their_names(tmp_path: Path) -> None:
    for stem in ("7", "07", "b"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / f"{stem}.png")
    entries = edge_entries(tmp_path, 2, 1)
    assert [(e.stem, e.image_id, e.pictured) for e in entries] == [
        ("07", 1, True), ("7", 2, False), ("b", 3, False),
    ]  # fmt: skip


def test_workers_that_write_edges_do_without_torch() -> None:
    code = "import sys, trace_d2.jobs.kinds.edges as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
