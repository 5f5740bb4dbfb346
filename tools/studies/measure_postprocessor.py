#!/usr/bin/env python
"""What the post-processor makes of masks that merge touching instances.

    python tools/make_scenes.py --output scenes --count 200
    python tools/studies/measure_postprocessor.py --scenes scenes --edges student=DIR \
        [--config-file configs/edges/trace_tiny.yaml] [--json F] [KEY VALUE ...]

The masks are made from the truth: the connected parts of all things together, those of each class,
and the things themselves, which no cut should change. A model that predicts them runs through
build_model with the post-processor off and on. Edges come from the folders of --edges, and from
the config where --config-file is given.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Instances
from scipy import ndimage
from tabulate import tabulate
from torch import Tensor, nn

import trace_d2
from trace_d2.evaluation.class_agnostic import class_agnostic_ap
from trace_d2.io.atomic import write_json
from trace_d2.io.coco_panoptic import (
    PanopticSet,
    encode_mask,
    load_panoptic_json,
    read_panoptic_png,
)

MERGES = {
    "things": "connected parts of all things",
    "classes": "connected parts of each class",
    "none": "the things themselves",
}


@META_ARCH_REGISTRY.register()
class GivenMasks(nn.Module):
    """Predicts the ``given`` instances of its input, at score 1."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """One {"instances"} an image."""
        return [{"instances": record["given"]} for record in batched_inputs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 0 done, 2 bad input."""
    args = _parser().parse_intermixed_args(arguments)
    try:
        truth = load_panoptic_json(args.scenes / "panoptic.json")
        results = {merge: _measure(args, truth, merge) for merge in MERGES}
        if args.json:
            write_json(args.json, results, indent=1)
    except (ValueError, OSError, KeyError) as error:
        print(f"measure_postprocessor: {error}", file=sys.stderr)
        return 2
    print(_table(results))
    return 0


def _measure(args: argparse.Namespace, truth: PanopticSet, merge: str) -> dict[str, Any]:
    """Scores by the name of the edges; "before" is without the post-processor."""
    configs = {"before": _config(args, [])}
    for name, folder in args.edges or [("oracle", str(args.scenes / "edges_oracle"))]:
        keys = ["MODEL.TRACE.EDGES.SOURCE", "files", "MODEL.TRACE.EDGES.DIR", folder]
        configs[name] = _config(args, keys)
    if args.config_file:
        configs["config"] = _config(args, [])
    results = {}
    for name, cfg in configs.items():
        cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED = name != "before"
        results[name] = _run(cfg, args, truth, merge)
        print(f"{merge}, {name}: AP {100 * results[name]['AP']:.1f}", file=sys.stderr)
    return results


def _config(args: argparse.Namespace, keys: list[str]) -> Any:
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = GivenMasks.__name__
    cfg.MODEL.DEVICE = "cpu"
    if args.config_file:
        cfg.merge_from_file(str(args.config_file))
    try:
        cfg.merge_from_list([*args.options, *keys])
    except AssertionError as error:  # yacs, of a pair without value or an unknown key
        raise ValueError(str(error)) from error
    return cfg


def _run(cfg: Any, args: argparse.Namespace, truth: PanopticSet, merge: str) -> dict[str, Any]:
    model = build_model(cfg).eval()
    rows: list[dict[str, Any]] = []
    taken = 0.0
    for image_id, record in islice(_records(args.scenes, truth, merge), args.count):
        start = time.perf_counter()
        found = model([record])[0]["instances"]
        taken += time.perf_counter() - start
        rows += [
            {"image_id": image_id, "score": score, "segmentation": encode_mask(mask)}
            for mask, score in zip(found.pred_masks.numpy(), found.scores.tolist(), strict=True)
        ]
    content = _instances(args.scenes, truth, args.count)
    score = class_agnostic_ap(content, rows, ["segm"])
    found_scores = score.to_dict()["segm"]
    return {**found_scores, "predictions": len(rows), "ms_per_image": 1000 * taken / score.images}


def _records(scenes: Path, truth: PanopticSet, merge: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Image id and input dict of each image."""
    things = {category.id for category in truth.categories if category.isthing}
    names = {image["id"]: image["file_name"] for image in truth.images}
    for image_id, annotation in truth.annotations.items():
        path = scenes / "images" / names[image_id]
        image = read_image(str(path), "BGR")
        ids = read_panoptic_png(scenes / "panoptic" / annotation["file_name"])
        segments = [s for s in annotation["segments_info"] if s["category_id"] in things]
        yield (
            image_id,
            {
                "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
                "file_name": str(path),
                "height": image.shape[0],
                "width": image.shape[1],
                "given": _given(ids, segments, merge),
            },
        )


def _given(ids: np.ndarray, segments: list[dict[str, Any]], merge: str) -> Instances:
    key = {"things": lambda s: 0, "classes": lambda s: s["category_id"], "none": lambda s: s["id"]}
    groups: dict[int, list[dict[str, Any]]] = {}
    for segment in segments:
        groups.setdefault(key[merge](segment), []).append(segment)
    masks: list[Tensor] = []
    classes: list[int] = []
    for members in groups.values():
        union = np.isin(ids, [segment["id"] for segment in members])
        labels, count = (union.astype(int), 1) if merge == "none" else ndimage.label(union)
        masks += [torch.from_numpy(labels == label) for label in range(1, count + 1)]
        classes += [0 if merge == "things" else members[0]["category_id"]] * count
    made = Instances(ids.shape)
    made.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *ids.shape, dtype=torch.bool)
    made.pred_classes = torch.tensor(classes, dtype=torch.int64)
    made.scores = torch.ones(len(masks))
    return made


def _instances(scenes: Path, truth: PanopticSet, count: int | None) -> dict[str, Any]:
    """The things of the first ``count`` images as COCO instances."""
    wanted = set(islice(truth.annotations, count))
    annotations = [
        {"image_id": image_id, "segmentation": encode_mask(mask.numpy())}
        for image_id, record in islice(_records(scenes, truth, "none"), count)
        for mask in record["given"].pred_masks
    ]
    images = [image for image in truth.images if image["id"] in wanted]
    return {"images": images, "annotations": annotations}


def _table(results: dict[str, Any]) -> str:
    rows = [
        [
            MERGES[merge],
            name,
            *(f"{100 * scores[key]:.1f}" for key in ("AP", "AP50", "AR_100")),
            scores["predictions"],
            f"{scores['ms_per_image']:.1f}",
        ]
        for merge, by_name in results.items()
        for name, scores in by_name.items()
    ]
    headers = ["masks", "edges", "AP^mk", "AP50", "AR^mk_100", "predictions", "ms an image"]
    return tabulate(rows, headers, disable_numparse=True, stralign="right")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Class-agnostic AP of merged masks before and after the post-processor."
    )
    parser.add_argument("--scenes", type=Path, required=True, help="folder of make_scenes.py")
    parser.add_argument(
        "--edges",
        type=_name_and_folder,
        action="append",
        metavar="NAME=DIR",
        help="edge files by image, repeatable; default oracle=SCENES/edges_oracle",
    )
    parser.add_argument("--config-file", type=Path, help="also measure the edges of this config")
    parser.add_argument("--count", type=int, help="use the first COUNT images")
    parser.add_argument("--json", type=Path, help="write the numbers (0..1) to this file")
    parser.add_argument("options", nargs="*", default=[], metavar="KEY VALUE")
    return parser


def _name_and_folder(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder) or name in ("before", "config"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR (before and config are taken)")
    return name, folder


if __name__ == "__main__":
    sys.exit(main())
