"""A small job for the command line: photographs, masks and edges made on the spot."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
CATEGORIES = [
    {"id": 0, "name": "ground", "isthing": 0, "color": [90, 90, 90]},
    {"id": 3, "name": "cat", "isthing": 1, "color": [220, 20, 60]},
    {"id": 7, "name": "dog", "isthing": 1, "color": [20, 60, 220]},
]


@pytest.fixture(scope="session")
def load_tool() -> Iterator[Callable[[str], ModuleType]]:
    """``load_tool(name)``: a module of tools/, which finds its neighbours as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "tools")
        yield importlib.import_module


@pytest.fixture(scope="session")
def make_pseudo_panoptic(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    """The tool as a module."""
    return load_tool("make_pseudo_panoptic")


class LabelJob:
    """Folders of inputs, and the command on them.

    Every image shows two touching cats, a dog and ground; the edges part the cats.
    """

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root = root
        self.tool = tool
        self.output = root / "out"
        self.categories = root / "categories.json"
        self.categories.write_text(json.dumps(CATEGORIES))
        for name in ("images", "semantic", "edges"):
            (root / name).mkdir()

    def add(self, *stems: str, size: tuple[int, int] = (24, 32)) -> None:
        """Add images of ``size`` (H, W) with masks and edges, a little different each."""
        for stem in stems:
            rng = np.random.default_rng([ord(letter) for letter in stem])
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            mask, edges = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
            top, middle = int(rng.integers(2, 5)), int(rng.integers(12, 16))
            mask[top:12, 4:24] = 3
            edges[top:12, middle] = 255
            mask[14:20, 6:12] = 7
            mask[0, :4] = 255
            self.save(f"images/{stem}.png", image)
            self.save(f"semantic/{stem}.png", mask)
            self.save(f"edges/{stem}.png", edges)

    def save(self, name: str, pixels: np.ndarray, **options: object) -> Path:
        """Write ``pixels`` as an image file below the root."""
        Image.fromarray(pixels).save(self.root / name, **options)
        return self.root / name

    def arguments(self, *extra: str, edges: Iterable[str] | None = None) -> list[str]:
        """The command line, with given edges unless ``edges`` says otherwise."""
        return [
            *("--images", str(self.root / "images"), "--semantic", str(self.root / "semantic")),
            *("--categories", str(self.categories), "--output", str(self.output), "--quiet"),
            *(("--edges", str(self.root / "edges")) if edges is None else edges),
            *(() if "--workers" in extra else ("--workers", "1")),
            *extra,
        ]

    def run(self, *extra: str, edges: Iterable[str] | None = None) -> int:
        """Run the tool in this process; returns its exit status."""
        return self.tool.main(self.arguments(*extra, edges=edges))

    def merge(self) -> int:
        """Join the labels of shards."""
        return self.tool.main(["--merge", str(self.output)])

    def journal(self) -> dict[str, dict]:
        """The joined journal by stem."""
        lines = (self.output / "journal.jsonl").read_text().splitlines()
        return {record["stem"]: record for record in map(json.loads, lines)}

    def reason(self, stem: str) -> str:
        """Why ``stem`` failed or was skipped."""
        return self.journal()[stem]["reason"]

    def coco(self, name: str) -> dict:
        """``panoptic.json`` or ``instances.json``."""
        return json.loads((self.output / name).read_text())

    def contents(self) -> dict[str, bytes]:
        """All label files by name: what must not depend on how the job was run."""
        kept = ("panoptic", "semantic", "annotations")
        paths = [self.output / "panoptic.json", self.output / "instances.json"]
        paths += [path for name in kept for path in (self.output / name).iterdir()]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in paths}


@pytest.fixture
def label_job(tmp_path: Path, make_pseudo_panoptic: ModuleType) -> LabelJob:
    """An empty job; add images to it."""
    return LabelJob(tmp_path, make_pseudo_panoptic)
