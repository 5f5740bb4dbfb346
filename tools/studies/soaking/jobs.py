"""Small jobs, and the files that they leave."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

_SIZE = (48, 64)
_THING = 3
_CATEGORIES = [
    {"id": 0, "name": "ground", "isthing": 0},
    {"id": _THING, "name": "cat", "isthing": 1},
]
# What hangs on clocks, and not on the work.
_TIMES = ("seconds", "finished")
_MEDIAN = re.compile(rb"<b>[0-9.]+</b><span>seconds an image \(median\)</span>")


@dataclass(frozen=True)
class Command:
    """A tool with its arguments, without ``--output``.

    Attributes:
        tool: name of the module.
        words: arguments; empty for ``--merge``.
    """

    tool: str
    words: tuple[str, ...]

    def on(self, output: Path) -> list[str]:
        """The whole command line on ``output``."""
        return [*self.words, "--output", str(output)] if self.words else ["--merge", str(output)]

    def __call__(self, output: Path) -> int:
        """Run it in this process; returns the exit status."""
        main: Callable[[list[str]], int] = __import__(self.tool).main
        return main(self.on(output))


@dataclass(frozen=True)
class SmallJob:
    """Commands that make one output between them.

    Attributes:
        name: of the job.
        output: name of the output.
        steps: the commands.
    """

    name: str
    output: str
    steps: tuple[Command, ...]

    @property
    def tool(self) -> str:
        """The tool of all its commands."""
        return self.steps[0].tool


def small_jobs(root: Path, wanted: Sequence[str]) -> dict[str, SmallJob]:
    """Jobs of the kinds ``wanted`` on the inputs below ``root``.

    Each is whole, by two workers, and by shards.
    """
    images = ("--images", str(root / "images"), "--edges", str(root / "edges"), "--quiet")
    semantic = ("--semantic", str(root / "semantic"))
    categories = ("--categories", str(root / "categories.json"))
    kinds = {
        "labels": ("make_pseudo_panoptic", "out", (*images, *semantic, *categories)),
        "masks": ("refine_masks", "out.json", (*images, "--masks", str(root / "masks.json"))),
    }
    jobs = []
    for kind in wanted:
        tool, output, words = kinds[kind]

        def command(*more: str, tool: str = tool, words: tuple[str, ...] = words) -> Command:
            return Command(tool, (*words, "--report-images", "5", *more))

        one = ("--workers", "1")
        shards = [command(*one, "--shard", f"{index}/2") for index in (1, 2)]
        jobs += [
            SmallJob(kind, output, (command(*one),)),
            SmallJob(f"{kind} by 2 workers", output, (command("--workers", "2"),)),
            SmallJob(f"{kind} by shards", output, (*shards, Command(tool, ()))),
        ]
    return {job.name: job for job in jobs}


def write_inputs(root: Path, count: int, seed: int) -> None:
    """``count`` photographs, semantic masks, edges and merged masks below ``root``."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "semantic", "edges"):
        (root / folder).mkdir(parents=True)
    (root / "categories.json").write_text(json.dumps(_CATEGORIES))
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 1, "name": "fg", "supercategory": "fg"}]
    for number in range(1, count + 1):
        name, (height, width) = f"s{number:03}.png", _SIZE
        pixels = rng.integers(0, 256, (*_SIZE, 3), np.uint8)
        mask, edges = np.zeros(_SIZE, np.uint8), 0.1 * rng.random(_SIZE)
        top, left, middle = (int(v) for v in rng.integers((3, 3, 28), (9, 12, 38)))
        mask[top : top + 34, left : left + 48] = _THING
        edges[top : top + 34, [left - 1, left + 47]] = edges[[top - 1, top + 33], left:] = 0.9
        if number % 2:
            edges[top : top + 34, middle] = 0.9
        Image.fromarray(pixels).save(root / "images" / name)
        Image.fromarray(mask).save(root / "semantic" / name)
        Image.fromarray((255 * edges).astype(np.uint8)).save(root / "edges" / name)
        rle = coco_mask.encode(np.asfortranarray((mask == _THING).astype(np.uint8)))
        image = {"id": number, "file_name": name, "height": height, "width": width}
        content["images"].append(image)
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "area": int(coco_mask.area(rle)),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    (root / "masks.json").write_text(json.dumps(content))


def results(folder: Path) -> dict[str, bytes]:
    """All files below ``folder`` but locks, by name, without the times of journal and page."""
    return {path.relative_to(folder).as_posix(): _timeless(path) for path in _files(folder)}


def state(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All that lies below ``folder``, with what would tell of any change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".locks" not in path.parts:
            yield path


def _timeless(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name.startswith("journal"):
        records = [json.loads(line) for line in content.splitlines()]
        kept = [{k: v for k, v in r.items() if k not in _TIMES} for r in records]
        return json.dumps(kept).encode()
    return _MEDIAN.sub(b"", content) if path.name == "report.html" else content


def spoil(path: Path) -> Callable[[], None]:
    """Make an image file unreadable; returns what makes it whole again, its time included."""
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[: len(content) // 2])

    def repair() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return repair
