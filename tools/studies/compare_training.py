#!/usr/bin/env python3
"""Train one model three times on procedural scenes, on labels of different origin, and compare.

    python tools/studies/compare_training.py panoptic --output DIR   # Mask2Former
    python tools/studies/compare_training.py instance --output DIR   # Mask R-CNN

Labels come from the commands that users run; the edges are trace-tiny's. Everything but the labels
is the same: config, seed, iterations, held-out scenes, and for Mask2Former a backbone that learned
the scenes' textures from the semantic masks. A second run continues the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from commands import ROOT, CommandError, finished, run_tool, train

EDGES = ROOT / "configs" / "edges" / "trace_tiny.yaml"
TRAIN_SERIES, VAL_SERIES = 11, 12  # trace-tiny was trained on series 1


@dataclass(frozen=True)
class Task:
    """What is trained and measured."""

    kind: str  # of data sets in the config
    config: Path
    origins: tuple[str, str, str]  # of labels, from the least to the most that can be had
    metric: tuple[str, str]  # path into ``results.json``
    title: str  # of the metric
    backbone: Path | None = None  # config of what it learns first, from the least labels


TASKS = {
    "panoptic": Task(
        "PANOPTIC",
        ROOT / "configs" / "panoptic" / "scenes_mask2former.yaml",
        ("no edges", "TRACE", "truth"),
        ("panoptic_seg", "PQ_th"),
        "PQ^th",
        ROOT / "configs" / "panoptic" / "scenes_backbone.yaml",
    ),
    "instance": Task(
        "INSTANCES",
        ROOT / "configs" / "instance" / "scenes_mask_rcnn.yaml",
        ("merged masks", "TRACE", "truth"),
        ("segm", "AP"),
        "AP^mk",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, print the table and write ``comparison_<task>.json``."""
    args = build_parser().parse_args(argv)
    try:
        train_all(args, TASKS[args.task])
    except CommandError as error:
        print(f"compare_training: {error}", file=sys.stderr)
        return 1
    report(args, TASKS[args.task])
    return 0


def train_all(args: argparse.Namespace, task: Task) -> None:
    """Make scenes and labels, and train on those that were chosen."""
    make_scenes(args)
    labels = data_sets(args, task)
    common = list(args.set)
    if task.backbone is not None:
        folder = args.output / f"{args.task}_backbone"
        train(folder, task.backbone, *labels[task.origins[0]])
        common = ["MODEL.WEIGHTS", folder / "model_final.pth", *common]
    for origin in args.only or task.origins:
        train(run_folder(args, origin), task.config, *labels[origin], *common)


def report(args: argparse.Namespace, task: Task) -> None:
    """Print what is known; with all rows, write how far TRACE gets."""
    from tabulate import tabulate

    from trace_d2.io.atomic import write_json

    rows = [read_result(run_folder(args, origin), task, origin) for origin in task.origins]
    known = [row for row in rows if row]
    print(tabulate(known, headers="keys", floatfmt=".1f"))
    if len(known) == len(task.origins):
        low, middle, high = (float(str(row[task.title])) for row in known)
        share = (middle - low) / (high - low)
        print(f"TRACE closes {100 * share:.0f} % of the distance")
        content = {"rows": known, "closed": share}
        write_json(args.output / f"comparison_{args.task}.json", content, indent=1)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("task", choices=TASKS)
    add("--output", type=Path, default=Path("comparison"))
    add("--train-count", type=int, default=600, help="scenes to train on")
    add("--val-count", type=int, default=150, help="held-out scenes")
    add("--edges", type=Path, metavar="DIR", help="edges made before; default: trace-tiny's")
    add("--only", nargs="+", metavar="ORIGIN", help="train on these labels only")
    add("--set", nargs="*", default=[], metavar="KEY VALUE", help="config keys, for all trainings")
    return parser


def make_scenes(args: argparse.Namespace) -> None:
    """Scenes to train on and held-out ones, unless they are there."""
    for name, count, series in (
        ("train", args.train_count, TRAIN_SERIES),
        ("val", args.val_count, VAL_SERIES),
    ):
        folder = args.output / name
        if not (folder / "categories.json").is_file():  # written last
            run_tool("make_scenes", "--output", folder, "--count", count, "--series", series)


def find_edges(args: argparse.Namespace, scenes: Path) -> Path:
    """The folder of edges for the training scenes; trace-tiny's come with its panoptic labels."""
    if args.edges is not None:
        return Path(args.edges)
    trace = ["--config-file", EDGES, "--save-edges", "--workers", 1]
    return make_labels(scenes, args.output / "labels_trace", *trace) / "edges"


def make_labels(scenes: Path, output: Path, *edges: object) -> Path:
    """Folder of panoptic labels of the scenes."""
    inputs = ["--images", scenes / "images", "--semantic", scenes / "semantic"]
    categories = ["--categories", scenes / "categories.json"]
    run_tool("make_pseudo_panoptic", *inputs, *categories, "--output", output, *edges)
    return output


def make_panoptic_labels(args: argparse.Namespace, scenes: Path) -> list[Path]:
    """Folders of labels, from the least to the truth."""
    trace = args.output / "labels_trace"
    edges = find_edges(args, scenes)
    if args.edges is not None:
        make_labels(scenes, trace, "--edges", edges)
    return [make_labels(scenes, args.output / "labels_no_edges", "--no-edges"), trace, scenes]


def make_instance_labels(args: argparse.Namespace, scenes: Path) -> list[Path]:
    """COCO files, from the least to the truth."""
    from trace_d2.scenes.oracle import write_merged_masks

    merged, refined = args.output / "merged.json", args.output / "refined.json"
    if not merged.is_file():
        write_merged_masks(scenes / "panoptic.json", scenes / "panoptic", merged)
    inputs = ["--images", scenes / "images", "--edges", find_edges(args, scenes)]
    run_tool("refine_masks", *inputs, "--masks", merged, "--output", refined)
    return [merged, refined, scenes / "instances.json"]


def data_sets(args: argparse.Namespace, task: Task) -> dict[str, list[object]]:
    """The data sets by the origin of their labels, as config keys."""
    make = make_panoptic_labels if task.kind == "PANOPTIC" else make_instance_labels
    scenes, held_out = args.output.resolve() / "train", args.output.resolve() / "val"
    labels = make(args, scenes)
    truth = held_out / labels[-1].relative_to(scenes)
    test = ["scenes_val", str(truth), str(held_out / "images")]
    return {
        origin: [
            f"DATASETS.TRACE.{task.kind}",
            [["scenes_train", str(path.resolve()), str(scenes / "images")], test],
        ]
        for origin, path in zip(task.origins, labels, strict=True)
    }


def run_folder(args: argparse.Namespace, origin: str) -> Path:
    """Where the training on labels of one origin lies."""
    return Path(args.output / f"{args.task}_{origin.replace(' ', '_').lower()}")


def read_result(folder: Path, task: Task, origin: str) -> dict[str, object] | None:
    """A row of the table, or None before the training."""
    if not finished(folder).is_file():
        return None
    result = json.loads((folder / "results.json").read_text())
    for key in task.metric:
        result = result[key]
    minutes = json.loads(finished(folder).read_text()) / 60
    return {"labels": origin, task.title: result, "minutes": minutes}


if __name__ == "__main__":
    sys.exit(main())
