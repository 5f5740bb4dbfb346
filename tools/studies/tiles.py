#!/usr/bin/env python
"""Edges read in tiles against edges read of the whole image, by the labels that come of them.

    python tools/studies/tiles.py --output tiles [--count 12] [--overlap 0 --overlap 0.5]
        [--search-tiles] [KEY VALUE ...]

Scenes whose objects have areas between given shares of the image are drawn and labelled by the
command that users run, with perfect semantic masks: without edges, with edges of student and
teacher, each of the whole scene and in tiles, and with perfect ones. What is finished is kept: the
same command continues. Keys go to the label maker.

``--overlap`` compares tiles that share so much of their side with the next one. ``--search-tiles``
adds a teacher that reads each tile at a t* of its own, where tiles have one t* an image.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from commands import ROOT, exit_status, run_tool

AREAS = ((0.0005, 0.005), (0.01, 0.05), (0.05, 0.2))
"""Shares of the image: tiny objects, ordinary ones, ones that no tile holds."""

_SOURCE, _MODE = "MODEL.TRACE.EDGES.SOURCE", "MODEL.TRACE.EDGES.TILES.MODE"
_OVERLAP = "MODEL.TRACE.EDGES.TILES.OVERLAP"
_SEARCHED = "teacher, tiled, each tile searched"
_SCALE = ("MODEL.TRACE.EDGES.SCALE", 128)  # trace-tiny reads tiles of 128 pixels
_CONFIG = ROOT / "configs" / "edges" / "trace_tiny.yaml"


def _rows(overlaps: Sequence[float], search_tiles: bool) -> dict[str, list[object]]:
    """Options of the label maker by the row's title.

    Where edges are read in tiles they are measured at the scale of one; so are those read of the
    whole image and perfect ones in a second row, as that alone changes labels.
    """
    rows: dict[str, list[object]] = {"none": ["--no-edges"]}
    for source in ("student", "teacher"):
        whole: list[object] = [_SOURCE, source, _MODE, "never"]
        rows |= {f"{source}, whole": whole, f"{source}, whole, scale of a tile": [*whole, *_SCALE]}
        tiled: list[object] = [_SOURCE, source, _MODE, "always"]
        if not overlaps:
            rows[f"{source}, tiled"] = tiled
        for overlap in overlaps:
            rows[f"{source}, tiled, overlap {overlap:g}"] = [*tiled, _OVERLAP, overlap]
    if search_tiles:
        rows[_SEARCHED] = tiled
    return rows | {"perfect": ["--edges"], "perfect, scale of a tile": ["--edges", *_SCALE]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 done, 2 bad input, else the status of a command that failed."""
    args = _parser().parse_intermixed_args(arguments)

    def work() -> None:
        _claim(args)
        results = [
            (tuple(area), title, _measure(args, tuple(area), title, options))
            for area in args.area or AREAS
            for title, options in _rows(args.overlap, args.search_tiles).items()
            if args.teacher_count or not title.startswith("teacher")
        ]
        print(_table(results))

    return exit_status("tiles", work)


def _claim(args: argparse.Namespace) -> None:
    """Make the folder of the study, or make sure that it holds one of the same settings."""
    from trace_d2.io.atomic import write_json

    own = {"series": args.series, "size": args.size, "opts": args.opts}
    path = args.output / "settings.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else own
    if earlier != own:
        raise ValueError(f"{args.output} holds a study of {earlier}: give another --output")
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(path, own)


def _measure(
    args: argparse.Namespace, area: tuple[float, float], title: str, options: list[object]
) -> dict[str, Any]:
    """Scores (0..1), seconds an image and how many images of one row."""
    from trace_d2.io.atomic import write_json

    folder = args.output / f"{area[0]:g}-{area[1]:g}"
    # What edges mean is measured on all scenes of a folder.
    count = min(args.count, args.teacher_count) if title.startswith("teacher") else args.count
    scenes = folder / f"scenes_{count}"
    row = folder / f"{title.replace(', ', '_')}_{count}"
    scores = row.with_name(f"{row.name}.json")
    if scores.is_file():
        content: dict[str, Any] = json.loads(scores.read_text(encoding="utf-8"))
        return content
    _draw(args, scenes, area, count)
    if options[0] == "--edges":
        options = ["--edges", scenes / "edges_oracle", *options[1:]]
    start = time.process_time()
    words = ["--config-file", _CONFIG, "--images", scenes / "images", "--output", row]
    words += ["--semantic", scenes / "semantic", "--categories", scenes / "categories.json"]
    words += ["--workers", 1, "--report-images", 2, *args.opts, *options]
    with _searched_tiles() if title == _SEARCHED else nullcontext():
        run_tool("make_pseudo_panoptic", *words)
    content = {"images": count, **_score(scenes, row)}
    content["seconds"] = (time.process_time() - start) / count
    write_json(scores, content)
    return content


def _searched_tiles() -> Any:
    """Tiles are read at no common t*, so that each is searched; the time is that of two searches.

    Nothing but this study wants it.
    """
    from trace_d2.edges.detector import EdgeDetector

    return mock.patch.object(EdgeDetector, "at", lambda detector, timestep: detector)


def _draw(args: argparse.Namespace, scenes: Path, area: tuple[float, float], count: int) -> None:
    if scenes.exists():
        return
    unfinished = scenes.with_name(f"{scenes.name}.part")
    run_tool(
        "make_scenes", "--output", unfinished, "--count", count, "--series", args.series,
        "--size", args.size, args.size, "--object-area", *area, "--workers", 1,
    )  # fmt: skip
    unfinished.replace(scenes)


def _score(scenes: Path, labels: Path) -> dict[str, Any]:
    """PQ^th and AP^mk of labels."""
    from trace_d2.evaluation import class_agnostic_ap, panoptic_quality

    quality = panoptic_quality(
        scenes / "panoptic.json", scenes / "panoptic",
        labels / "panoptic.json", labels / "panoptic",
    )  # fmt: skip
    truth, found = scenes / "instances.json", labels / "instances.json"
    ap = class_agnostic_ap(truth, found, ["segm"]).to_dict()["segm"]["AP"]
    return {"PQ^th": quality.things.pq, "AP^mk": ap}


def _table(results: Sequence[tuple[tuple[float, float], str, dict[str, Any]]]) -> str:
    from tabulate import tabulate

    rows = [
        [
            f"{100 * area[0]:g} to {100 * area[1]:g} %",
            title,
            found["images"],
            *(f"{100 * found[name]:.1f}" for name in ("PQ^th", "AP^mk")),
            f"{found['seconds']:.1f}",
        ]
        for area, title, found in results
    ]
    headers = ["area of an object", "edges", "scenes", "PQ^th", "AP^mk", "s of a core, a scene"]
    aligned = ["left", "left", *["right"] * 4]
    return tabulate(rows, headers, tablefmt="pipe", colalign=aligned, disable_numparse=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Edges read in tiles against edges read of the whole image."
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the study, or one to continue")
    add("--count", type=int, default=12, help="scenes of each size of objects")
    add("--teacher-count", type=int, default=2, help="scenes that the teacher looks at")
    add("--series", type=int, default=42, help="of the scenes")
    add("--size", type=int, default=1024, help="side of a scene in pixels")
    add(
        "--area", type=float, nargs=2, action="append", metavar=("MIN", "MAX"),
        help="areas of objects as shares of the image, repeatable; default: "
        + ", ".join(f"{low:g} {high:g}" for low, high in AREAS),
    )  # fmt: skip
    add(
        "--overlap", type=float, action="append", default=[], metavar="SHARE",
        help="of a tile's side that neighbours share, repeatable; default: as the config says",
    )  # fmt: skip
    add("--search-tiles", action="store_true", help="a teacher of one t* a tile as well")
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="keys of the label maker")
    return parser


if __name__ == "__main__":
    sys.exit(main())
