"""The inputs of a study of labels and masks: edges and semantic masks of every quality.

All are made from the truth of a data set in COCO panoptic format, once, below OUTPUT/inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands import named_folder

from trace_d2.jobs.arguments import count
from trace_d2.parallel import available_cpus

if TYPE_CHECKING:
    from trace_d2.io.coco_panoptic import PanopticSet

NO_EDGES = "none"
"""The row without edges, which the others are held against."""

BASELINE = "gradient"
"""The detector where none is given."""

_GAPS = {"oracle": 0.0, "oracle-gaps": 0.2}
_SOFT = {f"soft-{false}": (false, 0) for false in (0.5, 0.7, 0.9)}
_GRIDS = {"grid-128": (0.7, 128), "grid-64": (0.5, 64)}
_QUALITIES = _SOFT | _GRIDS
"""Strength of the false edges, and side of the token grid or 0."""

ROWS = {
    NO_EDGES: "none",
    "oracle": "oracle",
    "oracle-gaps": f"oracle, {100 * _GAPS['oracle-gaps']:.0f} % gaps",
    **{name: f"soft, false {false}" for name, (false, _) in _SOFT.items()},
    **{name: f"grid of {grid}, false {false}" for name, (false, grid) in _GRIDS.items()},
}
"""Titles of the kinds of edges by name; those of detectors come after them."""


def add_data_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--images``, ``--truth-json`` and ``--truth-dir``."""
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="photographs")
    add(
        "--truth-json", type=Path, required=True, metavar="FILE",
        help="COCO panoptic JSON; images that it does not list are left out",
    )  # fmt: skip
    add("--truth-dir", type=Path, required=True, metavar="DIR", help="folder of its PNGs")


def add_study_options(
    parser: argparse.ArgumentParser, rows: Collection[str], more_rows: str, detectors: str
) -> None:
    """Add the options of ``StudyInputs`` but for its noise, and ``--rows``.

    Args:
        rows: names of those that are there without detectors, so that none may have them.
        more_rows, detectors: what the help says of further rows, and of edges of detectors.
    """
    add_data_set(parser)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="new folder, or to continue")
    add(
        "--detector", type=named_folder(*rows), action="append", default=[], metavar="NAME=DIR",
        dest="detectors", help=f"edges of a detector, <stem>.png or .npy; repeatable{detectors}",
    )  # fmt: skip
    add("--rows", nargs="+", metavar="ROW", help=f"some of: {', '.join(rows)}, {more_rows}")
    add("--workers", type=count, default=available_cpus(), metavar="N", help="default: CPUs")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys of the commands")


def check_rows(wanted: Collection[str] | None, known: Sequence[str]) -> None:
    """Raise a ValueError if one of the ``wanted`` rows is none that is ``known``."""
    unknown = sorted(set(wanted or ()) - set(known))
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}: choose from {', '.join(known)}")


@dataclass(frozen=True)
class StudyInputs:
    """Edges and masks of a study, made when they are asked for.

    Attributes:
        images, truth_json, truth_dir: the data set.
        output: folder of the study.
        detectors: folder of edges by name; the first gives the false edges.
        noise: level of ``degrade_semantic``.
        workers, opts: processes and config keys, KEY VALUE in turn, of both commands.
    """

    images: Path
    truth_json: Path
    truth_dir: Path
    output: Path
    detectors: dict[str, Path]
    noise: float
    workers: int = 1
    opts: tuple[str, ...] = ()

    @cached_property
    def truth(self) -> PanopticSet:
        """The truth, read once."""
        from trace_d2.io.coco_panoptic import load_panoptic_json

        return load_panoptic_json(self.truth_json)

    @cached_property
    def stems(self) -> dict[Any, str]:
        """Stem of each image by its id, in the sorted order of file names."""
        stems = {key: stem for stem, key in self.truth.by_stem().items()}
        return {
            key: stems[key]
            for key, _ in sorted(
                self.truth.annotations.items(), key=lambda one: one[1]["file_name"]
            )
        }

    @property
    def truth_files(self) -> tuple[Path, Path]:
        """JSON and folder of the truth."""
        return self.truth_json, self.truth_dir

    @property
    def parts(self) -> list[list[Any]]:
        """Image ids of all, of the even ranks and of the odd ones."""
        ids = list(self.stems)
        return [ids, ids[::2], ids[1::2]]

    @property
    def rows(self) -> dict[str, str]:
        """Title of every row by its name."""
        return ROWS | {name: f"{name}, as it is" for name in self.detectors or (BASELINE,)}

    @property
    def false_edges(self) -> str:
        """Name of the detector that the false edges are from."""
        return next(iter(self.detectors), BASELINE)

    def check(self) -> None:
        """Look at all inputs, before hours of work; what is missing or does not fit is named."""
        from trace_d2.io.categories import category_entries, parse_categories
        from trace_d2.io.edge_maps import has_edges
        from trace_d2.io.listing import list_images

        parse_categories(category_entries(self.truth.categories), str(self.truth_json))
        listed = {image["id"] for image in self.truth.images if image.get("file_name")}
        present = list_images(self.images)
        for key, stem in self.stems.items():
            if key not in listed:
                raise ValueError(
                    f'{self.truth_json}: "images" lists no {stem}.* of id {key}; add it'
                )
            if stem not in present:
                raise ValueError(f"no image {stem}.* in {self.images}: add it, or correct --images")
        for name, folder in self.detectors.items():
            absent = [stem for stem in self.stems.values() if not has_edges(folder, stem)]
            if absent:
                raise ValueError(
                    f"detector {name}: {folder} has no edges of {len(absent)} of "
                    f"{len(self.stems)} images, such as {absent[0]}.png: make them"
                )

    def claim(self) -> None:
        """Make the folder of the study, or make sure that it holds one of the same inputs."""
        from trace_d2.io.atomic import write_json

        false = self.detectors.get(self.false_edges)
        own = {
            "images": str(self.images.resolve()),
            "truth": hashlib.sha256(self.truth_json.read_bytes()).hexdigest(),
            "semantic_noise": self.noise,
            "false_edges": str(false.resolve()) if false else BASELINE,
            "opts": list(self.opts),
        }
        path = self.output / "settings.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else own
        changed = [key for key, value in own.items() if earlier.get(key) != value]
        if changed:
            raise ValueError(
                f"{self.output} holds a study with other {', '.join(changed)}: give another "
                "--output, or remove it"
            )
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(path, own, indent=1)

    def categories(self) -> Path:
        """File of the categories, for the label maker."""
        return self._oracle() / "categories.json"

    def semantic(self, noisy: bool) -> Path:
        """Folder of semantic masks."""
        from trace_d2.scenes.noise import write_degraded_semantic

        perfect, categories = self._oracle() / "semantic", self.truth.categories
        if not noisy:
            return perfect
        options = {"categories": categories, "level": self.noise}
        return self._made("semantic_noisy", write_degraded_semantic, perfect, **options)

    def edges(self, row: str) -> Path | None:
        """Folder of the edges of a row; None: no edges."""
        from trace_d2.scenes.noise import EdgeQuality, write_degraded_edges

        if row == NO_EDGES:
            return None
        if row in _GAPS:
            return self._oracle(_GAPS[row]) / "edges"
        if row not in _QUALITIES:
            return self._detected(row)
        true, false = self._oracle() / "edges", self._detected(self.false_edges)
        strength, grid = _QUALITIES[row]
        quality = EdgeQuality(strength, grid=grid)
        return self._made(f"edges_{row}", write_degraded_edges, true, false, quality=quality)

    def merged_masks(self, per_class: bool) -> Path:
        """COCO file of the connected parts of each thing class, or of all things."""
        from trace_d2.scenes.oracle import write_merged_masks

        name = "merged_classes.json" if per_class else "merged_all.json"
        return self._made(name, write_merged_masks, *self.truth_files, per_class=per_class)

    def instances(self) -> Path:
        """COCO file of the things themselves."""
        from trace_d2.scenes.oracle import write_instances

        return self._made("instances.json", write_instances, *self.truth_files)

    def _detected(self, name: str) -> Path:
        if name in self.detectors:
            return self.detectors[name]
        return self._made(f"edges_{name}", self._write_baseline)

    def _oracle(self, gaps: float = 0.0) -> Path:
        """Folder of perfect semantic masks, edges (with gaps) and categories."""
        from trace_d2.scenes.oracle import write_oracle

        name = "oracle_gaps" if gaps else "oracle"
        return self._made(name, write_oracle, *self.truth_files, gaps=gaps)

    def _write_baseline(self, output: Path) -> None:
        from tqdm import tqdm

        from trace_d2.edges.baselines import FILTERS
        from trace_d2.io.edge_maps import write_edges
        from trace_d2.io.images import read_image
        from trace_d2.io.listing import list_images

        names = list_images(self.images)
        output.mkdir(exist_ok=True)
        for stem in tqdm(self.stems.values(), desc=BASELINE, unit="image"):
            image = read_image(self.images / names[stem]).pixels
            path = output / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_edges(path, FILTERS[BASELINE](image))

    def _made(self, name: str, write: Callable[..., object], *inputs: Path, **options: Any) -> Path:
        """``inputs/<name>``, written from ``inputs`` unless it is there as a whole."""
        target = self.output / "inputs" / name
        if not target.exists():
            unfinished = target.with_name(f"{target.name}.part")
            target.parent.mkdir(parents=True, exist_ok=True)
            write(*inputs, output=unfinished, **options)
            unfinished.replace(target)
        return target
