"""Label jobs on small folders of images whose edges part cats, and a detector that counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.categories import Category
from trace_d2.io.edge_maps import read_edges
from trace_d2.io.listing import list_images
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.panoptic_labels import LabelJob

CATEGORIES = (
    Category(0, "ground", False, (90, 90, 90)),
    Category(3, "cat", True, (220, 20, 60)),
)
CALIBRATION = ("MODEL.TRACE.EDGES.CALIBRATION",)
DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def add(root: Path, *stems: str, useless: bool = False) -> None:
    """Images of 48 x 64 with a cat of its own place each, or two that touch in every fourth."""
    for stem in stems:
        rng = np.random.default_rng([ord(letter) for letter in stem])
        mask, edges = np.zeros((48, 64), np.uint8), np.zeros((48, 64))
        top, left = int(rng.integers(2, 8)), int(rng.integers(2, 8))
        mask[top : top + 36, left : left + 50] = 3
        edges[top : top + 36, [left - 1, left + 49]] = rng.uniform(0.8, 1)
        edges[[top - 1, top + 35], left : left + 50] = rng.uniform(0.8, 1)
        if int(stem[-1]) % 4 == 0:
            edges[top : top + 36, left + 25] = 1
        edges += 0.1 * rng.random(edges.shape)
        if useless:
            edges = rng.random(edges.shape)
        save(root / f"images/{stem}.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
        save(root / f"semantic/{stem}.png", mask)
        save(root / f"edges/{stem}.png", (255 * edges.clip(0, 1)).astype(np.uint8))


def job_of(
    root: Path, output: str = "out", *pairs: object, edges: str | None = None, keep: bool = False
) -> LabelJob:
    cfg = get_trace_cfg()
    cfg.merge_from_list(list(pairs))
    cfg.MODEL.TRACE.EDGES.SOURCE = edges or "files"
    cfg.MODEL.TRACE.EDGES.DIR = str(root / "edges")
    folders = (root / "images", root / "semantic")
    return LabelJob(cfg, *folders, CATEGORIES, root / output, entries_of(root), save_edges=keep)


def entries_of(root: Path) -> list[ImageEntry]:
    names = list_images(root / "images").items()
    return [ImageEntry(stem, name, rank) for rank, (stem, name) in enumerate(names, start=1)]


def run(
    job: LabelJob,
    entries: Sequence[ImageEntry] | None = None,
    build: Callable[[], Detector] | None = None,
    **options: object,
):
    job.entries = entries_of(job.images.parent) if entries is None else entries
    with patch(DETECTOR, lambda cfg: build()):
        return run_job(job, RunOptions(**options))


def written(root: Path, output: str = "out") -> dict:
    return json.loads((root / output / "calibration.json").read_text())


def contents(output: Path) -> dict[str, bytes]:
    """All that must not depend on how the job was run."""
    names = ("panoptic", "semantic", "annotations")
    paths = [output / name for name in ("panoptic.json", "instances.json", "calibration.json")]
    paths += [path for name in names for path in (output / name).iterdir()]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


class Detector:
    """Edges from the files, with some noise, and how often each image was looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: Counter[str] = Counter()
        self.built = 0

    def build(self) -> Detector:
        self.built += 1
        return self

    def __call__(self, image: np.ndarray, stem: str) -> SimpleNamespace:
        self.seen[stem] += 1
        noise = np.random.default_rng(ord(stem[-1])).random(image.shape[:2], dtype=np.float32)
        edges = 0.95 * read_edges(self.root / f"edges/{stem}.png") + 0.05 * noise
        return EdgeOutput(edges=edges, timestep=300 + int(stem[-1]))
