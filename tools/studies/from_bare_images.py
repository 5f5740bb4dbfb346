#!/usr/bin/env python3
"""From bare images: how good discovered masks are, and what a Mask R-CNN learns from them.

    python tools/studies/from_bare_images.py masks --images DIR --truth FILE --output DIR \\
        [--edges DIR] [--methods edges ncut] [--refine whole edges] [--set KEY VALUE ...]
    python tools/studies/from_bare_images.py training --output DIR

"masks": class-agnostic AP^mk and AR_100 of what tools/discover_masks.py finds by each method, of
all images and of the even and the odd ranks of their sorted file names. Beside them stands the
control: the whole image as one mask, cut by tools/refine_masks.py. --edges are given edges;
without them the student of the config predicts some.

"training": on procedural scenes, the masks that edges give without nesting train a Mask R-CNN, and
after it one more on its own confident predictions (a round of self-training). Others learn from the
control and from the truth.

All is made by the commands that users run. A second run continues the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import ROOT, CommandError, finished, run_tool, train
from compare_training import TASKS, make_scenes

from trace_d2.masks.settings import METHODS

CONFIG = ROOT / "configs" / "edges" / "trace_tiny.yaml"
ORIGINS = ("whole", "edges", "self-training", "truth")
"""Of the labels that a Mask R-CNN is trained on."""
FLAT = (
    *("MODEL.TRACE.DISCOVERY.EDGES.NESTED", "False"),
    *("MODEL.TRACE.DISCOVERY.EDGES.MIN_SCORE", "0.1"),
)
"""Keys of masks to learn from: none overlap, and few are left of what hardly lasts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; returns the exit status."""
    args = build_parser().parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        (measure_masks if args.part == "masks" else measure_training)(args)
    except CommandError as error:
        print(f"from_bare_images: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    masks = parts.add_parser("masks", help="how good discovered masks are")
    masks.add_argument("--images", type=Path, required=True)
    masks.add_argument("--truth", type=Path, required=True, help="COCO instances of the images")
    masks.add_argument("--methods", nargs="+", choices=METHODS, default=["edges"])
    masks.add_argument(
        "--refine", nargs="*", choices=("whole", *METHODS), default=["whole"],
        help="masks that are refined as well; default: the whole image",
    )  # fmt: skip
    training = parts.add_parser("training", help="what a Mask R-CNN learns from them")
    training.add_argument("--train-count", type=int, default=600, help="scenes to train on")
    training.add_argument("--val-count", type=int, default=150, help="held-out scenes")
    training.add_argument("--only", nargs="+", choices=ORIGINS, default=ORIGINS)
    for part in (masks, training):
        part.add_argument("--output", type=Path, required=True)
        part.add_argument("--config-file", type=Path, default=CONFIG, help="default: trace-tiny")
        part.add_argument("--edges", type=Path, metavar="DIR", help="edges made before")
        part.add_argument("--workers", type=int, default=1)
        part.add_argument(
            "--set", nargs="*", default=[], metavar="KEY VALUE",
            help="config keys, of the methods or of the trainings",
        )  # fmt: skip
    return parser


def measure_masks(args: argparse.Namespace) -> None:
    """Discover by each method, refine, score, print and write ``results.json``."""
    from tabulate import tabulate

    from trace_d2.io.atomic import write_json

    edges = find_edges(args, args.images, args.output / "edges_predicted")
    files = {}
    for name in ("whole", *args.methods):
        files[name] = masks = args.output / f"{name}.json"
        if name == "whole":
            write_whole_images(args.truth, masks)
        else:
            discover(args, name, args.images, edges, masks, *args.set)
        if name in args.refine:
            files[f"{name}, refined"] = refine(args, args.images, edges, masks)
    scores = {name: score(args.truth, path) for name, path in files.items()}
    write_json(args.output / "results.json", scores, indent=1)
    rows = [{"masks": name} | {k: shown(v) for k, v in own.items()} for name, own in scores.items()]
    print(tabulate(rows, headers="keys"))


def score(truth: Path, masks: Path) -> dict[str, list[float]]:
    """AP and AR_100 in %, each of all images, of those of even ranks and of those of odd ones."""
    from trace_d2.evaluation import class_agnostic_ap

    images = sorted(json.loads(truth.read_text())["images"], key=lambda image: image["file_name"])
    ids = [image["id"] for image in images]
    results = [
        class_agnostic_ap(truth, masks, ["segm"], image_ids=part).scores["segm"]
        for part in (ids, ids[::2], ids[1::2])
    ]
    return {name: [100 * part[name] for part in results] for name in ("AP", "AR_100")}


def shown(values: Sequence[float]) -> str:
    """Of all images (even / odd ones)."""
    every, even, odd = (f"{value:.1f}" for value in values)
    return f"{every} ({even} / {odd})"


def find_edges(args: argparse.Namespace, images: Path, output: Path) -> Path:
    """The folder of edges: the given one, or what the student of the config predicts."""
    if args.edges is not None:
        return Path(args.edges)
    config = ["--config-file", args.config_file, "--workers", args.workers]
    run_tool("predict_edges", *config, "--images", images, "--output", output)
    return output / "edges"


def discover(
    args: argparse.Namespace, method: str, images: Path, edges: Path, output: Path, *keys: object
) -> Path:
    """The file of masks that a method finds."""
    given = ["--edges", edges] if method == "edges" else ["--config-file", args.config_file]
    common = ["--method", method, "--images", images, "--output", output]
    run_tool("discover_masks", *common, *given, "--workers", args.workers, *keys)
    return output


def refine(args: argparse.Namespace, images: Path, edges: Path, masks: Path) -> Path:
    """The file of masks cut along edges."""
    output = masks.with_name(f"{masks.stem}_refined.json")
    given = ["--images", images, "--edges", edges, "--masks", masks, "--workers", args.workers]
    run_tool("refine_masks", *given, "--output", output)
    return output


def write_whole_images(truth: Path, output: Path) -> Path:
    """A file with one mask an image, which covers it, unless it is there."""
    from trace_d2.io.atomic import write_json

    if output.is_file():  # a file that is written again counts as a change
        return output
    images = json.loads(truth.read_text())["images"]
    annotations = [
        {
            "id": number,
            "image_id": image["id"],
            "category_id": 1,
            "segmentation": {
                "size": [image["height"], image["width"]],
                "counts": [0, image["height"] * image["width"]],
            },
            "bbox": [0, 0, image["width"], image["height"]],
            "area": image["height"] * image["width"],
            "iscrowd": 0,
            "score": 1.0,
        }
        for number, image in enumerate(images, start=1)
    ]
    categories = [{"id": 1, "name": "object"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(output, content)
    return output


def measure_training(args: argparse.Namespace) -> None:
    """Train on masks of each origin, print what is known and write ``training.json``."""
    from tabulate import tabulate

    from trace_d2.io.atomic import write_json

    make_scenes(args)
    images = args.output / "train" / "images"
    edges = find_edges(args, images, args.output / "edges_train")
    for origin in args.only:
        train_on(args, origin, labels_of(args, origin, images, edges))
    rows = [row for origin in ORIGINS if (row := result(args, origin))]
    write_json(args.output / "training.json", rows, indent=1)
    print(tabulate(rows, headers="keys", floatfmt=".1f"))


def labels_of(args: argparse.Namespace, origin: str, images: Path, edges: Path) -> Path:
    """The file of masks of an origin."""
    truth = args.output / "train" / "instances.json"
    if origin == "truth":
        return truth
    if origin == "whole":
        whole = write_whole_images(truth, args.output / "whole.json")
        return refine(args, images, edges, whole)
    found = discover(args, "edges", images, edges, args.output / "edges.json", *FLAT)
    return found if origin == "edges" else predictions_of(args, found)


def folder(args: argparse.Namespace, origin: str) -> Path:
    """Where the training on labels of an origin lies."""
    return Path(args.output / "trained" / origin)


def keys(args: argparse.Namespace, labels: Path, test: tuple[Path, Path]) -> list[object]:
    """Config keys: trained on labels, tested on a (file, images)."""
    images = args.output.resolve() / "train" / "images"
    sets = [
        ["scenes_train", str(labels.resolve()), str(images)],
        ["scenes_val", *(str(path.resolve()) for path in test)],
    ]
    return ["DATASETS.TRACE.INSTANCES", sets, *args.set]


def train_on(args: argparse.Namespace, origin: str, labels: Path) -> None:
    """Train on the labels of an origin, if that is not done."""
    held_out = args.output / "val"
    test = (held_out / "instances.json", held_out / "images")
    more: list[object] = []
    if origin == "self-training":
        more = ["MODEL.WEIGHTS", folder(args, "edges") / "model_final.pth"]
    train(
        folder(args, origin), TASKS["instance"].config, *keys(args, labels, test), *more, threads=1
    )


def predictions_of(args: argparse.Namespace, labels: Path) -> Path:
    """Labels of the second round: what the first round is sure of, and what it passed over."""
    train_on(args, "edges", labels)
    first, output = folder(args, "edges"), args.output / "second_round.json"
    inference = args.output / "predictions"
    results = inference / "inference" / "scenes_val" / "coco_instances_results.json"
    if not results.is_file():
        # Detectron2 scores them against the labels themselves, which nobody reads.
        test = (labels, args.output / "train" / "images")
        config = [
            "--config-file",
            TASKS["instance"].config,
            "--eval-only",
            *keys(args, labels, test),
        ]
        weights = ["MODEL.WEIGHTS", first / "model_final.pth", "OUTPUT_DIR", inference]
        inference.mkdir(exist_ok=True)
        run_tool("train_net", *config, *weights, log=inference / "console.txt", threads=1)
    if not output.is_file():
        given = ["--labels", labels, "--predictions", results]
        run_tool("make_self_training", *given, "--output", output)
    return output


def result(args: argparse.Namespace, origin: str) -> dict[str, Any] | None:
    """A row of the table, or None before the training."""
    own = folder(args, origin)
    if not finished(own).is_file():
        return None
    scores = json.loads((own / "results.json").read_text())["segm"]
    minutes = json.loads(finished(own).read_text()) / 60
    return {
        "labels": origin, "AP^mk": scores["AP"], "AR_100": scores["AR_100"], "minutes": minutes,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
