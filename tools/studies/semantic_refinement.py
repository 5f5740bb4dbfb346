#!/usr/bin/env python3
"""What edges do for class maps of open-vocabulary models, on any data with true class maps.

    python tools/studies/semantic_refinement.py --images DIR --truth DIR --categories FILE \\
        --output DIR --edges oracle=DIR [--edges hed=DIR ...] [--level 0.75] [KEY VALUE ...]

The true maps (<stem>.png, as refine_semantic.py takes them) are degraded as such models err
(trace_d2/scenes/patch_scores.py): scores on patches, whose outlines are off by up to a patch, which
bleed over borders, miss what is small and take some for another class. They are refined, as scores
and as maps of the greatest score, by tools/refine_semantic.py. Printed is the mIoU (%) before and
after, pooled over the even and over the odd ranks of the sorted names; how many connected pieces of
at most 12 pixels a map of an odd rank has; and the seconds of processor time that a refinement
takes an image, if none was there already. Also OUTPUT/results.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import exit_status, named_folder, run_tool

from trace_d2.jobs.arguments import count
from trace_d2.parallel import available_cpus

_SPECK = 12  # pixels


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0 done, 2 bad input, else the status of a command that failed."""
    args = _parser().parse_args(arguments)
    from trace_d2.io.atomic import write_text  # --help loads nothing

    def work() -> None:
        given = degrade(args.truth, args.categories, args.output, args.level)
        before = score(args, given["labels"])
        specks = f"{pieces(args.truth, given['labels']):.1f}"
        rows = [["none", "", *(f"{value:.1f}" for value in before), specks, ""]]
        for name, edges in args.edges:
            for kind, folder in given.items():
                output = args.output / f"{name}_{kind}"
                seconds = refine(args, folder, edges, output) / len(_maps(args.truth))
                row = [name, kind, *map(_cell, score(args, output), before)]
                specks = f"{pieces(args.truth, output / 'semantic'):.1f}"
                rows.append([*row, specks, f"{seconds:.2f}"])
        text = report(rows, args.level)
        write_text(args.output / "results.md", text)
        print(f"\n{text}")

    return exit_status("semantic_refinement", work)


def degrade(truth: Path, categories: str, output: Path, level: float) -> dict[str, Path]:
    """Degraded scores and maps of each true map, fixed by its stem: folders by kind."""
    import numpy as np

    from trace_d2.io.atomic import write_png
    from trace_d2.io.categories import load_categories
    from trace_d2.io.images import read_known_mask
    from trace_d2.io.score_stacks import labels_of_scores
    from trace_d2.scenes.patch_scores import patch_scores

    found = load_categories(categories)
    ids = [category.id for category in found]
    folders = {kind: output / kind for kind in ("scores", "labels")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for path in _maps(truth):
        semantic = read_known_mask(path, found, categories)
        scores = patch_scores(semantic, ids, level, zlib.crc32(path.stem.encode()))
        np.save(folders["scores"] / f"{path.stem}.npy", scores)
        write_png(folders["labels"] / path.name, labels_of_scores(scores, ids, semantic.shape))
    return folders


def refine(args: argparse.Namespace, semantic: Path, edges: Path, output: Path) -> float:
    """The command as a user types it; an interrupted one is continued. Seconds of processors."""
    words = ["--images", args.images, "--semantic", semantic, "--categories", args.categories]
    words += ["--edges", edges, "--output", output, "--workers", args.workers]
    start = sum(os.times()[:4])
    run_tool("refine_semantic", *words, "--report-images", 0, "--quiet", *args.opts)
    return sum(os.times()[:4]) - start


def score(args: argparse.Namespace, predictions: Path) -> list[float]:
    """mIoU (%) over the even and the odd ranks."""
    from trace_d2.evaluation.semantic import semantic_quality
    from trace_d2.io.categories import load_categories

    categories = load_categories(args.categories)
    stems = [path.stem for path in _maps(args.truth)]
    return [
        100
        * semantic_quality(
            args.truth, predictions, categories, stems=stems[half::2], workers=args.workers
        ).miou
        for half in (0, 1)
    ]


def pieces(truth: Path, predictions: Path) -> float:
    """Connected pieces of a class of at most 12 pixels, in the mean over maps of odd ranks."""
    import cv2
    import numpy as np
    from skimage import measure

    found = []
    for path in _maps(truth)[1::2]:
        semantic = cv2.imread(str(predictions / path.name), cv2.IMREAD_UNCHANGED)
        labels = measure.label(semantic, connectivity=1, background=-1)
        found.append(int(np.count_nonzero(np.bincount(labels.ravel())[1:] <= _SPECK)))
    return float(np.mean(found))


def report(rows: Sequence[Sequence[str]], level: float) -> str:
    """The table as Markdown."""
    from tabulate import tabulate

    head = ["edges", "given as", "mIoU even", "mIoU odd", "pieces", "s"]
    table = tabulate(rows, head, tablefmt="pipe", disable_numparse=True)
    return f"{table}\n\nmIoU in %, maps degraded at level {level:g}; pieces: see the script.\n"


def _cell(value: float, before: float) -> str:
    return f"{value:.1f} ({value - before:+.1f})"


def _maps(truth: Path) -> list[Path]:
    paths = sorted(truth.glob("*.png"))
    if len(paths) < 2:
        raise ValueError(f"{truth} has {len(paths)} maps <stem>.png: correct --truth")
    return paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder: dict[str, Any] = {"type": Path, "required": True, "metavar": "DIR"}
    parser.add_argument("--images", **folder, help="photographs")
    parser.add_argument("--truth", **folder, help="true class maps, <stem>.png")
    parser.add_argument(
        "--categories", required=True, metavar="FILE", help="as refine_semantic.py takes them"
    )
    parser.add_argument("--output", **folder, help="new folder, or one to continue")
    parser.add_argument(
        "--edges", type=named_folder(), action="append", required=True, metavar="NAME=DIR",
        help="edges of every image; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--level", type=float, default=0.75, help="of the errors, 0 to 1; default %(default)s"
    )
    parser.add_argument("--workers", type=count, default=available_cpus(), metavar="N")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser


if __name__ == "__main__":
    sys.exit(main())
