"""A folder of images with edges, and the discoverer of masks on it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from scipy import ndimage


class DiscoveryTool:
    """A folder of images with edges, and the command on them.

    Every image shows two boxes that touch; the edges part and outline them.
    """

    waits = ("trace_d2.jobs.kinds.discovered_masks", "DiscoveryJob")

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root, self.tool = root, tool
        self.output = root / "out/masks.json"
        self.work = root / "out/masks.json.work"
        for name in ("images", "edges", "out"):
            (root / name).mkdir()

    def add(self, *names: str, size: tuple[int, int] = (48, 64)) -> None:
        """Add images of ``size`` (H, W), a little different each."""
        for name in names:
            rng = np.random.default_rng([ord(letter) for letter in name])
            middle = int(rng.integers(28, 36)) * size[1] // 64
            image = np.full((*size, 3), (30, 90, 60), np.uint8)
            edges = np.zeros(size, np.uint8)
            boxes = [np.s_[8:40, 6:middle], np.s_[8:40, middle:58]]
            for box, color in zip(boxes, ((200, 60, 40), (60, 80, 220)), strict=True):
                image[box] = color
                mask = np.zeros(size, bool)
                mask[box] = True
                edges[mask ^ ndimage.binary_erosion(mask)] = 255
            self.save(f"images/{name}", image)
            self.save(f"edges/{name.rpartition('.')[0]}.png", edges)

    def save(self, name: str, pixels: np.ndarray, **options: object) -> Path:
        """Write ``pixels`` as an image file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    def arguments(self, *extra: str, method: str | None = "edges") -> list[str]:
        """The command line; with given edges, if the method takes any."""
        return [
            *("--images", str(self.root / "images"), "--output", str(self.output), "--quiet"),
            *(("--method", method) if method else ()),
            *(("--edges", str(self.root / "edges")) if method == "edges" else ()),
            *(() if "--workers" in extra else ("--workers", "1")),
            *extra,
        ]

    def run(self, *extra: str, method: str | None = "edges") -> int:
        """Run the tool in this process; returns its exit status."""
        return self.tool.main(self.arguments(*extra, method=method))

    def merge(self) -> int:
        """Join the masks of shards."""
        return self.tool.main(["--merge", str(self.output)])

    def journal(self) -> dict[str, dict]:
        """The joined journal by stem."""
        lines = (self.work / "journal.jsonl").read_text().splitlines()
        return {r["stem"]: {**r, **r["facts"]} for r in map(json.loads, lines)}

    def found(self) -> dict:
        """The file of masks."""
        return json.loads(self.output.read_text())
