"""A folder of images and a tool that finds edges on it, by a teacher of our own."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from trace_d2.edges.sources import EdgeOutput

STEMS = [f"s{number}" for number in range(5)]
SIZE = (12, 16)
DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def find_edges(image: np.ndarray, key: str) -> EdgeOutput:
    """A teacher of any image's own: random edges and ABDiv."""
    rng = np.random.default_rng(image.sum() + image[0, 0].sum())
    edges = rng.random(image.shape[:2], np.float32)
    return EdgeOutput(edges=edges, abdiv=rng.random((3, 4), np.float32), timestep=400)


class ToolJob:
    """A folder of images and the command of a tool on it."""

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root, self.tool = root, tool
        self.images, self.output = root / "images", root / "out"
        self.images.mkdir()
        for number, stem in enumerate(STEMS):
            image = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(image).save(self.images / f"{stem}.png")

    def run(self, *extra: str) -> int:
        workers = () if "--workers" in extra else ("--workers", "1")
        places = ("--images", str(self.images), "--output", str(self.output))
        return self.tool.main([*places, "--quiet", *workers, *extra])

    def merge(self) -> int:
        return self.tool.main(["--merge", str(self.output)])

    def journal(self) -> dict[str, dict]:
        lines = (self.output / "journal.jsonl").read_text().splitlines()
        return {r["stem"]: {**r, **r["facts"]} for r in map(json.loads, lines)}

    def contents(self) -> dict[str, bytes]:
        """What must not depend on how the job was run."""
        names = ("edges", "pseudo_edges", "annotations", "previews")
        paths = [path for name in names for path in (self.output / name).glob("*")]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in paths}
