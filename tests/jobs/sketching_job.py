"""A job that finds edges by a model of its own, which processes can import and be killed by.

Its folder of images has a file ``kill/<stem>`` beside it for each image that kills who looks at it,
and ``kill/<stem>.cut`` for one that kills who cuts it: once, or always if it says so.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.categories import Category
from trace_d2.io.images import Sample
from trace_d2.io.listing import list_images
from trace_d2.jobs.actors import Gone, Hello
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.labels import PanopticLabel

CATEGORIES = (
    Category(0, "ground", False, (90, 90, 90)),
    Category(3, "cat", True, (220, 20, 60)),
)


def die() -> None:
    """As a process without memory does; tests within one process put another in its place."""
    os.kill(os.getpid(), signal.SIGKILL)


def end_for_a_reason(connection: Connection, workers: int, where: str) -> None:
    """In place of the life of an actor."""
    connection.send(Gone("its worker died: use fewer"))


def never_end(connection: Connection, workers: int, where: str) -> None:
    """As the loading of a model that takes no notice of signals."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(Hello(where))
    time.sleep(60)


class Sketcher:
    """Edges where neighbours differ; ``root`` as above."""

    def __init__(self, root: Path) -> None:
        self.root = root
        logging.getLogger("trace_d2.sketcher").warning("sketches are no edges: %s", "beware")
        if (root / "no_model").exists():
            raise UsageError("the sketcher cannot be loaded: there is none")

    def __call__(self, image: np.ndarray, stem: str) -> EdgeOutput:
        _may_die(self.root / "kill" / stem)
        grey = image.astype(np.float32).mean(axis=2) / 255
        edges = np.zeros_like(grey)
        edges[:, 1:] += np.abs(np.diff(grey, axis=1))
        edges[1:] += np.abs(np.diff(grey, axis=0))
        return EdgeOutput(edges.clip(0, 1), timestep=300.0 + len(stem))


class SketchingJob(LabelJob):
    """Labels by sketched edges."""

    @cached_property
    def detector(self) -> Sketcher:
        return Sketcher(self.images.parent)

    def cut(self, entry: ImageEntry, inputs: Sample) -> PanopticLabel:
        _may_die(self.images.parent / f"kill/{entry.stem}.cut")
        return super().cut(entry, inputs)


def _may_die(deadly: Path) -> None:
    if deadly.exists():
        if deadly.read_text() != "always":
            deadly.unlink()
        die()


def add_images(root: Path, count: int) -> None:
    """``count`` images of 40 x 48 with two cats that touch, and their masks, below ``root``."""
    for folder in ("images", "semantic", "kill"):
        (root / folder).mkdir(exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 30, (40, 48, 3), np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        middle = int(rng.integers(18, 30))
        mask[6:34, 6:42] = 3
        image[6:34, 6:middle] += 100
        image[6:34, middle:42] += 200
        Image.fromarray(image).save(root / f"images/s{number:02}.png")
        Image.fromarray(mask).save(root / f"semantic/s{number:02}.png")


def sketching_job(root: Path, output: str = "out") -> SketchingJob:
    """The job of the images below ``root``."""
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.EDGES.SOURCE = "teacher"
    names = list_images(root / "images").items()
    entries = [ImageEntry(stem, name, rank) for rank, (stem, name) in enumerate(names, start=1)]
    folders = (root / "images", root / "semantic")
    return SketchingJob(cfg, *folders, CATEGORIES, root / output, entries, save_edges=True)


def contents(output: Path) -> dict[str, bytes]:
    """All that must not depend on how the job was run."""
    names = ("panoptic", "semantic", "annotations", "edges")
    paths = [output / name for name in ("panoptic.json", "instances.json", "calibration.json")]
    paths += [path for name in names for path in (output / name).iterdir()]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}
