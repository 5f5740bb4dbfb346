"""A small job for the command line: photographs, masks and edges made on the spot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from discovery import DiscoveryTool
from edge_tools import DETECTOR, ToolJob, find_edges
from PIL import Image
from pycocotools import mask as coco_mask

REPOSITORY = Path(__file__).parents[2]
CATEGORIES = [
    {"id": 0, "name": "ground", "isthing": 0, "color": [90, 90, 90]},
    {"id": 3, "name": "cat", "isthing": 1, "color": [220, 20, 60]},
    {"id": 7, "name": "dog", "isthing": 1, "color": [20, 60, 220]},
]


@pytest.fixture(autouse=True)
def hub_models_may_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default backbone, in whose place tests put others, is not missed in the hub's cache."""
    monkeypatch.setattr("trace_d2.backbones.preflight.cached_model", lambda *_: None)


@pytest.fixture
def studies_train_here(
    load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Studies train in this process: one of their own would import everything again."""
    from detectron2.data import DatasetCatalog

    commands = load_tool("commands")
    run_tool = commands.run_tool
    monkeypatch.setattr(commands, "run_tool", lambda *words, **_: run_tool(*words))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


@pytest.fixture(scope="session")
def make_pseudo_panoptic(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    """The tool as a module."""
    return load_tool("make_pseudo_panoptic")


# A tool that stops in the image after the first of its journal, so that there is a middle to be
# killed in; it goes on when its stdin ends. Its workers, which import this as well, never do.
# Jobs that a shell starts in the background ignore Ctrl-C; this one is to hear it in any case.
_TOOL_THAT_WAITS = """
import pathlib, signal, sys
sys.path[:0] = [{tools!r}, {repository!r}]
from {module} import {name}
plain, journals = {name}.__call__, pathlib.Path({work!r})
waiting = pathlib.Path({waiting!r})
wait = sys.stdin.read if __name__ == "__main__" else signal.pause
def call(self, *inputs):
    if any(path.stat().st_size for path in journals.rglob("journal*.jsonl")):
        waiting.touch()
        wait()
    return plain(self, *inputs)
{name}.__call__ = call
if __name__ == "__main__":
    import {tool}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit({tool}.main(sys.argv[1:]))
"""


@pytest.fixture(scope="session")
def start_midway() -> Callable[..., subprocess.Popen]:
    """``start_midway(job, *extra)``: the job in another process, its first image done.

    It does no other until its stdin is closed, as ``communicate`` does. What waits is the call of
    ``job.waits``, module and name of a class. It waits already on return: elsewhere, a finalizer
    might be what a signal interrupts, of which Python makes nothing.
    """

    def start(job: LabelJob | MaskJob, *extra: str) -> subprocess.Popen:
        script = job.root / "tool_that_waits.py"
        waiting = script.with_suffix(".waiting")
        waiting.unlink(missing_ok=True)
        script.write_text(
            _TOOL_THAT_WAITS.format(
                tools=str(REPOSITORY / "tools"),
                repository=str(REPOSITORY),
                module=job.waits[0],
                name=job.waits[1],
                tool=job.tool.__name__,
                work=str(job.work),
                waiting=str(waiting),
            )
        )
        process = subprocess.Popen(
            [sys.executable, str(script), *job.arguments(*extra)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not waiting.exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no result within two minutes"
            time.sleep(0.02)
        return process

    return start


def outlines(mask: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another value: what a good detector finds too."""
    found = np.zeros(mask.shape, bool)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    return found


class LabelJob:
    """Folders of inputs, and the command on them.

    Every image shows two touching cats, a dog and ground; the edges part the cats and outline all.
    """

    waits = ("trace_d2.labels.panoptic", "PanopticLabeler")

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root = root
        self.tool = tool
        self.output = root / "out"
        self.work = self.output
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
            mask[14:23, 1:31] = 7
            edges[outlines(mask)] = 255
            mask[0, :4] = 255
            self.save(f"images/{stem}.png", image)
            self.save(f"semantic/{stem}.png", mask)
            self.save(f"edges/{stem}.png", edges)

    def save(self, name: str, pixels: np.ndarray, **options: object) -> Path:
        """Write ``pixels`` as an image file below the root."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
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
        return {r["stem"]: {**r, **r["facts"]} for r in map(json.loads, lines)}

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
        paths += [p for name in kept for p in (self.output / name).rglob("*") if p.is_file()]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in paths}


@pytest.fixture
def label_job(tmp_path: Path, make_pseudo_panoptic: ModuleType) -> LabelJob:
    """An empty job; add images to it."""
    return LabelJob(tmp_path, make_pseudo_panoptic)


@pytest.fixture(scope="session")
def refine_masks(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    """The tool as a module."""
    return load_tool("refine_masks")


class MaskJob:
    """A folder of images, a file of masks, and the command on them.

    Every image shows two touching boxes under one mask; the edges part and outline them.
    """

    waits = ("trace_d2.propagation.bgp", "BoundaryGuidedPropagation")

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root = root
        self.tool = tool
        self.masks = root / "masks.json"
        self.output = root / "out/refined.json"
        self.work = root / "out/refined.json.work"
        self.content: dict = {"images": [], "annotations": [], "categories": []}
        self.content["categories"].append({"id": 1, "name": "fg", "supercategory": "fg"})
        for name in ("images", "edges", "out"):
            (root / name).mkdir()

    def add(self, *names: str, size: tuple[int, int] = (24, 32)) -> None:
        """Add images of ``size`` (H, W), each with a mask of two boxes and an edge between."""
        for name in names:
            stem = name.rpartition(".")[0] or name
            rng = np.random.default_rng([ord(letter) for letter in name])
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            mask, edges = np.zeros(size, bool), np.zeros(size, np.uint8)
            mask[4:16, 4:24] = True
            edges[4:16, int(rng.integers(12, 16))] = 255
            edges[outlines(mask)] = 255
            for folder in ("images", "edges"):
                (self.root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(self.root / "images" / name)
            Image.fromarray(edges).save(self.root / "edges" / f"{stem}.png")
            number = len(self.content["images"]) + 1
            entry = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
            self.content["images"].append(entry)
            self.add_mask(number, mask)

    def add_mask(self, image_id: int, mask: np.ndarray, **more: object) -> dict:
        """Add an annotation for (H, W) bool ``mask``; returns it."""
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotation = {
            "id": len(self.content["annotations"]) + 1,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "bbox": coco_mask.toBbox(encoded).tolist(),
            "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
            **more,
        }
        self.content["annotations"].append(annotation)
        return annotation

    def arguments(self, *extra: str, edges: Iterable[str] | None = None) -> list[str]:
        """The command line, with given edges unless ``edges`` says otherwise."""
        if self.content is not None:
            self.masks.write_text(json.dumps(self.content))
        return [
            *("--images", str(self.root / "images"), "--masks", str(self.masks)),
            *("--output", str(self.output), "--quiet"),
            *(("--edges", str(self.root / "edges")) if edges is None else edges),
            *(() if "--workers" in extra else ("--workers", "1")),
            *extra,
        ]

    def run(self, *extra: str, edges: Iterable[str] | None = None) -> int:
        """Run the tool in this process; returns its exit status."""
        return self.tool.main(self.arguments(*extra, edges=edges))

    def merge(self) -> int:
        """Join the masks of shards."""
        return self.tool.main(["--merge", str(self.output)])

    def journal(self) -> dict[str, dict]:
        """The joined journal by stem."""
        lines = (self.work / "journal.jsonl").read_text().splitlines()
        return {r["stem"]: {**r, **r["facts"]} for r in map(json.loads, lines)}

    def refined(self) -> dict:
        """The refined masks."""
        return json.loads(self.output.read_text())

    def areas(self) -> dict[str, list[int]]:
        """Areas of the refined masks by file name."""
        refined = self.refined()
        names = {image["id"]: image["file_name"] for image in refined["images"]}
        found: dict[str, list[int]] = {name: [] for name in names.values()}
        for annotation in refined["annotations"]:
            found[names[annotation["image_id"]]].append(annotation["area"])
        return {name: sorted(own) for name, own in found.items()}


@pytest.fixture
def mask_job(tmp_path: Path, refine_masks: ModuleType) -> MaskJob:
    """An empty job; add images to it."""
    return MaskJob(tmp_path, refine_masks)


@pytest.fixture
def discovery(tmp_path: Path, load_tool: Callable[[str], ModuleType]) -> DiscoveryTool:
    """An empty folder; add images to it."""
    return DiscoveryTool(tmp_path, load_tool("discover_masks"))


@pytest.fixture
def edge_job(
    tmp_path: Path, load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ToolJob:
    """The teacher's tool of edges, with ``find_edges`` for a teacher."""
    monkeypatch.setattr(DETECTOR, lambda cfg: find_edges)
    return ToolJob(tmp_path, load_tool("make_pseudo_edges"))


@pytest.fixture(scope="session")
def predict(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    """The tool as a module."""
    return load_tool("predict")


@pytest.fixture
def two_images(small_scenes: Path, tmp_path: Path) -> Path:
    """A folder with an image a, and another sub/b in a sub-folder."""
    (tmp_path / "two" / "sub").mkdir(parents=True)
    for path, name in zip(sorted((small_scenes / "images").iterdir()), ("a", "sub/b"), strict=True):
        shutil.copy(path, tmp_path / "two" / f"{name}.png")
    return tmp_path / "two"
